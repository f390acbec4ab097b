"""Sources that measure this machine at different rates, and the producer that sends what they measure."""

import asyncio
import platform
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from refold.client import Refold

INTERVAL_SECONDS = 0.1
"""The producer sends at most one event in this time."""

RECENT = 60
"""Values in a ring."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A group of figures: their pointers and values, read `rate` times a second. One of them may have a ring."""

    name: str
    rate: float
    read: Callable[[], dict[str, Any]]
    ring: str = ""


def read_counters() -> dict[str, Any]:
    """Read what the kernel has counted since the start."""
    counted = psutil.cpu_stats()
    return {"/now/counters": {"switches": counted.ctx_switches, "interrupts": counted.interrupts}}


def read_cpu() -> dict[str, Any]:
    """Read how busy each core was since the last time."""
    cores = psutil.cpu_percent(percpu=True)
    each = {f"/now/cpu/cores/{number}": percent for number, percent in enumerate(cores)}
    return {"/now/cpu/percent": round(sum(cores) / len(cores), 1), **each}


def read_memory() -> dict[str, Any]:
    """Read how much memory is used."""
    memory = psutil.virtual_memory()
    return {"/now/memory/percent": memory.percent, "/now/memory/used_mib": memory.used >> 20}


def read_disk() -> dict[str, Any]:
    """Read how full the disk is."""
    disk = psutil.disk_usage("/")
    return {"/now/disk/percent": disk.percent, "/now/disk/used_mib": disk.used >> 20}


SOURCES = (
    Source(name="counters", rate=50, read=read_counters),
    Source(name="cpu", rate=10, read=read_cpu, ring="/now/cpu/percent"),
    Source(name="memory", rate=2, read=read_memory),
    Source(name="disk", rate=0.2, read=read_disk),
)
EMPTY = {
    "about": {"machine": platform.platform(), "cores": psutil.cpu_count()},
    "now": {"counters": {}, "cpu": {"cores": {}}, "memory": {}, "disk": {}},
    "recent": {},
}
"""The document before the first values."""


class Producer:
    """Collects values by their paths, and sends one event per interval with all that have changed.

    One event is on the way at a time: where the service is slow, events become larger, not more.
    """

    def __init__(self, refold: Refold, namespace: str, document: str) -> None:
        self._refold = refold
        self._key = namespace, document
        self._values: dict[str, Any] = {}
        self._changed: dict[str, Any] = {}
        self._pushed: list[dict[str, Any]] = []
        self.ring: deque[float] = deque(maxlen=RECENT)
        self.sent: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.is_ended = False

    async def run(self) -> None:
        """Send at each interval until ended, then what is left."""
        due = time.monotonic()
        while not self.is_ended:
            await self.send()
            due = await pause_until(due + INTERVAL_SECONDS)
        await self.send()

    def set(self, path: str, value: Any) -> None:
        """Note a value; of several in one interval the last is sent."""
        self.counts["values"] += 1
        if self._values.get(path) != value:
            self._values[path] = self._changed[path] = value

    def push(self, path: str, value: Any) -> None:
        """Note a value for a ring of the last ones; each is sent."""
        self.ring.append(value)
        self._pushed.append({"op": "push", "path": path, "value": value, "max": RECENT})

    async def send(self) -> None:
        """Send what has changed as one event."""
        operations = [{"op": "add", "path": path, "value": value} for path, value in self._changed.items()]
        operations += self._pushed
        self._changed, self._pushed = {}, []
        if operations:
            event_id = f"host-{self.counts['events']}"
            self.sent[event_id] = time.monotonic()
            outcome = await self._refold.patch(*self._key, operations, id=event_id, type="host.changed")
            outcome.raise_for_status()
            self.counts["events"] += 1
            self.counts["operations"] += len(operations)


async def measure(source: Source, producer: Producer) -> None:
    """Hand on what a source measures, at its rate, until cancelled."""
    due = time.monotonic()
    while True:
        values = source.read()
        producer.counts[source.name] += 1
        for path, value in values.items():
            producer.set(path, value)
        if source.ring:
            producer.push(f"/recent/{source.name}", values[source.ring])
        due = await pause_until(due + 1 / source.rate)


async def pause_until(due: float) -> float:
    """Wait for a time; return it, or the present where that is later."""
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    return max(due, time.monotonic())
