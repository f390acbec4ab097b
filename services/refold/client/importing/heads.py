"""Where each document stands while it is imported: its version, its state, and the last line it has taken.

Only `refold.client.importing` may use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple

from refold.client.importing.line import IMPORT
from refold.client.refold import Refold
from refold.client.values import Change
from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import DocumentAbsent

HEADS_BYTES_MAX: Final = 256 * 1024 * 1024
PARSED_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of the texts whose states are also kept parsed: in memory that is some eight times as much."""

LOADS_AT_ONCE: Final = 16
_OVERHEAD_BYTES: Final = 200


class Head(NamedTuple):
    """A document as the import believes it to be, and the last line that it took.

    `text` is the JSON object in which its state stands under `state`; None where it is absent.
    """

    version: int
    text: bytes | None
    line: int


NEVER: Final = Head(0, None, 0)


class Heads:
    """Heads by document, asked of the service when first met; the longest unused are let go of.

    What is on its way to the service is among the newest used, and far smaller than what is kept.
    """

    def __init__(self, refold: Refold, namespace: str, file_digest: str) -> None:
        """Begin with none."""
        self._refold = refold
        self._namespace = namespace
        self._file_digest = file_digest
        self._heads: dict[str, Head] = {}
        self._bytes = 0
        self._parsed: dict[str, Json] = {}
        self._parsed_bytes = 0
        self._is_empty: bool | None = None
        self.broken_off: set[str] = set()
        """Documents of which a line with a version was refused: what follows it would not be their history."""

    def __getitem__(self, document: str) -> Head:
        """Return a head that has been loaded."""
        return self._heads[document]

    def state(self, document: str) -> Json:
        """Return the state of a document that is present, to be looked at only."""
        if document in self._parsed:
            return self._parsed[document]
        text = self._heads[document].text
        assert text is not None
        return canonical.loads(text)["state"]

    def put(self, document: str, head: Head, state: Json) -> None:
        """Keep a head, as the newest used; `state` is what stands in its text."""
        self._remove(document)
        self._heads[document] = head
        self._bytes += _bytes_of(head)
        if head.text is not None:
            self._parsed[document] = state
            self._parsed_bytes += len(head.text)
            while self._parsed_bytes > PARSED_BYTES_MAX:
                self._remove_parsed(next(iter(self._parsed)))

    def forget(self, document: str) -> None:
        """Ask the service again when it is needed next."""
        self._is_empty = False
        self._remove(document)

    async def load(self, documents: Iterable[str]) -> None:
        """Load those that are not here, a few at a time."""
        wanted = set(documents)
        self._make_room(wanted)
        if self._is_empty is None:
            known = await self._refold.namespaces()
            self._is_empty = not any(it.name == self._namespace and it.events for it in known)
        at_once = asyncio.Semaphore(LOADS_AT_ONCE)

        async def load(document: str) -> None:
            async with at_once:
                head, state = await self._ask(document)
                self.put(document, head, state)

        try:
            async with asyncio.TaskGroup() as tasks:
                for document in wanted - self._heads.keys():
                    tasks.create_task(load(document))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    def _make_room(self, wanted: set[str]) -> None:
        for document in list(self._heads):
            if self._bytes <= HEADS_BYTES_MAX:
                return
            if document not in wanted:
                self.forget(document)

    def _remove(self, document: str) -> None:
        self._remove_parsed(document)
        head = self._heads.pop(document, None)
        if head is not None:
            self._bytes -= _bytes_of(head)

    def _remove_parsed(self, document: str) -> None:
        if document in self._parsed:
            del self._parsed[document]
            self._parsed_bytes -= len(self._heads[document].text or b"")

    async def _ask(self, document: str) -> tuple[Head, Json]:
        # Nothing was folded in this namespace when the import began. Should the log have had something already,
        # then the events that we send are duplicates or conflicts, and a conflict makes us ask.
        newest = None if self._is_empty else await self._last_change(document)
        if newest is None:
            return NEVER, None
        line = self._line_of(newest) or await self._last_line(document)
        try:
            found = await self._refold.get(self._namespace, document, version=newest.version)
        except DocumentAbsent:
            return Head(newest.version, None, line), None
        return Head(newest.version, canonical.dumps({"state": found.state}), line), found.state

    async def _last_change(self, document: str) -> Change | None:
        changes = self._refold.history(self._namespace, document, limit=1, is_reversed=True)
        async for change in changes:
            return change
        return None

    async def _last_line(self, document: str) -> int:
        """Somebody else has changed the document last: look further back for our own."""
        async for change in self._refold.history(self._namespace, document, is_reversed=True):
            if line := self._line_of(change):
                return line
        return 0

    def _line_of(self, change: Change) -> int:
        """Return the line of this very file that made the change; 0 for any other."""
        note = change.meta.get(IMPORT) if isinstance(change.meta, dict) else None
        if not isinstance(note, dict) or note.get("file") != self._file_digest:
            return 0
        line = note.get("line")
        return line if isinstance(line, int) else 0


def _bytes_of(head: Head) -> int:
    return len(head.text or b"") + _OVERHEAD_BYTES
