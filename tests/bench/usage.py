"""Peak memory and processor time of a process. Used by the measurements and their tasks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def peak_bytes(pid: int | str) -> int:
    """Return a process's peak memory; 0 if the system does not report it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and of all that it has started."""
    try:
        process = psutil.Process(pid)
        return sum(_own_seconds(each) for each in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0.0


class ProcessorClock:
    """Processor time of some processes since this was made."""

    def __init__(self, pids: Iterable[tuple[str, int]]) -> None:
        """Start now."""
        self._begun = [(name, pid, cpu_seconds(pid)) for name, pid in pids]

    def seconds(self) -> dict[str, float]:
        """Return the seconds by name."""
        return {name: max(0.0, cpu_seconds(pid) - started_at) for name, pid, started_at in self._begun}


def _own_seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0
