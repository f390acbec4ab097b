"""Export a namespace as lines that an import restores, all as of one moment.

For commands and programs. Memory does not grow with a document's history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from refold.client import Change, Document, Namespace, find_namespace
from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.errors import RefoldError, TimedOut, raising_first
from refold.core.json_text import Json
from refold.core.replay import apply_accepted
from refold.core.timestamp import format_time, parse_time

T = TypeVar("T")

CHUNK_BYTES: Final = 1024 * 1024
"""Lines are written in chunks of this size."""

AHEAD_MAX: Final = 4
"""Documents whose histories are requested before their turn."""

LAG_TRIES_MAX: Final = 60
"""Tries to read the chosen moment; each waits as long as the service does."""

_DELETED: Final = [{"op": "remove", "path": ""}]
"""How history shows a delete; an author's patch cannot be this."""

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes whole lines, a chunk at a time."""


@dataclass(slots=True, kw_only=True)
class ExportTally:
    """Progress of an export: documents with lines, lines and their bytes. `sequence`: the log's end at its start.

    `expected_lines`: the namespace's count of documents or events; rejected events are among them.
    """

    documents: int = 0
    lines: int = 0
    bytes: int = 0
    sequence: int = 0
    expected_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportListener:
    """Callbacks: for progress, and for waiting until the projection reaches the log's end."""

    progress: Callable[[ExportTally], None]
    waiting: Callable[[Exception], None]


class Source(Protocol):
    """What an export reads: a client of a running system, or a projection (`refold.transfer.stored`)."""

    async def status(self) -> dict[str, Any]:
        """Return the system's status, of which `last_sequence` is used."""

    async def namespaces(self) -> Sequence[Namespace]:
        """Count documents and events by namespace."""

    def list(
        self, namespace: str, *, at: str | None = None, sequence: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Document]:
        """Yield the documents that were present at a time or at a sequence, by id."""

    def names(self, namespace: str) -> AsyncIterator[str]:
        """Yield the ids of all documents that a namespace ever had."""

    def history(self, namespace: str, document: str) -> AsyncIterator[Change]:
        """Yield a document's changes, oldest first."""


async def export(
    source: Source,
    namespace: str,
    write: Write,
    listener: ExportListener,
    *,
    at: str | None = None,
    is_history: bool = False,
) -> ExportTally:
    """Write a namespace as it is, or as it was at a time; with `is_history`, every version up to then.

    Raises `Refused` for a namespace that does not exist and for a time that cannot be read.
    """
    moment = None if at is None else format_time(parse_time(at))
    return await _Export(source, namespace, write, listener, moment).run(is_history=is_history)


class VersionLines:
    """Turn one document's changes into the line of each version."""

    def __init__(self, document: str) -> None:
        self._document = document
        self._version = 0
        self._state: Json = ABSENT

    def line(self, change: Change) -> bytes:
        """Apply the next change and return the line of the version that it makes."""
        self._version += 1
        if change.version != self._version:
            raise RefoldError(
                "a document's history has a gap",
                document=self._document,
                expected_version=self._version,
                found_version=change.version,
            )
        if change.patch == _DELETED:
            self._state = ABSENT
        else:
            self._state = apply_accepted({} if self._state is ABSENT else self._state, change.patch)
        about = {"actor": change.actor, "type": change.type, "meta": change.meta}
        return _line(
            doc=self._document,
            ts=change.occurred_at,
            version=change.version,
            **_state_fields(self._state),
            **{name: value for name, value in about.items() if value is not None},
        )


class _Export:
    """One export of one namespace as of one moment; what is written meanwhile is left out."""

    def __init__(
        self, source: Source, namespace: str, write: Write, listener: ExportListener, at: str | None
    ) -> None:
        self._source = source
        self._namespace = namespace
        self._write = write
        self._listener = listener
        self._at = at
        self._lines: list[bytes] = []
        self._chunk_bytes = 0
        self._tally = ExportTally()

    async def run(self, *, is_history: bool) -> ExportTally:
        status = await self._source.status()
        self._tally.sequence = int(status["last_sequence"])
        await self._wait_until_folded()
        counted = find_namespace(await self._source.namespaces(), self._namespace)
        self._tally.expected_lines = counted.events if is_history else counted.documents
        await (self._write_versions() if is_history else self._write_states())
        await self._flush()
        return self._tally

    async def _wait_until_folded(self) -> None:
        """Wait until the moment is folded; the service refuses a time in the future."""
        for left in reversed(range(LAG_TRIES_MAX + 1)):
            try:
                await _next(self._list(limit=1))
            except TimedOut as error:
                if not left:
                    raise
                self._listener.waiting(error)
            else:
                return

    def _list(self, *, limit: int | None = None) -> AsyncIterator[Document]:
        sequence = self._tally.sequence if self._at is None else None
        return self._source.list(self._namespace, at=self._at, sequence=sequence, limit=limit)

    async def _write_states(self) -> None:
        async for document in self._list():
            self._tally.documents += 1
            await self._add(_line(doc=document.id, ts=document.occurred_at, **_state_fields(document.state)))

    async def _write_versions(self) -> None:
        ahead: deque[tuple[str, AsyncIterator[Change], asyncio.Task[Change | None]]] = deque()
        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                async for document in self._source.names(self._namespace):
                    changes = self._source.history(self._namespace, document)
                    ahead.append((document, changes, tasks.create_task(_next(changes))))
                    if len(ahead) > AHEAD_MAX:
                        await self._write_history(*ahead.popleft())
                while ahead:
                    await self._write_history(*ahead.popleft())

    async def _write_history(
        self, document: str, changes: AsyncIterator[Change], first: asyncio.Task[Change | None]
    ) -> None:
        versions, change = VersionLines(document), await first
        if change is not None and self._is_before_end(change):
            self._tally.documents += 1
        while change is not None and self._is_before_end(change):
            await self._add(versions.line(change))
            change = await _next(changes)

    def _is_before_end(self, change: Change) -> bool:
        return change.sequence <= self._tally.sequence and (
            self._at is None or change.recorded_at <= self._at
        )

    async def _add(self, line: bytes) -> None:
        self._tally.lines += 1
        self._tally.bytes += len(line)
        self._lines.append(line)
        self._chunk_bytes += len(line)
        if self._chunk_bytes >= CHUNK_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        lines, self._lines, self._chunk_bytes = self._lines, [], 0
        if lines:
            await self._write(b"".join(lines))
        self._listener.progress(self._tally)


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


def _state_fields(state: Json) -> dict[str, Json]:
    if state is ABSENT:
        return {"state": None}
    return {"state": state} if state is not None else {"state": None, "present": True}


def _line(**fields: Json) -> bytes:
    return json_text.dumps(fields) + b"\n"
