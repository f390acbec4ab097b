"""Group commit: what waits is sent in groups, a few events one by one, many as one atomic batch.

Used by `refold.log.jetstream`. All runs in callbacks of the event loop, so that nothing waits for a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from refold.core.errors import BatchRefused, LogError, LogUnavailable
from refold.core.limits import ACKNOWLEDGE_SECONDS, APPEND_GROUPS_MAX, APPENDS_WAITING_MAX
from refold.log import Acknowledgement, Appended, Publication, Stale, Unknown
from refold.log.admission import admit, admit_together
from refold.log.jetstream.acknowledgement import PubAck
from refold.log.jetstream.client import BrokerClient
from refold.log.jetstream.flights import Flights, Outcome
from refold.log.jetstream.frames import Event
from refold.log.jetstream.room import Room
from refold.log.jetstream.waiting import Answer, Parcel, WaitingLine

BATCHES_REFUSED_SECONDS: Final = 2.0
"""After the broker refused a batch, events are sent one by one for so long before the next batch is tried."""


class Appender:
    """Sends events and tells each caller what became of his.

    An event is sent only when all earlier ones of its document are answered, or travel before it in its own
    group; where one of those failed or is in doubt, it is not sent at all.
    """

    def __init__(self, client: BrokerClient, *, acknowledge_seconds: float = ACKNOWLEDGE_SECONDS) -> None:
        """Begin with nothing on its way."""
        self._room = Room(APPENDS_WAITING_MAX)
        self._line = WaitingLine()
        self._flights = Flights(
            client,
            acknowledge_seconds=acknowledge_seconds,
            when_answered=self._settle,
            when_landed=self._schedule,
        )
        self._is_scheduled = False
        self._is_closed = False
        # Until then (the loop's clock) no batch is sent: the server bounds the open batches of all its clients.
        self._singles_until = 0.0
        self._refusal = BatchRefused()
        self._moved = asyncio.Event()
        self._forget = client.when_lost(self._lose_all)

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event, as the port says."""
        answer = await self._enqueue([publication], [admit(publication)])
        return answer[0] if isinstance(answer, list) else answer

    async def append_atomically(self, publications: Sequence[Publication]) -> Answer:
        """Append all or none, as the port says."""
        lines = admit_together(publications)
        return await self._enqueue(publications, lines) if publications else []

    async def close(self) -> None:
        """Send what waits, and wait for its answers."""
        self._is_closed = True
        while self._line or self._flights:
            self._moved.clear()
            await self._moved.wait()
        self._forget()
        self._flights.close()

    async def _enqueue(self, publications: Sequence[Publication], lines: list[bytes]) -> Answer:
        await self._room.enter()
        try:
            if self._is_closed:
                raise LogUnavailable("the log was closed")
            if len(publications) > 1 and self._sends_singles():
                raise BatchRefused(self._refusal.message, **self._refusal.facts)
            parcel = Parcel(
                events=[_event(*pair) for pair in zip(publications, lines, strict=True)],
                is_strict=any(each.expected_last_sequence is not None for each in publications),
                answer=asyncio.get_running_loop().create_future(),
            )
            self._line.join(parcel)
            self._schedule()
            return await parcel.answer
        finally:
            self._room.leave()

    def _schedule(self) -> None:
        """Send once everyone who appends in this turn of the loop has done so."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._is_scheduled = False
        singles = self._sends_singles()
        while len(self._flights) < APPEND_GROUPS_MAX and (
            parcels := self._line.take(self._flights.subjects, as_singles=singles)
        ):
            self._flights.send(parcels, as_singles=singles)
        self._moved.set()

    def _sends_singles(self) -> bool:
        return asyncio.get_running_loop().time() < self._singles_until

    def _settle(self, parcels: list[Parcel], outcome: Outcome) -> None:
        if isinstance(outcome, Unknown):
            in_doubt = "an earlier event of the document is in doubt; this one was not sent"
            self._refuse(parcels, outcome, LogUnavailable(in_doubt))
        elif isinstance(outcome, LogUnavailable):
            self._refuse(parcels, outcome, outcome)
        elif not outcome.code:
            _confirm(parcels, outcome.sequence)
        elif outcome.is_batch_refused:
            self._resend_singly(parcels, outcome)
        elif len(parcels) > 1 and outcome.is_stale:
            # The broker does not say which event was at fault: halves find it.
            for parcel in parcels:
                parcel.company = len(parcels) // 2
            self._line.return_to_front(parcels)
        elif outcome.is_stale:
            parcels[0].resolve(Stale())
        else:
            self._refuse(parcels, outcome.error(), outcome.error())

    def _resend_singly(self, parcels: list[Parcel], ack: PubAck) -> None:
        """Send a refused group's events one by one. What must be stored together only its caller can split."""
        self._singles_until = asyncio.get_running_loop().time() + BATCHES_REFUSED_SECONDS
        self._refusal = BatchRefused(ack.error().message, broker_code=ack.code)
        if len(parcels) > 1:
            self._line.return_to_front(parcels)
        else:
            parcels[0].resolve(self._refusal)

    def _refuse(self, parcels: list[Parcel], answer: Unknown | LogError, for_those_behind: LogError) -> None:
        """Answer, and answer those behind: a document's later event must not be stored without the earlier one."""
        for parcel in parcels:
            parcel.resolve(answer)
        subjects = set[bytes]().union(*[parcel.subjects for parcel in parcels])
        self._line.dismiss(subjects, for_those_behind)

    def _lose_all(self) -> None:
        self._flights.lose_all()
        self._line.dismiss_all(LogUnavailable("not connected to the broker"))


def _event(publication: Publication, lines: bytes) -> Event:
    subject = f"state.{publication.namespace}.{publication.document}".encode()
    if publication.expected_last_sequence is not None:
        lines += b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % publication.expected_last_sequence
    return Event(subject, lines, publication.body)


def _confirm(parcels: list[Parcel], last_sequence: int) -> None:
    """Tell the sequences of a group that was stored next to each other."""
    sequence = last_sequence - sum(len(parcel.events) for parcel in parcels)
    for parcel in parcels:
        first, sequence = sequence + 1, sequence + len(parcel.events)
        parcel.resolve(list(map(Appended, range(first, sequence + 1))))
