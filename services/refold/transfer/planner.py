"""Turn lines into events: a small patch from the document's last state, or the whole state where that is smaller.

Used by `refold.transfer.importer`. `HeadCache` holds the last state of each document that is being imported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from refold.client import Change, Refold
from refold.core import json_text
from refold.core.diff import diff
from refold.core.document import ABSENT
from refold.core.errors import DocumentAbsent, Refused, raising_first
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.json_text import Json
from refold.core.split import split_write
from refold.core.timestamp import format_time, parse_rfc3339
from refold.transfer import DIGEST_CHARS, Line, digest_of

HEADS_BYTES_MAX: Final = 256 * 1024 * 1024
PARSED_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of the texts whose states are also kept parsed; parsed, they take about eight times as much memory."""

LOADS_AT_ONCE: Final = 16
IMPORT: Final = "import"
ORIGIN: Final = "origin"
"""Members of `meta`, and of the note under it: the file and line of an event; those of its first import."""

TEXT: Final = "text"
AFTER: Final = "after"
"""Members of the note: the line's digest; the newest version before that another file made, where one did."""

_OVERHEAD_BYTES: Final = 200
_LINE_NOTE_BYTES: Final = 120
_NEVER_OCCURRED: Final = -(2**63)


@dataclass(slots=True)
class Others:
    """What other files have brought into a document: an earlier, shorter or mended one may have had the same lines.

    `lines`: the digests of the lines. `occurred_at`: the latest of their times, in nanoseconds. `state`: the digest of
    the state of the last line of this file that they had.
    """

    version: int = 0
    lines: set[str] = field(default_factory=set)
    occurred_at: int = _NEVER_OCCURRED
    state: str = ""

    def add(self, change: Change, note: dict[str, Json]) -> None:
        """Add an imported change; the newest comes first."""
        self.version = self.version or change.version
        self.occurred_at = max(self.occurred_at, parse_rfc3339(change.occurred_at))
        self.lines.add(str(note.get(TEXT)))


class Head(NamedTuple):
    """A document as the import expects it, and the last line that was imported into it.

    `text`: a JSON object that holds the state as its member `state`; None if the document is absent. `others`: what
    other files have brought into it.
    """

    version: int
    text: bytes | None
    line: int
    others: Others | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes in a cache."""
        noted = 0 if self.others is None else len(self.others.lines)
        return len(self.text or b"") + _OVERHEAD_BYTES + noted * _LINE_NOTE_BYTES


NEVER: Final = Head(0, None, 0)


class Planned(NamedTuple):
    """The plan for a line.

    `event`: the event to append; None if the line changes nothing, was imported before (`is_present`) or is refused
    (`refusal`). `put`: the write options of a state that is too large for one event: the service splits it;
    `version` is the version that it replaces.
    """

    line: Line
    event: bytes | None = None
    put: dict[str, Json] | None = None
    version: int = 0
    is_present: bool = False
    refusal: Refused | None = None

    @property
    def is_sent(self) -> bool:
        """Tell whether the line goes to the service."""
        return self.event is not None or self.put is not None


def plan(
    line: Line,
    heads: HeadCache,
    file_digest: str,
    *,
    attempt: int = 0,
    is_dry: bool = False,
    takes_older: bool = False,
) -> Planned:
    """Plan a line of a document whose head is loaded, and update the head.

    `attempt` counts from 1 when a line is tried again after another writer's change. A later line of the document
    may then have been imported, so its number does not show that this one was.
    `is_dry`: refuse a time in the future here, because the log is not asked. `takes_older`: do not refuse a line that
    is older than what another file brought.
    """
    head = heads[line.document]
    if line.number <= head.line and not attempt:
        return Planned(line, is_present=True)
    try:
        if head.others is not None and (known := _known(line, head.others, takes_older=takes_older)):
            return known
        _check_version(line, heads)
        change = _choose_change(line, heads)
        if change is None:
            return Planned(line)
        if is_dry:
            _check_time(line)
        fields = _fields(line, head, file_digest, attempt)
        planned = Planned(line, event=json_text.dumps({"doc": line.document, **change, **fields}))
        versions = 1
        if len(planned.event or b"") > EVENT_BYTES_MAX:
            del fields["base"], fields["on_conflict"]
            planned, versions = Planned(line, put=fields, version=head.version), _count_events(line, fields)
    except Refused as refused:
        if line.version is not None:
            heads.broken.add(line.document)
        return Planned(line, refusal=refused)
    text = None if line.state is ABSENT else line.text
    heads.put(line.document, Head(head.version + versions, text, line.number, head.others), line.state)
    return planned


def _known(line: Line, others: Others, *, takes_older: bool) -> Planned | None:
    """Return the plan of a line that another file had, None for a new one; refuse one that would come too late."""
    state = "" if line.state is ABSENT else digest_of(json_text.dumps(line.state))
    if line.digest in others.lines:
        others.state = state
        return Planned(line, is_present=True)
    if line.version is not None or takes_older or parse_rfc3339(line.occurred_at) >= others.occurred_at:
        return None
    if state == others.state:
        # It made no event there.
        return Planned(line)
    newest = f"version {others.version}, of another file, is of {format_time(others.occurred_at)}"
    rule = f"older than what was imported before ({newest}): no version is inserted into a history"
    raise Refused("older_than_imported", f"{rule}; --allow-older makes it the newest", field="ts")


def _check_version(line: Line, heads: HeadCache) -> None:
    """Raise `Refused` for a line whose version is not the document's next one."""
    following = heads[line.document].version + 1
    if line.version not in (None, following):
        raise _version_differs(line, f"the document's next version here is {following}")
    if line.version is not None and line.document in heads.broken:
        raise _version_differs(line, "a line of the document before it was refused")


