"""The measurements of `refold bench`: append, live, latency, read, travel.

Each writes to documents of its own in the namespace `bench`, repeats its rounds and adds what it counted to `Figures`.
`append` takes a NATS address, the others a gateway's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import orjson

from refold.bench.figures import Figures
from refold.bench.load import get_request, keep_in_flight, patch_request, send_at_rate
from refold.bench.workload import COUNTER, NAMESPACE, Event, Workload, batches, small_events
from refold.client import Refold
from refold.core.errors import RefoldError
from refold.embedded.folder import read_passwords
from refold.log import Appended, EventLog, Publication
from refold.wiring.log import open_log
from refold.wiring.settings import load
from refold.wiring.system import running_system

WRITERS: Final = (1, 8, 64)
BATCH_SIZES: Final = (100, 1_000)
BATCHES_IN_FLIGHT: Final = 4
POOL_EVENTS: Final = 20_000
UPLOADS: Final = 2
UPLOAD_EVENTS: Final = 500
UPLOADS_A_SECOND: Final = 20
STATUS_SECONDS: Final = 0.1
LATENCY_CONNECTIONS: Final = 64
READ_CONNECTIONS: Final = (1, 16, 64)
TRAVEL_CONNECTIONS: Final = (1, 8)


class Options(NamedTuple):
    """How much each measurement does."""

    rounds: int = 3
    seconds: float = 4.0
    documents: int = 1_000
    document_bytes: int = 2_048
    say: Callable[[str], None] = lambda _: None

    def workload(self, *, is_counted: bool = False) -> Workload:
        """Return events for documents that no earlier run has written."""
        shape = {"documents": self.documents, "document_bytes": self.document_bytes}
        return Workload(**shape, is_counted=is_counted, prefix=f"b{time.time_ns()}-")

    def numbers(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "say"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Addresses of the system; that of NATS names a user that may append."""

    http: str
    nats: str = field(repr=False)


@asynccontextmanager
async def temporary_system(durability: Literal["fsync", "os"]) -> AsyncIterator[Target]:
    """Run a whole system in a temporary folder."""
    with TemporaryDirectory(prefix="refold-bench-") as folder:
        data = Path(folder)
        settings = load(
            data=data, http="127.0.0.1:0", nats_port=0, durability=durability, log_level="warning"
        )
        async with running_system(settings, lambda _: None) as system:
            user = f"gateway:{read_passwords(data)['gateway']}"
            yield Target(http=system.http, nats=f"nats://{user}@{urlsplit(system.nats).netloc}")


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
    milliseconds: list[float] = []
    pool, until = cycle(publications), time.perf_counter() + options.seconds

    async def write() -> None:
        while (begun := time.perf_counter()) < until:
            answer = await log.append(next(pool))
            if not isinstance(answer, Appended):
                raise RefoldError("an append was not acknowledged", answer=answer)
            milliseconds.append((time.perf_counter() - begun) * 1_000)

    await asyncio.gather(*(write() for _ in range(writers)))
    return milliseconds


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
            figures.add("live, lag at most", max(events_behind), "events")
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
    """Send patches at a fixed rate and measure from the instant each was due to its outcome."""
    for number in range(1, options.rounds + 1):
        workload = options.workload()
        async with Refold(target.http) as refold:
            await _put(refold, workload.puts())
        requests = [
            patch_request(target.http, _path(event.document), orjson.dumps(orjson.loads(event.body)["patch"]))
            for event in workload.events(max(1, int(rate * options.seconds)))
        ]
        milliseconds = await send_at_rate(target.http, requests, rate, LATENCY_CONNECTIONS)
        figures.add_latency("patch → outcome over HTTP", milliseconds)
        options.say(f"round {number} done")


async def read(target: Target, options: Options, figures: Figures) -> None:
    """Read latest states with 1, 16 and 64 requests in flight."""
    workload = options.workload()
    async with Refold(target.http) as refold:
        await _put(refold, workload.puts())
    chosen = random.Random(1)  # noqa: S311 - the same reads each time, no secret.
    numbers = [chosen.randrange(options.documents) for _ in range(5_000)]
    requests = [get_request(target.http, _path(workload.name(number))) for number in numbers]
    for number in range(1, options.rounds + 1):
        for in_flight in READ_CONNECTIONS:
            loaded = await keep_in_flight(
                target.http, enumerate(cycle(requests)), in_flight, seconds=options.seconds
            )
            name = f"latest over HTTP, {in_flight} in flight"
            figures.add_requests(name, loaded.milliseconds, loaded.seconds, "reads/s")
        options.say(f"round {number} done")


async def travel(target: Target, options: Options, figures: Figures, *, events: int, reads: int) -> None:
    """Read random versions of random documents, by version and by time, and check each state."""
    workload = options.workload(is_counted=True)
    async with Refold(target.http) as refold:
        await _put(refold, workload.events(events))
    for number in range(1, options.rounds + 1):
        for in_flight in TRAVEL_CONNECTIONS:
            picks = _picks(workload, reads, seed=number * 100 + in_flight)
            paths = [f"{_path(name)}?version={version}" for name, version in picks]
            times = await _read_checked(target.http, "version", picks, paths, in_flight, figures)
            paths = [f"{_path(name)}?at={at}" for (name, _), at in zip(picks, times, strict=True)]
            await _read_checked(target.http, "time", picks, paths, in_flight, figures)
        options.say(f"round {number} done")


async def _read_checked(
    url: str,
    kind: Literal["version", "time"],
    picks: Sequence[tuple[str, int]],
    paths: Sequence[str],
    in_flight: int,
    figures: Figures,
) -> list[str]:
    """Read each path once and return when each state was recorded. Raises `RefoldError` for a wrong state."""
    requests = [get_request(url, path) for path in paths]
    loaded = await keep_in_flight(url, enumerate(requests), in_flight, kept=len(paths))
    name = f"{kind} over HTTP, {in_flight} in flight"
    figures.add_requests(name, loaded.milliseconds, loaded.seconds, "reads/s")
    times = []
    for number, (document, version) in enumerate(picks):
        response = loaded.responses[number]
        found = int(response.header(b"refold-version"))
        counter = orjson.loads(response.body)[COUNTER]
        # Several versions can be recorded at the same time; the last of them counts.
        is_right = counter == found and (found == version if kind == "version" else found >= version)
        if not is_right:
            raise RefoldError("not the state that was asked for", document=document, version=version)
        times.append(response.header(b"refold-recorded-at").upper())
    return times


def _picks(workload: Workload, reads: int, *, seed: int) -> list[tuple[str, int]]:
    chosen = random.Random(seed)  # noqa: S311 - the same reads each time, no secret.
    picks: list[tuple[str, int]] = []
    while len(picks) < reads:
        document = chosen.randrange(workload.documents)
        if head := workload.version(document):
            picks.append((workload.name(document), chosen.randint(1, head)))
    return picks


async def _put(refold: Refold, events: Iterator[Event]) -> None:
    for batch in batches(events, UPLOAD_EVENTS):
        await _append(refold, batch)


async def _append(refold: Refold, events: Sequence[Event]) -> int:
    """Append events by one bulk request. Raises `RefoldError` if one was not applied."""
    lines = [{"doc": event.document, **orjson.loads(event.body)} for event in events]
    outcomes = await refold.append(NAMESPACE, lines)
    for outcome in outcomes:
        if outcome.status != "applied":
            raise RefoldError("an event was not applied", status=outcome.status, reason=outcome.reason)
    return len(outcomes)


def _path(document: str) -> str:
    return f"/v1/{NAMESPACE}/{document}"
