"""A system under load of every kind, scraped by a real Prometheus: what the dashboards are tested and drawn with.

The load has rejected, conflicting and repeated events, failed preconditions, bulk requests, reads of every kind, live
streams, and a projector that is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from refold.client import Refold
from refold.core.errors import RefoldError
from support.collector import collecting
from support.prometheus import Prometheus, program, running_prometheus, scraping
from support.sources import ROOT
from support.system import free_port
from support.up import Up

ALERTS = ROOT / "infra" / "alerts.toml"
RULES = ROOT / "infra" / "prometheus" / "rules" / "refold.yml"
NAMESPACES = ("orders", "carts", "profiles")
DOCUMENTS = 40
WRITERS = 4
READERS = 3
WATCHERS = 6
BULK_EVENTS = 100
PAUSE_SECONDS = 0.02
BULK_PAUSE_SECONDS = 1.0
KILLED = {"projector": 0.3, "postgres": 0.55, "nats-server": 0.8}
"""What is killed, and after which share of the time."""

STREAM_SECONDS = "15"
"""Streams end after this, and their readers return."""


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What was scraped: the server, and when the load began and ended."""

    prometheus: Prometheus
    start: float
    end: float


@contextmanager
def monitored(path: Path, *, seconds: float, seed: int = 1) -> Iterator[Monitored]:
    """Run a system of two stores with alerts and traces under load, and keep Prometheus running after it."""
    # Before anything starts: without Prometheus, a test is skipped or fails here.
    program("prometheus")
    with collecting() as collector:
        stores = ("--store", "postgres", "--store", "files", "--durability", "os")
        streams = ("--live-seconds-max", STREAM_SECONDS)
        watched = ("--usage", "--alerts", str(ALERTS), "--otlp-url", collector.url, "--trace-ratio", "0.2")
        up = Up.start(path / "data", *stores, *streams, *watched)
        try:
            services = up.endpoints()["services"]
            # One that never answers.
            targets = services | {"gateway-2": f"http://127.0.0.1:{free_port()}"}
            with running_prometheus(path / "prometheus", scraping(targets, rules=[RULES])) as prometheus:
                prometheus.until_scraped(len(services))
                start = time.time()
                asyncio.run(_load(up, seconds, random.Random(seed)))
                prometheus.until_scraped(len(services))
                yield Monitored(prometheus=prometheus, start=start, end=time.time())
        finally:
            if up.process.poll() is None:
                up.stop()


async def _load(up: Up, seconds: float, chance: random.Random) -> None:
    """Write, read and watch for a time; kill this and that in between."""
    async with Refold(up.url) as refold:
        for namespace in NAMESPACES:
            for number in range(DOCUMENTS):
                await refold.put(namespace, f"d{number}", {"n": 0, "items": [], "by": {}})
        calls = [_write] * WRITERS + [_read] * READERS
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(_repeat(call, refold, chance, PAUSE_SECONDS)) for call in calls]
            started.append(tasks.create_task(_repeat(_append, refold, chance, BULK_PAUSE_SECONDS)))
            for number in range(WATCHERS):
                document = f"d{number}" if number % 2 else None
                started.append(tasks.create_task(_follow(refold.watch(NAMESPACES[number % 3], document))))
            begun = time.monotonic()
            for name, after in KILLED.items():
                await asyncio.sleep(begun + seconds * after - time.monotonic())
                _kill(up, name)
            await asyncio.sleep(begun + seconds - time.monotonic())
            for task in started:
                task.cancel()


def _kill(up: Up, name: str) -> None:
    """Kill a service or a server; it is started again."""
    pids = re.findall(rf"^{name} +process (\d+)", up.said(), re.MULTILINE)
    os.kill(int(pids[0]) if pids else up.child(name).pid, signal.SIGKILL)


async def _repeat(
    call: Callable[[Refold, random.Random], Awaitable[object]],
    refold: Refold,
    chance: random.Random,
    pause_seconds: float,
) -> None:
    """Call again and again; an error that the service answers is part of the load."""
    while True:
        with suppress(RefoldError):
            await call(refold, chance)
        await asyncio.sleep(pause_seconds)


async def _follow(updates: AsyncIterator[object]) -> None:
    async for _ in updates:
        pass


async def _write(refold: Refold, chance: random.Random) -> object:
    """Write one event; of ten, six are ordinary."""
    key = chance.choice(NAMESPACES), f"d{chance.randrange(DOCUMENTS)}"
    add = [{"op": "replace", "path": "/n", "value": chance.randrange(1000)}]
    match chance.randrange(10):
        case 0:
            return await refold.patch(*key, [{"op": "test", "path": "/n", "value": -1}])
        case 1:
            strategy = chance.choice(("reject", "merge", "first_write_wins", "last_write_wins"))
            return await refold.patch(*key, add, base=1, on_conflict=strategy)
        case 2:
            await refold.merge(*key, {"by": {"ann": 1}}, id=f"repeated-{key[1]}")
            return await refold.merge(*key, {"by": {"ann": 1}}, id=f"repeated-{key[1]}")
        case 3:
            version = (await refold.get(*key)).version
            return await refold.patch(*key, add, if_version=version - chance.randrange(2))
        case _:
            return await refold.patch(*key, add)


async def _append(refold: Refold, chance: random.Random) -> object:
    """Append many events in one request; one of them is rejected."""
    events = [
        {"doc": f"d{chance.randrange(DOCUMENTS)}", "patch": [{"op": "inc", "path": "/n", "inc": 1}]}
        for _ in range(BULK_EVENTS)
    ]
    events[0]["patch"] = [{"op": "test", "path": "/n", "value": -1}]
    return await refold.append(chance.choice(NAMESPACES), events)


async def _read(refold: Refold, chance: random.Random) -> object:
    """Read in one of the ways that a reader has."""
    key = chance.choice(NAMESPACES), f"d{chance.randrange(DOCUMENTS)}"
    match chance.randrange(8):
        case 0:
            return [change async for change in refold.history(*key, limit=20)]
        case 1:
            return await refold.get(*key, version=1)
        case 2:
            return [item async for item in refold.list(key[0], limit=20)]
        case 3:
            return await refold.get(key[0], "none")
        case 4:
            return await refold.diff(*key, 1, 2)
        case _:
            return await refold.get(*key)