def _check_time(line: Line) -> None:
    """Refuse what the log would refuse if its clock were this machine's."""
    ahead = NEWEST.limits.occurred_ahead_nanoseconds
    if parse_rfc3339(line.occurred_at) > time.time_ns() + ahead:
        rule = f"more than {ahead // 60_000_000_000} minutes after now, by this machine's clock"
        raise Refused("occurred_in_future", rule, field="ts", shape=line.occurred_at)


def _count_events(line: Line, fields: dict[str, Json]) -> int:
    """Return how many events a state is that is too large for one: it takes one version an event."""
    events = len(split_write(line.state, fields))
    if line.version is not None and events > 1:
        raise _version_differs(line, f"its state is written as {events} events, which take as many versions")
    return events


def _version_differs(line: Line, rule: str) -> Refused:
    return Refused("version_differs", rule, field="version", shape=str(line.version))


def _choose_change(line: Line, heads: HeadCache) -> dict[str, Json] | None:
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
    """Return the event's other fields. A concurrent change is a conflict: what comes after it is planned anew."""
    event_id = f"{IMPORT}:{file_digest[:DIGEST_CHARS]}:{line.number}@{head.version}"
    fields: dict[str, Json] = {
        "id": f"{event_id}.{attempt}" if attempt else event_id,
        "base": head.version,
        "on_conflict": "reject",
        "occurred_at": line.occurred_at,
        "meta": {**line.meta, IMPORT: _note(line, head, file_digest)},
    }
    given = {"actor": line.actor, "type": line.type}
    return fields | {name: text for name, text in given.items() if text is not None}


def _note(line: Line, head: Head, file_digest: str) -> dict[str, Json]:
    """Return what an event says about its import, the same for the same line and head."""
    after: dict[str, Json] = {} if head.others is None else {AFTER: head.others.version}
    return {"file": file_digest, "line": line.number, TEXT: line.digest, **after, **_origin(line)}


def _origin(line: Line) -> dict[str, Json]:
    """Keep the note of the first import: only this import's own note shows which lines it has imported."""
    if IMPORT not in line.meta:
        return {}
    note = line.meta[IMPORT]
    return {ORIGIN: note[ORIGIN] if isinstance(note, dict) and ORIGIN in note else note}


