"""The conflicts of a document, as the fold recorded them, and the states that one is about. Read by the gateway.

The projector uses `read_states` for the notices of conflicts that a resolver decides on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import Document, from_canonical, to_canonical
from refold.core.event import CHANGES, VERSION_MAX
from refold.core.fold import NEWEST, fold
from refold.core.fold.rules import entry_of
from refold.core.history import NEVER, Clock, Entry, Point, Segment, fields_of
from refold.core.json_text import Json
from refold.core.replay import state_at
from refold.core.stream import Record, Route
from refold.core.views import conflict_view, contested_view
from refold.history import Slice
from refold.store import ANSWER_BYTES_MAX, NEEDS_RESOLUTION, Key, reading_stored
from refold.store.ports import HistoryReader

CONFLICT_READS_MAX: Final = 1_000
"""Segments that one answer reads for the authors of other versions."""

OTHERS_MAX: Final = 100
"""Versions that one conflict names as those that it was with."""


class ContestedStates(NamedTuple):
    """The document at the event's base, and as its author saw it after the event, in canonical bytes; None: absent."""

    base: bytes | None
    incoming: bytes | None


class Conflicts:
    """Answer from what is folded."""

    def __init__(self, store: HistoryReader) -> None:
        self._store = store

    async def of_document(
        self, key: Key, *, after: int | None, limit: int, is_descending: bool, is_open: bool
    ) -> Slice:
        """Return conflicts beyond the sequence `after`, in the requested order, bounded; `is_open`: only open ones."""
        others = _Others(self._store, key)
        items: list[bytes] = []
        answer_bytes = last = 0
        found = (
            self._open(key, after, is_descending, limit) if is_open else self._all(key, after, is_descending)
        )
        async with aclosing(found) as entries:
            async for entry, is_open_now in entries:
                if len(items) >= limit or others.reads >= CONFLICT_READS_MAX:
                    return Slice(items, last)
                item = await self._item(others, entry, is_open=is_open_now)
                answer_bytes += len(item)
                if answer_bytes > ANSWER_BYTES_MAX and items:
                    return Slice(items, last)
                items.append(item)
                last = entry.sequence
        return Slice(items, None)

    async def open_ones(self, namespace: str | None, *, after: int, limit: int) -> Slice:
        """Return the open conflicts of a namespace, or of all, oldest first, after a sequence; bounded."""
        found = await self._store.open_conflicts(
            namespace, None, after_sequence=after, is_descending=False, limit=limit + 1
        )
        items: list[bytes] = []
        answer_bytes = last = 0
        for rejection in found:
            if len(items) >= limit or answer_bytes > ANSWER_BYTES_MAX:
                return Slice(items, last)
            key = (rejection.namespace, rejection.document)
            entry = await self._store.entry(*key, rejection.sequence)
            last = rejection.sequence
            if entry is not None:
                items.append(await self._item(_Others(self._store, key), entry, is_open=True))
                answer_bytes += len(items[-1])
        return Slice(items, None)

    async def one(self, key: Key, sequence: int) -> dict[str, Json] | None:
        """Return a conflict with the states that it is about, and the head; None where the event has no conflict."""
        entry = await self._store.entry(*key, sequence)
        if entry is None or entry.conflict is None:
            return None
        # The head comes first: a decision for it is refused where it was settled between the two.
        head = await self._store.snapshot_at(*key, Point(Clock.sequence, VERSION_MAX))
        assert head is not None, key
        is_open = sequence in await self._open_between(key, [entry])
        with reading_stored(*key):
            view = await self._view(_Others(self._store, key), entry, is_open=is_open)
            states = await read_states(self._store, key, entry)
            return view | contested_view(head.version, states, head.state)

    async def _item(self, others: _Others, entry: Entry, *, is_open: bool) -> bytes:
        with reading_stored(*others.key):
            return json_text.dumps(await self._view(others, entry, is_open=is_open))

    async def _view(self, others: _Others, entry: Entry, *, is_open: bool) -> dict[str, Json]:
        fields = fields_of(entry)
        view = conflict_view(*others.key, entry, fields)
        return view | {"others": await others.of(entry, view, fields), "open": is_open}

    async def _all(
        self, key: Key, after: int | None, is_descending: bool
    ) -> AsyncGenerator[tuple[Entry, bool]]:
        parts = self._store.conflicts(*key, after_sequence=after, is_descending=is_descending)
        async with aclosing(parts) as opened:
            async for part in opened:
                open_now = await self._open_between(key, part)
                for entry in part:
                    yield entry, entry.sequence in open_now

    async def _open(
        self, key: Key, after: int | None, is_descending: bool, limit: int
    ) -> AsyncGenerator[tuple[Entry, bool]]:
        found = await self._store.open_conflicts(
            *key, after_sequence=after, is_descending=is_descending, limit=limit + 1
        )
        for rejection in found:
            entry = await self._store.entry(*key, rejection.sequence)
            if entry is not None:
                yield entry, True

    async def _open_between(self, key: Key, entries: list[Entry]) -> set[int]:
        """Return which of a document's entries are open, and perhaps later ones."""
        sequences = [entry.sequence for entry in entries if entry.reason == NEEDS_RESOLUTION]
        if not sequences:
            return set()
        found = await self._store.open_conflicts(
            *key, after_sequence=min(sequences) - 1, is_descending=False, limit=len(sequences)
        )
        return {rejection.sequence for rejection in found}


