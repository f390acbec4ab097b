"""Appends, acknowledged: one by one by several writers, and in atomic batches, through our own appender.

Run by `python -m bench`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from bench.ground.disk import fsync_milliseconds
from bench.ground.publishing import batches_on_the_wire, batches_with_nats_py, publish_with_nats_py
from bench.processes import Ended, Task, work, work_beside
from bench.report import Measure, Report, Samples, suffix_of
from bench.system import Options, bare_servers
from bench.tasks.append import append_batches, append_singly
from refold.bench import machine
from refold.bench.workload import Kind
from refold.core.errors import RefoldError
from refold.wiring.servers import open_log


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each way of appending is measured in a round, and which ways."""

    seconds: float = 3.0
    writers: tuple[int, ...] = (1, 8, 64)
    sizes: tuple[int, ...] = (100, 1_000)
    documents_kind: Kind = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where events are appended, as the service's user and as an author; `pids` are known of an own system."""

    url: str
    author_url: str
    folder: Path
    pids: tuple[tuple[str, int], ...] = ()


async def run(options: Options, plan: Plan) -> Report:
    """Append in every way, each in a process of its own, and measure the baseline."""
    samples = Samples(suffix_of(plan.documents_kind))
    async with _place(options) as place:
        for number in range(1, options.rounds + 1):
            samples.calibrate()
            for writers in plan.writers:
                await _single(place, plan, options, samples, writers)
            for size in plan.sizes:
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
    given = {"url": place.url, "seconds": plan.seconds, "kind": plan.documents_kind}
    ended = await _held(place, append_singly, writers=writers, **given)
    ground = f"nats-py publish by {name}"
    measure = Measure(unit="events/s", durability=options.durability, ground=ground)
    samples.add(f"append by {name}", _rate(ended), measure)
    waited = Measure(unit="ms", durability=options.durability)
    samples.add_latency(f"append by {name}", ended.value["milliseconds"], waited)
    _note_use(f"append by {name}", ended, options, samples)


async def _batches(place: Place, plan: Plan, options: Options, samples: Samples, size: int) -> None:
    name = f"batches of {size:,}"
    given = {"url": place.url, "seconds": plan.seconds, "kind": plan.documents_kind}
    ended = await _held(place, append_batches, size=size, **given)
    ground = f"{name} on the bare wire"
    measure = Measure(unit="events/s", durability=options.durability, ground=ground)
    samples.add(f"append in {name}", _rate(ended), measure)
    _note_use(f"append in {name}", ended, options, samples)


async def _held(place: Place, task: Task, **given: Any) -> Ended:
    """Run a task and compare what was acknowledged with the log's end."""
    log = await open_log(place.url, "refold-bench-end")
    try:
        before = (await log.info()).last_sequence
        ended, ended.value["used"] = await work_beside(place.pids, task, **given)
        gained = (await log.info()).last_sequence - before
    finally:
        await log.close()
    if gained < ended.value["events"]:
        raise RefoldError("acknowledged and not in the log", events=ended.value["events"], found=gained)
    return ended


def _note_use(name: str, ended: Ended, options: Options, samples: Samples) -> None:
    measure = Measure(unit="µs/event", durability=options.durability)
    used = {"appender": ended.cpu_seconds, **ended.value["used"]}
    used.pop("postgres", None)
    samples.add_cpu(name, used, ended.value["events"], measure)


async def _ground(place: Place, plan: Plan, options: Options, samples: Samples) -> None:
    given = {"url": place.author_url, "seconds": plan.seconds}
    tasks: list[tuple[str, Task, dict[str, Any]]] = [
        (f"nats-py publish by {_by(writers)}", publish_with_nats_py, {"writers": writers})
        for writers in plan.writers
    ]
    for size in plan.sizes:
        tasks.append((f"batches of {size:,} through nats-py", batches_with_nats_py, {"size": size}))
        tasks.append((f"batches of {size:,} on the bare wire", batches_on_the_wire, {"size": size}))
    measure = Measure(unit="events/s", durability=options.durability, is_ground=True)
    for name, task, more in tasks:
        samples.add(name, _rate(await work(task, **given, **more)), measure)
    synced = Measure(unit="ms", durability="fsync", is_ground=True)
    samples.add_latency("one fsync", fsync_milliseconds(place.folder), synced)


def _by(writers: int) -> str:
    return "1 writer" if writers == 1 else f"{writers} writers"


def _rate(ended: Ended) -> float:
    return float(ended.value["events"] / ended.value["seconds"])
