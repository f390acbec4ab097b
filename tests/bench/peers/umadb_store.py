"""UmaDB through its own Python client: a document is a tag, the expected version a condition on it."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

from umadb import AppendCondition, Client, Event, Query, QueryItem
from work import Append, Change, arguments, fold, run


class UmaDb:
    """One client for all threads."""

    def __init__(self, address: str) -> None:
        """Connect."""
        self._client = Client(address)
        self._heads: dict[str, int] = {}

    def writer(self) -> Append:
        """Return the client's append."""
        return lambda document, version, change: self._append(document, version, [change])

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Append many at once."""
        self._append(document, version, changes)

    async def load(self, document: str, version: int | None) -> dict[str, Any]:
        """Read the tag's events and fold them."""
        state: dict[str, Any] = {}
        for found in self._client.read(_tagged(document), limit=version):
            fold(state, json.loads(found.event.data))
        return state

    async def read_all(self, total: int) -> None:
        """Read every event and fold it in memory."""
        states: dict[str, dict[str, Any]] = {}
        events = 0
        for found in self._client.read():
            event = found.event
            fold(states.setdefault(event.tags[0], {}), json.loads(event.data))
            events += 1
        assert events == total

    def _append(self, document: str, _: int, changes: list[Change]) -> None:
        # An append can be checked only against the position of the last event that the writer knows.
        condition = AppendCondition(_tagged(document), after=self._heads.get(document))
        events = [Event("changed", json.dumps(each).encode(), [document], uuid4()) for each in changes]
        self._heads[document] = self._client.append(events, condition)


def _tagged(document: str) -> Query:
    return Query([QueryItem(tags=[document])])


if __name__ == "__main__":
    WORK = arguments()
    asyncio.run(run(UmaDb(WORK.address), WORK))
