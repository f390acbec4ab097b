"""A document's past: states, changes, diffs, blame, outcomes and rejections. It reads the store alone.

Callers wait first until enough of the log is folded. `check_log` and `check_documents` compare the log with what was
folded from it; projectors run them at start and periodically.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.blame import Origin, Tokens, leaves, trace
from refold.core.diff import diff
from refold.core.envelope import id_of
from refold.core.errors import FenceLost, LogHole, VersionUnknown
from refold.core.fold import NEWEST, rules_of
from refold.core.history import (
    NEVER,
    Clock,
    Entry,
    Point,
    Segment,
    Snapshot,
    fields_of,
    operations_of,
    touches,
)
from refold.core.inverse import inverse
from refold.core.json_text import Json, loads
from refold.core.pointer import parse, render
from refold.core.stream import Checkpoint, Record, Route, chain_link, route
from refold.core.timestamp import format_time
from refold.core.views import change_json, change_view, outcome_view, rejection_view
from refold.log import EventLog
from refold.store import ANSWER_BYTES_MAX, ANY_VERSION, damaged, reading_stored
from refold.store.ports import HistoryReader, LatestReader

HISTORY_SCAN_MAX: Final = 20_000
"""Changes that one answer looks at in search of those that touched a path."""

BLAME_VERSIONS_MAX: Final = 100_000
"""Versions that one answer looks at in search of who wrote its leaves."""

BLAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of states and events that it looks at; either bound is checked after each segment."""

THREADED_BYTES: Final = 256 * 1024
"""Two states larger than this together are compared in a thread, so that other requests go on."""


class Slice(NamedTuple):
    """Changes as canonical bytes, in the requested order; `next` is the `after` that continues, None at the end."""

    items: list[bytes]
    next: int | None


class Blame(NamedTuple):
    """Leaves with who wrote them, as canonical bytes; `next` is the number of the leaf that continues, None at the end.

    A leaf whose `version` is null was written before version `searched_from`.
    """

    items: list[bytes]
    next: int | None
    searched_from: int


