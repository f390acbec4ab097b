"""Ends the servers that a killed run has left in a data folder. Only `refold.embedded.folder` may use it.

A process is ended only if its pid and its start time are those recorded.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil

from refold.core.errors import DataFolderInUse
from refold.core.limits import CHILD_STOP_SECONDS
from refold.embedded.child import STOP_SIGNAL, pause

_CLOCK_SECONDS = 2
"""Start times are told by the wall clock, which is set right now and then."""


async def outlive(lock: Path, children: Path) -> int:
    """Take the servers' lock, ending those who hold it still; give its file descriptor."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await _outlive(file, children)
    except BaseException:
        os.close(file)
        raise
    return file


async def _outlive(file: int, children: Path) -> None:
    if _locked(file):
        return
    recorded = list(_recorded(children))
    for signal_number in (STOP_SIGNAL, signal.SIGKILL):
        for process in recorded:
            # Ended meanwhile, or another user's: whether the lock comes free is what counts.
            with suppress(psutil.Error):
                process.send_signal(signal_number)
        if await _freed(file):
            return
    message = "servers of an earlier run still use this data folder, and could not be ended"
    raise DataFolderInUse(message, folder=str(children.parent), pids=[process.pid for process in recorded])


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _freed(file: int) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(CHILD_STOP_SECONDS):
            while not _locked(file):
                await pause()
            return True
    return False


def _recorded(children: Path) -> Iterator[psutil.Process]:
    rows: list[dict[str, Any]] = orjson.loads(children.read_bytes()) if children.exists() else []
    for row in rows:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(row["pid"])
            if abs(process.create_time() - row["started"]) <= _CLOCK_SECONDS:
                yield process
