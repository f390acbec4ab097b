"""A service as a process of its own: started, its log lines kept, ended. Used by `refold.wiring.system` alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from refold.core import canonical
from refold.core.errors import ChildFailed
from refold.core.limits import CHILD_LOG_TAIL_BYTES, CHILD_STOP_SECONDS
from refold.wiring.settings import environment_without

LOG_BYTES_MAX: Final = 16 * 1024 * 1024
"""A log file is put aside when it is as large as this; one older one is kept."""

CHUNK_BYTES: Final = 64 * 1024


class ServiceProcess:
    """One service. What it logs goes to a file, and its last lines into the error when it fails."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Take over a process that has just been started (see `start_service`)."""
        self.name = name
        self._process = process
        self._log: _LogFile | None = None
        self._logging: asyncio.Task[None] | None = None

    def hand(self, flags: Mapping[str, object], log: Path) -> None:
        """Hand it its settings, which it waits for, and keep what it logs.

        Through a pipe: arguments can be read by everyone, and it has loaded its code meanwhile.
        """
        assert self._process.stdin is not None
        self._log = _LogFile(log)
        self._logging = asyncio.create_task(self._keep_log(self._log), name=f"{self.name} log")
        self._process.stdin.write(canonical.dumps(flags) + b"\n")
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ended(self) -> int:
        """Wait until it has ended and its last line is kept; return its exit code, negative: the signal."""
        code = await self._process.wait()
        if self._logging is not None:
            await self._logging
        return code

    async def stop(self) -> None:
        """End it: ask, wait, then kill."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(CHILD_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self.ended()

    def failure(self, what: str) -> ChildFailed:
        """Make the error that says what happened, with its last log lines."""
        said = self._log.tail.decode(errors="replace").strip() if self._log is not None else ""
        return ChildFailed(f"{self.name} {what}; its log ends:\n{said or '(empty)'}")

    async def _keep_log(self, log: _LogFile) -> None:
        assert self._process.stderr is not None
        try:
            while chunk := await self._process.stderr.read(CHUNK_BYTES):
                log.write(chunk)
        finally:
            log.close()


async def start_service(name: str) -> ServiceProcess:
    """Start a service's process; it loads its code, then waits for its settings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "refold.wiring.attached",
        name,
        str(os.getpid()),
        env=environment_without(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C in a terminal goes to us alone: we decide who ends when.
        start_new_session=True,
    )
    return ServiceProcess(name, process)


class _LogFile:
    """What a service logs; bounded, for nobody can be asked to clean up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")
        self.tail = b""

    def write(self, chunk: bytes) -> None:
        self.tail = (self.tail + chunk)[-CHILD_LOG_TAIL_BYTES:]
        self._file.write(chunk)
        self._file.flush()
        if self._file.tell() > LOG_BYTES_MAX and chunk.endswith(b"\n"):
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab")

    def close(self) -> None:
        self._file.close()
