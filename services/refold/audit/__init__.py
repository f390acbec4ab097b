"""Audits of a projection: `verify` compares it with the log, `rebuild` replaces it.

This module folds one document's stored rows again from the first event, and compares each with what the projection says
of it: pure, fed in the order of `refold.store.ports.position_of`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

from refold.core.document import UNBOUNDED, Document, Status, to_canonical
from refold.core.envelope import open_envelope
from refold.core.fold import RULES, fold, rules_of
from refold.core.fold.rules import Rules, entry_of
from refold.core.fold.window import WINDOW_VERSIONS_MAX, remember
from refold.core.history import NEVER, Entry, Segment, Snapshot, snapshot_of
from refold.core.stream import Record, Route
from refold.core.transactions import as_member
from refold.history import record_of
from refold.store import Key, Rejection
from refold.store.ports import Item, StoredEntry, StoredHead, StoredPage, Unreadable

VALUE_CHARS_MAX: Final = 200
"""Longer values are cut in a difference."""

EMPTY_DIGEST: Final = bytes(16)
"""The digest of a document without events."""

_EVENT: Final = struct.Struct(">16sQqqII")
_PROSE: Final = {"detail"}
"""Not compared: made of parsers' messages, which differ between versions of Python."""


class Difference(NamedTuple):
    """A value of a projection that differs from what the log makes of it.

    `part`: `document`, `page`, `journal`, `rejection`, `checkpoint`, `namespace`, `log`, `file`, `dictionary`, between
    two stores also `event` and `snapshot`; `sequence` is the event's (a page's: of its last event; a dictionary's
    number), None where it is not about one.
    """

    namespace: str
    document: str
    sequence: int | None
    part: str
    field: str
    expected: str
    found: str


def compare(
    key: Key, sequence: int | None, part: str, expected: Mapping[str, Any], found: Mapping[str, Any]
) -> Iterator[Difference]:
    """Yield the fields that differ."""
    for name, value in expected.items():
        if name not in _PROSE and found[name] != value:
            yield Difference(*key, sequence, part, name, _shown(value), _shown(found[name]))


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}… ({len(text)} characters)"


def digest_of(previous: bytes, record: Record, recorded_at: int) -> bytes:
    """Return a document's digest after one more event, given with its author's headers only."""
    sequence, time, subject, headers, body = record
    packed = _EVENT.pack(previous, sequence, time, recorded_at, len(subject), len(headers))
    return sha256(b"".join((packed, subject, headers, body))).digest()[: len(EMPTY_DIGEST)]


class LoggedRules(Protocol):
    """What the log says of how its events are folded."""

    def rules_at(self, namespace: str, sequence: int) -> Rules:
        """Return the rules in force for a namespace's event at a sequence."""

    def rules_under(self, namespace: str, sequence: int, settings_sequence: int) -> Rules | None:
        """Return them under the settings that an earlier event set; None where those were not kept any more."""

    def is_member(self, sequence: int) -> bool:
        """Tell whether the event at a sequence is a member of a transaction."""


