"""From change notices to watched documents: each gets every version once, in order, whatever the notices do.

A notice may be lost at any time. Where `refold.live.progress` says that some may be, an audit compares the watched
documents with the store; what one lacks is read from history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from contextvars import Context
from functools import lru_cache
from typing import Final, Protocol

from refold.core.errors import LogUnavailable, RefoldError, ServiceUnavailable
from refold.core.fold import NEWEST
from refold.core.history import Snapshot
from refold.core.stream import PARTITIONS, Route, route
from refold.live import LiveFull
from refold.live.progress import USUAL_SECONDS, Progress
from refold.live.reader import ConsistentReader, Projection
from refold.live.watched import RING_BYTES_MAX, RING_CHANGES_MAX, Change, Watch, WatchedDocument
from refold.log import PROGRESS_SUBJECT, Notices, change_subject
from refold.store import Key, VersionAt
from refold.store.ports import LatestReader
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.gateway import LiveMetrics

WATCHED_MAX: Final = 20_000
"""Documents that are watched at a time; an audit reads the versions of all in one statement."""

RINGS_BYTES_MAX: Final = 256 * 1024 * 1024
"""What is kept of the changes of all watched documents."""

SUBJECTS_CACHED_MAX: Final = 100_000
"""Subjects whose partition and names are remembered: reading them takes 5 to 10 microseconds."""

RETRY_SECONDS: Final = 0.5
"""Pause after a read of history that failed, or that did not have what is missing."""

LOOK_SECONDS: Final = 1.0
"""How often it is considered whether an audit is due, where no progress says so."""

_CHANGES: Final = "change.>"
_PREFIX: Final = b'{"actor":'
"""Begins a change notice. Any client can make the broker send an acknowledgement to any subject."""

_SEQUENCE: Final = b'"sequence":'
_VERSION: Final = b'"version":'


class Listener(Protocol):
    """What is passed every change of every document, in the order of each shard; some may be missing."""

    def take(self, key: Key, change: Change) -> None:
        """Take a change. It may come again, and have `null` for its patch where that is too large for a notice."""

    def advance(self, sequence: int, gap_sequence: int) -> None:
        """Note that the changes up to `sequence` were passed, but perhaps not all of those up to `gap_sequence`."""


class Feed:
    """Bring changes to the documents that are watched, and to listeners.

    It subscribes to all changes when it is first used. `run` must be running then.
    """

    def __init__(
        self,
        notices: Notices,
        store: LatestReader,
        reader: ConsistentReader,
        projection: Projection,
        metrics: LiveMetrics,
    ) -> None:
        self._notices = notices
        self._store = store
        self._reader = reader
        self._projection = projection
        self._metrics = metrics
        self._progress = Progress()
        self._watches: dict[str, Watch] = {}
        self._listeners: list[Listener] = []
        # By partition, the unwatched documents with their highest uncommitted sequence.
        self._recent: list[dict[str, int]] = [{} for _ in range(PARTITIONS)]
        # Documents that lack changes, in order, each with the sequence up to which it lacked none.
        self._filling: dict[Watch, int] = {}
        self._beginning = asyncio.Lock()
        self._has_begun = False
        self._last_sequence = 0
        self._is_due, self._is_running = asyncio.Event(), asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        metrics.behind_max.set_function(self._behind_max)

    async def run(self) -> None:
        """Audit, and fill gaps, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._is_running.set()
            await self._audit_regularly()

    # --- For streams -------------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """Return the sequence up to which every change of what is watched has been appended."""
        return next(iter(self._filling.values()), self._progress.sequence)

    @property
    def behind_seconds(self) -> float:
        """Return for how long it has not been known whether something is missing; 0 where that is usual."""
        seconds = _now() - self._progress.confirmed_at if self._has_begun else 0.0
        return round(seconds, 3) if seconds > USUAL_SECONDS else 0.0

    async def watch(self, key: Key) -> WatchedDocument:
        """Watch a document, for one more user; the first one waits until its head is read.

        Raises `LiveFull`, and what the store raises.
        """
        await self._begin()
        subject = change_subject(*key)
        watch = self._watches.get(subject) or self._add(subject, key)
        watch.users_count += 1
        try:
            return await asyncio.shield(watch.opened)
        except BaseException:
            self._leave(subject, watch)
            raise

    def release(self, key: Key) -> None:
        """End one `watch` of a document."""
        subject = change_subject(*key)
        self._leave(subject, self._watches[subject])

    async def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Pass all changes to a listener, until the returned function is called."""
        await self._begin()
        self._listeners.append(listener)
        # What has come since the last progress was not passed to it.
        self._progress.gap_sequence = max(self._last_sequence, self._progress.gap_sequence)
        return lambda: self._listeners.remove(listener)

    async def _begin(self) -> None:
        """Subscribe, once. What was announced before, and is not committed yet, the first audits find."""
        async with self._beginning:
            if self._has_begun:
                return
            await self._is_running.wait()
            self._progress.begin(self._projection.sequences, _now())
            # A request that is cancelled here leaves no subscription: with two, every change would count twice.
            with ExitStack() as subscriptions:
                subscriptions.callback(await self._notices.listen(_CHANGES, self.hear_change))
                subscriptions.callback(await self._notices.listen(PROGRESS_SUBJECT, self.hear_progress))
                with suppress(LogUnavailable):
                    # Without a connection the subscriptions begin with the next one.
                    await self._notices.flush()
                subscriptions.pop_all()
                self._has_begun = True

    # --- Notices -----------------------------------------------------------------------------------------

    def hear_change(self, subject: str, body: bytes) -> None:
        """Take a change notice."""
        if not body.startswith(_PREFIX):
            return
        where = _route(subject)
        self._pass(subject, where, body)
        # A change whose handling failed was not received: the next progress finds that one is lost.
        self._progress.received[where.partition] += 1

    def _pass(self, subject: str, where: Route, body: bytes) -> None:
        """Pass a change to who watches its document and to the listeners."""
        at = body.rfind(_SEQUENCE) + len(_SEQUENCE)
        sequence = int(body[at : body.index(b",", at)])
        self._last_sequence = max(sequence, self._last_sequence)
        watch = self._watches.get(subject)
        if watch is None and not self._listeners:
            recent = self._recent[where.partition]
            # In the order of their sequences.
            recent.pop(subject, None)
            recent[subject] = sequence
            return
        key = where.namespace, where.document
        self._projection.note_announced(key, sequence)
        change = Change(int(body[body.rfind(_VERSION) + len(_VERSION) : -1]), sequence, body)
        if watch is not None:
            self._offer(watch, change)
        for listener in tuple(self._listeners):
            listener.take(key, change)

    def hear_progress(self, _: str, body: bytes) -> None:
        """Take a progress notice: all changes that the shard announced before have come, or are lost."""
        shard = self._progress.hear(body, _now())
        if shard is None:
            return
        if shard.due_sequence:
            self._is_due.set()
        for partition in shard.partitions:
            recent, committed = self._recent[partition], self._projection.sequences[partition]
            while recent and recent[subject := next(iter(recent))] <= committed:
                del recent[subject]
        for listener in tuple(self._listeners):
            listener.advance(min(self._progress.announced), self._progress.gap_sequence)

    def _offer(self, watch: Watch, change: Change) -> None:
        """Append a change, or hold it where changes before it are missing."""
        document = watch.document
        watch.newest = max(change.version, watch.newest)
        if document is not None and change.version <= document.version:
            return
        if not change.has_patch:
            pass
        elif document is not None and change.version == document.version + 1:
            document.append(change)
        else:
            watch.hold(change)
        if document is not None:
            self._append_held(watch, document)

    def _append_held(self, watch: Watch, document: WatchedDocument) -> None:
        """Append what is held, and begin to fill the gap where something is missing."""
        if not watch.append_held(document) and watch not in self._filling:
            self._filling[watch] = self.sequence
            self._metrics.gaps.inc()
            self._start(self._fill(watch, document))

    # --- Watched documents -------------------------------------------------------------------------------

    def _add(self, subject: str, key: Key) -> Watch:
        if len(self._watches) >= WATCHED_MAX:
            raise LiveFull(f"{WATCHED_MAX} documents are watched here already")
        partition = _route(subject).partition
        watch = self._watches[subject] = Watch(key, partition)
        # What has come of it is in the head, once that is committed; what comes from now on is held.
        if announced := self._recent[partition].pop(subject, 0):
            self._projection.note_announced(key, announced)
        self._start(self._open(watch))
        return watch

    def _leave(self, subject: str, watch: Watch) -> None:
        watch.users_count -= 1
        if not watch.users_count:
            del self._watches[subject]

    async def _open(self, watch: Watch) -> None:
        try:
            head = await self._head(watch)
        except BaseException as error:
            is_known = isinstance(error, RefoldError)
            watch.opened.set_exception(error if is_known else ServiceUnavailable("the gateway is stopping"))
            # Perhaps nothing waits any more.
            watch.opened.exception()
            if not is_known:
                raise
        else:
            document = WatchedDocument(watch.key, head, ring_bytes_max=self._ring_bytes_max)
            watch.document = document
            watch.opened.set_result(document)
            self._append_held(watch, document)

    async def _head(self, watch: Watch) -> Snapshot:
        """Read a document's head, once more after an audit that could not compare it."""
        head = await self._reader.head(watch.key)
        while watch.is_doubtful:
            watch.is_doubtful = False
            head = await self._reader.head(watch.key)
        return head

    async def _fill(self, watch: Watch, document: WatchedDocument) -> None:
        """Read what a document lacks from history, until it lacks nothing or is not watched any more."""
        try:
            while watch.users_count and document.version < watch.newest:
                version = document.version
                try:
                    await self._fill_once(watch, document)
                except RefoldError as error:
                    get_logger().warning("live_gap_unfilled", code=error.code, error=str(error))
                if document.version == version:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            del self._filling[watch]

    async def _fill_once(self, watch: Watch, document: WatchedDocument) -> None:
        if watch.newest - document.version > RING_CHANGES_MAX:
            # Subscribers would get a snapshot, too.
            head = await self._reader.head(watch.key)
            if head.version > document.version:
                document.reset(head)
        else:
            for change in await self._reader.changes(watch.key, document.version, RING_CHANGES_MAX):
                if change.version == document.version + 1:
                    document.append(change)
        watch.append_held(document)

    def _ring_bytes_max(self) -> int:
        return min(RING_BYTES_MAX, RINGS_BYTES_MAX // max(1, len(self._watches)))

    def _behind_max(self) -> int:
        behind = (it.newest - it.document.version for it in tuple(self._filling) if it.document is not None)
        return max(behind, default=0)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        assert self._tasks is not None, "the feed is running"
        # Not in the context of the request that caused it.
        self._tasks.create_task(work, context=Context())

    # --- Audits ------------------------------------------------------------------------------------------

    async def _audit_regularly(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._is_due.wait()
            self._is_due.clear()
            begun_at = _now()
            if self._has_begun and (why := self._progress.due(begun_at)):
                try:
                    await self._audit(why)
                except RefoldError as error:
                    get_logger().warning("live_audit_failed", code=error.code, error=str(error))
                # While a projector catches up, every progress asks for an audit: they take half the time at most.
                await asyncio.sleep(_now() - begun_at)

    async def _audit(self, why: str) -> None:
        """Compare all watched documents with the store."""
        committed, watches = list(self._projection.sequences), list(self._watches.values())
        opened = {watch.key: (watch, watch.document) for watch in watches if watch.document is not None}
        for watch in watches:
            watch.is_doubtful = watch.document is None
        known = {key: VersionAt(it.version, it.sequence) for key, (_, it) in opened.items()}
        found = await self._store.other_versions(known) if known else {}
        self._metrics.audits.labels(why=why).inc()
        for key, now in found.items():
            watch, document = opened[key]
            if now.version > known[key].version:
                self._catch_up(watch, document, now, why)
            elif known[key].sequence <= committed[watch.partition]:
                # What was announced and committed is no more: the projection was made from another copy of the log.
                # Changes are held until its head is read, as for a document that is opened.
                watch.document, watch.newest = None, 0
                watch.forget()
                self._start(self._restart(watch, document))
        self._progress.settle(committed, _now())

    def _catch_up(self, watch: Watch, document: WatchedDocument, now: VersionAt, why: str) -> None:
        """Bring a document to a version that the store has."""
        if why == "time":
            if now.sequence > self._progress.announced[watch.partition]:
                # Its notice may still come, and the next progress tells whether it was lost.
                return
            if now.version > document.version:
                self._metrics.audit_behind.inc()
        watch.newest = max(now.version, watch.newest)
        self._append_held(watch, document)

    async def _restart(self, watch: Watch, document: WatchedDocument) -> None:
        try:
            head = await self._head(watch)
        except RefoldError as error:
            # The next audit finds it again.
            get_logger().warning("live_restart_failed", code=error.code, error=str(error))
        else:
            document.reset(head)
        watch.document = document
        self._append_held(watch, document)


def _now() -> float:
    return asyncio.get_running_loop().time()


@lru_cache(SUBJECTS_CACHED_MAX)
def _route(subject: str) -> Route:
    """Return the document and partition of a change's subject."""
    return route(subject.encode(), NEWEST.number)
