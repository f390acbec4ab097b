"""What an export reads of a projection, without a service: the same as a client reads of a gateway.

Used by `refold export --replay`, whose projection ends at the point of the export.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from refold.client import Change, Document, Namespace
from refold.client.requests import Time, time_text
from refold.client.responses import read_answer
from refold.core import json_text
from refold.core.history import Clock, Point
from refold.core.timestamp import format_time, parse_time
from refold.history import History
from refold.store import Head
from refold.store.ports import Reader

ITEMS_PAGE: Final = 1_000
"""Rows and changes that are read at once."""


class StoredSource:
    """An export's source: a projection of the log up to a sequence, for one namespace that the log has.

    A namespace whose first event is later has no documents, as in an export of a running system.
    """

    def __init__(self, store: Reader, namespace: str, sequence: int) -> None:
        self._store = store
        self._history = History(store)
        self._namespace = namespace
        self._sequence = sequence

    async def status(self) -> dict[str, Any]:
        return {"last_sequence": self._sequence}

    async def namespaces(self) -> Sequence[Namespace]:
        for count in await self._store.namespaces():
            if count.namespace == self._namespace:
                return [Namespace(name=count.namespace, documents=count.documents, events=count.events)]
        return [Namespace(name=self._namespace, documents=0, events=0)]

    async def list(
        self, namespace: str, *, at: Time | None = None, sequence: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Document]:
        point = Point(Clock.sequence, self._sequence if sequence is None else sequence)
        if at is not None:
            point = Point(Clock.recorded, parse_time(time_text(at)))
        cursor, left = None, limit
        while left is None or left > 0:
            count = ITEMS_PAGE if left is None else min(left, ITEMS_PAGE)
            page = await self._store.list_at(namespace, point, prefix="", limit=count, cursor=cursor)
            for head in page.heads:
                yield _document(head)
            cursor = page.cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.heads)

    async def names(self, namespace: str) -> AsyncIterator[str]:
        cursor = None
        while True:
            page = await self._store.list_names(namespace, prefix="", limit=ITEMS_PAGE, cursor=cursor)
            for name in page.names:
                yield name.document
            cursor = page.cursor
            if cursor is None:
                return

    async def history(self, namespace: str, document: str) -> AsyncIterator[Change]:
        after = None
        while True:
            found = await self._history.changes(
                namespace, document, after=after, limit=ITEMS_PAGE, is_descending=False, path=None
            )
            for item in found.items:
                yield read_answer(Change, json_text.reread(item))
            after = found.next
            if after is None:
                return


def _document(head: Head) -> Document:
    snapshot = head.snapshot
    assert snapshot.state is not None, head.document
    return Document(
        namespace=head.namespace,
        id=head.document,
        version=snapshot.version,
        state=json_text.loads(snapshot.state),
        recorded_at=format_time(snapshot.recorded_at),
        occurred_at=format_time(snapshot.occurred_at),
    )
