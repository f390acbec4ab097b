"""The changes of a namespace after any sequence, in the order of the log, from the log and the store.

The log says which documents have events in a range of sequences; the store has what they did. Reading the log costs the
same at any age, and as much for a rare namespace as for a busy one: it is read without a filter, in blocks that all
readers share.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from refold.core.errors import LogUnavailable
from refold.core.fold import NEWEST
from refold.core.stream import Route, document_of
from refold.history import notice_of
from refold.live import start_shared
from refold.live.ring import Noted
from refold.live.watched import Change
from refold.log import OUTLINES_MAX, EventLog, Outline
from refold.store import reading_stored
from refold.store.ports import HistoryReader

PART_EVENTS_MAX: Final = 1_000
"""Events of a namespace that are read at once: the more, the fewer pages are unpacked for one event of them."""

PART_BYTES_MAX: Final = 256 * 1024
"""Bytes of these events; one alone may be larger."""

PART_SCANNED_MAX: Final = 10_000
"""Events of the log that are looked at for one part."""

BLOCKS_MAX: Final = 200
"""Blocks of `OUTLINES_MAX` outlines that are kept for other readers; about 100 KB each."""

READS_MAX: Final = 4
"""Parts that are read at a time."""

CHANGES_AT_ONCE: Final = 32
"""Changes that are made in one turn of the event loop."""

LAG_SECONDS: Final = 0.1
LAGS_MAX: Final = 50
"""How often, and how long after each other, a replica is asked for events that it does not have yet."""


class Part(NamedTuple):
    """All changes of a namespace up to a sequence, in their order."""

    changes: list[Noted]
    sequence: int


class Backlog:
    """Read parts, a bounded number at a time."""

    def __init__(self, log: EventLog, store: HistoryReader) -> None:
        self._log = log
        self._store = store
        self._reads = asyncio.Semaphore(READS_MAX)
        self._blocks: OrderedDict[int, asyncio.Task[list[Outline]]] = OrderedDict()

    async def read(
        self, namespace: str, is_wanted: Callable[[str], bool], after_sequence: int, until_sequence: int
    ) -> Part:
        """Read changes of documents that are wanted, after a sequence up to another, as far as one part goes.

        The log must be committed up to there. Raises `LogUnavailable`, `LogHole`, and what the store raises.
        """
        async with self._reads:
            documents, sequence = await self._documents(namespace, is_wanted, after_sequence, until_sequence)
            entries = await self._store.entries_between(
                namespace, documents, after_sequence=after_sequence, until_sequence=sequence
            )
            routes = {document: Route.of(namespace, document) for document in documents}
            changes: list[Noted] = []
            for number, (document, entry) in enumerate(entries):
                with reading_stored(namespace, document):
                    body = notice_of(routes[document], entry)
                changes.append(Noted((namespace, document), Change(entry.version, entry.sequence, body)))
                if number % CHANGES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return Part(changes, sequence)

    async def _documents(
        self, namespace: str, is_wanted: Callable[[str], bool], after_sequence: int, until_sequence: int
    ) -> tuple[list[str], int]:
        """Return the documents that have events after a sequence, and up to where that is known."""
        found: dict[str, None] = {}
        sequence, events_count, events_bytes = after_sequence, 0, 0
        end = min(until_sequence, after_sequence + PART_SCANNED_MAX)
        while sequence < end:
            for outline in (await self._outlines(sequence))[: end - sequence]:
                document = _document_in(outline.subject, namespace)
                if document is not None and is_wanted(document):
                    events_count, events_bytes = events_count + 1, events_bytes + outline.size
                    if found and (events_count > PART_EVENTS_MAX or events_bytes > PART_BYTES_MAX):
                        return list(found), sequence
                    found[document] = None
                sequence += 1
        return list(found), sequence

    async def _outlines(self, after_sequence: int) -> list[Outline]:
        """Return the outlines of the next events: at least one, which the log has."""
        for _ in range(LAGS_MAX):
            first = after_sequence - after_sequence % OUTLINES_MAX
            if outlines := (await self._block(first))[after_sequence - first :]:
                return outlines
            await asyncio.sleep(LAG_SECONDS)
        raise LogUnavailable("the broker does not return events that are folded", sequence=after_sequence + 1)

    async def _block(self, first: int) -> list[Outline]:
        """Return a block's outlines, as far as the log has them; concurrent readers share one request."""
        task = self._blocks.get(first)
        if task is None:
            task = self._blocks[first] = start_shared(self._load(first), name="live-outlines")
            task.add_done_callback(lambda done: self._keep(first, done))
        else:
            self._blocks.move_to_end(first)
        return await asyncio.shield(task)

    async def _load(self, first: int) -> list[Outline]:
        block: list[Outline] = []
        while len(block) < OUTLINES_MAX:
            more = await self._log.outlines(first + len(block))
            if not more:
                break
            block += more
        return block[:OUTLINES_MAX]

    def _keep(self, first: int, done: asyncio.Task[list[Outline]]) -> None:
        """Keep a block that is complete."""
        if done.cancelled() or done.exception() is not None or len(done.result()) < OUTLINES_MAX:
            self._blocks.pop(first, None)
        elif len(self._blocks) > BLOCKS_MAX:
            self._blocks.popitem(last=False)


def _document_in(subject: bytes, namespace: str) -> str | None:
    """Return the document of a namespace that a subject names by its last two tokens; None for any other."""
    head, found, token = subject.rpartition(b".%b." % namespace.encode())
    if not found or not head or b"." in token:
        return None
    return document_of(token.decode("latin-1"), NEWEST.number)
