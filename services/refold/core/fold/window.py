"""A document's last changes, kept in memory while events with a stale base come, and the window of one event in them.

What is kept is made from the document's entries alone, so that it makes no difference whether it is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import Document, Kind
from refold.core.fold.identity import Stamp
from refold.core.fold.model import ADOPT, AT, KEEP, Model
from refold.core.fold.optimistic import repeat
from refold.core.fold.sequence import Anchor
from refold.core.fold.view import DEPENDS_ON_REJECTED, TARGET_GONE
from refold.core.history import Clock, Entry, Point, Segment, fields_of, operations_of
from refold.core.json_text import Json, copied
from refold.core.pointer import parse, resolve
from refold.core.replay import apply_accepted, state_at

WINDOW_VERSIONS_MAX: Final = 1_000
"""A base may be so many versions behind the head. A rule of fold 2."""

WINDOW_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of the effective patches between a base and the head. A rule of fold 2."""

RECENT_ENTRIES_MAX: Final = 2 * WINDOW_VERSIONS_MAX
RECENT_BYTES_MAX: Final = 2 * WINDOW_BYTES_MAX
"""What is kept of one document; with more, it is loaded again from a later snapshot."""

ENTRY_BYTES: Final = 600
"""Memory of one change in a model (measured)."""

RECENT_UNUSED_MAX: Final = 1_000
"""Events of a document that may come one after another without a stale one before what is kept is dropped."""

STEPS: Final = "view"
"""The member of an entry's conflict that has its steps."""


class Change(NamedTuple):
    """What the conflicts of later events need of one event of a document; `version` as in `Stamp`."""

    version: int
    session: str | None
    is_effective: bool
    has_steps: bool


