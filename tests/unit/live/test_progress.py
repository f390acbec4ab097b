"""What progress says of the changes before it: per shard, per projector."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from refold.core.stream import PARTITIONS
from refold.live.progress import AUDIT_SECONDS, SILENT_SECONDS, Progress

HALVES = ("0-31", "32-63")


@pytest.fixture
def progress() -> Progress:
    made = Progress()
    made.begin([100] * PARTITIONS, 0.0)
    return made


def notice(shard: str, folded: int, *, epoch: str = "1", sent: int = 0, unsent: int = 0) -> bytes:
    named = {"shard": shard, "epoch": epoch, "folded": folded, "sent": sent, "unsent": unsent, "sequence": 0}
    return orjson.dumps(named)


def test_each_shard_is_counted_by_its_own_partitions(progress: Progress) -> None:
    for shard, sent in zip(HALVES, (7, 1_000), strict=True):
        progress.hear(notice(shard, 200, sent=sent), 0.5)
    assert (progress.due(0.5), progress.gap_sequence) == ("start", 200)
    progress.settle([200] * PARTITIONS, 0.5)
    progress.received[5] += 3
    progress.received[40] += 1
    progress.hear(notice("0-31", 230, sent=10), 1.0)
    progress.hear(notice("32-63", 220, sent=1_001), 1.0)
    assert (progress.due(1.0), progress.sequence) == ("", 220)
    progress.received[40] += 1
    progress.hear(notice("0-31", 240, sent=11), 2.0)
    assert (progress.due(2.0), progress.sequence, progress.gap_sequence) == ("lost", 220, 240)
    # The other shard goes on; what the first one may lack is known once it is committed.
    progress.hear(notice("32-63", 250, sent=1_002), 2.0)
    progress.settle([239] * PARTITIONS, 2.0)
    assert (progress.due(2.0), progress.sequence) == ("lost", 239)
    progress.settle([240] * PARTITIONS, 2.0)
    assert (progress.due(2.0), progress.sequence) == ("", 240)


def test_another_projector_of_the_same_partitions_replaces_the_first(progress: Progress) -> None:
    progress.hear(notice("0-63", 200, epoch="2", sent=5), 0.5)
    progress.settle([200] * PARTITIONS, 0.5)
    for shard in HALVES:
        progress.hear(notice(shard, 150, epoch="3"), 1.0)
    assert progress.due(1.0) == "takeover"
    progress.settle([150] * PARTITIONS, 1.0)
    assert progress.due(1.0) == ""
    # The first one had only been stopped.
    assert progress.hear(notice("0-63", 300, epoch="2", sent=9), 1.5) is None
    assert (progress.due(1.5), progress.sequence) == ("", 200)
    # One with an older start counts where the newer ones are silent: the clock of another broker may be behind.
    assert progress.hear(notice("0-63", 300, epoch="1"), 1.0 + SILENT_SECONDS) is not None


def test_silence_of_one_shard_and_time_ask_for_audits(progress: Progress) -> None:
    assert progress.due(SILENT_SECONDS + 0.1) == "silence"
    for _ in range(2):
        for shard in HALVES:
            progress.hear(notice(shard, 100), 1.0)
        progress.settle([100] * PARTITIONS, 1.0)
    progress.hear(notice("0-31", 100), 1.1 + SILENT_SECONDS)
    assert progress.due(1.1 + SILENT_SECONDS) == "silence"
    assert progress.confirmed_at == 1.0
    late = 1.0 + AUDIT_SECONDS
    for shard in HALVES:
        progress.hear(notice(shard, 100), late)
    assert (progress.due(late), progress.confirmed_at) == ("time", late)


@pytest.mark.parametrize(
    "changed",
    [
        {"sent": True},
        {"unsent": None},
        {"folded": "1"},
        {"shard": "0-64"},
        {"shard": 1},
        {"epoch": 5},
        {"sent": 1.0},
    ],
)
def test_what_is_no_progress_is_ignored(progress: Progress, changed: dict[str, Any]) -> None:
    assert progress.hear(orjson.dumps({**orjson.loads(notice("0-63", 9)), **changed}), 1.0) is None
