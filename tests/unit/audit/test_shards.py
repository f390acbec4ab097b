"""How the partitions of a replay are divided among processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refold.audit.rebuild import shards_of
from refold.core.fold_state import first_checkpoints
from refold.core.stream import PARTITIONS


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_partition_is_in_one_shard_and_shards_are_of_equal_size(count):
    shards = shards_of(first_checkpoints("log-1"), count)
    assert sorted(each for shard in shards for each in shard.partitions) == list(range(PARTITIONS))
    assert len({shard.name for shard in shards}) == len(shards) == count
    sizes = [len(shard.partitions) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_partitions_at_the_same_sequence_stay_in_one_shard():
    read = {0: 7, 1: 9, 2: 7}
    checkpoints = [
        replace(checkpoint, read_sequence=read.get(checkpoint.partition, 9))
        for checkpoint in first_checkpoints("log-1")
    ]
    shards = shards_of(checkpoints, 8)
    assert [shard.partitions for shard in shards] == [(0, 2), (1, *range(3, PARTITIONS))]
