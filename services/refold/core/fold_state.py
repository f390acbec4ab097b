"""The fold over a whole log, for the partitions of one shard: clock, fold number, chains and checkpoints.

Fed record by record by the projector, and by code that replays the log to verify or rebuild a projection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from refold.core.document import Document, Status
from refold.core.envelope import REPLY_HEADER, read_headers, reply_subject
from refold.core.errors import LogHole, Refused
from refold.core.fold import RULES, fold, genesis_rules, rules_of
from refold.core.fold.rules import Folded, Rules, Step, entry_of
from refold.core.fold.window import remember
from refold.core.json_text import Json
from refold.core.settings import SETTINGS_PREFIX, SettingsInForce, is_system_document, read_settings
from refold.core.stream import (
    GENESIS_DOCUMENT,
    PARTITIONS,
    SYSTEM_NAMESPACE,
    Checkpoint,
    ClockRange,
    Record,
    RecordFields,
    Route,
    ShardCheckpoint,
    author_headers,
    author_link,
    chain_seed,
    route,
)
from refold.core.transactions import MembersAhead, Transaction, as_member

SUBJECTS_CACHED_MAX: Final = 100_000
"""Subjects whose routes a fold state remembers."""

HEADERS_CACHED_MAX: Final = 1_000
HEADERS_CACHED_BYTES_MAX: Final = 512
"""Headers whose meaning a fold state remembers: all events of one gateway carry the same."""


class WindowNeeded(Exception):
    """The document's changes since a version are not in memory (`Rules.needs`); nothing has been folded."""

    def __init__(self, sequence: int, version: int) -> None:
        super().__init__(sequence, version)
        self.sequence = sequence
        self.version = version


