"""The export itself: choose the moment, name the documents, write their lines while the next are asked for.

Used by `refold.client.exporting.export` alone. What it keeps does not grow with a document's history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from refold.client.exporting.past import Past, state_line
from refold.client.refold import Refold
from refold.client.values import Change, Document, find_namespace
from refold.core.errors import TimedOut
from refold.core.timestamp import format_time, parse_time

CHUNK_BYTES: Final = 1024 * 1024
"""Lines are written so many bytes at a time."""

AHEAD_MAX: Final = 4
"""Documents whose histories are asked for before their turn."""

LAG_LOOKS_MAX: Final = 60
"""The projection has come to the chosen moment after so many tries, each as long as the service waits."""

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes whole lines, a chunk at a time."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far an export is: documents that had lines, lines and their bytes. `sequence`: where the log ended.

    `expected_lines`: what the namespace's counts let expect; rejected events are among them.
    """

    documents: int = 0
    lines: int = 0
    bytes: int = 0
    sequence: int = 0
    expected_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told: of progress, and of waiting for the projection to reach the log's end."""

    progress: Callable[[Tally], None]
    waiting: Callable[[Exception], None]


class _Opened(NamedTuple):
    """A document whose history has been asked for."""

    document: str
    changes: AsyncIterator[Change]
    first: asyncio.Task[Change | None]


class Export:
    """One export of one namespace, as of one moment: what is written meanwhile is left out."""

    def __init__(
        self, refold: Refold, namespace: str, write: Write, listener: Listener, *, at: str | None
    ) -> None:
        """Ask for nothing yet. Raises `Refused` for a time that is none."""
        self._refold = refold
        self._namespace = namespace
        self._write = write
        self._listener = listener
        self._at = None if at is None else format_time(parse_time(at))
        self._lines: list[bytes] = []
        self._chunk_bytes = 0
        self.tally = Tally()

    async def run(self, *, is_history: bool) -> Tally:
        """Write every line; returns how many."""
        status = await self._refold.status()
        self.tally.sequence = int(status["last_sequence"])
        await self._reach()
        counted = find_namespace(await self._refold.namespaces(), self._namespace)
        self.tally.expected_lines = counted.events if is_history else counted.documents
        await (self._versions() if is_history else self._states())
        await self._flush()
        return self.tally

    async def _reach(self) -> None:
        """Wait until the moment is folded; a time that is still to come is refused there."""
        for left in reversed(range(LAG_LOOKS_MAX + 1)):
            try:
                async for _ in self._list(limit=1):
                    pass
            except TimedOut as error:
                if not left:
                    raise
                self._listener.waiting(error)
            else:
                return

    def _list(self, *, limit: int | None = None) -> AsyncIterator[Document]:
        if self._at is not None:
            return self._refold.list(self._namespace, at=self._at, limit=limit)
        return self._refold.list(self._namespace, sequence=self.tally.sequence, limit=limit)

    async def _states(self) -> None:
        async for document in self._list():
            self.tally.documents += 1
            await self._take(state_line(document))

    async def _versions(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                ahead: deque[_Opened] = deque()
                async for document in self._refold.names(self._namespace):
                    ahead.append(self._open(document, tasks))
                    if len(ahead) > AHEAD_MAX:
                        await self._write_past(ahead.popleft())
                while ahead:
                    await self._write_past(ahead.popleft())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    def _open(self, document: str, tasks: asyncio.TaskGroup) -> _Opened:
        changes = self._refold.history(self._namespace, document)
        return _Opened(document, changes, tasks.create_task(_next(changes)))

    async def _write_past(self, opened: _Opened) -> None:
        past = Past(opened.document)
        change = await opened.first
        if change is not None and self._is_before_end(change):
            self.tally.documents += 1
        while change is not None and self._is_before_end(change):
            await self._take(past.line(change))
            change = await _next(opened.changes)

    def _is_before_end(self, change: Change) -> bool:
        return change.sequence <= self.tally.sequence and (self._at is None or change.recorded_at <= self._at)

    async def _take(self, line: bytes) -> None:
        self.tally.lines += 1
        self.tally.bytes += len(line)
        self._lines.append(line)
        self._chunk_bytes += len(line)
        if self._chunk_bytes >= CHUNK_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        lines, self._lines, self._chunk_bytes = self._lines, [], 0
        if lines:
            await self._write(b"".join(lines))
        self._listener.progress(self.tally)


async def _next(changes: AsyncIterator[Change]) -> Change | None:
    return await anext(changes, None)
