"""Turn lines into events: a small patch from the document's last state, or the whole state where that is smaller.

Used by `refold.transfer.importer`. `HeadCache` holds the last state of each document that is being imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from refold.client import Change, Refold
from refold.core import json_text
from refold.core.diff import diff
from refold.core.document import ABSENT
from refold.core.errors import DocumentAbsent, Refused
from refold.core.fold import EVENT_BYTES_MAX
from refold.core.json_text import Json
from refold.core.split import split_write
from refold.transfer.files import Line

HEADS_BYTES_MAX: Final = 256 * 1024 * 1024
PARSED_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of the texts whose states are also kept parsed; parsed, they take about eight times as much memory."""

LOADS_AT_ONCE: Final = 16
DIGEST_CHARS: Final = 16
IMPORT: Final = "import"
ORIGIN: Final = "origin"
"""Members of `meta`, and of the note under it: the file and line of an event; those of its first import."""

_OVERHEAD_BYTES: Final = 200


class Head(NamedTuple):
    """A document as the import expects it, and the last line that was imported into it.

    `text`: a JSON object that holds the state as its member `state`; None if the document is absent.
    """

    version: int
    text: bytes | None
    line: int


NEVER: Final = Head(0, None, 0)


class Planned(NamedTuple):
    """The plan for a line, and the head after it.

    `event`: the event to append; None if the line changes nothing, was imported before (`is_present`) or is refused
    (`refusal`). `put`: the write options of a state that is too large for one event: the service splits it;
    `version` is the version that it replaces.
    """

    line: Line
    after: Head
    event: bytes | None = None
    put: dict[str, Json] | None = None
    version: int = 0
    is_present: bool = False
    refusal: Refused | None = None

    @property
    def is_sent(self) -> bool:
        """Tell whether the line goes to the service."""
        return self.event is not None or self.put is not None


def plan(line: Line, heads: HeadCache, file_digest: str, *, attempt: int = 0) -> Planned:
    """Plan a line of a document whose head is loaded, and update the head.

    `attempt` counts from 1 when a line is tried again after another writer's change. A later line of the document
    may then have been imported, so its number does not tell that this one was.
    """
    planned = _plan(line, heads, file_digest, attempt)
    if planned.event is not None or planned.put is not None:
        heads.put(line.document, planned.after, line.state)
    if planned.refusal is not None and line.version is not None:
        heads.broken.add(line.document)
    return planned


def _plan(line: Line, heads: HeadCache, file_digest: str, attempt: int) -> Planned:
    head = heads[line.document]
    if line.number <= head.line and not attempt:
        return Planned(line, head, is_present=True)
    if line.version is not None and (refusal := _check_version(line.version, line, heads)):
        return Planned(line, head, refusal=refusal)
    change = _change(line, heads)
    if change is None:
        return Planned(line, head)
    fields = _fields(line, head, file_digest, attempt)
    written = json_text.dumps({"doc": line.document, **change, **fields})
    if len(written) > EVENT_BYTES_MAX:
        return _plan_put(line, head, {name: given for name, given in fields.items() if name != "base"})
    text = None if line.state is ABSENT else line.text
    return Planned(line, Head(head.version + 1, text, line.number), written)


def _plan_put(line: Line, head: Head, fields: dict[str, Json]) -> Planned:
    """Plan a state that is too large for one event: it takes one version an event."""
    try:
        events = len(split_write(line.state, fields))
    except Refused as refused:
        return Planned(line, head, refusal=refused)
    if line.version is not None and events > 1:
        rule = f"its state is written as {events} events, which take as many versions"
        return Planned(
            line, head, refusal=Refused("version_differs", rule, field="version", shape=str(line.version))
        )
    after = Head(head.version + events, line.text, line.number)
    return Planned(line, after, put=fields, version=head.version)


def _check_version(version: int, line: Line, heads: HeadCache) -> Refused | None:
    """Refuse a line whose version is not the document's next one."""
    following = heads[line.document].version + 1
    if version != following:
        rule = f"the document's next version here is {following}"
    elif line.document in heads.broken:
        rule = "a line of the document before it was refused"
    else:
        return None
    return Refused("version_differs", rule, field="version", shape=str(version))


def _change(line: Line, heads: HeadCache) -> dict[str, Json] | None:
    """Return the event's change; None if nothing changes and the line does not ask for a version."""
    is_absent = heads[line.document].text is None
    if line.state is ABSENT:
        return None if is_absent and line.version is None else {"delete": True}
    if is_absent:
        return {"put": line.state}
    patch = diff(heads.state(line.document), line.state)
    if not patch and line.version is None:
        return None
    return {"patch": patch} if _is_small(patch, line) else {"put": line.state}


