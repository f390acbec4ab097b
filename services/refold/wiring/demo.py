"""Record this machine's vital signs in a running system. Used by `refold demo`."""

from __future__ import annotations

import asyncio
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import psutil

from refold.client import Refold
from refold.core.diff import diff
from refold.core.json_text import Json

NAMESPACE: Final = "machine"
ACTOR: Final = "refold-demo"
TICK_SECONDS: Final = 0.1
BUSIEST_MAX: Final = 5
DISKS_MAX: Final = 5
PROCESSES_EVERY: Final = 5
"""Listing all processes takes a while: it is done at every fifth look."""

_MEBIBYTE: Final = 1024 * 1024
_NOT_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(slots=True, kw_only=True)
class Recording:
    """What was recorded so far. `waits` are the seconds from a publication to its outcomes."""

    versions: dict[str, int] = field(default_factory=dict)
    events: int = 0
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def wait_seconds(self) -> float:
        """The median of the waits."""
        return median(self.waits or [0.0])


async def record(refold: Refold, seconds: float, listen: Callable[[Recording], None]) -> Recording:
    """Publish the changes of the vital signs ten times a second, each as a small patch."""
    recording, vitals, states = Recording(), Vitals(), dict[str, Json]()
    begun = due = time.monotonic()
    while recording.seconds < seconds:
        signs = await asyncio.to_thread(vitals.look)
        events = [event for name, sign in signs.items() if (event := _event(name, states.get(name), sign))]
        if events:
            sent = time.monotonic()
            outcomes = await refold.append(NAMESPACE, events)
            recording.waits.append(time.monotonic() - sent)
            recording.events += len(outcomes)
            recording.versions |= {
                event["doc"]: outcome.version or 0
                for event, outcome in zip(events, outcomes, strict=True)
                if outcome.is_effective
            }
        states = signs
        due = max(due + TICK_SECONDS, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        recording.seconds = time.monotonic() - begun
        listen(recording)
    return recording


def _event(document: str, before: Json, after: Json) -> dict[str, Json] | None:
    about = {"doc": document, "actor": ACTOR}
    if before is None:
        return {**about, "type": f"{document}.seen", "put": after}
    patch = diff(before, after)
    return {**about, "type": f"{document}.changed", "patch": patch} if patch else None


class Vitals:
    """Reads the vital signs; rates are measured since the previous look."""

    def __init__(self) -> None:
        self._looks = 0
        self._disks = _disks()
        self._processes: Json = {}
        psutil.cpu_percent(percpu=True)

    def look(self) -> dict[str, Json]:
        """Return the state of each document, by its id."""
        if self._looks % PROCESSES_EVERY == 0:
            self._processes = _processes()
        self._looks += 1
        disks = {name: _disk(mount) for name, mount in self._disks.items()}
        signs = {"cpu": _cpu(), "memory": _memory(), "network": _network(), "processes": self._processes}
        return {**signs, **disks}


def _cpu() -> Json:
    cores = psutil.cpu_percent(percpu=True)
    load = (round(average, 2) for average in psutil.getloadavg())
    return {
        "machine": platform.platform(),
        "percent": round(sum(cores) / max(1, len(cores)), 1),
        "cores": {f"core-{number}": percent for number, percent in enumerate(cores)},
        "load": dict(zip(("1m", "5m", "15m"), load, strict=True)),
    }


def _memory() -> Json:
    memory = psutil.virtual_memory()
    return {
        "total_mib": memory.total // _MEBIBYTE,
        "used_mib": memory.used // _MEBIBYTE,
        "available_mib": memory.available // _MEBIBYTE,
        "percent": memory.percent,
        "swap_mib": psutil.swap_memory().used // _MEBIBYTE,
    }


def _network() -> Json:
    counters = psutil.net_io_counters(pernic=True)
    return {
        name: {"received_bytes": it.bytes_recv, "sent_bytes": it.bytes_sent}
        for name, it in counters.items()
        if it.bytes_recv or it.bytes_sent
    }


def _disks() -> dict[str, str]:
    mounts = {"/", *(partition.mountpoint for partition in psutil.disk_partitions())}
    named = {f"disk-{_NOT_NAME.sub('-', mount).strip('-') or 'root'}"[:128]: mount for mount in mounts}
    return dict(sorted(named.items())[:DISKS_MAX])


def _disk(mount: str) -> Json:
    with suppress(OSError):
        usage = psutil.disk_usage(mount)
        return {"mount": mount, "percent": usage.percent, "used_mib": usage.used // _MEBIBYTE}
    return {"mount": mount}


def _processes() -> Json:
    found = []
    for process in psutil.process_iter():
        # It may have ended since the list was made.
        with suppress(psutil.Error), process.oneshot():
            found.append((process.cpu_percent(), process.memory_info().rss, process.pid, process.name()))
    busiest = [
        {"name": name, "pid": pid, "percent": percent, "memory_mib": rss // _MEBIBYTE}
        for percent, rss, pid, name in sorted(found, reverse=True)[:BUSIEST_MAX]
    ]
    return {"count": len(found), "busiest": busiest}
