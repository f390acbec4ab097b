"""A replay in shards: the partitions of a fresh projection divided among processes that each fold their own.

Planned by `refold.projector.rebuild`; a shard's process is `refold.wiring.audit`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from refold.core.checkpoint import Checkpoint
from refold.core.errors import FenceLost
from refold.core.limits import TIME_MAX_NANOSECONDS
from refold.core.shard import Shard
from refold.log import EventLog
from refold.log.memory import MemoryNotices
from refold.projector.partition import Bounds, Ports, ShardLoop
from refold.store.ports import SnapshotStore
from refold.telemetry.metrics import ProjectorMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayShard:
    """Partitions that have all been read to the same sequence; `name` tells its lock from the other shards'."""

    name: str
    partitions: tuple[int, ...]


def shards_of(checkpoints: Sequence[Checkpoint], count: int) -> list[ReplayShard]:
    """Divide the partitions; where an earlier replay was stopped, what stands at one sequence stays together."""
    by_sequence: dict[int, list[int]] = defaultdict(list)
    for checkpoint in checkpoints:
        by_sequence[checkpoint.read_sequence].append(checkpoint.partition)
    groups = list(by_sequence.values())
    if len(groups) == 1:
        groups = [groups[0][first::count] for first in range(count)]
    return [ReplayShard(name=str(group[0]), partitions=tuple(group)) for group in groups if group]


async def begin_shard(log: EventLog, store: SnapshotStore, shard: ReplayShard, bounds: Bounds) -> ShardLoop:
    """Return the loop over a shard, at its checkpoints. Raises `FenceLost` where it is replayed already.

    It passes the events of foreign partitions. One that moves the fold's number on is therefore seen only by the
    shard whose it is: that one stops at a number it does not know, and the whole replay with it.
    """
    if not await store.acquire_lease():
        raise FenceLost("another replay is at work on these partitions", shard=shard.name)
    checkpoints = await store.bind((await log.info()).log_id)
    own = [checkpoint for checkpoint in checkpoints if checkpoint.partition in shard.partitions]
    return ShardLoop(silent_ports(log, store), bounds, Shard(own))


def silent_ports(log: EventLog, store: SnapshotStore) -> Ports:
    """Return what a replay works on: nobody is told anything."""
    # Outcomes and changes were sent when they were new: nobody listens here.
    nobody = MemoryNotices()
    return Ports(
        log=log,
        store=store,
        notices=nobody,
        replies=nobody,
        metrics=ProjectorMetrics(CollectorRegistry()),
        # Nothing is young enough for a notice.
        broker_now=lambda: TIME_MAX_NANOSECONDS,
        timer=time.perf_counter,
    )
