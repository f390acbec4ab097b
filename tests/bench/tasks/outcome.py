"""Events published at a rate, each answer counted from the instant that was due. Tasks for `bench.worker`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from bench.load import Pace, patch_request, send_at_rate
from bench.signals import Signals
from bench.wire import Wire, frame
from refold.bench.workload import NAMESPACE, Event, Workload
from refold.core.errors import RefoldError, TimedOut

CONNECTIONS: Final = 64
LAST_SECONDS: Final = 30
EFFECTIVE: Final = frozenset({"applied", "merged"})


async def publish_over_nats(
    signals: Signals, *, url: str, rate: float, is_outcome: bool, prefix: str, **work: Any
) -> dict[str, Any]:
    """Publish events; wait for each outcome, or for the broker's acknowledgement alone."""
    events = _patches(rate=rate, prefix=prefix, **work)
    return await _publish(signals, url, events, rate, prefix, is_outcome=is_outcome)


async def publish_changes(
    signals: Signals,
    *,
    url: str,
    documents: list[str],
    rate: float,
    count: int,
    value_bytes: int,
    members: int,
    together: int,
) -> dict[str, Any]:
    """Publish changes of documents in turn and wait for each outcome; a change replaces members `m0`, `m1`, … in turn.

    `together`: so many of the `members` each time, by texts that differ. Each document must have them.
    """
    events = []
    for number in range(count):
        turn = number // len(documents) * together
        paths = [f"/m{(turn + each) % members}" for each in range(together)]
        patch = [{"op": "replace", "path": path, "value": f"{number:0{value_bytes}x}"} for path in paths]
        events.append(Event(documents[number % len(documents)], orjson.dumps({"patch": patch})))
    return await _publish(signals, url, events, rate, documents[0], is_outcome=True)


async def _publish(
    signals: Signals, url: str, events: list[Event], rate: float, name: str, *, is_outcome: bool
) -> dict[str, Any]:
    """Publish each event when it is due; return those instants too, by `time.perf_counter`."""
    inbox = f"_INBOX.{name}{'o' if is_outcome else 'a'}"
    frames = [_with_reply(event, f"{inbox}.{number}", is_outcome) for number, event in enumerate(events)]
    answers = _Answers(len(events), is_outcome=is_outcome)
    wire = await Wire.connect(url, answers.receive)
    wire.subscribe(f"{inbox}.*")
    try:
        await signals.until_go()
        answers.pace = Pace(rate=rate, count=len(events))
        await answers.pace.keep(lambda number: wire.write(frames[number]))
        milliseconds = await answers.milliseconds()
        return {
            "milliseconds": milliseconds,
            "due": [answers.pace.due(number) for number in range(len(events))],
        }
    finally:
        wire.close()


async def patch_over_http(signals: Signals, *, url: str, rate: float, **work: Any) -> dict[str, Any]:
    """Send patches, each as soon as it is due and a connection is free."""
    requests = [
        patch_request(
            url, f"/v1/{NAMESPACE}/{event.document}", orjson.dumps(orjson.loads(event.body)["patch"])
        )
        for event in _patches(rate=rate, **work)
    ]
    prepared = signals.until_go
    return {"milliseconds": await send_at_rate(url, requests, rate, CONNECTIONS, prepared=prepared)}


class _Answers:
    """Records the latency of each answer."""

    def __init__(self, count: int, *, is_outcome: bool) -> None:
        self.pace: Pace
        self._count = count
        self._is_outcome = is_outcome
        self._milliseconds: list[float] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(self, subject: bytes, payload: bytes) -> None:
        if not subject:
            self._fail("the connection was lost")
            return
        self._milliseconds.append(self.pace.late_milliseconds(int(subject.rpartition(b".")[2])))
        answer = orjson.loads(payload)
        if "error" in answer or (self._is_outcome and answer.get("status") not in EFFECTIVE):
            self._fail(payload.decode())
        elif len(self._milliseconds) == self._count and not self._done.done():
            self._done.set_result(None)

    async def milliseconds(self) -> list[float]:
        """Wait for the last answer; return how late each came."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._done
        except TimeoutError as error:
            raise TimedOut(
                "answers are missing", wanted=self._count, received=len(self._milliseconds)
            ) from error
        return self._milliseconds

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(RefoldError(f"not an answer to an event: {why}"))


def _patches(*, rate: float, seconds: float, **shape: Any) -> list[Event]:
    """Return changes of documents that have been made before."""
    workload = Workload(**shape)
    workload.skip(workload.documents)
    return list(workload.events(max(1, int(rate * seconds))))


def _with_reply(event: Event, subject: str, is_outcome: bool) -> bytes:
    if is_outcome:
        return frame(event, lines=f"Refold-Reply: {subject}\r\n".encode())
    return frame(event, reply=subject)
