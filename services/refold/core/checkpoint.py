"""How far a partition has been folded, and the proof of it: committed together with what it covers.

Moved on by the shard, kept by the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from refold.core.outcome import Status


@dataclass(slots=True, kw_only=True)
class Counts:
    """Events of a partition by outcome, since the log began."""

    applied: int = 0
    merged: int = 0
    rejected: int = 0
    duplicate: int = 0

    def add(self, status: Status) -> None:
        """Count one more event."""
        if status is Status.applied:
            self.applied += 1
        elif status is Status.merged:
            self.merged += 1
        elif status is Status.rejected:
            self.rejected += 1
        else:
            self.duplicate += 1


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """One partition's place in the log.

    `read_sequence`: the whole log has been read so far. `last_sequence`: this partition's last event folded.
    `chain` is the hash chain after that event, `chain_before` the one before it, so that the event can be
    checked again. `recorded_at` is the monotone clock at `read_sequence`, `fold` the rules in force there.
    """

    partition: int
    chain: bytes
    chain_before: bytes
    fold: int
    read_sequence: int = 0
    last_sequence: int = 0
    recorded_at: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheckpoint:
    """A shard's place in the log: what all its partitions share, and the checkpoints of those that had events since.

    `partitions` in their order. An idle partition's checkpoint has no other value of its own than before.
    """

    partitions: Sequence[int]
    fold: int
    read_sequence: int
    recorded_at: int
    touched: Sequence[Checkpoint]
