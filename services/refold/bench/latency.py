"""From publish to outcome at a fixed rate, counted from the instant that was due: over NATS and over HTTP PATCH.

Run by the command.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from refold.bench.filling import fill, fill_over_http, fold_all
from refold.bench.http_load import HttpConnection, patch_request
from refold.bench.pacing import Pace
from refold.bench.processes import Ended, ProcessorClock, Task, work
from refold.bench.report import Goal, Measure, Report, Samples
from refold.bench.signals import Signals
from refold.bench.system import Options, Whole, machine, whole_system
from refold.bench.wire import Wire, frame
from refold.bench.workload import NAMESPACE, Event, Workload
from refold.core.errors import RefoldError, ServiceUnavailable, TimedOut

GOALS: Final = {"p50": Goal(value=3, is_upper=True), "p99": Goal(value=10, is_upper=True)}
GROUND: Final = "publish → acknowledgement on the bare wire"
CONNECTIONS: Final = 64
LAST_SECONDS: Final = 30
EFFECTIVE: Final = frozenset({"applied", "merged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much."""

    rate: float = 1_000.0
    seconds: float = 8.0
    documents: int = 1_000
    document_bytes: int = 2_048

    def workload(self, prefix: str) -> Workload:
        """Return the events of one measurement: documents of its own, made before."""
        return Workload(documents=self.documents, document_bytes=self.document_bytes, prefix=prefix)


