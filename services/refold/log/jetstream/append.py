"""Group commit: one group of appends is in flight at a time, a few events singly, many as one atomic batch.

Used by `refold.log.jetstream`. Everything happens in callbacks of the event loop, so that no task switch delays it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from refold.core.errors import BatchRefused, LogError, LogUnavailable
from refold.core.stream import token_of
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
from refold.log.jetstream.append_queue import Answer, AppendQueue, Group, PendingAppend
from refold.log.jetstream.client import Client, Reply
from refold.log.jetstream.protocol import Event, batch_frames, message_frame
from refold.log.semaphore import Semaphore

ACKNOWLEDGE_SECONDS: Final = 5.0
"""Without an acknowledgement by then, it is unknown whether the log has the event."""
OVERDUE_SECONDS: Final = 0.5
"""A group that is not acknowledged by then does not hold up the next one."""
TIMER_STEPS: Final = 4
"""Both are looked for so many times in the shorter one."""
APPENDS_MAX: Final = 10_000
"""Appends that wait to be sent or acknowledged; more callers wait for a place."""
BATCH_EVENTS_MIN: Final = 20
"""Fewer events are always sent singly: a batch has a fixed cost."""
BATCH_PAUSE_SECONDS: Final = 2.0
"""After the broker refused a batch, events are sent one by one for so long."""

Outcome = PubAck | Unknown | LogUnavailable
"""The broker's reply; or there was none; or nothing was sent."""


class Appender:
    """Send events and answer each caller.

    What arrives while a group is in flight is the next group: several in flight would be smaller, and the broker
    processes them one after the other. Only an overdue one is joined by the next, without the documents of the overdue
    one. If an event failed or is in doubt, the later ones of its document that wait are not sent at all.
    """

    def __init__(self, client: Client, *, acknowledge_seconds: float = ACKNOWLEDGE_SECONDS) -> None:
        self._client = client
        self._acknowledge_seconds = acknowledge_seconds
        self._places = Semaphore(APPENDS_MAX)
        self._queue = AppendQueue()
        self._cost = BatchCost()
        self._in_flight: list[_InFlight] = []
        self._tokens = count(1)
        inbox = client.new_inbox()
        self._inbox = f"{inbox}.".encode()
        self._batch_prefix = inbox.rpartition(".")[2].encode()
        self._sid = client.subscribe(f"{inbox}.*", self._take_reply)
        self._is_scheduled = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._singles_until = 0.0
        self._refusal = BatchRefused()
        self._progress = asyncio.Event()
        self._forget = client.on_disconnect(self._fail_all)
        self.observe_group: Callable[[int], object] = _not_observed
        """Called with the number of events of each group that is sent."""

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event, as `EventLog.append` says."""
        event = _event(publication, validated_headers(publication))
        answer = await self._enqueue([event], is_strict=publication.expected_last_sequence is not None)
        return answer[0] if isinstance(answer, list) else answer

    async def append_atomically(self, publications: Sequence[Publication]) -> Answer:
        """Append all or none, as `EventLog.append_atomically` says."""
        events = list(map(_event, publications, validated_batch(publications)))
        is_strict = any(each.expected_last_sequence is not None for each in publications)
        return await self._enqueue(events, is_strict=is_strict) if events else []

    async def close(self) -> None:
        """Send what waits, and wait for the answers."""
        self._is_closed = True
        while self._queue or self._in_flight:
            self._progress.clear()
            await self._progress.wait()
        self._forget()
        if self._timer is not None:
            self._timer.cancel()
        self._client.unsubscribe(self._sid)

    async def _enqueue(self, events: list[Event], *, is_strict: bool) -> Answer:
        await self._places.acquire()
        try:
            if self._is_closed:
                raise LogUnavailable("the log was closed")
            if len(events) > 1 and self._sends_singles():
                raise BatchRefused(self._refusal.message, **self._refusal.facts)
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._queue.append(PendingAppend(events, answer, is_strict=is_strict))
            self._schedule()
            return await answer
        finally:
            self._places.release()

    def _schedule(self) -> None:
        """Send at the end of this turn of the event loop, when all its appends are in the queue."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._is_scheduled = False
        if all(sent.is_overdue for sent in self._in_flight):
            blocked = set[bytes]().union(*[sent.subjects for sent in self._in_flight])
            events_min = math.inf if self._sends_singles() else self._cost.batch_events_min
            group = self._queue.take_group(events_min, blocked)
            if group.appends:
                self._send(group)
        self._progress.set()

    def _sends_singles(self) -> bool:
        return asyncio.get_running_loop().time() < self._singles_until

    def _send(self, group: Group) -> None:
        sent = _InFlight(subjects=group.subjects, events=group.events, is_batch=group.is_batch)
        self._in_flight.append(sent)
        self.observe_group(sent.events)
        if self._timer is None:
            self._start_timer()
        frames = (self._batch if sent.is_batch else self._singles)(sent, group.appends)
        try:
            self._client.write(frames)
        except LogUnavailable as error:
            self._end(sent, error)

    def _start_timer(self) -> None:
        # One for all groups: a timer for each would take as long as its frames.
        seconds = min(OVERDUE_SECONDS, self._acknowledge_seconds) / TIMER_STEPS
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look_for_late)

    def _look_for_late(self) -> None:
        """Let the next group join what is overdue; end what was not acknowledged in time."""
        self._timer = None
        now = time.perf_counter()
        for sent in tuple(self._in_flight):
            waited_seconds = now - sent.sent_at
            if waited_seconds >= self._acknowledge_seconds:
                self._end(sent, Unknown(f"no acknowledgement within {self._acknowledge_seconds} seconds"))
            elif waited_seconds >= OVERDUE_SECONDS and not sent.is_overdue:
                sent.is_overdue = True
                self._schedule()
        if self._in_flight:
            self._start_timer()

    def _singles(self, sent: _InFlight, appends: list[PendingAppend]) -> bytes:
        frames = []
        for append in appends:
            (event,) = append.events
            reply = self._inbox + self._await(sent, [append])
            frames.append(message_frame(event.subject, event.body, headers=event.headers, reply=reply))
        return b"".join(frames)

    def _batch(self, sent: _InFlight, appends: list[PendingAppend]) -> bytes:
        first_token, last_token = self._await(sent, []), self._await(sent, appends)
        return batch_frames(
            [event for append in appends for event in append.events],
            b"%b-%b" % (self._batch_prefix, last_token),
            first_reply=self._inbox + first_token,
            last_reply=self._inbox + last_token,
        )

    def _await(self, sent: _InFlight, appends: list[PendingAppend]) -> bytes:
        token = b"%d" % next(self._tokens)
        sent.awaited[token] = appends
        return token

    def _take_reply(self, subject: bytes, _: bytes, headers: bytes, payload: bytes) -> None:
        token = subject[len(self._inbox) :]
        sent = next((each for each in self._in_flight if token in each.awaited), None)
        if sent is None:
            return
        ack = parse_pub_ack(Reply(headers, payload))
        appends = sent.awaited.pop(token)
        if not appends:
            sent.refusal = ack
        elif ack is None:
            self._answer(appends, Unknown("the broker's acknowledgement was empty"))
        else:
            # The refusal of a batch's first event says why; that of its last only that it is incomplete.
            self._answer(appends, sent.refusal if ack.code and sent.refusal else ack)
        if not any(sent.awaited.values()):
            if ack is not None and not ack.code:
                seconds = time.perf_counter() - sent.sent_at
                self._cost.learn(sent.events, seconds, is_batch=sent.is_batch)
            self._complete(sent)

    def _end(self, sent: _InFlight, outcome: Outcome) -> None:
        """Answer what the broker has not answered."""
        self._answer([append for appends in sent.awaited.values() for append in appends], outcome)
        self._complete(sent)

    def _complete(self, sent: _InFlight) -> None:
        """Make room for the next group."""
        self._in_flight.remove(sent)
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
                append.batch_max = len(appends) // 2
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
        for sent in tuple(self._in_flight):
            self._end(sent, Unknown("the connection was lost before the acknowledgement"))
        self._queue.fail(LogUnavailable("not connected to the broker"))