class Recent:
    """A document's changes since a snapshot, as a model of identities with a state of its own.

    The model is brought up to the last event when a stale event comes. `events` counts the document's events.
    """

    __slots__ = (
        "_begin",
        "_changes",
        "_pending",
        "_resolved",
        "_state",
        "_sums",
        "_unused",
        "events",
        "model",
    )

    def __init__(self, segment: Segment, events: int) -> None:
        """`segment` reaches to the head; `events` is the document's count there."""
        state = segment.base.state
        self.events = events
        self.model = Model(self.state)
        self._begin = segment.base.version
        self._state: Json = {} if state is None else json_text.reread(state)
        self._changes: list[Change] = []
        self._sums: list[int] = [0]
        self._pending: list[tuple[Entry, str | None]] = []
        self._resolved = 0
        self._unused = 0
        for entry in segment.entries:
            self._keep(entry, None)

    def state(self) -> Json:
        """Return the state that the model has reached."""
        return self._state

    @property
    def size_bytes(self) -> int:
        """Estimate its memory, beside its state."""
        return ENTRY_BYTES * len(self._changes) + 2 * self._sums[-1]

    @property
    def is_worth_keeping(self) -> bool:
        """Tell whether it is small, and was of use lately."""
        is_small = len(self._changes) <= RECENT_ENTRIES_MAX and self._sums[-1] <= RECENT_BYTES_MAX
        return is_small and self._unused <= RECENT_UNUSED_MAX

    def append(self, entry: Entry, fields: dict[str, Json] | None) -> None:
        """Add the document's next event, of any outcome; `fields` are its own, where they are at hand."""
        self.events += 1
        self._unused += 1
        self._keep(entry, fields)

    def _keep(self, entry: Entry, fields: dict[str, Json] | None) -> None:
        is_effective = entry.status.is_effective
        if is_effective or entry.conflict is not None:
            has_steps = entry.conflict is not None and b'"view"' in entry.conflict
            session = (fields_of(entry) if fields is None else fields).get("session")
            self._changes.append(Change(entry.version, session, is_effective, has_steps))
            self._sums.append(self._sums[-1] + change_bytes(entry))
            self._pending.append((entry, session))

    def covers(self, base: int) -> bool:
        """Tell whether it reaches back to a version, or to one whose earlier bases are too old."""
        return self._begin <= base or self._sums[-1] > WINDOW_BYTES_MAX

    def bytes_since(self, base: int) -> int:
        """Count the bytes of the effective patches after a version."""
        return self._sums[-1] - self._sums[self._after(base)]

    def changes(self, base: int) -> list[Change]:
        """Return the changes after a version, and the rejected events that may be in a session's view."""
        return self._changes[self._after(base) :]

    def _after(self, base: int) -> int:
        return bisect_right(self._changes, base, key=_VERSION)

    def resolved(self, sequence: int) -> None:
        """Note that the model has all of the event at a sequence, whose entry is appended next."""
        self._resolved = sequence
        self._unused = 0

    def catch_up(self) -> Model:
        """Bring the model up to the last event."""
        self.model.state = self.state
        for entry, session in self._pending:
            self._take(entry, session)
        self._pending.clear()
        return self.model

    def _take(self, entry: Entry, session: str | None) -> None:
        is_effective = entry.status.is_effective
        is_known = entry.sequence == self._resolved
        if is_known and not is_effective:
            return
        operations = _operations(entry) if is_effective else []
        if is_known:
            self._state = apply_accepted(self._state, operations)
            return
        conflict = {} if entry.conflict is None else json_text.reread(entry.conflict)
        steps = {at: list(some) for at, some in groupby(conflict.get(STEPS, ()), key=_AT)}
        reason = TARGET_GONE if is_effective else DEPENDS_ON_REJECTED
        stamp = Stamp(entry.sequence, entry.version, session)
        optimistic = Stamp(entry.sequence, entry.version, session, reason)
        self.model.begin(entry.sequence)
        for number, operation in enumerate(operations):
            self._change(operation, steps.get(number, []), stamp, optimistic)
        for step in steps.get(len(operations), ()):
            repeat(self.model, step, optimistic)

    def _change(self, operation: Json, steps: list[Json], stamp: Stamp, optimistic: Stamp) -> None:
        anchors, keeps, adopts = [], False, False
        for step in steps:
            kind = step[1]
            if kind == AT:
                anchors = step[2]
            elif kind == KEEP:
                keeps = True
            elif kind == ADOPT:
                adopts = True
            else:
                repeat(self.model, step, optimistic)
        if operation["op"] == "move":
            source = parse(operation["from"])
            if not source:
                # The root, to its own place.
                return
            if operation["path"]:
                self._move(operation, source, stamp, anchors)
                return
            # What the root was keeps the value that was moved to the root.
            operation = {"op": "replace", "path": "", "value": copied(resolve(self._state, source))}
        self.model.apply(operation, stamp, anchors, keeps=keeps, adopts=adopts)
        self._state = apply_accepted(self._state, [operation])

    def _move(self, operation: Json, source: tuple[str, ...], stamp: Stamp, anchors: list[Anchor]) -> None:
        path = operation["path"]
        content, above = self.model.content_at(source[:-1])
        place = self.model.place_in(content, source[-1], above)
        value = resolve(self._state, source)
        self.model.remove(place, stamp, above)
        self._state = apply_accepted(self._state, [{"op": "remove", "path": operation["from"]}])
        self.model.put(parse(path), place.ensure_node(), stamp, anchors)
        self._state = apply_accepted(self._state, [{"op": "add", "path": path, "value": value}])


def change_bytes(entry: Entry) -> int:
    """Count what an entry takes of `WINDOW_BYTES_MAX`."""
    return len(entry.effect or entry.body) if entry.status.is_effective else 0


def recent_since(segment: Segment, document: Document, version: int) -> Recent:
    """Make what is kept of a document from its history. Where that is much, it begins at the version.

    With more than it may hold, it would be dropped again after each event.
    """
    base, _, entries = segment
    if len(entries) > WINDOW_VERSIONS_MAX or sum(map(change_bytes, entries)) > WINDOW_BYTES_MAX:
        base = state_at(base, entries, Point(Clock.version, version))
        segment = Segment(base, 0, [entry for entry in entries if entry.sequence > base.sequence])
    return Recent(segment, document.events)


def _operations(entry: Entry) -> list[Json]:
    """Return an effective entry's patch; what was deleted is an empty object until it is written."""
    if entry.kind is Kind.delete and entry.effect is None:
        return [{"op": "replace", "path": "", "value": {}}]
    return operations_of(entry)


_VERSION: Final = itemgetter(0)
_AT: Final = itemgetter(0)


def recent_of(document: Document) -> Recent | None:
    """Return what is kept of a document, where it reaches to the document's last event."""
    recent: Recent | None = document.recent
    return recent if recent is not None and recent.events == document.events else None


def remember(document: Document, entry: Entry, fields: dict[str, Json] | None = None) -> None:
    """Add a document's last event, and its fields where they are at hand, to what is kept of it."""
    recent: Recent | None = document.recent
    if recent is None:
        return
    recent.append(entry, fields)
    if not recent.is_worth_keeping or recent.events != document.events:
        document.recent = None
