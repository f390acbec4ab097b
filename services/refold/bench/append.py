"""Appends, acknowledged: one by one by several writers, and in atomic batches, through our own appender.

Run by the command.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from refold.bench.ground.disk import fsync_milliseconds
from refold.bench.ground.publishing import batches_on_the_wire, batches_with_nats_py, publish_with_nats_py
from refold.bench.processes import Ended, ProcessorClock, Task, work
from refold.bench.report import Goal, Measure, Report, Samples
from refold.bench.signals import Signals
from refold.bench.system import Options, bare_servers, machine
from refold.bench.workload import NAMESPACE, small_events
from refold.core.errors import RefoldError
from refold.log import Appended, Publication
from refold.wiring.log import open_log

POOL_EVENTS: Final = 20_000
BATCHES_IN_FLIGHT: Final = 4
WRITERS: Final = (1, 8, 64)
SIZES: Final = (100, 1_000)
GOALS: Final = {"64 writers": Goal(value=10_000), "batches of 1,000": Goal(value=55_000)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each way of appending is measured in a round."""

    seconds: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where is appended: as our own user, and as anyone; what runs there is only known of our own."""

    url: str
    author_url: str
    folder: Path
    pids: tuple[tuple[str, int], ...] = ()


async def run(options: Options, plan: Plan) -> Report:
    """Append in every way, each in a process of its own, and the ground of it."""
    samples = Samples()
    async with _place(options) as place:
        for number in range(1, options.rounds + 1):
            for writers in WRITERS:
                await _single(place, plan, options, samples, writers)
            for size in SIZES:
                await _batches(place, plan, options, samples, size)
            await _ground(place, plan, options, samples)
            options.say(f"round {number} done")
    return Report(
        command="append",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def append_singly(signals: Signals, *, url: str, writers: int, seconds: float) -> dict[str, Any]:
    """Append one by one, each writer waiting for its acknowledgement; a task for `refold.bench.worker`."""
    log = await open_log(url, "refold-bench-append")
    publications, taken = cycle(_publications()), []

    async def write(until: float) -> None:
        while (begun := time.perf_counter()) < until:
            answer = await log.append(next(publications))
            if not isinstance(answer, Appended):
                raise RefoldError("an append was not acknowledged", answer=answer)
            taken.append((time.perf_counter() - begun) * 1_000)

    try:
        await signals.until_go()
        begun = time.perf_counter()
        await asyncio.gather(*(write(begun + seconds) for _ in range(writers)))
        return {"events": len(taken), "seconds": time.perf_counter() - begun, "milliseconds": taken}
    finally:
        await log.close()


async def append_batches(signals: Signals, *, url: str, size: int, seconds: float) -> dict[str, Any]:
    """Append atomic batches, a few in flight; a task for `refold.bench.worker`."""
    log = await open_log(url, "refold-bench-batches")
    publications, numbers, done = _publications(), count(), 0

    async def write(until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            first = next(numbers) * size % (POOL_EVENTS - size + 1)
            answer = await log.append_atomically(publications[first : first + size])
            if not isinstance(answer, list):
                raise RefoldError("a batch was not acknowledged", answer=answer)
            done += len(answer)

    try:
        await signals.until_go()
        begun = time.perf_counter()
        await asyncio.gather(*(write(begun + seconds) for _ in range(BATCHES_IN_FLIGHT)))
        return {"events": done, "seconds": time.perf_counter() - begun}
    finally:
        await log.close()


@asynccontextmanager
async def _place(options: Options) -> AsyncIterator[Place]:
    if options.url is not None:
        yield Place(url=options.url, author_url=options.url, folder=Path(gettempdir()))
        return
    async with bare_servers(options) as bare:
        nats = bare.servers.nats
        yield Place(
            url=nats.url("gateway"), author_url=nats.address, folder=bare.folder, pids=tuple(bare.pids)
        )


async def _single(place: Place, plan: Plan, options: Options, samples: Samples, writers: int) -> None:
    name = _by(writers)
    ended = await _held(place, append_singly, url=place.url, writers=writers, seconds=plan.seconds)
    ground = f"nats-py publish by {name}" if writers != 8 else "one fsync, p50"
    measure = Measure(unit="events/s", durability=options.durability, goal=GOALS.get(name), ground=ground)
    samples.add(f"append by {name}", _rate(ended), measure)
    waited = Measure(unit="ms", durability=options.durability)
    samples.add_latency(f"append by {name}", ended.value["milliseconds"], waited)
    _note_use(f"append by {name}", ended, options, samples)


async def _batches(place: Place, plan: Plan, options: Options, samples: Samples, size: int) -> None:
    name = f"batches of {size:,}"
    ended = await _held(place, append_batches, url=place.url, size=size, seconds=plan.seconds)
    ground = f"{name} on the bare wire"
    measure = Measure(unit="events/s", durability=options.durability, goal=GOALS.get(name), ground=ground)
    samples.add(f"append in {name}", _rate(ended), measure)
    _note_use(f"append in {name}", ended, options, samples)


async def _held(place: Place, task: Task, **given: Any) -> Ended:
    """Run a task and hold what it was told of against the log's end."""
    log = await open_log(place.url, "refold-bench-end")
    try:
        before = (await log.info()).last_sequence
        clock = ProcessorClock(place.pids)
        ended = await work(task, **given)
        ended.value["used"] = clock.seconds()
        gained = (await log.info()).last_sequence - before
    finally:
        await log.close()
    if gained < ended.value["events"]:
        raise RefoldError("acknowledged and not in the log", events=ended.value["events"], found=gained)
    return ended


def _note_use(name: str, ended: Ended, options: Options, samples: Samples) -> None:
    measure = Measure(unit="µs/event", durability=options.durability)
    used = {"the appender": ended.cpu_seconds, **ended.value["used"]}
    used.pop("postgres", None)
    for who, seconds in used.items():
        samples.add(f"{name}, processor of {who}", seconds * 1e6 / ended.value["events"], measure)


async def _ground(place: Place, plan: Plan, options: Options, samples: Samples) -> None:
    given = {"url": place.author_url, "seconds": plan.seconds}
    tasks: list[tuple[str, Task, dict[str, Any]]] = [
        (f"nats-py publish by {_by(writers)}", publish_with_nats_py, {"writers": writers})
        for writers in (1, 64)
    ]
    tasks.append(("batches of 1,000 through nats-py", batches_with_nats_py, {"size": 1_000}))
    tasks += [
        (f"batches of {size:,} on the bare wire", batches_on_the_wire, {"size": size}) for size in SIZES
    ]
    measure = Measure(unit="events/s", durability=options.durability, is_ground=True)
    for name, task, more in tasks:
        samples.add(name, _rate(await work(task, **given, **more)), measure)
    synced = Measure(unit="ms", durability="fsync", is_ground=True)
    samples.add_latency("one fsync", fsync_milliseconds(place.folder), synced)


def _by(writers: int) -> str:
    return "1 writer" if writers == 1 else f"{writers} writers"


def _rate(ended: Ended) -> float:
    return float(ended.value["events"] / ended.value["seconds"])


def _publications() -> list[Publication]:
    return [
        Publication(namespace=NAMESPACE, document=event.document, body=event.body)
        for event in small_events(POOL_EVENTS)
    ]
