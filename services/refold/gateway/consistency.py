"""Track how far the projection is, by partition, and wait for it, so that no read is answered from an older state.

Used by everything that must not answer before the projection is there; `watch` runs as long as the gateway does.
`HeadCache` saves strict writes a query.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.errors import LogUnavailable, Refused, StoreError, TimedOut
from refold.core.history import NEVER
from refold.core.stream import PARTITIONS, parse_shard
from refold.core.timestamp import TIME_MIN_NANOSECONDS, format_time
from refold.gateway.announced import Announced
from refold.gateway.inflight import Waiters, deadline_in, waiting
from refold.gateway.responses import Problem
from refold.log import COMMIT_SUBJECT, EventLog, Notices, change_subject
from refold.store import ANY_VERSION, Head, Key, partition_of_key
from refold.store.layers.sources import Sources
from refold.store.ports import Reader
from refold.telemetry.logging import get_logger

NOTICE_WAIT_SECONDS: Final = 0.25
"""Without a notice, the store is asked at this interval, and the projector again for a commit."""

VERSION_LOOK_SECONDS: Final = 1.0
"""A read that waits for a version looks at the head this often where no notice of a change came but more is folded."""

VERSION_LOOKS_PER_SECOND_MAX: Final = 1_000
"""Looks, per second, by all reads that wait for a version: while many wait, each looks less often."""

HEADS_MAX: Final = 20_000
"""Documents in the head cache; about 300 bytes each."""

ALL_PARTITIONS: Final = range(PARTITIONS)


class Consistency:
    """Track how far each partition is known to be folded and committed; it only grows.

    `sequences` are by partition, and `sequence` is the least of them. `clock` is the monotone recorded time up to which
    everything is folded. `released` is set when the gateway stops. Outcomes and changes come before their commit: what
    this gateway has received, and may have sent on, is in `_announced` until it is committed, and reads wait for it.
    `known_sequence` is the highest sequence that is known to be in the log.
    """

    def __init__(
        self, log: EventLog, store: Reader, notices: Notices, sources: Sources | None = None
    ) -> None:
        """With `sources`, `store` reads from several stores: a sequence is committed once any of them has it."""
        self._log = log
        self._sources = sources
        self._store = store
        self._notices = notices
        self.sequences = [0] * PARTITIONS
        self.sequence = self.known_sequence = 0
        self.clock = TIME_MIN_NANOSECONDS
        self._clock_sequence = 0
        self._waiters: Waiters[tuple[int, range]] = Waiters()
        self._watched: dict[str, _Watched] = {}
        self._watchers_count = 0
        self._announced = Announced()
        self._has_waiting, self._has_progressed = asyncio.Event(), asyncio.Event()
        self.released = asyncio.Event()

    # --- What is known -----------------------------------------------------------------------------------

    def hear(self, _: str, body: bytes) -> None:
        """Take a notice of progress or of a store's commit: of one shard, or of all partitions where it names none."""
        # Any client can make the broker send anything to any subject.
        notice = json_text.object_in(body)
        sequence, folded = notice.get("sequence"), notice.get("folded")
        partitions = _partitions_of(notice.get("shard"))
        if type(folded) is int:
            self.known_sequence = max(folded, self.known_sequence)
        if type(sequence) is int and partitions is not None:
            if self._sources is not None:
                store, epoch = notice.get("store"), notice.get("epoch")
                self._sources.note_committed(store, sequence, partitions, deadline_in(0), epoch)
            self._advance(sequence, partitions)

    async def refresh(self) -> int:
        """Read the checkpoints; return the sequence up to which everything is committed."""
        checkpoints = await self._store.checkpoints()
        if not checkpoints:
            return 0
        self.clock = max(self.clock, min(checkpoint.recorded_at for checkpoint in checkpoints))
        self._clock_sequence = min(checkpoint.read_sequence for checkpoint in checkpoints)
        self._advance(self._clock_sequence, ALL_PARTITIONS)
        for checkpoint in checkpoints:
            if checkpoint.read_sequence > self._clock_sequence:
                self._advance(checkpoint.read_sequence, range(checkpoint.partition, checkpoint.partition + 1))
        return self._clock_sequence

    async def watch(self) -> None:
        """While requests wait: ask the projector for commits, and read the checkpoints where no notice comes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_for_commits(), name="ask-for-commits")
            tasks.create_task(self._read_checkpoints(), name="read-checkpoints")

    async def _ask_for_commits(self) -> None:
        """Ask for what requests wait for, and again only once progress has come, or should have."""
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            wanted = max((sequence for sequence, _ in self._waiters.wanted()), default=0)
            if not wanted:
                continue
            self._has_progressed.clear()
            await self._notices.send_all([(COMMIT_SUBJECT, b'{"sequence":%d}' % wanted)])
            with suppress(TimeoutError):
                async with asyncio.timeout(NOTICE_WAIT_SECONDS):
                    await self._has_progressed.wait()
            self._has_waiting.set()

    async def _read_checkpoints(self) -> None:
        while True:
            known = list(self.sequences)
            await asyncio.sleep(NOTICE_WAIT_SECONDS)
            if (len(self._waiters) or self._watched) and self.sequences == known:
                try:
                    await self.refresh()
                except StoreError as error:
                    get_logger().warning("progress_unknown", code=error.code, error=str(error))

    def release(self) -> None:
        """End every wait, because the gateway is stopping."""
        self.released.set()
        self._waiters.release()
        for watched in self._watched.values():
            watched.waiters.release()

    # --- Waits -------------------------------------------------------------------------------------------

    async def reach(self, sequence: int, deadline: float, key: Key | None = None) -> bool:
        """Wait until a sequence is folded, in a document's partition or in all.

        Returns False if the deadline (the loop's clock) passes first. Raises `Problem` if too many requests wait.
        """
        if self._sources is None and self.sequence >= sequence:
            return True
        return await self._reach(sequence, deadline, _partitions(key))

    async def _reach(self, sequence: int, deadline: float, partitions: range) -> bool:
        if self._least(partitions) < sequence:
            self._has_waiting.set()
            if not await self._waiters.wait((sequence, partitions), deadline):
                return False
        self._require(sequence, partitions)
        return True

    def _require(self, sequence: int, partitions: range) -> None:
        """Make what is read from now on have a sequence, whichever store it is read from."""
        if self._sources is not None:
            self._sources.require(sequence, partitions)

    async def catch_up(self, deadline: float, key: Key | None = None) -> bool:
        """Wait until everything that the log holds now is folded; False if the deadline passes first."""
        async with waiting():
            while True:
                try:
                    info = await self._log.info()
                except LogUnavailable:
                    if deadline_in(NOTICE_WAIT_SECONDS) >= deadline:
                        return False
                    # The log's adapter reconnects by itself; asking again is the only way to know when it has.
                    await asyncio.sleep(NOTICE_WAIT_SECONDS)
                else:
                    return await self.reach(info.last_sequence, deadline, key)

    async def refuse_future(self, sequence: int, field: str = "sequence") -> None:
        """Refuse a sequence that the log does not have yet."""
        if sequence > self.known_sequence:
            async with waiting():
                info = await self._log.info()
            if sequence > info.last_sequence:
                end = info.last_sequence
                detail = f"{field}: the log ends at {end}"
                raise Problem(422, "sequence_in_future", detail, field=field, last_sequence=end)

    async def wait_for_sequence(self, sequence: int, deadline: float, key: Key | None = None) -> None:
        """Wait until the log is folded up to a sequence. Raises `TimedOut`."""
        if not await self.reach(sequence, deadline, key):
            raise self._behind(sequence)

    async def wait_for_version(self, key: Key, version: int, deadline: float) -> None:
        """Wait until a document is at a version or past it, woken by its own change notices. Raises `TimedOut`."""
        if await self._version(key) >= version:
            return
        partitions = _partitions(key)
        async with waiting(), self._watching(key) as watched:
            found, looked_at, announced = 0, -1, 0
            while True:
                folded = self._least(partitions)
                if folded > looked_at:
                    looked_at, found = folded, await self._version(key)
                    if found >= version:
                        return
                if self.released.is_set() or deadline_in(0) >= deadline:
                    raise TimedOut(
                        "the document did not reach the version in time", version=version, head=found
                    )
                # A notice may be lost: look again if the partition has moved, but less often in a crowd.
                look_seconds = max(VERSION_LOOK_SECONDS, self._watchers_count / VERSION_LOOKS_PER_SECOND_MAX)
                until = min(deadline, deadline_in(look_seconds))
                if await watched.reach(version, until, after=announced):
                    announced = watched.sequence
                    await self.reach(announced, deadline, key)

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
        is_past = time < self.clock
        if is_past:
            self._require(self._clock_sequence, ALL_PARTITIONS)
        return is_past

    # --- What this gateway has received before the projection had it --------------------------------------

    def note_announced(self, key: Key, sequence: int) -> None:
        """Make reads of a document wait for an event whose outcome or change has come."""
        partition = partition_of_key(key)
        self.known_sequence = max(sequence, self.known_sequence)
        if sequence > self.sequences[partition]:
            self._announced.note(partition, key, sequence)
        else:
            self._require(sequence, range(partition, partition + 1))

    def awaited_sequence(self, key: Key) -> int:
        """Return the last sequence that was received about a document and is not committed yet; 0 for none."""
        partition = partition_of_key(key)
        sequence = self._announced.of_document(partition, key)
        return sequence if sequence > self.sequences[partition] else 0

    async def wait_for_announced(
        self, deadline: float, namespace: str | None = None, document: str | None = None
    ) -> None:
        """Wait until the projection has what was received about a document, a namespace or all. Raises `TimedOut`."""
        if namespace is not None and document is not None:
            key = namespace, document
            partition = partition_of_key(key)
            wanted = [(partition, self._announced.of_document(partition, key))]
        else:
            wanted = self._announced.of_namespace(namespace)
        for partition, sequence in wanted:
            if sequence > self.sequences[partition] and not await self._reach(
                sequence, deadline, range(partition, partition + 1)
            ):
                raise self._behind(sequence)

    def _behind(self, sequence: int) -> TimedOut:
        detail = "the projection did not reach the sequence in time"
        return TimedOut(detail, sequence=sequence, folded_sequence=self.sequence)

    def _advance(self, sequence: int, partitions: range) -> None:
        behind = [partition for partition in partitions if sequence > self.sequences[partition]]
        for partition in behind:
            self.sequences[partition] = sequence
            announced_sequence = self._announced.forget(partition, sequence)
            if announced_sequence:
                # One store has it; those that have not may not answer.
                self._require(announced_sequence, range(partition, partition + 1))
        if behind:
            self.sequence = min(self.sequences)
            self.known_sequence = max(sequence, self.known_sequence)
            self._has_progressed.set()
            # Only those that have what they wait for: thousands may wait, and a notice comes with every commit.
            self._waiters.wake(lambda wanted: wanted[0] <= sequence and self._least(wanted[1]) >= wanted[0])

    def _least(self, partitions: range) -> int:
        return self.sequence if partitions is ALL_PARTITIONS else self.sequences[partitions.start]

    async def _version(self, key: Key) -> int:
        head = await self._store.head(*key, known_version=ANY_VERSION)
        return 0 if head is None else head.snapshot.version

    @asynccontextmanager
    async def _watching(self, key: Key) -> AsyncIterator[_Watched]:
        """Subscribe to a document's changes, once for all that wait for it."""
        subject = change_subject(*key)
        watched = self._watched.setdefault(subject, _Watched(partial(self.note_announced, key)))
        watched.users_count += 1
        self._watchers_count += 1
        try:
            async with watched.lock:
                watched.end = watched.end or await self._notices.listen(subject, watched.hear)
            yield watched
        finally:
            self._watchers_count -= 1
            watched.users_count -= 1
            if not watched.users_count:
                del self._watched[subject]
                if watched.end is not None:
                    watched.end()


class _Watched:
    """A document that reads wait for: the newest change heard of, and which version each waits for."""

    def __init__(self, note: Callable[[int], None]) -> None:
        self._note = note
        self.users_count = 0
        self.sequence = 0
        self.waiters: Waiters[int] = Waiters()
        self.lock = asyncio.Lock()
        self.end: Callable[[], None] | None = None
        self._version = 0

    async def reach(self, version: int, deadline: float, *, after: int) -> bool:
        """Wait for a change to a version or past it, newer than `after`; False if the deadline passes first."""
        if self._version >= version and self.sequence > after:
            return True
        return await self.waiters.wait(version, deadline)

    def hear(self, _: str, body: bytes) -> None:
        change = json_text.object_in(body)
        version, sequence = change.get("version"), change.get("sequence")
        if type(version) is int and type(sequence) is int and version > self._version:
            self._note(sequence)
            self._version, self.sequence = version, sequence
            self.waiters.wake(lambda wanted: wanted <= version)


class BareHead(NamedTuple):
    """A document's head without its state."""

    version: int
    last_sequence: int
    is_absent: bool


BEFORE_ALL: Final = BareHead(NEVER.version, 0, is_absent=True)
"""The head of a document that never had an event."""


class HeadCache(dict[Key, BareHead]):
    """The heads of the documents that this gateway read or wrote last, so that a strict write need not ask.

    A head may be old, never wrong: the log itself refuses an append after a sequence that is no longer the last.
    """

    def put(self, key: Key, head: BareHead) -> None:
        """Remember a head, unless a newer one is known."""
        # Taken out and put back, so that the dictionary is in the order of use.
        known = self.pop(key, head)
        self[key] = known if known.last_sequence > head.last_sequence else head
        if len(self) > HEADS_MAX:
            del self[next(iter(self))]

    def put_row(self, key: Key, row: Head | None) -> BareHead:
        """Remember a document's row, and return its head."""
        if row is None:
            return BEFORE_ALL
        head = BareHead(row.snapshot.version, row.last_sequence, row.snapshot.state is None)
        self.put(key, head)
        return head


def _partitions(key: Key | None) -> range:
    if key is None:
        return ALL_PARTITIONS
    partition = partition_of_key(key)
    return range(partition, partition + 1)


def _partitions_of(shard: object) -> range | None:
    """Read a shard's name; all partitions without one, None for anything else."""
    try:
        return ALL_PARTITIONS if shard is None else parse_shard(str(shard))
    except Refused:
        return None