class HeadCache:
    """LRU cache of heads, loaded from the service on first use.

    Events in flight are among the newest entries and far smaller than the cache.
    """

    def __init__(self, refold: Refold, namespace: str, file_digest: str) -> None:
        self._refold = refold
        self._namespace = namespace
        self._file_digest = file_digest
        self._heads: dict[str, Head] = {}
        self._parsed: dict[str, Json] = {}
        self._bytes = 0
        self._parsed_bytes = 0
        self._is_empty: bool | None = None
        self.broken: set[str] = set()
        """Documents of which a line with a version was refused: its successors are refused, too."""

    def __getitem__(self, document: str) -> Head:
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
        self._heads[document], self._parsed[document] = head, state
        self._bytes += head.size
        self._parsed_bytes += head.size
        while self._parsed_bytes > PARSED_BYTES_MAX:
            self._remove_parsed(next(iter(self._parsed)))

    def forget(self, document: str) -> None:
        """Drop a head: it is loaded again on next use."""
        self._is_empty = False
        self._remove(document)

    async def load(self, documents: Iterable[str]) -> None:
        """Load the heads that are missing, at most `LOADS_AT_ONCE` at a time."""
        wanted = set(documents)
        for document in [document for document in self._heads if document not in wanted]:
            if self._bytes <= HEADS_BYTES_MAX:
                break
            self.forget(document)
        if self._is_empty is None:
            namespaces = await self._refold.namespaces()
            self._is_empty = not any(it.name == self._namespace and it.events for it in namespaces)
        at_once = asyncio.Semaphore(LOADS_AT_ONCE)

        async def load(document: str) -> None:
            async with at_once:
                self.put(document, *await self._load(document))

        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                for document in wanted - self._heads.keys():
                    tasks.create_task(load(document))

    def _remove(self, document: str) -> None:
        if document in self._heads:
            self._remove_parsed(document)
            self._bytes -= self._heads.pop(document).size

    def _remove_parsed(self, document: str) -> None:
        if document in self._parsed:
            del self._parsed[document]
            self._parsed_bytes -= self._heads[document].size

    async def _load(self, document: str) -> tuple[Head, Json]:
        if self._is_empty:
            # The namespace was empty when the import began. Events that were not folded yet then are met as duplicates
            # or conflicts, and a conflict loads the head.
            return NEVER, None
        newest, line, others = await self._newest(document)
        if newest is None:
            return NEVER, None
        try:
            found = await self._refold.get(self._namespace, document, version=newest.version)
        except DocumentAbsent:
            return Head(newest.version, None, line, others), None
        text = json_text.dumps({"state": found.state})
        return Head(newest.version, text, line, others), found.state

    async def _newest(self, document: str) -> tuple[Change | None, int, Others | None]:
        """Return a document's newest change, the newest line of this file in it, and what other files brought."""
        newest = None
        # The newest change is usually this file's; other writers' changes may be above it.
        for limit in (1, None):
            line, others = 0, Others()
            with suppress(DocumentAbsent):
                changes = self._refold.history(self._namespace, document, limit=limit, is_reversed=True)
                async for change in changes:
                    newest = newest or change
                    note = _note_of(change)
                    if note.get("file") != self._file_digest:
                        if note:
                            others.add(change, note)
                        continue
                    line = line or _line_of(note)
                    if AFTER not in note:
                        return newest, line, others if others.lines else None
            if newest is None:
                break
        return newest, line, others if others.lines else None


def _note_of(change: Change) -> dict[str, Json]:
    """Return what a change says about its import; nothing for one that is not imported."""
    note = change.meta.get(IMPORT) if isinstance(change.meta, dict) else None
    return note if isinstance(note, dict) else {}


def _line_of(note: dict[str, Json]) -> int:
    line = note.get("line")
    return line if isinstance(line, int) else 0
