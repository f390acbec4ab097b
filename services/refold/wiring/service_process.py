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
from refold.telemetry.logging import LossyFile
from refold.wiring.health import service_fault
from refold.wiring.part import Fault
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
        self._log: LogFile | None = None
        self._logging: asyncio.Task[None] | None = None
        self._probe: tuple[str, int] | None = None

    def hand(self, flags: Mapping[str, object], log: Path, probe: tuple[str, int]) -> None:
        """Hand it its settings, which it waits for, and keep what it logs; `probe` is where it answers `/healthz`.

        Through a pipe: arguments can be read by everyone, and it has loaded its code meanwhile.
        """
        assert self._process.stdin is not None
        self._log, self._probe = LogFile(log), probe
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
            # A caller that is cancelled must not end the reading.
            await asyncio.wait({self._logging})
        return code

    async def fault(self) -> Fault | None:
        """Ask its `/healthz`."""
        return await service_fault(*self._probe) if self._probe else None

    async def stop(self, *, wait_seconds: float = CHILD_STOP_SECONDS) -> None:
        """End it: ask, wait, then kill."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(wait_seconds):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self.ended()

    def failure(self, what: str) -> ChildFailed:
        """Make the error that says what happened, with its last log lines."""
        said = self._log.tail.decode(errors="replace").strip() if self._log is not None else ""
        return ChildFailed(f"{self.name} {what}; its log ends:\n{said or '(empty)'}")

    async def _keep_log(self, log: LogFile) -> None:
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


class LogFile:
    """Keeps what a service logs: in a file of bounded size, with the last lines in memory."""

    def __init__(self, path: Path) -> None:
        """Append to a file; what the disk does not take is dropped and counted."""
        self._path = path
        self._lines = LossyFile(lambda: path.open("ab", buffering=0), service=path.stem)
        self.tail = b""

    def write(self, chunk: bytes) -> None:
        """Write what has come."""
        self.tail = (self.tail + chunk)[-CHILD_LOG_TAIL_BYTES:]
        self._lines.write(chunk)
        if self._lines.size() > LOG_BYTES_MAX and chunk.endswith(b"\n"):
            self._lines.close()
            # Where the disk does not even allow this, the file grows until it does.
            with suppress(OSError):
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
