"""Group commit: appends are sent in groups, a few events one by one, many as one atomic batch.

Used by `refold.log.jetstream`. Everything happens in callbacks of the event loop, so that no task switch delays it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from refold.core.errors import BatchRefused, LogError, LogUnavailable
from refold.log import (
    Acknowledgement,
    Appended,
    Publication,
    Stale,
    Unknown,
    validated_batch,
    validated_headers,
)
from refold.log.jetstream.api import PubAck, parse_pub_ack
from refold.log.jetstream.append_queue import Answer, AppendQueue, PendingAppend, Semaphore
from refold.log.jetstream.client import Client, Reply
from refold.log.jetstream.protocol import Event, batch_frames, message_frame

ACKNOWLEDGE_SECONDS: Final = 5.0
"""Without an acknowledgement by then, it is unknown whether the log has the event."""
APPENDS_MAX: Final = 10_000
"""Appends that wait to be sent or acknowledged; more callers wait for a place."""
GROUPS_MAX: Final = 4
"""Groups in flight; the server allows 50 open batches a stream, over all its clients."""
BATCH_EVENTS_MIN: Final = 10
"""Fewer events are sent one by one: a batch has a fixed cost."""
BATCH_PAUSE_SECONDS: Final = 2.0
"""After the broker refused a batch, events are sent one by one for so long."""

Outcome = PubAck | Unknown | LogUnavailable
"""The broker's reply; or there was none; or nothing was sent."""