class FoldState:
    """What the fold remembers of the log, beside the documents."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        """Continue from the checkpoints of a shard's partitions, which were all read to the same sequence."""
        self._checkpoints = {checkpoint.partition: checkpoint for checkpoint in checkpoints}
        self.partitions = tuple(sorted(self._checkpoints))
        # The reader of a shard leaves out events of other partitions; it notices a hole by itself.
        self._is_whole = len(checkpoints) == PARTITIONS
        newest = max(checkpoints, key=lambda checkpoint: checkpoint.read_sequence)
        self.read_sequence = newest.read_sequence
        self.recorded_at = newest.recorded_at
        self.fold_number = newest.fold
        self._rules = RULES.get(newest.fold)
        self._clock: list[ClockRange] = []
        self._system: dict[str, Document] = {}
        self._routes: dict[bytes, Route] = {}
        self._headers: dict[bytes, tuple[bool, str | None]] = {}
        self._settings = SettingsInForce()
        self.members = MembersAhead()
        # Of the namespaces that have settings; the others have the rules of the fold number.
        self._namespaces: dict[str, Rules] = {}

    def route(self, subject: bytes) -> Route:
        """Return where a subject's events belong under the fold number in force, from a cache."""
        known = self._routes.get(subject)
        if known is None:
            if len(self._routes) >= SUBJECTS_CACHED_MAX:
                self._routes.clear()
            known = self._routes[subject] = route(subject, self.fold_number)
        return known

    def has(self, partition: int) -> bool:
        """Tell whether the partition is one of this shard's."""
        return partition in self._checkpoints

    @property
    def rules(self) -> Rules:
        """The rules in force for the next record. Raises `FoldUnknown`."""
        return self._rules or rules_of(self.fold_number, self.read_sequence + 1)

    def rules_of(self, namespace: str) -> Rules:
        """Return the rules in force for the next record of a namespace. Raises `FoldUnknown`."""
        return self._namespaces.get(namespace) or self.rules

    def rules_under(self, namespace: str, settings_sequence: int) -> Rules | None:
        """Return the rules under the settings that an earlier event set (0: the defaults); None where not kept."""
        settings = self._settings.at(namespace, settings_sequence)
        return None if settings is None else self.rules.under(settings)

    def skip(self, record: Record, where: Route) -> None:
        """Pass over a record of a foreign partition.

        A system event is folded: fold number and settings are in force in every shard.
        """
        recorded_at = self._next(record, where)
        if where.namespace == SYSTEM_NAMESPACE and is_system_document(where.document):
            document = self._system.setdefault(where.document, Document.new(where))
            rules = self._rules_for(record, where)
            self._follow(document, fold(document, record, rules, recorded_at=recorded_at))
        self.read_sequence = record.sequence
        self.recorded_at = recorded_at

    def resume(self, system: FoldState) -> None:
        """Continue with the settings and the foreign system documents that another fold state has."""
        self._system, self._settings, self._namespaces = system._system, system._settings, system._namespaces

    def resume_settings(self, document: str, sequence: int, state: Json) -> None:
        """Put in force a settings document's state that the event at a sequence put."""
        namespace = document.removeprefix(SETTINGS_PREFIX)
        self._settings.set(namespace, sequence, read_settings(document, state, self.rules.limits))
        self._namespaces[namespace] = self.rules.under(self._settings.latest()[namespace])

    def reject(self, record: Record, where: Route) -> int:
        """Pass over a record whose names make no document, as rejected; return its monotonic time."""
        self.link(record, where).counts[Status.rejected] += 1
        return self.recorded_at

    def link(self, record: Record, where: Route) -> Checkpoint:
        """Add a record to clock and chain without folding it; return its partition's checkpoint."""
        self.recorded_at = self._next(record, where)
        self.read_sequence = record.sequence
        return self._link(record._replace(headers=author_headers(record.headers)), where.partition)

    def fold(self, record: Record, where: Route, document: Document) -> Step:
        """Fold a record into its document, in place; `where` is the route of its subject.

        Raises `FoldUnknown`, `LogHole`, and `WindowNeeded` with nothing changed.
        """
        # Taken apart, as in all of the hot path: an attribute of a NamedTuple takes twice as long.
        sequence, time, subject, headers, body = record
        partition, namespace, _, _, is_usual = where
        rules, step, has_fields, reply, transaction = self._rules, None, False, None, None
        if rules is None or sequence != self.read_sequence + 1:
            self._check_next(sequence)
        recorded_at = time if time > self.recorded_at else self.recorded_at  # noqa: FURB136 - `max` takes 60 ns longer
        if headers:
            headers = author_headers(headers)
            if headers:
                has_fields, reply = self._headers.get(headers) or self._read_headers(headers)
        stored = sequence, time, subject, headers, body
        assert rules is not None
        if self._namespaces:
            rules = self._namespaces.get(namespace, rules)
        fold_usual = rules.fold_usual
        if fold_usual and not has_fields and namespace != SYSTEM_NAMESPACE:
            step = fold_usual(document, stored, None if is_usual else subject, recorded_at, reply, rules)
        if step is None:
            transaction = self.members.of(record, rules, self.route)
            if transaction is not None:
                recorded_at = max(recorded_at, transaction.time)
            step = self._fold_any(Record._make(stored), where, document, recorded_at, reply, transaction)
        if recorded_at > time and (transaction is None or recorded_at > transaction.time):
            self._note_clock(sequence, recorded_at)
        self.read_sequence = sequence
        self.recorded_at = recorded_at
        self._link(stored, partition).counts[step[0][5]] += 1
        if document.recent is not None:
            remember(document, step[0], step[2])
        return step

    def _fold_any(
        self,
        record: Record,
        where: Route,
        document: Document,
        recorded_at: int,
        reply: str | None,
        transaction: Transaction | None,
    ) -> Step:
        """Fold an event of any form, a system event too."""
        is_system = where.namespace == SYSTEM_NAMESPACE
        rules = self._rules_for(record, where) if is_system else self.rules_of(where.namespace)
        settings = None if transaction is None else transaction.member(record.sequence).settings
        checked = rules if settings is None else self.rules_under(where.namespace, settings)
        rules = checked or rules
        decoded = rules.decode(record, rules)
        is_whole, is_known = transaction is not None, checked is not None
        decoded = as_member(decoded, document, is_whole=is_whole, is_known=is_known)
        version = None if rules.needs is None else rules.needs(decoded, document)
        if version is not None:
            raise WindowNeeded(record.sequence, version)
        folded = fold(document, record, rules, recorded_at=recorded_at, decoded=decoded)
        if is_system:
            self._follow(document, folded)
        entry = entry_of(record, folded, recorded_at, is_usual=where.is_usual)
        fields = None if folded.event is None else folded.event.fields
        return Step(entry, folded.event_id, fields, folded.outcome.first, reply)

    def _read_headers(self, headers: bytes) -> tuple[bool, str | None]:
        """Tell whether an author's headers say anything of the event, and return the reply subject; remember both."""
        try:
            has_fields = not read_headers(headers).keys() <= {REPLY_HEADER}
        except Refused:
            has_fields = True
        found = has_fields or len(headers) > self.rules.limits.headers_bytes, reply_subject(headers)
        if len(headers) <= HEADERS_CACHED_BYTES_MAX:
            if len(self._headers) >= HEADERS_CACHED_MAX:
                self._headers.clear()
            self._headers[headers] = found
        return found

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints of all partitions, idle ones too, read up to here."""
        return [self._checkpoint_of(partition) for partition in self.partitions]

    def _note_clock(self, sequence: int, recorded_at: int) -> None:
        """Note that the time of an event is that of an earlier event."""
        is_same = self._clock and self._clock[-1].recorded_at == recorded_at
        first_sequence = self._clock.pop().first_sequence if is_same else sequence
        self._clock.append(ClockRange(first_sequence, sequence, recorded_at))

    def checkpoint(self, after_sequence: int) -> ShardCheckpoint:
        """Return what to commit: the shard's position, and checkpoints of partitions with events after a sequence."""
        self._clock = [each for each in self._clock if each.last_sequence > after_sequence]
        return ShardCheckpoint(
            partitions=self.partitions,
            fold=self.fold_number,
            read_sequence=self.read_sequence,
            recorded_at=self.recorded_at,
            touched=[
                self._checkpoint_of(partition)
                for partition, checkpoint in self._checkpoints.items()
                if checkpoint.last_sequence > after_sequence
            ],
            clock=self._clock.copy(),
        )

    def _checkpoint_of(self, partition: int) -> Checkpoint:
        checkpoint = self._checkpoints[partition]
        return replace(
            checkpoint,
            fold=self.fold_number,
            read_sequence=self.read_sequence,
            recorded_at=self.recorded_at,
            counts=checkpoint.counts.copy(),
        )

    def _next(self, record: Record, where: Route) -> int:
        """Return the monotonic time of a record, which must be the next one and have known rules.

        The members of a transaction count as recorded at the last one's time.
        """
        self._check_next(record.sequence)
        transaction = self.members.of(record, self.rules_of(where.namespace), self.route)
        return max(record.time, self.recorded_at, transaction.time if transaction else record.time)

    def _check_next(self, sequence: int) -> None:
        if self._rules is None:
            rules_of(self.fold_number, sequence)
        if sequence != self.read_sequence + 1 and (self._is_whole or sequence <= self.read_sequence):
            raise LogHole(expected=self.read_sequence + 1, found=sequence)

    def _rules_for(self, record: Record, where: Route) -> Rules:
        """Return the rules for a system event: a genesis is folded by those of its own number."""
        is_genesis = record.sequence == 1 and where.document == GENESIS_DOCUMENT
        return genesis_rules(record) if is_genesis else self.rules

    def _follow(self, document: Document, folded: Folded) -> None:
        """Put in force what an effective system event says: settings, or the fold number."""
        if not folded.outcome.status.is_effective:
            return
        if document.document.startswith(SETTINGS_PREFIX):
            self.resume_settings(document.document, document.version_sequence, document.state)
            return
        # The genesis and the fold document state the number in the same member.
        self.fold_number = document.state["fold"]
        self._rules = RULES.get(self.fold_number)
        # Which names are valid depends on it.
        self._routes.clear()
        settings = {} if self._rules is None else self._settings.latest()
        self._namespaces = {namespace: self.rules.under(each) for namespace, each in settings.items()}

    def _link(self, record: RecordFields, partition: int) -> Checkpoint:
        """Add a record, which has its author's headers only, to its partition's chain."""
        checkpoint = self._checkpoints[partition]
        checkpoint.chain_before = chain = checkpoint.chain
        checkpoint.chain = author_link(chain, record)
        checkpoint.last_sequence = record[0]
        return checkpoint


def first_checkpoints(log_id: str) -> list[Checkpoint]:
    """Return the checkpoints of a log before its first event."""
    seeds = ((partition, chain_seed(log_id, partition)) for partition in range(PARTITIONS))
    return [
        Checkpoint(partition=partition, chain=seed, chain_before=seed, fold=1) for partition, seed in seeds
    ]
