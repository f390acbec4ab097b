"""Peak memory and processor time of processes. Used by the measurements and their tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from refold.core.errors import ChildFailed

TRIES: Final = 10
"""A tree is read again if one of its processes ends meanwhile."""


def peak_bytes(pid: int | str) -> int:
    """Return a process's peak memory; 0 if the system does not report it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """Return the processor time (user and system) of a process and of all that it has started.

    Children that have ended are included, such as PostgreSQL's backends: their parent has waited for them, and the
    kernel adds their time to its own record of children. Raises `ChildFailed` if the process itself has ended.
    """
    for _ in range(TRIES):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            return sum(_own_seconds(each) for each in [process, *process.children(recursive=True)])
    raise ChildFailed(f"process {pid} ended while it was measured")


class ProcessorClock:
    """Processor time of named groups of processes since this was made; a group may have several processes."""

    def __init__(self, pids: Iterable[tuple[str, int]]) -> None:
        """Start now."""
        self._begun = [(name, pid, cpu_seconds(pid)) for name, pid in pids]

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each group."""
        used: dict[str, float] = {}
        for name, pid, begun in self._begun:
            used[name] = used.get(name, 0.0) + max(0.0, cpu_seconds(pid) - begun)
        return used


def microseconds_each(used: Mapping[str, float], count: int) -> dict[str, float]:
    """Divide seconds of groups among so many events or reads, in microseconds."""
    return {name: seconds * 1e6 / max(1, count) for name, seconds in used.items()}


def _own_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
