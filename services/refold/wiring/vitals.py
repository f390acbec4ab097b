"""This machine's vital signs as small JSON documents, read through psutil. Used by `refold.wiring.demo` alone."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from typing import Final

import psutil

from refold.core.canonical import Json

BUSIEST_MAX: Final = 5
DISKS_MAX: Final = 5
PROCESSES_EVERY: Final = 5
"""Going through all processes takes a while: done at every fifth look."""

_MEBIBYTE: Final = 1024 * 1024
_NOT_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")


class Vitals:
    """Looks at the machine again and again; what is a rate is one since the last look."""

    def __init__(self) -> None:
        """Begin the rates."""
        self._looks = 0
        self._disks = _disks()
        self._processes: Json = {}
        psutil.cpu_percent(percpu=True)

    def look(self) -> dict[str, Json]:
        """Return the state of each document, by its id."""
        if self._looks % PROCESSES_EVERY == 0:
            self._processes = _processes()
        self._looks += 1
        signs = {"cpu": _cpu(), "memory": _memory(), "network": _network(), "processes": self._processes}
        for name, mount in self._disks.items():
            signs[name] = _disk(mount)
        return signs


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
    seen = []
    for process in psutil.process_iter():
        # It may have ended between the list and the look.
        with suppress(psutil.Error), process.oneshot():
            seen.append((process.cpu_percent(), process.memory_info().rss, process.pid, process.name()))
    busiest = [
        {"name": name, "pid": pid, "percent": percent, "memory_mib": rss // _MEBIBYTE}
        for percent, rss, pid, name in sorted(seen, reverse=True)[:BUSIEST_MAX]
    ]
    return {"count": len(seen), "busiest": busiest}
