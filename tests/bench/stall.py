"""What clients cost others: stopped and slow readers, endless connects, wide patterns, cursors that force replays.

Run by `python -m bench`. Beside them, others read a document that changes; the baseline is the same without them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import psutil

from bench import goals
from bench.fanout import Changes, Read, made, published, watching
from bench.filling import fill, fold_all
from bench.processes import Worker
from bench.report import NO_DISK, Durability, Measure, Report, Samples
from bench.system import Options, Whole, refuse_url, whole_system
from bench.tasks.abuse import call_endlessly, hold_streams
from bench.usage import ProcessorClock
from refold.bench import machine
from refold.bench.workload import NAMESPACE, Event
from refold.core.errors import TimedOut
from refold.live import log_name
from refold.wiring.servers import open_log

MEASUREMENTS: Final = ("stopped", "slow", "connects", "patterns", "replays")
FIRST: Final = 20_000
"""The number of the first client of these: they have other addresses than those that only read."""

MEBIBYTE: Final = 1024 * 1024
GONE_SECONDS_MAX: Final = 120.0
PAGE_BYTES: Final = 4_096
SUBSCRIPTIONS: Final = 64
WIDE_MEMBERS: Final = 1_000
REPLAYED_VERSIONS: Final = 5_000
SETTLED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how much."""

    measurements: tuple[str, ...] = MEASUREMENTS
    others: int = 100
    rate: float = 20.0
    seconds: float = 8.0
    value_bytes: int = 16_384
    stopped: int = 500
    bytes_per_second: int = 10_000
    callers: int = 8
    wide: int = 20