def _is_small(patch: list[Json], line: Line) -> bool:
    """Tell whether a patch is smaller than its state, without writing the state where the line's size shows it."""
    count = len(json_text.dumps(patch))
    # A line may be mostly white space, so its length alone does not decide.
    return count * 4 < len(line.text) or not patch or count < json_text.size(line.state)


def _fields(line: Line, head: Head, file_digest: str, attempt: int) -> dict[str, Json]:
    """Return the event's other fields. `base` turns a concurrent change into a conflict instead of a wrong state."""
    event_id = f"{IMPORT}:{file_digest[:DIGEST_CHARS]}:{line.number}@{head.version}"
    fields: dict[str, Json] = {
        "id": f"{event_id}.{attempt}" if attempt else event_id,
        "base": head.version,
        "occurred_at": line.occurred_at,
        "meta": {**line.meta, IMPORT: {"file": file_digest, "line": line.number, **_origin(line)}},
    }
    given = {"actor": line.actor, "type": line.type}
    return fields | {name: text for name, text in given.items() if text is not None}


def _origin(line: Line) -> dict[str, Json]:
    """Keep the note of the first import: only this import's note tells what is imported already."""
    if IMPORT not in line.meta:
        return {}
    note = line.meta[IMPORT]
    return {ORIGIN: note[ORIGIN] if isinstance(note, dict) and ORIGIN in note else note}


class HeadCache:
    """LRU cache of heads, loaded from the service on first use.

    Events in flight are among the newest entries and far smaller than the cache.
    """

    def __init__(self, refold: Refold, namespace: str, file_digest: str) -> None:
        """Start empty."""
        self._refold = refold
        self._namespace = namespace
        self._file_digest = file_digest
        self._heads: dict[str, Head] = {}
        self._bytes = 0
        self._parsed: dict[str, Json] = {}
        self._parsed_bytes = 0
        self._is_empty: bool | None = None
        self.broken: set[str] = set()
        """Documents of which a line with a version was refused: its successors are refused, too."""

    def __getitem__(self, document: str) -> Head:
        """Return a loaded head."""
        return self._heads[document]

    def state(self, document: str) -> Json:
        """Return a present document's state; it must not be changed."""
        if document in self._parsed:
            return self._parsed[document]
        text = self._heads[document].text
        assert text is not None
        return json_text.loads(text)["state"]

    def put(self, document: str, head: Head, state: Json) -> None:
        """Store a head; `state` is the parsed state of its text."""
        self._remove(document)
        self._heads[document] = head
        self._bytes += _bytes_of(head)
        if head.text is not None:
            self._parsed[document] = state
            self._parsed_bytes += len(head.text)
            while self._parsed_bytes > PARSED_BYTES_MAX:
                self._remove_parsed(next(iter(self._parsed)))

    def forget(self, document: str) -> None:
        """Drop a head: it is loaded again on next use."""
        self._is_empty = False
        self._remove(document)

    async def load(self, documents: Iterable[str]) -> None:
        """Load the heads that are missing, at most `LOADS_AT_ONCE` at a time."""
        wanted = set(documents)
        self._make_room(wanted)
        if self._is_empty is None:
            namespaces = await self._refold.namespaces()
            self._is_empty = not any(it.name == self._namespace and it.events for it in namespaces)
        at_once = asyncio.Semaphore(LOADS_AT_ONCE)

        async def load(document: str) -> None:
            async with at_once:
                head, state = await self._load(document)
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

    async def _load(self, document: str) -> tuple[Head, Json]:
        # The namespace was empty when the import began. Events that were not folded yet then are met as duplicates or
        # conflicts, and a conflict loads the head.
        newest = None if self._is_empty else await self._last_change(document)
        if newest is None:
            return NEVER, None
        line = self._line_of(newest) or await self._last_line(document)
        try:
            found = await self._refold.get(self._namespace, document, version=newest.version)
        except DocumentAbsent:
            return Head(newest.version, None, line), None
        return Head(newest.version, json_text.dumps({"state": found.state}), line), found.state

    async def _last_change(self, document: str) -> Change | None:
        with suppress(DocumentAbsent):
            async for change in self._refold.history(self._namespace, document, limit=1, is_reversed=True):
                return change
        return None

    async def _last_line(self, document: str) -> int:
        """Return the newest line that this file's import made, below other writers' changes."""
        async for change in self._refold.history(self._namespace, document, is_reversed=True):
            if line := self._line_of(change):
                return line
        return 0

    def _line_of(self, change: Change) -> int:
        """Return the line of this file that made the change; 0 for any other change."""
        note = change.meta.get(IMPORT) if isinstance(change.meta, dict) else None
        if not isinstance(note, dict) or note.get("file") != self._file_digest:
            return 0
        line = note.get("line")
        return line if isinstance(line, int) else 0


def _bytes_of(head: Head) -> int:
    return len(head.text or b"") + _OVERHEAD_BYTES
