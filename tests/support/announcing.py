"""A log with a projection of it and a feed of notices, in memory: any of the notices may be lost, late, or come again.

`Announcer` folds what is published and announces it as projectors of two shards do; what they announce and commit, and
when, is up to the test.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from refold.core import json_text
from refold.core.stream import Route
from refold.history import notice_of
from refold.live.backlog import Backlog
from refold.live.documents import DocumentSubscriptions
from refold.live.namespace import NamespaceSubscriptions
from refold.live.ring import Ring
from refold.live.streams import Live
from refold.live.watched import Change
from refold.log import Publication
from refold.log.memory import MemoryLog
from refold.store import Key
from refold.store.memory import MemoryStore
from refold.telemetry.metrics.gateway import LiveMetrics
from support.scribe import Scribe
from support.stores import begin
from support.streams import LOG, MemoryFeed, MemoryReader

SHARDS = 2


class Announced(NamedTuple):
    """An effective change of a document."""

    key: Key
    change: Change

    def fields(self) -> dict[str, Any]:
        """Return its notice."""
        return self.change.fields()


class Announcer(MemoryFeed):
    """A feed that passes the changes of a real fold to its listener."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.log = MemoryLog(LOG)
        self.store = MemoryStore()
        self.committed_sequence = 0
        self.all_changes: list[Announced] = []
        self._random = random
        self._listener: Ring | None = None
        self._unsent: list[list[Announced]] = [[] for _ in range(SHARDS)]
        self._has_lost = [False] * SHARDS
        self._announced = [0] * SHARDS
        self._gap_sequence = 0
        self._scribe: Scribe

    async def begin(self) -> None:
        """Fold the log's genesis."""
        self._scribe = await begin(self.store)
        self._scribe.put("log", 1, namespace="_refold")

    async def append(self, key: Key, event: dict[str, Any]) -> None:
        """Publish and fold an event."""
        namespace, document = key
        await self.log.append(
            Publication(namespace=namespace, document=document, body=json_text.dumps(event))
        )
        entry = self._scribe.publish(document, event, namespace=namespace)
        if entry.status.is_effective:
            where = Route.of(namespace, document)
            announced = Announced(key, Change(entry.version, entry.sequence, notice_of(where, entry)))
            self.all_changes.append(announced)
            self._unsent[where.partition % SHARDS].append(announced)
        if self._random.random() < 0.05:
            self._scribe.cut(document, namespace=namespace)

    async def add_listener(self, listener: Ring) -> Callable[[], None]:
        """Pass changes to it from now on; what was announced before may be missing."""
        self._listener = listener
        self._announced = [self.committed_sequence] * SHARDS
        self._gap_sequence = self._scribe.sequence
        for unsent in self._unsent:
            unsent.clear()
        self._advance()
        return lambda: None

    def send(self, *, loss: float) -> None:
        """Send what a shard has to announce, up to some of it; each may be lost, or come twice."""
        shard = self._random.randrange(SHARDS)
        count = self._random.randint(0, len(self._unsent[shard]))
        for announced in self._unsent[shard][:count]:
            for _ in range(self._random.choice([1, 1, 1, 2])):
                if self._random.random() < loss:
                    self._has_lost[shard] = True
                elif self._listener is not None:
                    self._listener.take(*announced)
        del self._unsent[shard][:count]

    def progress(self, *, restart: float = 0.0) -> None:
        """Send how far a shard is: its feed knows whether something was lost, or must suppose so after a restart."""
        for shard in self._random.sample(range(SHARDS), self._random.randint(1, SHARDS)):
            unsent = self._unsent[shard]
            folded = unsent[0].change.sequence - 1 if unsent else self._scribe.sequence
            if self._has_lost[shard] or self._random.random() < restart:
                self._gap_sequence = max(folded, self._gap_sequence)
                self._has_lost[shard] = False
            self._announced[shard] = max(folded, self._announced[shard])
        self._advance()

    async def commit(self) -> None:
        """Commit all that is folded."""
        await self.store.commit(self._scribe.commit())
        self.committed_sequence = self._scribe.sequence

    def _advance(self) -> None:
        self.sequence = min(self._announced)
        if self._listener is not None:
            self._listener.advance(self.sequence, self._gap_sequence)

    async def _reaches(self, sequence: int) -> bool:
        return sequence <= self.committed_sequence

    def live(self) -> Live:
        """Return the streams of a gateway that starts now."""
        metrics = LiveMetrics(CollectorRegistry())
        backlog = Backlog(self.log, self.store)
        namespaces = NamespaceSubscriptions(
            self, backlog, lambda: self.committed_sequence, self._reaches, log=LOG, metrics=metrics
        )
        documents = DocumentSubscriptions(self, MemoryReader(self), log=LOG, metrics=metrics)
        return Live(self, documents, namespaces, log=LOG, metrics=metrics, age_seconds=3_600)