async def run(options: Options, plan: Plan) -> Report:
    """Measure each in turn, in each round in a system of its own."""
    refuse_url(options, "it watches the processes of a system of its own")
    samples = Samples()
    parts = {
        "stopped": _stopped,
        "slow": _slow,
        "connects": _connects,
        "patterns": _patterns,
        "replays": _replays,
    }
    for number in range(1, options.rounds + 1):
        samples.calibrate()
        for name in plan.measurements:
            async with whole_system(options) as system:
                await parts[name](Scene(system, plan, samples, name, options.durability))
            options.say(f"round {number}: {name} done")
    return Report(
        command="stall",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


@dataclass(frozen=True, slots=True)
class Scene:
    """One measurement: the system, and how others fare beside what is measured."""

    system: Whole
    plan: Plan
    samples: Samples
    name: str
    durability: Durability

    async def others(self, who: str, value_bytes: int) -> Read:
        """Let others read a document that changes; note how late they read, and return what they read."""
        plan = self.plan
        document = f"{self.name}-{time.monotonic_ns()}"
        changes = Changes(
            documents=[document],
            rate=plan.rate,
            count=int(plan.rate * plan.seconds),
            value_bytes=value_bytes,
        )
        await made(self.system, changes)
        path = f"/v1/{NAMESPACE}/{document}/live"
        async with watching(self.system.http, [path], plan.others, changes.last_version) as readers:
            read = await published(self.system, changes, readers)
        due = read.published.value["due"]
        late = [ms for noted in read.noted for ms in changes.lateness(0, noted, due)]
        ground = self._others("alone")
        measure = Measure(
            unit="ms",
            durability=self.durability,
            ground="" if who == "alone" else ground,
            is_ground=who == "alone",
        )
        self.samples.add_latency(self._others(who), late, measure)
        share = read.gateway_seconds / plan.seconds * 100
        self.add(f"CPU of the gateway, {who}", share, "%")
        return read

    def add(self, what: str, value: float, unit: str, goal: Any = None) -> None:
        """Note a figure."""
        self.samples.add(f"{self.name}: {what}", value, Measure(unit=unit, durability=NO_DISK, goal=goal))

    def _others(self, who: str) -> str:
        return f"{self.name}: {self.plan.others} others' delay, {who}"


async def _stopped(scene: Scene) -> None:
    """Readers that stop: memory of process and kernel for each, the others' delay, and when they are gone."""
    plan, system = scene.plan, scene.system
    await scene.others("alone", plan.value_bytes)
    process = psutil.Process(system.pid("gateway"))
    changes = Changes(
        documents=["stopped"], rate=plan.rate, count=int(plan.rate * 4), value_bytes=plan.value_bytes
    )
    await made(system, changes)
    path = f"/v1/{NAMESPACE}/stopped/live"
    async with watching(system.http, [path], 2, changes.last_version) as readers:
        # One change makes the document as large as it stays.
        await published(system, changes, readers)
    files, resident, kernel = process.num_fds(), process.memory_info().rss, _kernel_bytes()
    async with holding(system, [path], plan.stopped, bytes_per_second=0):
        began = time.monotonic()
        async with watching(system.http, [path], plan.others, 2 * changes.last_version - 1) as readers:
            await published(system, changes, readers)
        each = (process.memory_info().rss - resident) / plan.stopped / MEBIBYTE
        scene.add("memory of the process for one", each, "MiB", goals.STOPPED_MEBIBYTES)
        each = (_kernel_bytes() - kernel) / plan.stopped / MEBIBYTE
        scene.add("memory of the kernel for one", each, "MiB", goals.STOPPED_MEBIBYTES)
        await scene.others("beside them", plan.value_bytes)
        while process.num_fds() > files + plan.stopped // 100:
            if time.monotonic() > began + GONE_SECONDS_MAX:
                raise TimedOut("stopped readers are still connected", files=process.num_fds(), before=files)
            await asyncio.sleep(SETTLED_SECONDS)
        scene.add("gone after", time.monotonic() - began, "s", goals.STOPPED_GONE)


async def _slow(scene: Scene) -> None:
    """Readers that take less than what changes: they are sent merged changes."""
    plan, system = scene.plan, scene.system
    await scene.others("alone", plan.value_bytes)
    changes = Changes(
        documents=["slow"], rate=plan.rate, count=int(plan.rate * plan.seconds), value_bytes=plan.value_bytes
    )
    await made(system, changes)
    path = f"/v1/{NAMESPACE}/slow/live"
    process = psutil.Process(system.pid("gateway"))
    resident = process.memory_info().rss
    async with holding(system, [path], plan.stopped, bytes_per_second=plan.bytes_per_second):
        async with watching(system.http, [path], 2, changes.last_version) as readers:
            read, _ = await asyncio.gather(
                published(system, changes, readers), scene.others("beside them", plan.value_bytes)
            )
        each = (process.memory_info().rss - resident) / plan.stopped / MEBIBYTE
        scene.add("memory of the process for one", each, "MiB")
        scene.add("CPU of the gateway, both documents", read.gateway_seconds / plan.seconds * 100, "%")


async def _connects(scene: Scene) -> None:
    """Clients that open streams and leave them, as fast as they can."""
    await made(scene.system, Changes(documents=["connects"], rate=1, count=1))
    await _called(scene, f"/v1/{NAMESPACE}/connects/live", [])


async def _replays(scene: Scene) -> None:
    """The same, with cursors of old versions: each is another read of history."""
    system = scene.system
    name = "replays"
    await made(system, Changes(documents=[name], rate=1, count=1))
    bodies = (orjson.dumps({"merge": {"m0": f"{number:032x}"}}) for number in range(REPLAYED_VERSIONS))
    await fill(system.nats, (Event(name, body) for body in bodies))
    await fold_all(system)
    log = await open_log(system.reached.required("nats_url"), "refold-bench-stall")
    try:
        log_id = (await log.info()).log_id
    finally:
        await log.close()
    cursors = [f"{log_name(log_id)}-{number * 7 % 3_000}" for number in range(3_000)]
    await _called(scene, f"/v1/{NAMESPACE}/{name}/live?merge=false", cursors)


async def _called(scene: Scene, path: str, cursors: list[str]) -> None:
    plan, system = scene.plan, scene.system
    await scene.others("alone", 40)
    given = {"url": system.http, "paths": [path], "cursors": cursors, "first": FIRST, "count": plan.callers}
    async with await Worker.start(call_endlessly, **given) as callers:
        await callers.ready()
        clock = ProcessorClock(system.pids)
        callers.go()
        began = time.monotonic()
        await scene.others("beside them", 40)
        callers.stop()
        answers = (await callers.ended()).value
        seconds, used = time.monotonic() - began, clock.seconds()
    count = sum(answers.values())
    scene.add("streams opened", count / seconds, "1/s")
    for kind, number in answers.items():
        scene.add(f"streams whose first event is {kind}", number / count * 100, "%")
    for group in ("gateway", "postgres"):
        scene.add(f"CPU of {group} for one", used[group] / count * 1e6, "µs")


async def _patterns(scene: Scene) -> None:
    """Connections with as many subscriptions as possible, each to a pattern of its own that matches everything."""
    plan, system = scene.plan, scene.system
    await scene.others("alone", 40)
    changes = Changes(
        documents=["wide"], rate=plan.rate, count=int(plan.rate * plan.seconds), members=WIDE_MEMBERS
    )
    await made(system, changes)
    process = psutil.Process(system.pid("gateway"))
    resident, clock = process.memory_info().rss, ProcessorClock([("gateway", process.pid)])
    paths = [_wide_path(number) for number in range(plan.wide)]
    async with holding(system, paths, plan.wide, bytes_per_second=None):
        scene.add("CPU of the gateway to open one", clock.seconds()["gateway"] / plan.wide * 1e3, "ms")
        each = (process.memory_info().rss - resident) / plan.wide / MEBIBYTE
        scene.add("memory of the process for one", each, "MiB")
        one = f"/v1/{NAMESPACE}/wide/live"
        async with watching(system.http, [one], 2, changes.last_version) as readers:
            read = await published(system, changes, readers)
        each_us = read.gateway_seconds * 1e6 / changes.count / plan.wide
        scene.add("CPU of the gateway for a change and connection", each_us, "µs")
        async with watching(system.http, [one], 2, 2 * changes.last_version - 1) as readers:
            await asyncio.gather(published(system, changes, readers), scene.others("beside them", 40))


def _wide_path(number: int) -> str:
    """Return the path of a connection whose patterns no other has: each has a depth of its own."""
    depths = range(number * SUBSCRIPTIONS, (number + 1) * SUBSCRIPTIONS)
    subs = [
        {"namespace": NAMESPACE, "document": "wide", "path": "/*", "depth": depth % 1_000} for depth in depths
    ]
    return "/live/v1?" + "&".join(f"sub={quote(json.dumps(sub))}" for sub in subs)


@asynccontextmanager
async def holding(
    system: Whole, paths: list[str], count: int, *, bytes_per_second: int | None
) -> AsyncIterator[None]:
    """Hold streams in a process of its own as long as the block runs."""
    given = {"url": system.http, "paths": paths, "first": FIRST, "count": count}
    async with await Worker.start(hold_streams, bytes_per_second=bytes_per_second, **given) as holders:
        await holders.ready()
        holders.go()
        yield
        holders.stop()
        await holders.ended()


def _kernel_bytes() -> int:
    """Return the kernel's memory for all TCP sockets of this machine."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return int(found[1]) * PAGE_BYTES if found else 0