async def run(options: Options, plan: Plan) -> Report:
    """Publish by each door in turn; a running system is asked over HTTP alone."""
    samples = Samples()
    if options.url is not None:
        for number in range(1, options.rounds + 1):
            prefix = f"l{time.time_ns()}-"
            await fill_over_http(options.url, plan.workload(prefix).puts())
            ended = await work(patch_over_http, url=options.url, prefix=prefix, plan=asdict(plan))
            _note("publish → outcome over HTTP", ended, options, samples)
            options.say(f"round {number} done")
    else:
        async with whole_system(options) as system:
            for number in range(1, options.rounds + 1):
                await _round(system, plan, options, samples, number)
    return Report(
        command="latency",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def publish_over_nats(
    signals: Signals, *, url: str, prefix: str, plan: dict[str, Any], is_outcome: bool
) -> dict[str, Any]:
    """Publish events; wait for each outcome, or for the broker's acknowledgement alone. A task."""
    events = _patches(Plan(**plan), prefix)
    inbox = f"_INBOX.{prefix}{'o' if is_outcome else 'a'}"
    frames = [_with_reply(event, f"{inbox}.{number}", is_outcome) for number, event in enumerate(events)]
    hearing = _Hearing(len(events), is_outcome=is_outcome)
    wire = await Wire.connect(url, hearing.hear)
    wire.subscribe(f"{inbox}.*")
    try:
        await signals.until_go()
        hearing.pace = Pace(rate=plan["rate"], count=len(events))
        await hearing.pace.keep(lambda number: wire.write(frames[number]))
        return await hearing.told()
    finally:
        wire.close()


async def patch_over_http(signals: Signals, *, url: str, prefix: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Send patches, each as soon as it is due and a connection is free. A task."""
    requests = [
        patch_request(
            url, f"/v1/{NAMESPACE}/{event.document}", orjson.dumps(orjson.loads(event.body)["patch"])
        )
        for event in _patches(Plan(**plan), prefix)
    ]
    sending = _Sending([await HttpConnection.open(url) for _ in range(CONNECTIONS)], requests)
    try:
        await signals.until_go()
        sending.pace = Pace(rate=plan["rate"], count=len(requests))
        await sending.pace.keep(sending.send)
        return await sending.told()
    finally:
        sending.close()


class _Hearing:
    """Notes how late each answer comes."""

    def __init__(self, count: int, *, is_outcome: bool) -> None:
        self.pace: Pace
        self._count = count
        self._is_outcome = is_outcome
        self._taken: list[float] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, subject: bytes, payload: bytes) -> None:
        if not subject:
            self._fail("the connection was lost")
            return
        self._taken.append(self.pace.late_milliseconds(int(subject.rpartition(b".")[2])))
        answer = orjson.loads(payload)
        if "error" in answer or (self._is_outcome and answer.get("status") not in EFFECTIVE):
            self._fail(payload.decode())
        elif len(self._taken) == self._count and not self._done.done():
            self._done.set_result(None)

    async def told(self) -> dict[str, Any]:
        """Wait for the last answer."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._done
        except TimeoutError as error:
            raise TimedOut("answers are missing", wanted=self._count, heard=len(self._taken)) from error
        return {"milliseconds": self._taken}

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(RefoldError(f"not an answer to an event: {why}"))


class _Sending:
    """Requests over a few connections; what is due while all of them are busy waits, and its waiting counts."""

    def __init__(self, connections: list[HttpConnection], requests: list[bytes]) -> None:
        self.pace: Pace
        self._all = connections
        self._free = list(connections)
        self._requests = requests
        self._waiting: deque[int] = deque()
        self._taken: list[float] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, number: int) -> None:
        if not self._free:
            self._waiting.append(number)
            return
        connection = self._free.pop()
        answer = connection.ask(self._requests[number])
        answer.add_done_callback(lambda done: self._take(number, connection, done))

    def _take(self, number: int, connection: HttpConnection, done: asyncio.Future[Any]) -> None:
        failure = done.exception()
        if failure is None and done.result().status != 200:
            failure = ServiceUnavailable(f"answered {done.result().status}", body=done.result().body[:200])
        if failure is not None:
            if not self._done.done():
                self._done.set_exception(failure)
            return
        self._taken.append(self.pace.late_milliseconds(number))
        self._free.append(connection)
        if self._waiting:
            self.send(self._waiting.popleft())
        elif len(self._taken) == len(self._requests) and not self._done.done():
            self._done.set_result(None)

    async def told(self) -> dict[str, Any]:
        """Wait for the last answer."""
        await self._done
        return {"milliseconds": self._taken}

    def close(self) -> None:
        """End the connections."""
        for connection in self._all:
            connection.close()


async def _round(system: Whole, plan: Plan, options: Options, samples: Samples, number: int) -> None:
    doors: list[tuple[str, Task, dict[str, Any]]] = [
        ("publish → outcome over NATS", publish_over_nats, {"url": system.nats, "is_outcome": True}),
        ("publish → outcome over HTTP", patch_over_http, {"url": system.http}),
        (GROUND, publish_over_nats, {"url": system.nats, "is_outcome": False}),
    ]
    for place, (name, task, given) in enumerate(doors):
        prefix = f"l{number}-{place}-"
        await fill(system.nats, plan.workload(prefix).puts())
        await fold_all(system)
        clock = ProcessorClock(system.pids)
        ended = await work(task, prefix=prefix, plan=asdict(plan), **given)
        _note(name, ended, options, samples)
        if name != GROUND:
            for who, seconds in clock.seconds().items():
                measure = Measure(unit="µs/event", durability=options.durability)
                spent = seconds * 1e6 / len(ended.value["milliseconds"])
                samples.add(f"{name}, processor of {who}", spent, measure)
    await fold_all(system)
    options.say(f"round {number} done")


def _note(name: str, ended: Ended, options: Options, samples: Samples) -> None:
    is_ground = name == GROUND
    measure = Measure(
        unit="ms",
        durability=options.durability,
        ground="" if is_ground or options.url else f"{GROUND}, p50",
        is_ground=is_ground,
    )
    samples.add_latency(name, ended.value["milliseconds"], measure, None if is_ground else GOALS)


def _patches(plan: Plan, prefix: str) -> list[Event]:
    workload = plan.workload(prefix)
    workload.skip(plan.documents)
    return list(workload.events(max(1, int(plan.rate * plan.seconds))))


def _with_reply(event: Event, subject: str, is_outcome: bool) -> bytes:
    if is_outcome:
        return frame(event, lines=f"Refold-Reply: {subject}\r\n".encode())
    return frame(event, reply=subject)
