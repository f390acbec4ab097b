"""The fold over the whole log for one shard: clock, fold number, chains and checkpoints, record by record.

Fed by the projector, and by whoever replays the log to prove or rebuild a projection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from refold.core import canonical, chain
from refold.core.checkpoint import Checkpoint
from refold.core.document import Document
from refold.core.errors import FoldUnknown, LogHole
from refold.core.fold import Folded, fold
from refold.core.limits import FOLD_NEWEST, PARTITIONS, SUBJECTS_CACHED_MAX
from refold.core.outcome import Entry
from refold.core.record import SYSTEM_NAMESPACE, Place, Record, author_headers, place, stored_subject


class Step(NamedTuple):
    """One record folded: its monotone time, what became of it, and the entry that keeps both."""

    recorded_at: int
    folded: Folded
    entry: Entry


class Shard:
    """The fold's own memory over the log, beside the documents."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        """Go on from committed checkpoints of the partitions owned; all were read to the same sequence."""
        self._checkpoints = {checkpoint.partition: checkpoint for checkpoint in checkpoints}
        newest = max(checkpoints, key=lambda checkpoint: checkpoint.read_sequence)
        self.read_sequence = newest.read_sequence
        self.recorded_at = newest.recorded_at
        self.fold_number = newest.fold
        self._places: dict[bytes, Place] = {}

    def place(self, subject: bytes) -> Place:
        """Tell where a subject's events belong, from memory where it was seen lately."""
        known = self._places.get(subject)
        if known is None:
            if len(self._places) >= SUBJECTS_CACHED_MAX:
                self._places.clear()
            known = self._places[subject] = place(subject)
        return known

    def owns(self, partition: int) -> bool:
        """Tell whether the partition is of this shard."""
        return partition in self._checkpoints

    def skip(self, record: Record) -> None:
        """Pass a record of a foreign partition: only clock and place move on."""
        self._advance(record)

    def refuse(self, record: Record, where: Place) -> int:
        """Pass a record whose names make no document; return its monotone time."""
        self.witness(record, where).counts.rejected += 1
        return self.recorded_at

    def witness(self, record: Record, where: Place) -> Checkpoint:
        """Take a record into clock and chain without folding it; return its partition's checkpoint."""
        self._advance(record)
        return self._link(record, where.partition)

    def fold(self, record: Record, where: Place, document: Document) -> Step:
        """Fold a record into its document, in place. Raises `FoldUnknown`, `LogHole`."""
        self._advance(record)
        headers = author_headers(record.headers)
        if headers is not record.headers:
            # The broker's own lines are cut once, not by each who reads the author's.
            record = record._replace(headers=headers)
        folded = fold(document, record, recorded_at=self.recorded_at, fold_number=self.fold_number)
        counts = self._link(record, where.partition).counts
        name = folded.outcome.status.name
        setattr(counts, name, getattr(counts, name) + 1)
        if where.namespace == SYSTEM_NAMESPACE and folded.outcome.status.is_effective:
            # Genesis and every later number say it in the same member.
            self.fold_number = document.state["fold"]
        return Step(self.recorded_at, folded, entry_of(record, where, self.recorded_at, folded))

    def checkpoints(self) -> list[Checkpoint]:
        """Return what to commit: every owned partition, idle ones too, read up to here."""
        return [
            Checkpoint(
                partition=partition,
                chain=checkpoint.chain,
                chain_before=checkpoint.chain_before,
                fold=self.fold_number,
                read_sequence=self.read_sequence,
                last_sequence=checkpoint.last_sequence,
                recorded_at=self.recorded_at,
                counts=replace(checkpoint.counts),
            )
            for partition, checkpoint in self._checkpoints.items()
        ]

    def _advance(self, record: Record) -> None:
        if self.fold_number > FOLD_NEWEST:
            raise FoldUnknown(fold=self.fold_number, known=FOLD_NEWEST, sequence=record.sequence)
        if record.sequence != self.read_sequence + 1:
            raise LogHole(expected=self.read_sequence + 1, found=record.sequence)
        self.read_sequence = record.sequence
        self.recorded_at = max(self.recorded_at, record.time)

    def _link(self, record: Record, partition: int) -> Checkpoint:
        checkpoint = self._checkpoints[partition]
        checkpoint.chain_before = checkpoint.chain
        checkpoint.chain = chain.link(checkpoint.chain, record)
        checkpoint.last_sequence = record.sequence
        return checkpoint


def first_checkpoints(log_id: str) -> list[Checkpoint]:
    """Return the checkpoints of a log before its first event."""
    seeds = ((partition, chain.seed(log_id, partition)) for partition in range(PARTITIONS))
    return [
        Checkpoint(partition=partition, chain=seed, chain_before=seed, fold=1) for partition, seed in seeds
    ]


def entry_of(record: Record, where: Place, recorded_at: int, folded: Folded) -> Entry:
    """Put a record, its author's headers only, and what became of it together as what is kept."""
    outcome = folded.outcome
    usual = stored_subject(*where[:3])
    return Entry(
        record.sequence,
        record.time,
        recorded_at,
        folded.occurred_at,
        outcome.version,
        outcome.status,
        outcome.kind,
        outcome.is_creation,
        None if record.subject == usual else record.subject,
        record.headers,
        record.body,
        None if outcome.effect is None else canonical.dumps(outcome.effect),
        outcome.reason,
        outcome.detail,
        folded.identity,
        outcome.first.sequence if outcome.first is not None else 0,
    )