@dataclass(slots=True, kw_only=True, eq=False)
class _InFlight:
    """A group in flight: the appends that each awaited reply answers, by the reply's token.

    The reply to a batch's first event answers none; it matters only if it is a refusal.
    """

    subjects: set[bytes]
    events: int
    is_batch: bool
    is_overdue: bool = False
    sent_at: float = field(default_factory=time.perf_counter)
    awaited: dict[bytes, list[PendingAppend]] = field(default_factory=dict)
    refusal: PubAck | None = None


class BatchCost:
    """From how many events on a batch is quicker at this broker, by the groups that were acknowledged.

    A batch is staged in files of its own: it costs 2 to 15 ms more than its events do, by disk and file system. A
    single event costs a sync of 0.1 to 0.4 ms, or 0.01 ms where the broker does not sync. The least of the last
    measurements counts, so that a pause of the disk does not. The way that is not in use is tried again regularly.
    """

    _EVENT_SECONDS: Final = 15e-6
    _MEASUREMENTS: Final = 4
    _TRY_GROUPS: Final = 250

    def __init__(self) -> None:
        self._single_seconds: deque[float] = deque(maxlen=self._MEASUREMENTS)
        self._batch_seconds: deque[float] = deque(maxlen=self._MEASUREMENTS)
        self._was_batch = False
        self._groups = 0

    @property
    def batch_events_min(self) -> float:
        """From how many events on to send a batch."""
        if self._groups % self._TRY_GROUPS == 0 or not self._single_seconds:
            return math.inf if self._was_batch else BATCH_EVENTS_MIN
        if not self._batch_seconds:
            return BATCH_EVENTS_MIN
        saved_seconds = min(self._single_seconds) - self._EVENT_SECONDS
        if saved_seconds <= 0:
            return math.inf
        return max(BATCH_EVENTS_MIN, min(self._batch_seconds) / saved_seconds)

    def learn(self, events: int, seconds: float, *, is_batch: bool) -> None:
        """Note how long a group took."""
        if is_batch:
            self._batch_seconds.append(seconds - events * self._EVENT_SECONDS)
        elif events >= BATCH_EVENTS_MIN:
            self._single_seconds.append(seconds / events)
        else:
            return
        self._was_batch = is_batch
        self._groups += 1


def _not_observed(_: int) -> None:
    """Do nothing."""


def _event(publication: Publication, headers: bytes) -> Event:
    subject = f"state.{publication.namespace}.{token_of(publication.document)}".encode()
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
