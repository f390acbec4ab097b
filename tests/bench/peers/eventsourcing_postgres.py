"""The Python library eventsourcing on PostgreSQL: an aggregate a document, saved by an application."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL
from psycopg.types.json import Json
from work import WRITERS, Append, Change, arguments, fold, run

PAGE = 1_000


class Document(Aggregate):
    """A document; the event that creates it is its first change."""

    @event("Created")
    def __init__(self, name: str, change: Change) -> None:
        """Create it with the first change."""
        self.name = name
        self.state: dict[str, Any] = fold({}, change)

    @event("Changed")
    def change(self, change: Change) -> None:
        """Apply one more change."""
        fold(self.state, change)

    @staticmethod
    def create_id(name: str) -> UUID:
        """Return its id for a name."""
        return uuid5(NAMESPACE_URL, name)


class Documents(Application[UUID]):
    """All documents."""


class States(PostgresTrackingRecorder):
    """The read model's table, with its position."""

    def __init__(self, *given: Any, **named: Any) -> None:
        """Return the statements that create the table."""
        super().__init__(*given, **named)
        table = SQL("CREATE TABLE IF NOT EXISTS states (document uuid PRIMARY KEY, state json)")
        self.sql_create_statements.append(table.format())

    def put(self, document: UUID, state: dict[str, Any], tracking: Tracking) -> None:
        """Write a state and the position together."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO states VALUES (%s, %s) ON CONFLICT (document) DO UPDATE SET state = excluded.state",
                (document, Json(state)),
            )


class StatesProjection(Projection[States]):
    """Folds in memory and writes the state after each event: the library tracks event by event."""

    def __init__(self, view: States) -> None:
        """Start empty."""
        super().__init__(view)
        self._states: dict[UUID, dict[str, Any]] = {}

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Process an event."""
        document = domain_event.originator_id
        state = fold(self._states.setdefault(document, {}), domain_event.change)
        self.view.put(document, state, tracking)


class EventSourcing:
    """Aggregates stay with their writer, as in a service that has just loaded them; each save is one append."""

    def __init__(self, work: Namespace) -> None:
        """Make the application and its tables."""
        self._environment = _environment(work.address)
        self._documents = Documents(env=self._environment)
        self._held: dict[str, Document] = {}
        self._events = work.events

    def writer(self) -> Append:
        """Return the application's save."""
        return lambda document, version, change: self._append(document, version, [change])

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Save many events at once."""
        self._append(document, version, changes)

    async def load(self, document: str, version: int | None) -> dict[str, Any]:
        """Get the aggregate from the repository."""
        identity = Document.create_id(document)
        aggregate: Document = self._documents.repository.get(identity, version=version)
        return aggregate.state

    async def read_all(self, total: int) -> None:
        """Select all notifications and fold them in memory."""
        states: dict[UUID, dict[str, Any]] = {}
        events, start = 0, 1
        while found := self._documents.recorder.select_notifications(start, PAGE):
            for notification in found:
                domain_event: Any = self._documents.mapper.to_domain_event(notification)
                fold(states.setdefault(domain_event.originator_id, {}), domain_event.change)
            events += len(found)
            start = found[-1].id + 1
        assert events == total

    async def rebuild(self, _: int) -> float:
        """Run a projection over the first events: all of them would take minutes."""
        started_at = time.perf_counter()
        given = {
            "application_class": Documents,
            "projection_class": StatesProjection,
            "view_class": States,
            "env": self._environment,
        }
        with ProjectionRunner(**given) as runner:
            runner.wait(self._events, timeout=600)
            return self._events / (time.perf_counter() - started_at)

    def _append(self, document: str, version: int, changes: list[Change]) -> None:
        if not version:
            self._held[document] = Document(document, changes[0])
            changes = changes[1:]
        aggregate = self._held[document]
        for each in changes:
            aggregate.change(each)
        self._documents.save(aggregate)


def _environment(address: str) -> dict[str, str]:
    parts = urlsplit(address)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path[1:],
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": parts.username or "",
        "POSTGRES_PASSWORD": parts.password or "",
        "POSTGRES_POOL_SIZE": "8",
        "POSTGRES_MAX_OVERFLOW": str(max(WRITERS)),
        "POSTGRES_MAX_WAITING": str(max(WRITERS)),
        "POSTGRES_CONN_MAX_AGE": "",
        "POSTGRES_POOL_TIMEOUT": "30",
    }


if __name__ == "__main__":
    WORK = arguments()
    asyncio.run(run(EventSourcing(WORK), WORK))
