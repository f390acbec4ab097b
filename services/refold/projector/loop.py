"""The projector's loop over its shard: read, fold, send outcomes and changes, commit on a timer.

Folding continues while the store commits. An outcome is a function of the log, so it does not wait for the store.
Run by `refold.projector.supervisor`, which holds the shard's lease, and by a replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from refold.core import json_text
from refold.core.document import Document, Status
from refold.core.errors import FoldUnknown, raising_first
from refold.core.fold.rules import Step
from refold.core.fold_state import FoldState, WindowNeeded
from refold.core.history import Entry
from refold.core.stream import Record, Route, author_headers
from refold.core.transactions import end_of_part
from refold.history.replayed import whole_history
from refold.log import EventLog, Message, Notices, read_until
from refold.projector import COMMIT_INTERVAL_SECONDS
from refold.projector.announcer import Announcer
from refold.projector.cache import DocumentCache, refuse_ahead
from refold.projector.commit_buffer import RECORDS_FOLDED_MAX, AdaptiveBatch, CommitBuffer, CommitTimer
from refold.projector.contested import ConflictNotices
from refold.projector.notices import change_notice, refusal_notice, reply_notice
from refold.projector.tracing import EventTraces
from refold.projector.windows import keep_windows, load_windows, resume_system, split_by_rules
from refold.store import Key, Rejection
from refold.store.ports import Store
from refold.telemetry.metrics.projector import ProjectorMetrics
from refold.telemetry.slow import report_commit
from refold.telemetry.tracing import Spans

REPLY_AGE_NANOSECONDS: Final = 60 * 1_000_000_000
"""An outcome is sent to `Refold-Reply` only for events younger than this by the broker's clock."""

SUBJECTS_MAX: Final = 100_000
"""Subjects whose document is cached; beyond it the cache is cleared."""