class Appender:
    """Send events and answer each caller.

    An event is sent only when all earlier events of its document are answered or are in the same group before it. If
    one of those failed or is in doubt, the event is not sent at all.
    """

    def __init__(self, client: Client, *, acknowledge_seconds: float = ACKNOWLEDGE_SECONDS) -> None:
        self._client = client
        self._acknowledge_seconds = acknowledge_seconds
        self._places = Semaphore(APPENDS_MAX)
        self._queue = AppendQueue()
        self._cost = BatchCost()
        # What is in flight: the groups, also by the tokens of the replies that they await, and their documents.
        self._groups: set[_Group] = set()
        self._by_token: dict[bytes, _Group] = {}
        self._subjects: set[bytes] = set()
        self._tokens = count(1)
        inbox = client.new_inbox()
        self._inbox = f"{inbox}.".encode()
        self._batch_prefix = inbox.rpartition(".")[2].encode()
        self._sid = client.subscribe(f"{inbox}.*", self._take_reply)
        self._is_scheduled = False
        self._is_closed = False
        self._singles_until = 0.0
        self._refusal = BatchRefused()
        self._progress = asyncio.Event()
        self._forget = client.on_disconnect(self._fail_all)

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event, as `EventLog.append` says."""
        answer = await self._enqueue([publication], [validated_headers(publication)])
        return answer[0] if isinstance(answer, list) else answer

    async def append_atomically(self, publications: Sequence[Publication]) -> Answer:
        """Append all or none, as `EventLog.append_atomically` says."""
        headers = validated_batch(publications)
        return await self._enqueue(publications, headers) if publications else []

    async def close(self) -> None:
        """Send what waits, and wait for the answers."""
        self._is_closed = True
        while self._queue or self._groups:
            self._progress.clear()
            await self._progress.wait()
        self._forget()
        self._client.unsubscribe(self._sid)

    async def _enqueue(self, publications: Sequence[Publication], headers: list[bytes]) -> Answer:
        await self._places.acquire()
        try:
            if self._is_closed:
                raise LogUnavailable("the log was closed")
            if len(publications) > 1 and self._sends_singles():
                raise BatchRefused(self._refusal.message, **self._refusal.facts)
            append = PendingAppend(
                events=[_event(*pair) for pair in zip(publications, headers, strict=True)],
                is_strict=any(each.expected_last_sequence is not None for each in publications),
                answer=asyncio.get_running_loop().create_future(),
            )
            self._queue.append(append)
            self._schedule()
            return await append.answer
        finally:
            self._places.release()

    def _schedule(self) -> None:
        """Send at the end of this turn of the event loop, when all its appends are in the queue."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._is_scheduled = False
        singles = self._sends_singles()
        while len(self._groups) < GROUPS_MAX and (
            appends := self._queue.take_group(self._subjects, as_singles=singles)
        ):
            self._send(appends, as_singles=singles)
        self._progress.set()

    def _sends_singles(self) -> bool:
        return asyncio.get_running_loop().time() < self._singles_until

    def _send(self, appends: list[PendingAppend], *, as_singles: bool) -> None:
        """Send a group, as one batch where that is quicker or where a document occurs twice.

        `as_singles`: only an atomic append is sent as a batch.
        """
        subjects = _subjects_of(appends)
        events = sum(len(append.events) for append in appends)
        is_batch = len(subjects) < events or len(appends) < events
        is_batch = is_batch or (not as_singles and self._cost.prefers_batch(events))
        group = _Group(subjects=subjects, events=events, is_batch=is_batch, sent_at=time.perf_counter())
        frames = self._batch(group, appends) if is_batch else self._singles(group, appends)
        late = Unknown(f"no acknowledgement within {self._acknowledge_seconds} seconds")
        loop = asyncio.get_running_loop()
        group.deadline = loop.call_later(self._acknowledge_seconds, self._end, group, late)
        self._groups.add(group)
        self._subjects |= subjects
        try:
            self._client.write(frames)
        except LogUnavailable as error:
            self._end(group, error)

    def _singles(self, group: _Group, appends: list[PendingAppend]) -> bytes:
        frames = []
        for append in appends:
            (event,) = append.events
            reply = self._inbox + self._await(group, [append])
            frames.append(message_frame(event.subject, event.body, headers=event.headers, reply=reply))
        return b"".join(frames)

    def _batch(self, group: _Group, appends: list[PendingAppend]) -> bytes:
        group.first_token = self._await(group, [])
        last_token = self._await(group, appends)
        return batch_frames(
            [event for append in appends for event in append.events],
            b"%b-%b" % (self._batch_prefix, last_token),
            first_reply=self._inbox + group.first_token,
            last_reply=self._inbox + last_token,
        )

    def _await(self, group: _Group, appends: list[PendingAppend]) -> bytes:
        token = b"%d" % next(self._tokens)
        self._by_token[token] = group
        group.awaited[token] = appends
        return token

    def _take_reply(self, subject: bytes, _: bytes, headers: bytes, payload: bytes) -> None:
        token = subject[len(self._inbox) :]
        group = self._by_token.pop(token, None)
        if group is None:
            return
        ack = parse_pub_ack(Reply(headers, payload))
        appends = group.awaited.pop(token)
        if token == group.first_token:
            group.refusal = ack
        elif ack is None:
            self._answer(appends, Unknown("the broker's acknowledgement was empty"))
        else:
            # The refusal of a batch's first event says why; that of its last only that it is incomplete.
            self._answer(appends, group.refusal if ack.code and group.refusal else ack)
        if not any(group.awaited.values()):
            if ack is not None and not ack.code:
                self._cost.learn(group.events, is_batch=group.is_batch, sent_at=group.sent_at)
            self._remove(group)

    def _end(self, group: _Group, outcome: Outcome) -> None:
        """Answer what the broker has not answered."""
        unanswered = [append for appends in group.awaited.values() for append in appends]
        if unanswered:
            self._answer(unanswered, outcome)
        self._remove(group)

    def _remove(self, group: _Group) -> None:
        if group.deadline is not None:
            group.deadline.cancel()
        for token in group.awaited:
            self._by_token.pop(token, None)
        group.awaited.clear()
        self._groups.discard(group)
        self._subjects -= group.subjects
        self._schedule()

    def _answer(self, appends: list[PendingAppend], outcome: Outcome) -> None:
        if isinstance(outcome, Unknown):
            in_doubt = "an earlier event of the document is in doubt; this one was not sent"
            self._refuse(appends, outcome, LogUnavailable(in_doubt))
        elif isinstance(outcome, LogUnavailable):
            self._refuse(appends, outcome, outcome)
        elif not outcome.code:
            _confirm(appends, outcome.sequence)
        elif outcome.is_batch_refused:
            self._resend_singly(appends, outcome)
        elif len(appends) > 1 and outcome.is_stale:
            # The broker does not say which event was stale; halving the group finds it.
            for append in appends:
                append.group_max = len(appends) // 2
            self._queue.extendleft(reversed(appends))
        elif outcome.is_stale:
            appends[0].resolve(Stale())
        else:
            self._refuse(appends, outcome.error(), outcome.error())

    def _resend_singly(self, appends: list[PendingAppend], ack: PubAck) -> None:
        """Send the events of a refused group one by one; only the caller can split an atomic append."""
        self._singles_until = asyncio.get_running_loop().time() + BATCH_PAUSE_SECONDS
        self._refusal = BatchRefused(ack.error().message, broker_code=ack.code)
        if len(appends) > 1:
            self._queue.extendleft(reversed(appends))
        else:
            appends[0].resolve(self._refusal)

    def _refuse(self, appends: list[PendingAppend], answer: Unknown | LogError, later: LogError) -> None:
        """Answer a group, and fail the `later` appends to its documents that wait."""
        for append in appends:
            append.resolve(answer)
        self._queue.fail(later, _subjects_of(appends))

    def _fail_all(self) -> None:
        for group in tuple(self._groups):
            self._end(group, Unknown("the connection was lost before the acknowledgement"))
        self._queue.fail(LogUnavailable("not connected to the broker"))