class History:
    """Answer from what is folded."""

    def __init__(self, store: HistoryReader) -> None:
        self._store = store

    async def snapshot(self, namespace: str, document: str, point: Point) -> Snapshot:
        """Return the document at a point; its state is None where it was absent. Raises `VersionUnknown`."""
        found = await self._store.snapshot_at(namespace, document, point) or NEVER
        if point.clock is Clock.version and found.version != point.value:
            name, head = f"{namespace}/{document}", found.version
            detail = f"has no version {point.value}; its head is version {head}" if head else "never existed"
            raise VersionUnknown(f"{name} {detail}", version=point.value, head=head)
        return found

    async def changes(
        self,
        namespace: str,
        document: str,
        *,
        after: int | None,
        limit: int,
        is_descending: bool,
        path: str | None,
    ) -> Slice:
        """Return changes beyond version `after` in the requested order, bounded; with `path`, those that touched it.

        Raises `Refused` for a bad pointer.
        """
        tokens = None if path is None else parse(path)
        items: list[bytes] = []
        answer_bytes = scanned = last = 0
        segments = self._store.segments(namespace, document, after_version=after, is_descending=is_descending)
        async with aclosing(segments) as opened:
            with reading_stored(namespace, document):
                async for segment in opened:
                    for entry in _effective(segment, after, is_descending=is_descending):
                        if len(items) >= limit or scanned >= HISTORY_SCAN_MAX:
                            return Slice(items, last)
                        change = change_of(entry, tokens)
                        answer_bytes += len(change or b"")
                        if answer_bytes > ANSWER_BYTES_MAX and items and change:
                            return Slice(items, last)
                        scanned += 1
                        last = entry.version
                        if change is not None:
                            items.append(change)
        return Slice(items, None)

    async def notices(
        self, namespace: str, document: str, *, after: int, limit: int
    ) -> list[tuple[int, int, bytes]]:
        """Return the changes after a version in the bytes of their notices, each with its version and sequence.

        At most `limit`, and no more than `ANSWER_BYTES_MAX` unless the first alone is larger. Each has its patch.
        """
        where, answer_bytes = Route.of(namespace, document), 0
        found: list[tuple[int, int, bytes]] = []
        segments = self._store.segments(namespace, document, after_version=after, is_descending=False)
        async with aclosing(segments) as opened:
            with reading_stored(namespace, document):
                async for segment in opened:
                    for entry in _effective(segment, after, is_descending=False):
                        body = notice_of(where, entry)
                        answer_bytes += len(body)
                        if len(found) >= limit or (found and answer_bytes > ANSWER_BYTES_MAX):
                            return found
                        found.append((entry.version, entry.sequence, body))
        return found

    async def diff(self, namespace: str, document: str, from_version: int, to_version: int) -> list[Json]:
        """Return the patch that turns one version into the other."""
        before = await self.snapshot(namespace, document, Point(Clock.version, from_version))
        after = await self.snapshot(namespace, document, Point(Clock.version, to_version))
        with reading_stored(namespace, document):
            if len(before.state or b"") + len(after.state or b"") <= THREADED_BYTES:
                return _patch_between(before.state, after.state)
            return await asyncio.to_thread(_patch_between, before.state, after.state)

    async def inverse_of(self, namespace: str, document: str, version: int) -> dict[str, Json]:
        """Return the change that undoes one version (`refold.core.inverse`). Raises `VersionUnknown`."""
        after = await self.snapshot(namespace, document, Point(Clock.version, version))
        before = await self.snapshot(namespace, document, Point(Clock.version, version - 1))
        entry = await self._store.entry(namespace, document, after.sequence)
        with reading_stored(namespace, document):
            assert entry is not None, "a version has an event"
            operations = operations_of(entry)
            return await asyncio.to_thread(inverse, before.state, after.state, operations, NEWEST.limits)

    async def blame(
        self,
        namespace: str,
        document: str,
        version: int,
        value: Json,
        tokens: Tokens,
        *,
        first: int,
        limit: int,
    ) -> Blame:
        """Return who last wrote each leaf of a value at a version, from the leaf number `first` on, bounded.

        `tokens` are the value's place in the document at the version.
        """
        found: list[tuple[Tokens, Json]] = []
        answer_bytes, following = 0, None
        for number, (place, leaf) in enumerate(islice(leaves(value, tokens), first, None), first):
            answer_bytes += json_text.size(leaf) + sum(map(len, place))
            if len(found) == limit or (found and answer_bytes > ANSWER_BYTES_MAX):
                following = number
                break
            found.append((place, leaf))
        writers, searched_from = await self._writers(
            namespace, document, version, [place for place, _ in found]
        )
        with reading_stored(namespace, document):
            items = [_blamed(*leaf, writer) for leaf, writer in zip(found, writers, strict=True)]
        return Blame(items, following, searched_from)

    async def _writers(
        self, namespace: str, document: str, version: int, places: Sequence[Tokens]
    ) -> tuple[list[Entry | None], int]:
        """Return the events that last wrote leaves, and the oldest version that was looked at."""
        origins: list[Origin] = list(places)
        writers: dict[int, Entry] = {}
        oldest, versions_count, bytes_count = version + 1, 0, 0
        segments = self._store.segments(namespace, document, after_version=oldest, is_descending=True)
        async with aclosing(segments) as opened:
            async for segment in opened:
                entries = [
                    entry for entry in segment.entries if entry.status.is_effective and entry.version < oldest
                ]
                sought = {number: it for number, it in enumerate(origins) if not isinstance(it, int)}
                base = segment.base.state
                with reading_stored(namespace, document):
                    traced = await asyncio.to_thread(trace, base, entries, [*sought.values()])
                by_version = {entry.version: entry for entry in entries}
                for number, origin in zip(sought, traced, strict=True):
                    origins[number] = origin
                    if isinstance(origin, int):
                        writers[origin] = by_version[origin]
                oldest = segment.base.version + 1
                versions_count += len(entries)
                bytes_count += len(base or b"") + sum(entry.size for entry in entries)
                if versions_count > BLAME_VERSIONS_MAX or bytes_count > BLAME_BYTES_MAX:
                    break
                if all(isinstance(origin, int) for origin in origins):
                    break
        return [writers[it] if isinstance(it, int) else None for it in origins], oldest

    async def outcome(self, namespace: str, document: str, sequence: int) -> dict[str, Json] | None:
        """Return the outcome of one of the document's events; None where it has none at that sequence."""
        return await self._view(namespace, document, await self._store.entry(namespace, document, sequence))

    async def outcome_of_id(self, namespace: str, document: str, event_id: str) -> dict[str, Json] | None:
        """Return the outcome of the first event that carried an id, within the dedup window."""
        return await self._view(namespace, document, await self._store.find_id(namespace, document, event_id))

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> tuple[list[dict[str, Json]], int | None]:
        """Return rejected events as `HistoryReader.rejections` does, and the sequence that continues."""
        found = await self._store.rejections(
            namespace, document, limit=limit, before_sequence=before_sequence
        )
        views = [
            {"namespace": it.namespace, "document": it.document}
            | rejection_view(it.sequence, it.recorded_at, it.reason, it.detail, it.about)
            for it in found
        ]
        return views, found[-1].sequence if len(found) == limit else None

    async def _view(self, namespace: str, document: str, entry: Entry | None) -> dict[str, Json] | None:
        if entry is None:
            return None
        first = None
        if entry.first_sequence:
            first = await self._store.entry(namespace, document, entry.first_sequence)
        with reading_stored(namespace, document):
            event_id = id_of(entry.headers, entry.body, NEWEST.limits)
            return outcome_view(namespace, document, entry, event_id=event_id, first=first)


