"""The fold over a whole log, for the partitions of one shard: clock, fold number, chains and checkpoints.

Fed record by record by the projector, and by code that replays the log to verify or rebuild a projection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import Document, Status
from refold.core.errors import LogHole
from refold.core.fold import RULES, Decoded, Folded, Rules, Window, fold, genesis_rules, rules_of
from refold.core.history import Entry
from refold.core.stream import (
    GENESIS_DOCUMENT,
    PARTITIONS,
    SYSTEM_DOCUMENTS,
    SYSTEM_NAMESPACE,
    Checkpoint,
    Record,
    Route,
    ShardCheckpoint,
    author_headers,
    chain_link,
    chain_seed,
    route,
    stored_subject,
)

SUBJECTS_CACHED_MAX: Final = 100_000
"""Subjects whose routes a fold state remembers."""


class Step(NamedTuple):
    """One record folded: its monotone time, what became of it, and the entry that keeps both."""

    recorded_at: int
    folded: Folded
    entry: Entry


class FoldState:
    """The fold's own memory over the log, beside the documents."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        """Go on from committed checkpoints of the partitions owned; all were read to the same sequence."""
        self._checkpoints = {checkpoint.partition: checkpoint for checkpoint in checkpoints}
        self._partitions = tuple(sorted(self._checkpoints))
        newest = max(checkpoints, key=lambda checkpoint: checkpoint.read_sequence)
        self.read_sequence = newest.read_sequence
        self.recorded_at = newest.recorded_at
        self.fold_number = newest.fold
        self._rules = RULES.get(newest.fold)
        self._system: dict[str, Document] = {}
        self._routes: dict[bytes, Route] = {}
        self._usual: set[bytes] = set()

    def route(self, subject: bytes) -> Route:
        """Tell where a subject's events belong, from memory where it was seen lately."""
        known = self._routes.get(subject)
        if known is None:
            if len(self._routes) >= SUBJECTS_CACHED_MAX:
                self._routes.clear()
                self._usual.clear()
            known = self._routes[subject] = route(subject)
            if subject == stored_subject(*known[:3]):
                self._usual.add(subject)
        return known

    def owns(self, partition: int) -> bool:
        """Tell whether the partition is of this shard."""
        return partition in self._checkpoints

    @property
    def rules(self) -> Rules:
        """The rules in force for the next record. Raises `FoldUnknown`."""
        return self._rules or rules_of(self.fold_number, self.read_sequence + 1)

    def skip(self, record: Record, where: Route) -> None:
        """Pass a record of a foreign partition. Clock and sequence move on; a system event is folded.

        It may move the fold number on, which is in force in every shard.
        """
        if where.namespace != SYSTEM_NAMESPACE or where.document not in SYSTEM_DOCUMENTS:
            self._advance(record, self._next(record))
            return
        document = self._system.setdefault(
            where.document,
            Document(namespace=SYSTEM_NAMESPACE, document=where.document, partition=where.partition),
        )
        recorded_at = self._next(record)
        rules = self._rules_for(record, where)
        folded = fold(document, record, rules, recorded_at=recorded_at)
        self._advance(record, recorded_at)
        self._follow(document, folded)

    def resume_system(self, document: Document) -> None:
        """Go on from a foreign system document as the log had it at this shard's checkpoint."""
        self._system[document.document] = document

    def refuse(self, record: Record, where: Route) -> int:
        """Pass a record whose names make no document; return its monotonic time."""
        self.witness(record, where).counts.rejected += 1
        return self.recorded_at

    def witness(self, record: Record, where: Route) -> Checkpoint:
        """Take a record into clock and chain without folding it; return its partition's checkpoint."""
        self._advance(record, self._next(record))
        return self._link(record, where.partition)

    def fold(
        self,
        record: Record,
        where: Route,
        document: Document,
        decoded: Decoded | None = None,
        window: Window = (),
    ) -> Step:
        """Fold a record into its document, in place. Raises `FoldUnknown`, `LogHole`.

        `decoded` and `window` are what its rules asked for, where they need more than the document (`Rules.needs`).
        """
        recorded_at = self._next(record)
        sequence, time, subject, headers, body = record
        if headers:
            # The broker's own lines are cut once, not by each who reads the author's.
            headers = author_headers(headers)
            record = tuple.__new__(Record, (sequence, time, subject, headers, body))
        is_system = where[1] == SYSTEM_NAMESPACE
        rules = self._rules_for(record, where) if is_system else self._rules
        assert rules is not None
        folded = fold(document, record, rules, recorded_at=recorded_at, decoded=decoded, window=window)
        self.read_sequence = sequence
        self.recorded_at = recorded_at
        status = folded[0][0]
        counts = self._link(record, where[0]).counts
        if status is _APPLIED:
            counts.applied += 1
        else:
            counts.add(status)
        if is_system:
            self._follow(document, folded)
        entry = entry_of(record, folded, recorded_at, is_usual=self._is_usual(subject, where))
        # Past the generated constructor: this runs for every event.
        return tuple.__new__(Step, (recorded_at, folded, entry))

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints of all owned partitions, idle ones too, read up to here."""
        return [self._checkpoint_of(partition) for partition in self._partitions]

    def checkpoint(self, after_sequence: int) -> ShardCheckpoint:
        """Return what to commit: where the shard is, and checkpoints of partitions with events behind a sequence."""
        touched = [
            self._checkpoint_of(checkpoint.partition)
            for checkpoint in self._checkpoints.values()
            if checkpoint.last_sequence > after_sequence
        ]
        return ShardCheckpoint(
            partitions=self._partitions,
            fold=self.fold_number,
            read_sequence=self.read_sequence,
            recorded_at=self.recorded_at,
            touched=touched,
        )

    def _checkpoint_of(self, partition: int) -> Checkpoint:
        checkpoint = self._checkpoints[partition]
        return Checkpoint(
            partition=partition,
            chain=checkpoint.chain,
            chain_before=checkpoint.chain_before,
            fold=self.fold_number,
            read_sequence=self.read_sequence,
            last_sequence=checkpoint.last_sequence,
            recorded_at=self.recorded_at,
            counts=replace(checkpoint.counts),
        )

    def _next(self, record: Record) -> int:
        """Return the monotonic time of a record, which must be the next one and fall under rules that are known."""
        sequence, time, *_ = record
        if self._rules is None:
            rules_of(self.fold_number, sequence)
        if sequence != self.read_sequence + 1:
            raise LogHole(expected=self.read_sequence + 1, found=sequence)
        return max(self.recorded_at, time)

    def _advance(self, record: Record, recorded_at: int) -> None:
        self.read_sequence = record.sequence
        self.recorded_at = recorded_at

    def _rules_for(self, record: Record, where: Route) -> Rules:
        """Return the rules for a system event: a genesis is folded by those of its own number."""
        is_genesis = record.sequence == 1 and where.document == GENESIS_DOCUMENT
        return genesis_rules(record) if is_genesis else self.rules

    def _follow(self, document: Document, folded: Folded) -> None:
        """Move the fold number on for what follows, where a system event says so."""
        if folded.outcome.status.is_effective:
            # The genesis and every later number say it in the same member.
            self.fold_number = document.state["fold"]
            self._rules = RULES.get(self.fold_number)

    def _is_usual(self, subject: bytes, where: Route) -> bool:
        return subject in self._usual or subject == stored_subject(*where[:3])

    def _link(self, record: Record, partition: int) -> Checkpoint:
        checkpoint = self._checkpoints[partition]
        checkpoint.chain_before = checkpoint.chain
        checkpoint.chain = chain_link(checkpoint.chain, record)
        checkpoint.last_sequence = record.sequence
        return checkpoint


def first_checkpoints(log_id: str) -> list[Checkpoint]:
    """Return the checkpoints of a log before its first event."""
    seeds = ((partition, chain_seed(log_id, partition)) for partition in range(PARTITIONS))
    return [
        Checkpoint(partition=partition, chain=seed, chain_before=seed, fold=1) for partition, seed in seeds
    ]


def entry_of(record: Record, folded: Folded, recorded_at: int, *, is_usual: bool) -> Entry:
    """Put a record, its author's headers only, and what became of it together as what is kept.

    `is_usual`: its subject is the one that its document's events are stored under.
    """
    sequence, time, subject, headers, body = record
    outcome, occurred_at, _, _, identity = folded
    status, version, kind, is_creation, reason, detail, effect, first = outcome
    # Past the generated constructor: this runs for every event.
    return tuple.__new__(
        Entry,
        (
            sequence,
            time,
            recorded_at,
            occurred_at,
            version,
            status,
            kind,
            is_creation,
            None if is_usual else subject,
            headers,
            body,
            None if effect is None else json_text.dumps(effect),
            reason,
            detail,
            identity,
            0 if first is None else first.sequence,
        ),
    )


_APPLIED: Final = Status.applied
"""An enumeration's own look-up costs as much as the rest of a comparison."""