@dataclass(slots=True, kw_only=True, eq=False)
class _Group:
    """A group in flight: the appends that each awaited reply answers, by the reply's token.

    `first_token` is that of a batch's first event; its reply matters only if it is a refusal.
    """

    subjects: set[bytes]
    events: int
    is_batch: bool
    sent_at: float
    deadline: asyncio.TimerHandle | None = None
    awaited: dict[bytes, list[PendingAppend]] = field(default_factory=dict)
    first_token: bytes = b""
    refusal: PubAck | None = None


class BatchCost:
    """What a group costs at this broker, one by one and as a batch, learned from the groups that were acknowledged.

    A batch is staged in files of its own: it costs 4 to 15 ms more than its events do, by disk and file system. A
    single event costs a sync of 0.1 to 0.4 ms. The estimate that is not in use decays, so that it is tried again.
    """

    _WEIGHT: Final = 0.25
    _DECAY: Final = 0.01
    _EVENT_SECONDS: Final = 15e-6
    # Initial estimates; low, so that both ways are tried.
    _SINGLE_SECONDS: Final = 1e-4
    _BATCH_SECONDS: Final = BATCH_EVENTS_MIN * (_SINGLE_SECONDS - _EVENT_SECONDS)

    def __init__(self) -> None:
        self._single_seconds = self._SINGLE_SECONDS
        self._batch_seconds = self._BATCH_SECONDS
        self._acknowledged_at = 0.0

    def prefers_batch(self, events: int) -> bool:
        """Return whether so many events are stored more quickly as a batch."""
        saved_seconds = events * (self._single_seconds - self._EVENT_SECONDS)
        return events >= BATCH_EVENTS_MIN and saved_seconds >= self._batch_seconds

    def learn(self, events: int, *, is_batch: bool, sent_at: float, now: float | None = None) -> None:
        """Note a group that is acknowledged `now`; the broker processes one group after the other."""
        now = time.perf_counter() if now is None else now
        seconds = now - max(sent_at, self._acknowledged_at)
        self._acknowledged_at = now
        if is_batch:
            self._batch_seconds += (
                seconds - events * self._EVENT_SECONDS - self._batch_seconds
            ) * self._WEIGHT
            self._single_seconds += (self._SINGLE_SECONDS - self._single_seconds) * self._DECAY
        elif events >= BATCH_EVENTS_MIN:
            self._single_seconds += (seconds / events - self._single_seconds) * self._WEIGHT
            self._batch_seconds += (self._BATCH_SECONDS - self._batch_seconds) * self._DECAY


def _event(publication: Publication, headers: bytes) -> Event:
    subject = f"state.{publication.namespace}.{publication.document}".encode()
    if publication.expected_last_sequence is not None:
        headers += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % publication.expected_last_sequence
    return Event(subject, headers, publication.body)


def _subjects_of(appends: list[PendingAppend]) -> set[bytes]:
    return set[bytes]().union(*[append.subjects for append in appends])


def _confirm(appends: list[PendingAppend], last_sequence: int) -> None:
    """Answer a group that was stored contiguously, up to a sequence."""
    sequence = last_sequence - sum(len(append.events) for append in appends)
    for append in appends:
        first, sequence = sequence + 1, sequence + len(append.events)
        append.resolve(list(map(Appended, range(first, sequence + 1))))
