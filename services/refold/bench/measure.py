"""The measurements of `refold bench`: append, live, latency, read, travel. Used by the command.

Each writes to documents of its own in the namespace `bench`, repeats its rounds and adds what it counted to `Figures`.
`append` takes a NATS address, the others a gateway's; they use the Python client, as a program does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from refold.bench import Figures
from refold.bench.workload import COUNTER, NAMESPACE, Event, Workload, batches, small_events
from refold.client import Document, Outcome, Refold
from refold.core.errors import RefoldError
from refold.embedded import read_passwords
from refold.log import Appended, EventLog, Publication
from refold.wiring.servers import open_log
from refold.wiring.system import System

WRITERS: Final = (1, 8, 64)
BATCH_SIZES: Final = (100, 1_000)
BATCHES_IN_FLIGHT: Final = 4
POOL_EVENTS: Final = 20_000
UPLOADS: Final = 2
UPLOAD_EVENTS: Final = 500
UPLOADS_A_SECOND: Final = 20
STATUS_SECONDS: Final = 0.1
READS_IN_FLIGHT: Final = (1, 16, 64)
TRAVELS_IN_FLIGHT: Final = (1, 8)


class Options(NamedTuple):
    """How much each measurement does."""

    rounds: int = 3
    seconds: float = 4.0
    documents: int = 1_000
    document_bytes: int = 2_048
    say: Callable[[str], None] = lambda _: None

    def workload(self, *, is_counted: bool = False) -> Workload:
        """Return events for documents that no earlier run has written."""
        return Workload(
            documents=self.documents,
            document_bytes=self.document_bytes,
            is_counted=is_counted,
            prefix=f"b{time.time_ns()}-",
        )

    def numbers(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "say"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Addresses of the system; that of NATS names a user that may append."""

    http: str
    nats: str = field(repr=False)


def target_of(system: System) -> Target:
    """Return the addresses of a system on this machine."""
    user = f"gateway:{read_passwords(system.data)['gateway']}"
    return Target(http=system.http, nats=f"nats://{user}@{urlsplit(system.nats).netloc}")


async def append(target: Target, options: Options, figures: Figures) -> None:
    """Append to the log: single events by 1, 8 and 64 writers, then atomic batches of 100 and 1,000."""
    log = await open_log(target.nats, "refold-bench")
    publications = [
        Publication(namespace=NAMESPACE, document=event.document, body=event.body)
        for event in small_events(POOL_EVENTS)
    ]
    try:
        for number in range(1, options.rounds + 1):
            for writers in WRITERS:
                by = "1 writer" if writers == 1 else f"{writers} writers"
                begun = time.perf_counter()
                milliseconds = await _append_singly(log, publications, writers, options)
                figures.add_requests(f"append by {by}", milliseconds, time.perf_counter() - begun, "events/s")
            for size in BATCH_SIZES:
                begun = time.perf_counter()
                events = await _append_batches(log, publications, size, options)
                taken = time.perf_counter() - begun
                figures.add(f"append in batches of {size:,}", events / taken, "events/s")
            options.say(f"round {number} done")
    finally:
        await log.close()


async def _append_singly(
    log: EventLog, publications: Sequence[Publication], writers: int, options: Options
) -> list[float]:
    async def append(publication: Publication) -> None:
        answer = await log.append(publication)
        if not isinstance(answer, Appended):
            raise RefoldError("an append was not acknowledged", answer=answer)

    return await _time_each(append, cycle(publications), writers, seconds=options.seconds)


async def _append_batches(log: EventLog, publications: list[Publication], size: int, options: Options) -> int:
    numbers, until, appended = count(), time.perf_counter() + options.seconds, 0

    async def write() -> None:
        nonlocal appended
        while time.perf_counter() < until:
            first = next(numbers) * size % (POOL_EVENTS - size + 1)
            answer = await log.append_atomically(publications[first : first + size])
            if not isinstance(answer, list):
                raise RefoldError("a batch was not acknowledged", answer=answer)
            appended += len(answer)

    await asyncio.gather(*(write() for _ in range(BATCHES_IN_FLIGHT)))
    return appended


async def live(target: Target, options: Options, figures: Figures, *, rate: float) -> None:
    """Upload events at a rate (0: as fast as possible) and watch how far the fold is behind the log."""
    # Each upload has documents of its own, because the events of one document must stay in order.
    workloads = [options.workload() for _ in range(UPLOADS)]
    async with Refold(target.http) as refold:
        for workload in workloads:
            await _put(refold, workload.puts())
        for number in range(1, options.rounds + 1):
            begun = time.perf_counter()
            uploads = asyncio.gather(*(_upload(refold, each, options, rate / UPLOADS) for each in workloads))
            seconds_behind, events_behind = [], []
            while not uploads.done():
                status = await refold.status()
                seconds_behind.append(float(status["lag_seconds"]))
                events_behind.append(float(status["lag_events"]))
                await asyncio.wait({uploads}, timeout=STATUS_SECONDS)
            folded = sum(uploads.result()) / (time.perf_counter() - begun)
            figures.add("live, uploaded and folded", folded, "events/s")
            figures.add("live, lag at most", max(seconds_behind), "s")
            figures.add("live, events behind at most", max(events_behind), "events")
            options.say(f"round {number}: {folded:,.0f} events/s")


async def _upload(refold: Refold, workload: Workload, options: Options, rate: float) -> int:
    """Upload batches until the time is over; return how many events were folded."""
    size = min(UPLOAD_EVENTS, max(1, int(rate / UPLOADS_A_SECOND))) if rate else UPLOAD_EVENTS
    begun, folded = time.perf_counter(), 0
    for number in count():
        due = begun + number * size / rate if rate else 0.0
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if time.perf_counter() - begun >= options.seconds:
            break
        folded += await _append(refold, list(workload.events(size)))
    return folded