_REJECTED: Final = Status.rejected
_subject_of: Final = itemgetter(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """How much the loop may hold: documents cached, and events folded but not yet committed, and for how long."""

    cache_bytes_max: int
    pending_events_max: int
    pending_bytes_max: int
    commit_interval_seconds: float = COMMIT_INTERVAL_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the loop uses. `replies` is a connection that may publish outcomes, changes and progress and nothing else.

    `broker_now` returns the broker's clock in nanoseconds. `shard` is the shard's name in notices of progress. Where
    the log is folded into several stores, `stores` are their names in their order. `store_name` is this one's.
    """

    log: EventLog
    store: Store
    notices: Notices
    replies: Notices
    metrics: ProjectorMetrics
    broker_now: Callable[[], int]
    timer: Callable[[], float]
    shard: str = "0-63"
    stores: tuple[str, ...] = ()
    store_name: str = ""
    spans: Spans | None = None


class ShardLoop:
    """Fold the log from the checkpoints on, until cancelled or a port fails.

    A loop that failed cannot run again; the next one begins at the checkpoints with an empty memory.
    """

    def __init__(self, ports: Ports, limits: LoopLimits, fold_state: FoldState) -> None:
        self._ports = ports
        self._limits = limits
        self._fold_state = fold_state
        self._history = whole_history(ports.log, ports.store)
        self._documents = DocumentCache(limits.cache_bytes_max)
        self._wanted: set[Key] = set()
        # By stored subject: the names and partition, the document where it is in memory, and the counts of outcomes.
        self._routes: dict[bytes, tuple[Route, Document | None, list[int]]] = {}
        self._buffer = self._new_buffer(fold_state.read_sequence)
        self._batch = AdaptiveBatch(limits.pending_events_max)
        self._timer = CommitTimer(limits.commit_interval_seconds)
        self._replies: list[Message] = []
        self._changes: list[Message] = []
        self._effective_count = 0
        self.announcer = Announcer(
            ports.replies,
            shard=ports.shard,
            stores=ports.stores,
            store=ports.store_name,
            folded_sequence=fold_state.read_sequence,
            broker_now=ports.broker_now,
            timer=ports.timer,
        )
        self._traces = EventTraces.of(ports.spans, ports.broker_now, ports.store_name)
        self._conflicts = ConflictNotices(self._history, self.announcer, ports.metrics, self._uncommitted)
        self._until_sequence: int | None = None
        self._committing: CommitBuffer | None = None
        self._has_work = asyncio.Event()
        self._has_committed = asyncio.Event()
        self._taken_sequence = self.committed_sequence = fold_state.read_sequence
        self.committed_at: float | None = None
        # What readers wait for and is not folded yet: the least of it; 0 for nothing.
        self._awaited_sequence = 0

    async def run(self, until_sequence: int | None = None) -> None:
        """Fold and commit concurrently; raises what either of them raised.

        Follows the log without end, or ends when all up to `until_sequence` is committed and all states are written.
        """
        self._until_sequence = until_sequence
        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                committing = tasks.create_task(self._commit_folded(), name="commit")
                flushing = tasks.create_task(self._flush_states(), name="flush")
                sending = tasks.create_task(self._conflicts.send(), name="conflicts")
                await self._fold_log(until_sequence)
                for task in (committing, flushing, sending):
                    task.cancel()
            await self._ports.store.flush_states(is_final=True)

    @property
    def pending(self) -> tuple[int, int]:
        """Return how many events are folded and not committed, and their memory."""
        buffers = self._uncommitted_buffers()
        return sum(each.events for each in buffers), sum(each.bytes for each in buffers)

    def hear_reader(self, _: str, body: bytes) -> None:
        """Take a gateway's message that a reader waits for a sequence: commit as soon as it is folded."""
        sequence = json_text.object_in(body).get("sequence")
        if type(sequence) is not int or sequence <= self._taken_sequence:
            return
        if sequence <= self._fold_state.read_sequence:
            self._timer.fire()
        else:
            # The gateway repeats what is left when progress comes.
            self._awaited_sequence = min(sequence, self._awaited_sequence or sequence)

    async def _flush_states(self) -> None:
        store = self._ports.store
        outdated = self._ports.metrics.state_lag_documents
        outdated.set(await store.flush_states())
        while store.flush_seconds:
            await asyncio.sleep(store.flush_seconds)
            outdated.set(await store.flush_states())

    async def _fold_log(self, until_sequence: int | None) -> None:
        await resume_system(self._fold_state, self._ports.log, self._ports.store)
        if self.announcer.is_first:
            self.announcer.catch_up_to((await self._ports.log.info()).last_sequence)
        fold_state = self._fold_state
        reading = read_until(self._ports.log, fold_state.read_sequence, until_sequence, fold_state.partitions)
        async with aclosing(reading) as parts:
            async for records in parts:
                if self._traces is not None:
                    self._traces.receive()
                fold_state.members.read(records)
                end = 0
                while end < len(records):
                    # A commit never has a part of a transaction.
                    begin, end = end, end_of_part(records, end, RECORDS_FOLDED_MAX)
                    await self._fold_part(records[begin:end])
        await self._wait_until(lambda: self.committed_sequence == until_sequence)

    async def _fold_part(self, records: list[Record]) -> None:
        try:
            for part in split_by_rules(records, self._fold_state.route):
                number = self._fold_state.fold_number
                await self._load_missing(part)
                await self._fold_all(part)
                if self._fold_state.fold_number != number:
                    # Which names are valid depends on it.
                    self._routes.clear()
        except FoldUnknown:
            # The events before were folded by known rules: send and commit them before stopping.
            await self._send_folded()
            self._has_work.set()
            self._timer.fire()
            await self._wait_until(lambda: self._committing is None and not self._buffer.events)
            raise
        await self._send_folded()
        self._has_work.set()
        if self._is_full() or 0 < self._awaited_sequence <= self._fold_state.read_sequence:
            self._awaited_sequence = 0
            self._timer.fire()
        await asyncio.sleep(0)
        await self._wait_until(lambda: not self._is_full())

    async def _load_missing(self, records: list[Record]) -> None:
        """Load the documents of these records that are not in memory, in one query."""
        if len(self._routes) >= SUBJECTS_MAX:
            self._routes.clear()
        subjects = set(map(_subject_of, records))
        unseen = subjects.difference(self._routes)
        if not unseen:
            return
        unknown = [self._fold_state.route(subject) for subject in unseen]
        missing = {
            where[1:3]: where
            for where in unknown
            if self._is_folded(where) and self._documents.get(where[1:3]) is None
        }
        if missing:
            # Keep all of them until they are folded: the committer may shrink the cache meanwhile.
            self._wanted = {self._fold_state.route(subject)[1:3] for subject in subjects}
            await self._load(missing)
        for subject in subjects:
            where = self._fold_state.route(subject)
            document = self._documents.get(where[1:3]) if self._is_folded(where) else None
            self._routes[subject] = (where, document, self._ports.metrics.folded.of(where.namespace))

    def _is_folded(self, where: Route) -> bool:
        return not where.reason and self._fold_state.has(where.partition)

    async def _load(self, missing: dict[Key, Route]) -> None:
        found = await self._ports.store.load(list(missing))
        ahead = [document for document in found if document.last_sequence > self._fold_state.read_sequence]
        if ahead:
            await refuse_ahead(self._ports.store, ahead[0])
        loaded = {(document.namespace, document.document): document for document in found}
        for key, where in missing.items():
            self._documents.hold(loaded.get(key) or Document.new(where))

    async def _fold_all(self, records: list[Record]) -> None:
        while records:
            try:
                self._fold(records)
            except WindowNeeded as needed:
                records = [record for record in records if record.sequence >= needed.sequence]
                await self._load_windows(records)
            else:
                return

    async def _load_windows(self, records: list[Record]) -> None:
        """Load the changes that these events need, as far as that is known before they are folded."""
        needed: dict[Key, tuple[Document, int]] = {}
        for record in records:
            where, document, _ = self._routes[record.subject]
            if document is None or (b"base" not in record.body and not record.headers):
                continue
            rules = self._fold_state.rules_of(where.namespace)
            version = None if rules.needs is None else rules.needs(rules.decode(record, rules), document)
            if version is not None:
                _, oldest = needed.get(where[1:3], (document, version))
                needed[where[1:3]] = document, min(version, oldest)
        # The committer may shrink the cache meanwhile: these stay in it.
        self._wanted = {self._fold_state.route(record.subject)[1:3] for record in records}
        missing = keep_windows(needed, self._uncommitted_buffers())
        await self._make_readable(missing)
        await load_windows(self._history, missing, self._uncommitted)
        await self._load_missing(records)

    async def _make_readable(self, keys: Collection[Key]) -> None:
        """Wait until all that was folded of these documents can be read; here it is in memory or committed."""

    def _uncommitted(self, key: Key) -> Iterator[Entry]:
        for buffer in self._uncommitted_buffers():
            yield from buffer.entries_of(key)

    def _uncommitted_buffers(self) -> list[CommitBuffer]:
        return [self._buffer] if self._committing is None else [self._committing, self._buffer]

    def _fold(self, records: list[Record]) -> None:
        ports, folded, rejections = self._ports, self._ports.metrics.folded, self._buffer.rejections
        if records[0].sequence <= folded.counted_sequence < records[-1].sequence:
            # The first of them are folded, but not counted, again.
            self._fold([record for record in records if record.sequence <= folded.counted_sequence])
            records = [record for record in records if record.sequence > folded.counted_sequence]
        folded.begin(records[-1].sequence)
        begin, started = len(rejections), ports.timer()
        try:
            self._fold_each(records, ports.broker_now() - REPLY_AGE_NANOSECONDS)
        finally:
            ports.metrics.fold_seconds.observe(ports.timer() - started)
            ports.metrics.count_rejections(rejections[begin:])
            self._effective_count += folded.end(self._fold_state.read_sequence)

    def _fold_each(self, records: list[Record], young: int) -> None:
        routes, buffer, fold, traces = self._routes, self._buffer, self._fold_state.fold, self._traces
        for record in records:
            _, time, subject, _, _ = record
            where, document, counts = routes[subject]
            if document is not None:
                step = fold(record, where, document)
                entry = step[0]
                buffer.add(document, entry)
                status = entry[5]
                counts[status] += 1
                if status is _REJECTED:
                    buffer.rejections.append(Rejection.of_entry(where, entry, self._fold_state.rules.limits))
                elif (fields := step[2]) is not None and "resolves" in fields and status.is_effective:
                    buffer.resolve(where, fields["resolves"], record.sequence)
                if entry[16] is not None:
                    self._conflicts.take(where, entry, document, is_young=time > young)
                if time > young:
                    trace = (
                        b"" if traces is None or not entry[9] else traces.fold(entry, where, buffer.traced)
                    )
                    self._note(step, where, trace)
            elif where.reason and self._fold_state.has(where.partition):
                self._refuse(record, where, is_young=time > young)
                counts[_REJECTED] += 1
            else:
                self._fold_state.skip(record, where)

    def _note(self, step: Step, where: Route, trace: bytes) -> None:
        """Keep the outcome and the change of an event until they are sent, with the header lines of its trace."""
        reply, change = reply_notice(where, step), change_notice(where, step)
        if reply is not None:
            self._replies.append((*reply, trace) if trace else reply)
        if change is not None:
            self._changes.append((*change, trace) if trace else change)

    def _refuse(self, record: Record, where: Route, *, is_young: bool) -> None:
        """Reject an event whose subject names no document; the rejection keeps the event itself."""
        stored = record._replace(headers=author_headers(record.headers))
        rejection = self._buffer.refuse(stored, where, self._fold_state.reject(record, where))
        reply = refusal_notice(rejection, stored.headers) if is_young else None
        if reply is not None:
            self._replies.append(reply)

    async def _wait_until(self, is_met: Callable[[], bool]) -> None:
        """Wait until a condition holds; the committer wakes this."""
        while not is_met():
            self._has_committed.clear()
            await self._has_committed.wait()

    def _is_full(self) -> bool:
        buffer = self._buffer
        return buffer.events >= self._batch.events_max or buffer.bytes >= self._limits.pending_bytes_max

    def _new_buffer(self, after_sequence: int) -> CommitBuffer:
        return CommitBuffer(after_sequence, self._documents.segments)

    async def _commit_folded(self) -> None:
        while True:
            await self._has_work.wait()
            if self._until_sequence is None:
                await self._timer.wait()
            self._has_work.clear()
            self._taken_sequence = self._fold_state.read_sequence
            taken, self._buffer = self._buffer, self._new_buffer(self._taken_sequence)
            self._committing = taken
            self._has_committed.set()
            await self._commit(taken)
            self._committing = None
            self._has_committed.set()
            if self._documents.shrink(taken.keys, self._buffer.keys | self._wanted):
                self._routes.clear()

    async def _commit(self, taken: CommitBuffer) -> None:
        ports = self._ports
        taken_at = ports.timer()
        taken.close_segments()
        commit = taken.to_commit(self._fold_state.checkpoint(taken.after_sequence), ports.store)
        started = ports.timer()
        kind = await ports.store.commit(commit)
        self.committed_sequence = commit.checkpoint.read_sequence
        ended = self.committed_at = ports.timer()
        if self._until_sequence is None:
            self._batch.learn(taken.events, ended - taken_at)
            self._timer.learn(ended - taken_at)
        sizes = taken.events, len(commit.documents), taken.bytes
        trace_id = taken.traced[0].process.trace_id if taken.traced else None
        ports.metrics.count_commit(kind, ended - started, sizes, len(commit.pages), trace_id)
        if self._until_sequence is None:
            sequences = taken.after_sequence + 1, self.committed_sequence
            report_commit(ended - started, *sequences, taken.events, trace_id)
        if self._traces is not None:
            self._traces.commit(taken.traced, ended - taken_at, sizes)
        await self.send_progress()

    async def send_progress(self) -> None:
        """Send how far the shard is: after every commit, and as a sign of life."""
        await self.announcer.send_progress(self.committed_sequence)

    async def _send_folded(self) -> None:
        """Send the outcomes and changes of what was folded; a store that hangs does not delay them."""
        replies, changes, effective = self._replies, self._changes, self._effective_count
        self._replies, self._changes, self._effective_count = [], [], 0
        await self.announcer.send(self._fold_state.read_sequence, replies, changes, effective=effective)
        if self._traces is not None:
            self._traces.send(is_sent=self.announcer.is_leading)
