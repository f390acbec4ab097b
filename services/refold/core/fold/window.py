"""A document's last changes, kept in memory while events with a stale base come, and the window of one event in them.

What is kept is made from the document's entries alone, so that it makes no difference whether it is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from refold.core import json_text
from refold.core.document import UNBOUNDED, Document
from refold.core.envelope import open_envelope
from refold.core.fold.acts import Change
from refold.core.fold.model import Model
from refold.core.history import Clock, Entry, Point, Segment, operations_of
from refold.core.json_text import Json
from refold.core.replay import apply_accepted, state_at

WINDOW_VERSIONS_MAX: Final = 1_000
"""A base may be so many versions behind the head. A rule of fold 2."""

WINDOW_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of the effective patches between a base and the head. A rule of fold 2."""

RECENT_ENTRIES_MAX: Final = 2 * WINDOW_VERSIONS_MAX
RECENT_BYTES_MAX: Final = 2 * WINDOW_BYTES_MAX
"""What is kept of one document; with more, it is loaded again from a later snapshot."""

MODELS_KEPT_MAX: Final = 4
"""Sessions with events in flight whose views are kept."""

STEPS: Final = "view"
"""The member of an entry's conflict that has its steps."""


class Recent:
    """A document's changes since a snapshot. `events` counts the document's events at the last one."""

    __slots__ = ("_begin", "_changes", "_models", "_sums", "_versions", "entries", "events", "segment")

    def __init__(self, segment: Segment, events: int) -> None:
        """`segment` reaches to the head; `events` is the document's count there."""
        self.segment = segment
        self.events = events
        self.entries: list[Entry] = []
        self._versions: list[int] = []
        self._sums: list[int] = [0]
        self._changes: list[Change] = []
        self._begin = 0
        self._models: dict[tuple[int, str], Model] = {}
        for entry in segment.entries:
            self._keep(entry)
        self._begin = len(self.entries)

    @property
    def is_small(self) -> bool:
        """Tell whether it is worth its memory."""
        return len(self.entries) <= RECENT_ENTRIES_MAX and self._sums[-1] <= RECENT_BYTES_MAX

    def append(self, entry: Entry) -> None:
        """Add the document's next event, of any outcome."""
        self.events += 1
        self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        if entry.status.is_effective or entry.conflict is not None:
            self.entries.append(entry)
            self._versions.append(entry.version)
            effective = len(entry.effect or entry.body) if entry.status.is_effective else 0
            self._sums.append(self._sums[-1] + effective)

    def covers(self, base: int) -> bool:
        """Tell whether it reaches back to a version."""
        return self.segment.base.version <= base

    def bytes_since(self, base: int) -> int:
        """Count the bytes of the effective patches after a version."""
        return self._sums[-1] - self._sums[bisect_right(self._versions, base)]

    def changes(self, base: int) -> list[Change]:
        """Return the changes after a version, and the rejected events that may be in a session's view."""
        begin = bisect_right(self._versions, base)
        # Those before the oldest base so far have not been read.
        if begin < self._begin:
            self._changes[:0] = map(change_of, self.entries[begin : self._begin])
            self._begin = begin
        read = self._begin + len(self._changes)
        self._changes += map(change_of, self.entries[read:])
        return self._changes[begin - self._begin :]

    def state_at(self, version: int) -> Json:
        """Return the state at a version, `{}` where the document was absent."""
        entries = [entry for entry in self.entries if entry.status.is_effective and entry.version <= version]
        state = state_at(self.segment.base, entries, Point(Clock.version, version)).state
        return {} if state is None else json_text.reread(state)

    def state_before(self, change: Change, operations: int) -> Json:
        """Return the state before an operation of a change; of a rejected event, the state at its version."""
        state = self.state_at(change.version - 1 if change.is_effective else change.version)
        return apply_accepted(state, json_text.reread(json_text.dumps(change.operations[:operations])))

    def model(self, base: int, session: str | None, head: Callable[[], Json]) -> Model:
        """Return the identities after a version as a session sees them; the caller may keep it (`keep_model`)."""
        model = None if session is None else self._models.pop((base, session), None)
        if model is None:
            model = Model(self.state_before, bisect_right(self._versions, base))
        model.head = head
        changes = self.changes(base)
        for change in changes[len(changes) - (len(self.entries) - model.taken) :]:
            is_own = session is not None and change.session == session
            if change.sequence != model.last_own and (change.is_effective or is_own):
                model.add(change, is_own=is_own)
        model.taken = len(self.entries)
        return model

    def keep_model(self, base: int, session: str | None, model: Model, sequence: int) -> None:
        """Keep a model that has the acts of the session's event at a sequence, for the session's next one."""
        if session is None:
            return
        model.last_own = sequence
        self._models[base, session] = model
        if len(self._models) > MODELS_KEPT_MAX:
            del self._models[next(iter(self._models))]


def change_of(entry: Entry) -> Change:
    """Read what an entry's event did. Its values are its own."""
    conflict = {} if entry.conflict is None else json_text.reread(entry.conflict)
    fields = open_envelope(entry.headers, entry.body, UNBOUNDED).fields
    is_effective = entry.status.is_effective
    operations = operations_of(entry, fields) if is_effective else []
    steps = conflict.get(STEPS, [])
    return Change(entry.version, entry.sequence, fields.get("session"), is_effective, operations, steps)


def recent_of(document: Document) -> Recent | None:
    """Return what is kept of a document, where it reaches to the document's last event."""
    recent: Recent | None = document.recent
    return recent if recent is not None and recent.events == document.events else None


def remember(document: Document, entry: Entry) -> None:
    """Add a document's last event to what is kept of it."""
    recent: Recent | None = document.recent
    if recent is None:
        return
    recent.append(entry)
    if not recent.is_small or recent.events != document.events:
        document.recent = None