async def latency(target: Target, options: Options, figures: Figures, *, rate: float) -> None:
    """Send patches at a fixed rate and measure from the instant each was due to its outcome.

    A patch that is due while all connections are busy waits, and its wait counts. The clock of the event loop has a
    resolution of one millisecond.
    """
    async with Refold(target.http) as refold:
        for number in range(1, options.rounds + 1):
            workload = options.workload()
            await _put(refold, workload.puts())
            events = list(workload.events(max(1, int(rate * options.seconds))))
            begun = time.perf_counter()

            async def send(place: int, event: Event, begun: float = begun) -> float:
                due = begun + place / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                patch = orjson.loads(event.body)["patch"]
                _check_applied(await refold.patch(NAMESPACE, event.document, patch))
                return (time.perf_counter() - due) * 1_000

            milliseconds = await asyncio.gather(*(send(*numbered) for numbered in enumerate(events)))
            figures.add_latency("patch → outcome over HTTP", milliseconds)
            options.say(f"round {number} done")


async def read(target: Target, options: Options, figures: Figures) -> None:
    """Read latest states with 1, 16 and 64 requests in flight."""
    workload = options.workload()
    chosen = random.Random(1)  # noqa: S311 - the same reads each time, no secret.
    names = [workload.name(chosen.randrange(options.documents)) for _ in range(5_000)]
    async with Refold(target.http) as refold:
        await _put(refold, workload.puts())
        for number in range(1, options.rounds + 1):
            for in_flight in READS_IN_FLIGHT:
                begun = time.perf_counter()
                milliseconds = await _time_each(
                    lambda name: refold.get(NAMESPACE, name), cycle(names), in_flight, seconds=options.seconds
                )
                name = f"latest over HTTP, {in_flight} in flight"
                figures.add_requests(name, milliseconds, time.perf_counter() - begun, "reads/s")
            options.say(f"round {number} done")


async def travel(target: Target, options: Options, figures: Figures, *, events: int, reads: int) -> None:
    """Read random versions of random documents, by version and by time, and check each state."""
    workload = options.workload(is_counted=True)
    async with Refold(target.http) as refold:
        await _put(refold, workload.events(events))
        for number in range(1, options.rounds + 1):
            for in_flight in TRAVELS_IN_FLIGHT:
                picks = _picks(workload, reads, seed=number * 100 + in_flight)
                await _travel(refold, picks, in_flight, figures)
            options.say(f"round {number} done")


async def _travel(refold: Refold, picks: Sequence[tuple[str, int]], in_flight: int, figures: Figures) -> None:
    """Read each version, then the document as it was when that version was recorded."""
    times: dict[tuple[str, int], str | None] = {}

    async def by_version(pick: tuple[str, int]) -> None:
        document, version = pick
        found = await refold.get(NAMESPACE, document, version=version)
        times[pick] = found.recorded_at
        _check(found, is_right=found.version == version)

    async def by_time(pick: tuple[str, int]) -> None:
        document, version = pick
        found = await refold.get(NAMESPACE, document, at=times[pick])
        # Several versions can be recorded at the same time; the last of them counts.
        _check(found, is_right=found.version >= version)

    for kind, read_one in (("version", by_version), ("time", by_time)):
        begun = time.perf_counter()
        milliseconds = await _time_each(read_one, picks, in_flight)
        name = f"{kind} over HTTP, {in_flight} in flight"
        figures.add_requests(name, milliseconds, time.perf_counter() - begun, "reads/s")


def _check(found: Document, *, is_right: bool) -> None:
    """Raise `RefoldError` for a wrong state."""
    if not is_right or not isinstance(found.state, dict) or found.state[COUNTER] != found.version:
        raise RefoldError("not the state that was asked for", document=found.id, version=found.version)


def _picks(workload: Workload, reads: int, *, seed: int) -> list[tuple[str, int]]:
    chosen = random.Random(seed)  # noqa: S311 - the same reads each time, no secret.
    documents = (chosen.randrange(workload.documents) for _ in count())
    present = ((document, workload.version(document)) for document in documents)
    return [
        (workload.name(document), chosen.randint(1, head))
        for document, head in islice(filter(lambda pick: pick[1], present), reads)
    ]


async def _time_each(
    work: Callable[[Any], Awaitable[object]],
    items: Iterable[Any],
    in_flight: int,
    *,
    seconds: float | None = None,
) -> list[float]:
    """Do work on each item, so many at once, until they or the time run out; return the milliseconds of each."""
    milliseconds: list[float] = []
    left, started = iter(items), time.perf_counter()

    async def run() -> None:
        for item in left:
            begun = time.perf_counter()
            if seconds is not None and begun - started >= seconds:
                return
            await work(item)
            milliseconds.append((time.perf_counter() - begun) * 1_000)

    await asyncio.gather(*(run() for _ in range(in_flight)))
    return milliseconds


async def _put(refold: Refold, events: Iterator[Event]) -> None:
    for batch in batches(events, UPLOAD_EVENTS):
        await _append(refold, batch)


async def _append(refold: Refold, events: Sequence[Event]) -> int:
    """Append events by one bulk request and return how many."""
    lines = [{"doc": event.document, **orjson.loads(event.body)} for event in events]
    for outcome in await refold.append(NAMESPACE, lines):
        _check_applied(outcome)
    return len(lines)


def _check_applied(outcome: Outcome) -> None:
    if outcome.status != "applied":
        raise RefoldError("an event was not applied", status=outcome.status, reason=outcome.reason)
