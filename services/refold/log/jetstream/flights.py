"""Groups of events on their way to the log: sent, awaited until a deadline, and told of when they are answered.

Used by `refold.log.jetstream.appender` alone, which decides what an answer means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from refold.core.errors import LogUnavailable
from refold.log import Unknown
from refold.log.jetstream.acknowledgement import PubAck, read_pub_ack
from refold.log.jetstream.client import BrokerClient
from refold.log.jetstream.frames import batch_frames, message_frame
from refold.log.jetstream.pace import Pace
from refold.log.jetstream.waiting import Parcel

Outcome = PubAck | Unknown | LogUnavailable
"""The broker's reply; or none came; or nothing was sent."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Flight:
    """One group: by token, the parcels that the reply to it answers.

    `begun` is the token of a batch's first event: its reply matters only if it refuses.
    """

    subjects: set[bytes]
    events: int
    is_batch: bool
    sent_at: float
    deadline: asyncio.TimerHandle | None = None
    awaited: dict[bytes, list[Parcel]] = field(default_factory=dict)
    begun: bytes = b""
    refusal: PubAck | None = None


class Flights:
    """All groups on their way."""

    def __init__(
        self,
        client: BrokerClient,
        *,
        acknowledge_seconds: float,
        when_answered: Callable[[list[Parcel], Outcome], None],
        when_landed: Callable[[], None],
    ) -> None:
        """Begin with none; `when_landed` follows the last `when_answered` of a group."""
        self.subjects: set[bytes] = set()
        self._client = client
        self._acknowledge_seconds = acknowledge_seconds
        self._when_answered = when_answered
        self._when_landed = when_landed
        self._flights: set[_Flight] = set()
        self._by_token: dict[bytes, _Flight] = {}
        self._tokens = count(1)
        self._pace = Pace()
        inbox = client.new_inbox()
        self._inbox = f"{inbox}.".encode()
        self._batches = inbox.rpartition(".")[2].encode()
        self._sid = client.subscribe_raw(f"{inbox}.*", self._take_reply)

    def __len__(self) -> int:
        """Count the groups."""
        return len(self._flights)

    def send(self, parcels: list[Parcel], *, as_singles: bool = False) -> None:
        """Put a group on the wire: as one batch where that is quicker, or where a document comes twice.

        `as_singles`: only what must be stored together goes as a batch.
        """
        subjects = set[bytes]().union(*[parcel.subjects for parcel in parcels])
        events = sum(len(parcel.events) for parcel in parcels)
        is_batch = len(subjects) < events or len(parcels) < events
        is_batch = is_batch or (not as_singles and self._pace.prefers_batch(events))
        loop = asyncio.get_running_loop()
        flight = _Flight(subjects=subjects, events=events, is_batch=is_batch, sent_at=time.perf_counter())
        frames = self._as_batch(flight, parcels) if is_batch else self._as_singles(flight, parcels)
        late = Unknown(f"no acknowledgement in {self._acknowledge_seconds} seconds")
        flight.deadline = loop.call_later(self._acknowledge_seconds, self._end, flight, late)
        self._flights.add(flight)
        self.subjects |= subjects
        try:
            self._client.write(frames)
        except LogUnavailable as error:
            self._end(flight, error)

    def lose_all(self) -> None:
        """The connection broke: no reply will come."""
        for flight in tuple(self._flights):
            self._end(flight, Unknown("the connection broke before the acknowledgement"))

    def close(self) -> None:
        """Take no more replies."""
        self._client.unsubscribe_raw(self._sid)

    def _as_singles(self, flight: _Flight, parcels: list[Parcel]) -> bytes:
        frames = []
        for parcel in parcels:
            (event,) = parcel.events
            reply = self._inbox + self._await(flight, [parcel])
            frames.append(message_frame(event.subject, event.body, lines=event.lines, reply=reply))
        return b"".join(frames)

    def _as_batch(self, flight: _Flight, parcels: list[Parcel]) -> bytes:
        flight.begun = self._await(flight, [])
        committed = self._await(flight, parcels)
        return batch_frames(
            [event for parcel in parcels for event in parcel.events],
            b"%b-%b" % (self._batches, committed),
            begun=self._inbox + flight.begun,
            committed=self._inbox + committed,
        )

    def _await(self, flight: _Flight, parcels: list[Parcel]) -> bytes:
        token = b"%d" % next(self._tokens)
        self._by_token[token] = flight
        flight.awaited[token] = parcels
        return token

    def _take_reply(self, subject: bytes, _: bytes, headers: bytes, payload: bytes) -> None:
        token = subject[len(self._inbox) :]
        flight = self._by_token.pop(token, None)
        if flight is None:
            return
        ack = read_pub_ack(headers, payload)
        parcels = flight.awaited.pop(token)
        if token == flight.begun:
            flight.refusal = ack
        elif ack is None:
            self._when_answered(parcels, Unknown("the broker's acknowledgement was empty"))
        else:
            # The refusal of a batch's first event tells why; that of its last, only that it is incomplete.
            self._when_answered(parcels, flight.refusal if ack.code and flight.refusal else ack)
        if not any(flight.awaited.values()):
            if ack is not None and not ack.code:
                self._learn(flight)
            self._land(flight)

    def _learn(self, flight: _Flight) -> None:
        landed_at = time.perf_counter()
        self._pace.note(flight.events, is_batch=flight.is_batch, sent_at=flight.sent_at, landed_at=landed_at)

    def _end(self, flight: _Flight, outcome: Outcome) -> None:
        """Answer for the broker."""
        unanswered = [parcel for parcels in flight.awaited.values() for parcel in parcels]
        if unanswered:
            self._when_answered(unanswered, outcome)
        self._land(flight)

    def _land(self, flight: _Flight) -> None:
        if flight.deadline is not None:
            flight.deadline.cancel()
        for token in flight.awaited:
            self._by_token.pop(token, None)
        flight.awaited.clear()
        self._flights.discard(flight)
        self.subjects -= flight.subjects
        self._when_landed()
