"""The conflicts of a shard: counted as they are folded, and sent to resolvers where one is to decide.

Used by the projector's loop. A conflict notice has the states that the conflict is about, which are read from the
store, so it is sent by a task of its own: neither the fold nor outcomes wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import Document, to_canonical
from refold.core.errors import LogError, StoreError
from refold.core.history import Entry, fields_of
from refold.core.json_text import Json
from refold.core.stream import Route
from refold.core.views import conflict_view, contested_view
from refold.history.conflicts import ContestedStates, read_states
from refold.log import conflict_subject
from refold.projector.announcer import Announcer
from refold.projector.notices import NOTICE_BYTES_MAX, Notice
from refold.store import NEEDS_RESOLUTION, Key, reading_stored
from refold.store.ports import HistoryReader
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.projector import ProjectorMetrics

CONFLICTS_WAITING_MAX: Final = 32
"""Conflicts that wait to be sent, with their heads of up to `NOTICE_BYTES_MAX`; further ones are found by polling."""

_SENT: Final = (
    *("namespace", "document", "sequence", "recorded_at", "strategy", "detail"),
    *("type", "actor", "id", "base", "event"),
)


class Contested(NamedTuple):
    """A rejected event that a resolver decides on, and the head: its state is None where it is absent."""

    where: Route
    entry: Entry
    head_version: int
    head: bytes | None
    is_large: bool


class ConflictNotices:
    """Count conflicts, and send those that wait for a decision."""

    def __init__(
        self,
        store: HistoryReader,
        announcer: Announcer,
        metrics: ProjectorMetrics,
        uncommitted: Callable[[Key], Iterable[Entry]],
    ) -> None:
        """`uncommitted` returns a document's entries that the store may not have yet."""
        self._store = store
        self._announcer = announcer
        self._metrics = metrics
        self._uncommitted = uncommitted
        self._waiting: asyncio.Queue[Contested] = asyncio.Queue(CONFLICTS_WAITING_MAX)

    def take(self, where: Route, entry: Entry, document: Document, *, is_young: bool) -> None:
        """Count a conflict that was just folded; `is_young`: send it where a resolver decides on it."""
        strategy = json_text.reread(entry.conflict or b"")["strategy"]
        self._metrics.count_conflict(entry.sequence, where.namespace, strategy, entry.status.name)
        if not is_young or entry.reason != NEEDS_RESOLUTION:
            return
        is_large = document.size > NOTICE_BYTES_MAX
        head = None if is_large else to_canonical(document.state)
        try:
            self._waiting.put_nowait(Contested(where, entry, document.version, head, is_large))
        except asyncio.QueueFull:
            get_logger().warning("conflict_notice_lost", sequence=entry.sequence)

    async def send(self) -> None:
        """Send conflicts until cancelled."""
        while True:
            contested = await self._waiting.get()
            await self._announcer.send_all([await self._notice(contested)])

    async def _notice(self, contested: Contested) -> Notice:
        where, entry = contested.where, contested.entry
        view = conflict_view(where.namespace, where.document, entry, fields_of(entry))
        sent: dict[str, Json] = {name: view[name] for name in _SENT}
        states = None if contested.is_large else await self._states(contested)
        body = json_text.dumps(sent | contested_view(contested.head_version, states, contested.head))
        if len(body) > NOTICE_BYTES_MAX:
            body = json_text.dumps(sent | contested_view(contested.head_version, None, None))
        return conflict_subject(where.namespace, where.document), body

    async def _states(self, contested: Contested) -> ContestedStates | None:
        """Return the states; None where store or log do not answer: a resolver asks for them."""
        key, entry = contested.where[1:3], contested.entry
        try:
            with reading_stored(*key):
                return await read_states(self._store, key, entry, list(self._uncommitted(key)))
        except (LogError, StoreError) as error:
            get_logger().warning("conflict_states_unknown", sequence=entry.sequence, error=str(error))
            return None
