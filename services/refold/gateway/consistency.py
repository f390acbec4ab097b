"""Know how far the projection is, by partition, and wait for it: no read answers behind what it asks for.

Used by everything that must not answer before the projection is there; `watch` runs as long as the gateway does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import time_ns
from typing import Final, NamedTuple

import orjson

from refold.core.errors import LogUnavailable, StoreError, TimedOut
from refold.core.history import NEVER, Clock, Point
from refold.core.json_text import INTEGER_MAX
from refold.core.stream import PARTITIONS, partition_of
from refold.core.timestamp import TIME_MIN_NANOSECONDS, format_time, parse_time
from refold.gateway.inflight import waiting, waiting_count
from refold.gateway.limits import (
    DOCUMENTS_SEEN_MAX,
    NOTICE_WAIT_SECONDS,
    VERSION_LOOK_SECONDS,
    VERSION_LOOKS_PER_SECOND_MAX,
)
from refold.gateway.requests import PointQuery
from refold.gateway.responses import Problem
from refold.log import EventLog
from refold.store import Head, Key
from refold.store.ports import SnapshotStore
from refold.telemetry.logging import get_logger

Listen = Callable[[str, Callable[[str, bytes], None]], Awaitable[Callable[[], None]]]
"""Subscribe to a subject; the returned function ends the subscription."""

ALL_PARTITIONS: Final = range(PARTITIONS)


class Consistency:
    """How far each partition is known to be folded and committed; it only grows.

    `sequences` are by partition, and `sequence` is the least of them. `clock` is the monotone recorded time up to which
    everything is folded. `released` is set when the gateway stops.
    """

    def __init__(self, log: EventLog, store: SnapshotStore, listen: Listen) -> None:
        """Read what no notice said from log and store; subscribe to the changes that a read waits for."""
        self._log = log
        self._store = store
        self._listen = listen
        self.sequences = [0] * PARTITIONS
        self._clock_sequence = 0
        self._awaited: dict[asyncio.Future[None], tuple[int, range]] = {}
        self._has_waiters = asyncio.Event()
        self._watched: dict[str, _Watched] = {}
        self.sequence = 0
        self.clock = TIME_MIN_NANOSECONDS
        self.released = asyncio.Event()

    def hear(self, _: str, body: bytes) -> None:
        """Take a progress notice: of one shard, or of all partitions where it names none."""
        notice = _object_in(body)
        sequence = notice.get("sequence")
        partitions = _partitions_of(notice.get("shard"))
        if type(sequence) is int and partitions is not None:
            self._advance(sequence, partitions)

    async def refresh(self) -> int:
        """Read the checkpoints; return the sequence up to which everything is committed."""
        checkpoints = await self._store.checkpoints()
        if not checkpoints:
            return 0
        self.clock = max(self.clock, min(checkpoint.recorded_at for checkpoint in checkpoints))
        self._clock_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
        if all(checkpoint.read_sequence == self._clock_sequence for checkpoint in checkpoints):
            self._advance(self._clock_sequence, ALL_PARTITIONS)
        else:
            for checkpoint in checkpoints:
                partition = checkpoint.partition
                self._advance(checkpoint.read_sequence, range(partition, partition + 1))
        return self._clock_sequence

    async def reach(self, sequence: int, deadline: float, key: Key | None = None) -> bool:
        """Wait until a sequence is folded, in a document's partition or in all.

        Returns False if the deadline (the loop's clock) passes first. Raises `Crowded` if too many requests wait.
        """
        if self.sequence >= sequence:
            return True
        if self.released.is_set():
            return False
        async with waiting():
            return await self._reached(sequence, deadline, _partitions(key))

    async def catch_up(self, deadline: float, key: Key | None = None) -> bool:
        """Wait until everything that the log holds now is folded; False if the deadline passes first."""
        async with waiting():
            while True:
                try:
                    info = await self._log.info()
                except LogUnavailable:
                    if asyncio.get_running_loop().time() + NOTICE_WAIT_SECONDS >= deadline:
                        return False
                    # The log's adapter reconnects by itself; asking again is the only way to know when it has.
                    await asyncio.sleep(NOTICE_WAIT_SECONDS)
                else:
                    return await self.reach(info.last_sequence, deadline, key)

    async def wait_for_point(
        self, query: PointQuery, deadline: float, key: Key | None = None
    ) -> Point | None:
        """Return the point that a query asks for, once everything before it is folded; None if it asks for none.

        A point by occurred time is of what is folded now: an author may always add something earlier.
        """
        if query.sequence is not None:
            await self.wait_for_sequence(query.sequence, deadline, key)
            return Point(Clock.sequence, query.sequence)
        if query.at is None:
            return None
        time = parse_time(query.at, now=time_ns())
        if query.clock == "occurred":
            return Point(Clock.occurred, time)
        await self.wait_for_time(time, deadline, key)
        return Point(Clock.recorded, time)

    async def refuse_future(self, sequence: int) -> None:
        """Refuse a sequence that the log does not have yet."""
        if sequence > self.sequence:
            async with waiting():
                info = await self._log.info()
            if sequence > info.last_sequence:
                end = info.last_sequence
                detail = f"sequence: the log ends at {end}"
                raise Problem(422, "sequence_in_future", detail, field="sequence", last_sequence=end)

    async def wait_for_sequence(self, sequence: int, deadline: float, key: Key | None = None) -> None:
        """Wait until the log is folded up to a sequence. Raises `TimedOut`."""
        if not await self.reach(sequence, deadline, key):
            detail = "the projection did not reach the sequence in time"
            raise TimedOut(detail, sequence=sequence, folded_sequence=self.sequence)

    async def wait_for_version(self, key: Key, version: int, deadline: float) -> None:
        """Wait until a document is at a version or past it, woken by its own change notices. Raises `TimedOut`."""
        if await self._version(key) >= version:
            return
        async with waiting(), self._watching(key) as watched:
            found, looked_at, announced = 0, -1, 0
            while True:
                folded = self._least(_partitions(key))
                if folded > looked_at:
                    looked_at, found = folded, await self._version(key)
                    if found >= version:
                        return
                if self.released.is_set() or _now() >= deadline:
                    raise TimedOut(
                        "the document did not reach the version in time", version=version, head=found
                    )
                # A notice may be lost: look again if the partition has moved, but less often in a crowd.
                look_seconds = max(VERSION_LOOK_SECONDS, waiting_count() / VERSION_LOOKS_PER_SECOND_MAX)
                until = min(deadline, _now() + look_seconds)
                sequence = await watched.reach(version, until, after=announced)
                if sequence:
                    announced = sequence
                    await self.reach(sequence, deadline, key)

    async def wait_for_time(self, time: int, deadline: float, key: Key | None = None) -> None:
        """Wait until no event that is not folded yet can be recorded at or before a time. Raises `TimedOut`.

        A time before the folded clock needs no request to the log; else all that the log holds must be folded.
        """
        if await self.is_past(time):
            return
        try:
            async with waiting():
                info = await self._log.info()
        except LogUnavailable:
            await self.refresh()
            if time < self.clock:
                return
            raise
        if time > info.time:
            detail = f"at: a time at or before now, which is {format_time(info.time)} by the broker's clock"
            raise Problem(422, "time_in_future", detail, field="at")
        await self.wait_for_sequence(info.last_sequence, deadline, key)

    async def is_past(self, time: int) -> bool:
        """Return whether the folded clock is past a time; read the checkpoints if more is folded than then."""
        if time >= self.clock and self.sequence > self._clock_sequence:
            await self.refresh()
        return time < self.clock

    def release(self) -> None:
        """End every wait, because the gateway is stopping."""
        self.released.set()
        self._wake(INTEGER_MAX)
        for watched in self._watched.values():
            watched.release()

    async def watch(self) -> None:
        """Read the checkpoints while a request waits, since a notice may be lost."""
        while True:
            await self._has_waiters.wait()
            known = list(self.sequences)
            await asyncio.sleep(NOTICE_WAIT_SECONDS)
            if not (self._awaited or self._watched):
                self._has_waiters.clear()
            elif self.sequences == known:
                try:
                    await self.refresh()
                except StoreError as error:
                    get_logger().warning("progress_unknown", code=error.code, error=str(error))

    async def _reached(self, sequence: int, deadline: float, partitions: range) -> bool:
        if self._least(partitions) >= sequence:
            return True
        reached = asyncio.get_running_loop().create_future()
        self._awaited[reached] = sequence, partitions
        self._has_waiters.set()
        try:
            async with asyncio.timeout_at(deadline):
                await reached
        except TimeoutError:
            return False
        finally:
            del self._awaited[reached]
        return not self.released.is_set()

    def _advance(self, sequence: int, partitions: range) -> None:
        is_news = False
        for partition in partitions:
            if sequence > self.sequences[partition]:
                self.sequences[partition] = sequence
                is_news = True
        if is_news:
            self.sequence = min(self.sequences)
            self._wake(sequence)

    def _wake(self, sequence: int) -> None:
        # Only those that have what they wait for: thousands may wait, and a notice comes with every commit.
        for reached, (awaited, partitions) in self._awaited.items():
            is_folded = self.released.is_set() or self._least(partitions) >= awaited
            if awaited <= sequence and is_folded and not reached.done():
                reached.set_result(None)

    def _least(self, partitions: range) -> int:
        return self.sequence if partitions is ALL_PARTITIONS else self.sequences[partitions.start]

    async def _version(self, key: Key) -> int:
        head = await self._store.head(*key)
        return 0 if head is None else head.snapshot.version

    @asynccontextmanager
    async def _watching(self, key: Key) -> AsyncIterator[_Watched]:
        """Subscribe to a document's changes, once for all that wait for it."""
        subject = f"change.{key[0]}.{key[1]}"
        watched = self._watched.get(subject)
        if watched is None:
            watched = self._watched[subject] = _Watched()
            self._has_waiters.set()
        watched.users_count += 1
        try:
            await watched.subscribe(self._listen, subject)
            yield watched
        finally:
            watched.users_count -= 1
            if not watched.users_count:
                del self._watched[subject]
                watched.unsubscribe()


class _Watched:
    """A document that reads wait for: the newest change heard of, and who waits for which version."""

    def __init__(self) -> None:
        self.users_count = 0
        self._version = 0
        self._sequence = 0
        self._awaited: dict[asyncio.Future[None], int] = {}
        self._lock = asyncio.Lock()
        self._end: Callable[[], None] | None = None

    async def subscribe(self, listen: Listen, subject: str) -> None:
        async with self._lock:
            if self._end is None:
                self._end = await listen(subject, self._hear)

    def unsubscribe(self) -> None:
        if self._end is not None:
            self._end()

    async def reach(self, version: int, deadline: float, *, after: int) -> int:
        """Return the sequence of a change at or past a version, newer than `after`; 0 if the deadline passes first."""
        if self._version < version or self._sequence <= after:
            reached = asyncio.get_running_loop().create_future()
            self._awaited[reached] = version
            try:
                async with asyncio.timeout_at(deadline):
                    await reached
            except TimeoutError:
                return 0
            finally:
                del self._awaited[reached]
        return self._sequence if self._version >= version else 0

    def release(self) -> None:
        for reached in self._awaited:
            if not reached.done():
                reached.set_result(None)

    def _hear(self, _: str, body: bytes) -> None:
        change = _object_in(body)
        version, sequence = change.get("version"), change.get("sequence")
        if type(version) is not int or type(sequence) is not int or version <= self._version:
            return
        self._version, self._sequence = version, sequence
        for reached, awaited in self._awaited.items():
            if awaited <= version and not reached.done():
                reached.set_result(None)


class BareHead(NamedTuple):
    """A document's head without its state."""

    version: int
    last_sequence: int
    is_absent: bool


BEFORE_ALL: Final = BareHead(NEVER.version, 0, is_absent=True)
"""The head of a document that never had an event."""


class HeadCache:
    """The heads of the documents that this gateway read or wrote last, so that a strict write need not ask.

    A head may be old, never wrong: the log itself refuses an append after a sequence that is no longer the last.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._heads: dict[Key, BareHead] = {}

    def put(self, key: Key, head: BareHead) -> None:
        """Remember a head, unless a newer one is known."""
        # Taken out and put back, so that the dictionary is in the order of use.
        known = self._heads.pop(key, head)
        self._heads[key] = known if known.last_sequence > head.last_sequence else head
        if len(self._heads) > DOCUMENTS_SEEN_MAX:
            del self._heads[next(iter(self._heads))]

    def put_row(self, key: Key, row: Head | None) -> BareHead:
        """Remember a document's row, and return its head."""
        if row is None:
            return BEFORE_ALL
        head = BareHead(row.snapshot.version, row.last_sequence, row.snapshot.state is None)
        self.put(key, head)
        return head

    def get(self, key: Key) -> BareHead | None:
        """Return a document's head as it was last seen; None if it is not known."""
        return self._heads.get(key)

    def forget(self, key: Key) -> None:
        """Forget a head that is known to be old."""
        self._heads.pop(key, None)


def _partitions(key: Key | None) -> range:
    if key is None:
        return ALL_PARTITIONS
    partition = partition_of(key[0].encode(), key[1].encode())
    return range(partition, partition + 1)


def _partitions_of(shard: object) -> range | None:
    """Read a shard's name, `FIRST-LAST`, such as `0-63`; all partitions without one, None for anything else."""
    if shard is None:
        return ALL_PARTITIONS
    first, _, last = str(shard).partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < PARTITIONS):
        return None
    return range(int(first), int(last) + 1)


def _object_in(body: bytes) -> dict[str, object]:
    """Read a notice; empty for a body that is none: any client can make the broker send to any subject."""
    try:
        notice = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return notice if isinstance(notice, dict) else {}


def _now() -> float:
    return asyncio.get_running_loop().time()