def record_of(entry: Entry, where: Route) -> Record:
    """Return the record that an entry keeps, with its author's headers only."""
    subject = where.subject if entry.subject is None else entry.subject
    return Record(entry.sequence, entry.time, subject, entry.headers, entry.body)


def notice_of(where: Route, entry: Entry) -> bytes:
    """Show an effective entry as its change notice does."""
    fields = fields_of(entry)
    patch = entry.effect or json_text.dumps(operations_of(entry, fields))
    return change_json(where, entry, fields, patch)


def change_of(entry: Entry, tokens: tuple[str, ...] | None = None) -> bytes | None:
    """Show an effective entry; None where it did not touch the value at a path."""
    fields = fields_of(entry)
    operations = operations_of(entry, fields)
    if tokens is not None and not touches(operations, tokens):
        return None
    view = change_view(entry, operations, fields) | {"status": entry.status.name, "meta": fields.get("meta")}
    return json_text.dumps(view | ({"reverts": fields["reverts"]} if "reverts" in fields else {}))


def _blamed(tokens: Tokens, value: Json, writer: Entry | None) -> bytes:
    """Show a leaf with its writer."""
    about: dict[str, Json] = {"version": None, "recorded_at": None, "actor": None}
    if writer is not None:
        recorded_at, actor = format_time(writer.recorded_at), fields_of(writer).get("actor")
        about = {"version": writer.version, "recorded_at": recorded_at, "actor": actor}
    return json_text.dumps({"path": render(tokens), **about, "value": value})


def _effective(segment: Segment, after: int | None, *, is_descending: bool) -> Iterator[Entry]:
    """Yield effective entries beyond a version, in the requested order."""
    for entry in reversed(segment.entries) if is_descending else segment.entries:
        is_beyond = after is None or (entry.version < after if is_descending else entry.version > after)
        if entry.status.is_effective and is_beyond:
            yield entry


def _patch_between(before: bytes | None, after: bytes | None) -> list[Json]:
    """Return the patch from one canonical state to another: `add ""` from absence, `remove ""` into it."""
    if before == after:
        return []
    if after is None:
        return [{"op": "remove", "path": ""}]
    if before is None:
        return [{"op": "add", "path": "", "value": loads(after)}]
    return list(diff(loads(before), loads(after)))


# --- The log and what was folded from it -----------------------------------------------------------------


async def check_log(log: EventLog, checkpoints: list[Checkpoint]) -> None:
    """Raise `LogHole`, naming the sequences, where the log lacks or changed what was folded; `FoldUnknown`."""
    newest = max(checkpoints, key=lambda checkpoint: checkpoint.read_sequence)
    rules_of(newest.fold)
    info = await log.info()
    if info.first_sequence != 1:
        raise LogHole("the log does not begin at sequence 1", first_sequence=info.first_sequence)
    if info.last_sequence < newest.read_sequence:
        message = "the log ends before what has been folded from it"
        raise LogHole(message, last_sequence=info.last_sequence, folded_sequence=newest.read_sequence)
    for checkpoint in checkpoints:
        if checkpoint.last_sequence:
            await _check_last(log, checkpoint)


async def check_documents(log: EventLog, store: LatestReader, checkpoints: list[Checkpoint]) -> None:
    """Raise `StoreDamaged` where the document of a partition's last event is older or newer than its checkpoint.

    One of the tables is then an older copy. Raises `FenceLost` where the checkpoints advance meanwhile.
    """
    last = {checkpoint.last_sequence for checkpoint in checkpoints if checkpoint.last_sequence}
    records = await asyncio.gather(*(log.get(sequence) for sequence in last))
    fold = max(checkpoint.fold for checkpoint in checkpoints)
    routed = [(record, route(record.subject, fold)) for record in records if record is not None]
    expected = {where[1:3]: record for record, where in routed if not where.reason}
    heads = await asyncio.gather(*(store.head(*key, known_version=ANY_VERSION) for key in expected))
    for (key, (sequence, _, subject, _, _)), head in zip(expected.items(), heads, strict=True):
        if head is None and route(subject).reason:
            # The event may be older than the fold under which its subject names a document.
            continue
        found = 0 if head is None else head.last_sequence
        if found != sequence:
            partitions = {checkpoint.partition for checkpoint in checkpoints}
            if [each for each in await store.checkpoints() if each.partition in partitions] != checkpoints:
                raise FenceLost("another projector writes to these documents", document="/".join(key))
            what = "its row and the checkpoints are of different commits"
            raise damaged(*key, what, expected_sequence=sequence, last_sequence=found)


async def _check_last(log: EventLog, checkpoint: Checkpoint) -> None:
    record = await log.get(checkpoint.last_sequence)
    if record is None:
        raise LogHole("the log lacks an event that was folded", sequence=checkpoint.last_sequence)
    if chain_link(checkpoint.chain_before, record) != checkpoint.chain:
        message = "another event has the sequence of one that was folded"
        raise LogHole(message, sequence=checkpoint.last_sequence, partition=checkpoint.partition)