class ReplayCheck:
    """Fold one document's stored events again, and compare its rows with the result."""

    def __init__(self, key: Key, logged: LoggedRules) -> None:
        self.key = key
        self._logged = logged
        self._where = Route.of(*key)
        self._usual_subject = self._where.subject
        self.document = Document.new(self._where)
        self._head: StoredHead | None = None
        self._state_of_row: bytes | None = None
        self._keeps_changes = any(rules.needs is not None for rules in RULES.values())
        self._changes: list[Entry] = []
        self._bases = [NEVER]
        self._rejections: dict[int, Rejection] = {}
        self._unresolved: dict[int, Rejection] = {}
        self.digest = EMPTY_DIGEST
        self.counts = [0] * len(Status)
        self.is_readable = True

    def take(self, item: Item) -> Iterator[Difference]:
        """Compare one row with the fold so far, and fold its events."""
        if isinstance(item, StoredHead):
            self._head = item
        elif isinstance(item, Unreadable):
            self.is_readable = False
            yield Difference(*self.key, item.sequence, item.part, "content", "readable", _shown(item.why))
        elif not self.is_readable:
            # What follows an unreadable row cannot be checked; the row itself was reported.
            return
        elif isinstance(item, StoredPage):
            yield from self._take_page(item)
        elif isinstance(item, StoredEntry):
            yield from self._take_entry(item.entry, "journal")
        else:
            self._rejections[item.sequence] = item

    def finish(self) -> Iterator[Difference]:
        """Compare the document's row with the fold of all its events."""
        if not self.is_readable:
            return
        document = self.document
        for rejection in self._rejections.values():
            reason = _shown(rejection.reason)
            yield Difference(*self.key, rejection.sequence, "rejection", "row", "none", reason)
        for sequence in list(self._unresolved):
            yield from self._compare_resolution(sequence, None)
        if self._head is None:
            yield Difference(*self.key, None, "document", "row", f"version {document.version}", "missing")
            return
        yield from compare(self.key, None, "document", _columns(document), _columns(self._head.document))
        older = self._head.state_version
        if older is not None and not 0 < older < document.version:
            limit = f"none, or below {document.version}"
            yield Difference(*self.key, None, "document", "state_version", limit, _shown(older))
            return
        # The row's state is of the version that the row names.
        state = to_canonical(document.state) if older is None else self._state_of_row
        yield from compare(self.key, None, "document", {"state": state}, {"state": self._head.state})

    def _take_page(self, page: StoredPage) -> Iterator[Difference]:
        document, at = self.document, page.last_sequence
        for entry in page.entries:
            yield from self._take_entry(entry, "page")
        state = to_canonical(document.state)
        self._keep_base(snapshot_of(document, state))
        expected = StoredPage.of(self.key, page.entries, snapshot_of(document, state), document.events)
        yield from compare(self.key, at, "page", expected.closing._asdict(), page.closing._asdict())
        names = ("last_sequence", "events", "ids", "identities", "conflicts")
        columns = [{name: getattr(each, name) for name in names} for each in (expected, page)]
        yield from compare(self.key, at, "page", *columns)
        document.unpaged_events = document.unpaged_bytes = 0
        document.page_bytes = len(state or b"")

    def _take_entry(self, found: Entry, part: str) -> Iterator[Difference]:
        document = self.document
        record = record_of(found, self._where)
        self.digest = digest_of(self.digest, record, found.recorded_at)
        is_whole = self._logged.is_member(record.sequence)
        rules, is_known = self._rules_for(record, is_member=is_whole)
        decoded = rules.decode(record, rules)
        decoded = as_member(decoded, document, is_whole=is_whole, is_known=is_known)
        version = None if rules.needs is None else rules.needs(decoded, document)
        window = None if version is None else self._since(version)
        folded = fold(document, record, rules, recorded_at=found.recorded_at, decoded=decoded, window=window)
        is_usual = record.subject == self._usual_subject
        expected = entry_of(record, folded, found.recorded_at, is_usual=is_usual)
        remember(document, expected)
        if self._keeps_changes and (expected.status.is_effective or expected.conflict is not None):
            self._changes.append(expected)
        if expected.status.is_effective and self._head and expected.version == self._head.state_version:
            self._state_of_row = to_canonical(document.state)
        document.unpaged_events += 1
        document.unpaged_bytes += expected.size
        self.counts[expected.status] += 1
        if expected.status is Status.rejected:
            rejection = Rejection.of_entry(self._where, expected, rules_of(rules.number).limits)
            yield from self._compare_rejection(rejection, self._rejections.pop(expected.sequence, None))
        elif expected.status.is_effective and decoded.event is not None:
            yield from self._compare_resolution(decoded.event.fields.get("resolves"), record.sequence)
        if expected != found:
            yield from compare(self.key, found.sequence, part, expected._asdict(), found._asdict())

    def _rules_for(self, record: Record, *, is_member: bool) -> tuple[Rules, bool]:
        """Return the rules for an event, and whether the settings that a member of a transaction names are kept."""
        namespace, sequence = self.key[0], record.sequence
        rules = self._logged.rules_at(namespace, sequence)
        if not is_member:
            return rules, True
        settings = open_envelope(record.headers, record.body, UNBOUNDED).fields["txn"].get("settings")
        named = rules if settings is None else self._logged.rules_under(namespace, sequence, settings)
        return named or rules, named is not None

    def _since(self, version: int) -> Segment:
        """Return the history from a snapshot at or before a version."""
        base = next(base for base in reversed(self._bases) if base.version <= version)
        return Segment(
            base, base.sequence, [entry for entry in self._changes if entry.version > base.version]
        )

    def _keep_base(self, snapshot: Snapshot) -> None:
        """Keep a snapshot that windows may begin at, and forget what no window reaches back to."""
        if not self._keeps_changes:
            return
        self._bases.append(snapshot)
        while len(self._bases) > 1 and self._bases[1].version + WINDOW_VERSIONS_MAX <= self.document.version:
            del self._bases[0]
        self._changes = [entry for entry in self._changes if entry.version > self._bases[0].version]

    def _compare_rejection(self, expected: Rejection, found: Rejection | None) -> Iterator[Difference]:
        sequence = expected.sequence
        if found is None:
            yield Difference(*self.key, sequence, "rejection", "row", "there", "missing")
            return
        if expected.is_open:
            self._unresolved[sequence] = found
            expected = expected._replace(resolved_by=found.resolved_by)
        yield from compare(self.key, sequence, "rejection", expected._asdict(), found._asdict())

    def _compare_resolution(self, sequence: int | None, resolved_by: int | None) -> Iterator[Difference]:
        """Compare by which event a rejection is resolved, where it is open until now."""
        found = None if sequence is None else self._unresolved.pop(sequence, None)
        if found is not None:
            columns = [{"resolved_by": each} for each in (resolved_by, found.resolved_by)]
            yield from compare(self.key, sequence, "rejection", *columns)


def _columns(document: Document) -> dict[str, Any]:
    names = (name for name in Document.__dataclass_fields__ if name not in {"state", "identities", "recent"})
    return {name: getattr(document, name) for name in names}