class _Others:
    """The versions that conflicts of one document are with, and their actors: read a segment at a time, and kept."""

    def __init__(self, store: HistoryReader, key: Key) -> None:
        self.key = key
        self.reads = 0
        self._store = store
        self._authors: dict[int, tuple[str | None, str | None]] = {}

    async def of(self, entry: Entry, view: dict[str, Json], fields: dict[str, Json]) -> list[Json]:
        """Return the versions that a conflict names; where it names none, those that its author had not seen."""
        named = sorted({*view["overwrote"], *view["merged"]})
        others: list[Json] = []
        base, session = view["base"] or 0, fields.get("session")
        for version in named or range(base + 1, entry.version + (not entry.status.is_effective)):
            actor, its_session = await self._author(version)
            if named or session is None or session != its_session:
                others.append({"version": version, "actor": actor})
            if len(others) == OTHERS_MAX:
                break
        return others

    async def _author(self, version: int) -> tuple[str | None, str | None]:
        if version not in self._authors:
            self.reads += 1
            segments = self._store.segments(*self.key, after_version=version - 1, is_descending=False)
            async with aclosing(segments) as opened:
                segment = await anext(opened)
            for entry in segment.entries:
                if entry.status.is_effective:
                    fields = fields_of(entry)
                    self._authors[entry.version] = fields.get("actor"), fields.get("session")
        return self._authors[version]


# --- The states of one conflict ----------------------------------------------------------------------------


async def read_states(
    store: HistoryReader, key: Key, entry: Entry, uncommitted: Iterable[Entry] = ()
) -> ContestedStates | None:
    """Return the states that an event with a base is about; None where it does not apply to what its author saw.

    `uncommitted` are entries that the store may not have, taken before it is read.
    """
    base = fields_of(entry).get("base", entry.version)
    pending = {each.sequence: each for each in uncommitted}
    window = _joined(await _read_window(store, key, base, entry.sequence), pending, entry)
    oldest = min([each.base for each in _own_events(window, entry, base)], default=base)
    if oldest < window.base.version:
        window = _joined(await _read_window(store, key, oldest, entry.sequence), pending, entry)
    return contested_states(window, entry)


async def _read_window(store: HistoryReader, key: Key, version: int, until_sequence: int) -> Segment:
    """Read a document's committed history from a version up to a sequence."""
    first: Segment | None = None
    entries: list[Entry] = []
    segments = store.segments(*key, after_version=version, is_descending=False)
    async with aclosing(segments) as opened:
        async for segment in opened:
            first = first or segment
            entries += segment.entries
            if entries and entries[-1].sequence >= until_sequence:
                break
    return (first or Segment(NEVER, 0, []))._replace(entries=entries)


def _joined(window: Segment, pending: dict[int, Entry], entry: Entry) -> Segment:
    """Return what matters of a document's history before an event, in order."""
    known = {each.sequence: each for each in window.entries} | pending
    return window._replace(
        entries=[
            known[sequence]
            for sequence in sorted(known)
            if sequence < entry.sequence and (known[sequence].status.is_effective or known[sequence].conflict)
        ]
    )


class _OwnEvent(NamedTuple):
    """An event of a session, as it is applied to what its author saw: its change, its base and the session."""

    entry: Entry
    base: int
    fields: dict[str, Json]


def contested_states(window: Segment, entry: Entry) -> ContestedStates | None:
    """Return the states that an event is about, from the document's history before it.

    What the author saw is the state at the base with the session's own events since, folded onto it one by one: those
    with an older base follow what others did until then. Each is last write wins, and rejected ones count.
    """
    base = fields_of(entry).get("base", entry.version)
    entries = [each for each in window.entries if each.version <= base]
    effective = [each for each in entries if each.status.is_effective]
    state = state_at(window.base, effective, Point(Clock.version, base)).state
    document = Document.new(Route.of("contested", "document"))
    document.state = from_canonical(state)
    document.size, document.version = len(state or b""), base
    for own in (*_own_events(window, entry, base), _own_event(entry, base)):
        folded = _folded(document, own, window._replace(entries=entries))
        if not folded.status.is_effective:
            return None
        entries = [*entries, folded]
    return ContestedStates(state, to_canonical(document.state))


def _own_events(window: Segment, entry: Entry, base: int) -> list[_OwnEvent]:
    """Return the events of the same session that its author had in flight, rejected ones too (`view-rejected`)."""
    session = fields_of(entry).get("session")
    since = [each for each in window.entries if each.version > base] if session is not None else []
    own = [_own_event(each, base) for each in since]
    return [each for each in own if each.fields.get("session") == session]


def _own_event(entry: Entry, base_max: int) -> _OwnEvent:
    fields = fields_of(entry)
    base = min(fields.get("base", base_max), base_max)
    kept = {name: fields[name] for name in (*CHANGES, "session") if name in fields}
    return _OwnEvent(entry, base, kept | {"base": base})


def _folded(document: Document, own: _OwnEvent, window: Segment) -> Entry:
    """Fold an own event onto the document, and return its entry there."""
    entry, document.recent = own.entry, None
    record = Record(entry.sequence, entry.time, b"", b"", json_text.dumps(own.fields))
    folded = fold(document, record, NEWEST, recorded_at=entry.recorded_at, window=window)
    return entry_of(record, folded, entry.recorded_at, is_usual=True)
