"""A log, read in order: its chains, counts and fold numbers, and a digest of each document's events.

Used by `refold.audit.verify`, which compares them with a projection.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter

from refold.audit import EMPTY_DIGEST, digest_of
from refold.core.document import Document
from refold.core.fold import rules_of
from refold.core.fold.rules import Rules
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.settings import DEFAULTS, SETTINGS_KEPT_MAX, SETTINGS_PREFIX, Settings
from refold.core.stream import PARTITIONS, SYSTEM_NAMESPACE, Record, Route, author_headers
from refold.store import Key


class LogDigest:
    """The log read in order: its chains, counts and fold numbers, and one digest for each document that is wanted.

    Only the system's own documents are folded.
    """

    def __init__(self, log_id: str, wants: Callable[[Route], bool]) -> None:
        self._fold_state = FoldState(first_checkpoints(log_id))
        self._wants = wants
        self._system: dict[str, Document] = {}
        self._fold_numbers = [(0, 1)]
        self._settings: dict[str, list[tuple[int, Settings]]] = {}
        self._rules: dict[tuple[str, int, int], Rules] = {}
        # The first and the last sequence of each, as a list of integers takes four times as much memory.
        self._transactions = array("q")
        self.digests: dict[Key, bytes] = {}
        self.refused = [0] * PARTITIONS
        self.checkpoints = self._fold_state.checkpoints

    @property
    def recorded_at(self) -> int:
        """Return the monotonic time of the last event."""
        return self._fold_state.recorded_at

    def begin(self, records: Sequence[Record]) -> None:
        """Take the events that are added next, which divide no transaction."""
        self._fold_state.members.read(records)

    def add(self, record: Record) -> None:
        """Read one more event. Raises `FoldUnknown`, `LogHole`."""
        fold_state = self._fold_state
        where = fold_state.route(record.subject)
        if where.namespace == SYSTEM_NAMESPACE:
            self._fold(record, where)
        else:
            fold_state.link(record, where)
            if where.reason:
                self.refused[where.partition] += 1
        transaction = fold_state.members.found
        if transaction is not None and transaction.last_sequence == record.sequence:
            self._transactions.extend((transaction.first_sequence, transaction.last_sequence))
        if self._wants(where):
            key = where[1:3]
            digest = self.digests.get(key, EMPTY_DIGEST)
            stored = record._replace(headers=author_headers(record.headers))
            self.digests[key] = digest_of(digest, stored, fold_state.recorded_at)

    def is_member(self, sequence: int) -> bool:
        """Tell whether the event at a sequence is a member of a transaction."""
        at = bisect_left(self._transactions, sequence)
        # At an odd place is the end of the transaction that begins before it.
        return at % 2 == 1 or (at < len(self._transactions) and self._transactions[at] == sequence)

    def fold_number_at(self, sequence: int) -> int:
        """Return the fold number in force for the event at a sequence."""
        return self._fold_numbers[bisect_right(self._fold_numbers, sequence, key=itemgetter(0)) - 1][1]

    def rules_at(self, namespace: str, sequence: int) -> Rules:
        """Return the rules in force for a namespace's event at a sequence."""
        number = self.fold_number_at(sequence)
        if namespace not in self._settings:
            return rules_of(number)
        return self._under(namespace, number, *self._settings_kept(namespace, sequence)[-1])

    def rules_under(self, namespace: str, sequence: int, settings_sequence: int) -> Rules | None:
        """Return them under the settings that an earlier event set; None where those were not kept any more."""
        for set_at, settings in self._settings_kept(namespace, sequence):
            if set_at == settings_sequence:
                return self._under(namespace, self.fold_number_at(sequence), set_at, settings)
        return None

    def _settings_kept(self, namespace: str, sequence: int) -> list[tuple[int, Settings]]:
        found = self._settings.get(namespace, [])
        before = found[: bisect_left(found, sequence, key=itemgetter(0))]
        return [(0, DEFAULTS), *before][-SETTINGS_KEPT_MAX:]

    def _under(self, namespace: str, number: int, set_at: int, settings: Settings) -> Rules:
        key = namespace, number, set_at
        if key not in self._rules:
            self._rules[key] = rules_of(number).under(settings)
        return self._rules[key]

    def _fold(self, record: Record, where: Route) -> None:
        document = self._system.setdefault(where.document, Document.new(where))
        entry = self._fold_state.fold(record, where, document).entry
        number = self._fold_state.fold_number
        if entry.status.is_effective and where.document.startswith(SETTINGS_PREFIX):
            namespace = where.document.removeprefix(SETTINGS_PREFIX)
            settings = self._fold_state.rules_of(namespace).settings
            self._settings.setdefault(namespace, []).append((record.sequence, settings))
        if record.sequence == 1:
            # A genesis is folded by the rules of its own number.
            self._fold_numbers = [(0, number)]
        elif number != self._fold_numbers[-1][1]:
            self._fold_numbers.append((record.sequence + 1, number))
