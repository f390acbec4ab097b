"""A Refold over a log in memory: the client's methods that an export uses, over the real fold.

For tests of reads through the client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from refold.client.responses import Change, Document, Namespace, read_answer
from refold.core import json_text
from refold.core.fold_state import first_checkpoints
from refold.core.history import Clock, Point
from refold.core.timestamp import format_time, parse_time
from refold.history import change_of as shown_change
from support.scribe import NAMESPACE, Scribe


class LogRefold:
    """One namespace, everything folded at once; `faults` are raised in order by the next lists."""

    def __init__(self) -> None:
        self.scribe = Scribe(first_checkpoints("log-1"))
        self.faults: list[Exception] = []
        self.asked: list[str] = []

    async def status(self) -> dict[str, Any]:
        """Return the log's end."""
        return {"last_sequence": self.scribe.sequence}

    async def namespaces(self) -> tuple[Namespace, ...]:
        """Count."""
        return (Namespace(name=NAMESPACE, documents=len(self._names()), events=self.scribe.sequence),)

    async def list(
        self, _: str, *, at: str | None = None, sequence: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Document]:
        """Yield the documents that were present then."""
        if self.faults:
            raise self.faults.pop(0)
        assert (at is None) != (sequence is None)
        point = Point(Clock.sequence, sequence) if at is None else Point(Clock.recorded, parse_time(at))
        for name in self._names()[:limit]:
            found = self.scribe.at(name, point)
            if found.state is not None:
                times = {
                    "recorded_at": format_time(found.recorded_at),
                    "occurred_at": format_time(found.occurred_at),
                }
                state = json_text.loads(found.state)
                yield Document(namespace=NAMESPACE, id=name, version=found.version, state=state, **times)

    async def names(self, _: str) -> AsyncIterator[str]:
        """Yield every document that ever had a version."""
        for name in self._names():
            yield name

    async def history(self, _: str, document: str) -> AsyncIterator[Change]:
        """Yield the changes, oldest first."""
        self.asked.append(document)
        for entry in list(self.scribe.entries[NAMESPACE, document]):
            if entry.status.is_effective:
                item = shown_change(entry)
                assert item is not None
                yield read_answer(Change, json_text.loads(item))

    def _names(self) -> list[str]:
        return sorted(name for (_, name), found in self.scribe.snapshots.items() if found[-1].version)
