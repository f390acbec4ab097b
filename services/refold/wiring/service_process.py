"""A service as a process of its own: started, its log lines kept, ended. Used by `refold.wiring.system` alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final

from refold.core import canonical
from refold.core.errors import ChildFailed
from refold.core.limits import CHILD_LOG_TAIL_BYTES, CHILD_STOP_SECONDS
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
            await self._logging
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
    """What a service logs, bounded. What the disk does not take is counted: nothing here may block the service."""

    def __init__(self, path: Path) -> None:
        """Append to a file, and to its end in memory."""
        self._path = path
        self._file: FileIO | None = None
        self._dropped_bytes = 0
        self.tail = b""

    def write(self, chunk: bytes) -> None:
        """Write what has come; what cannot be written is dropped, and told of by the next line that can be."""
        self.tail = (self.tail + chunk)[-CHILD_LOG_TAIL_BYTES:]
        note = b"" if not self._dropped_bytes else b"\n%b\n" % _dropped_line(self._dropped_bytes)
        written = self._written(note + chunk)
        if written >= len(note):
            self._dropped_bytes = len(note) + len(chunk) - written
        else:
            self._dropped_bytes += len(chunk)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _written(self, data: bytes) -> int:
        """Return how many bytes the disk has taken."""
        try:
            if self._file is None:
                self._file = FileIO(self._path, "ab")
            written = self._file.write(data) or 0
            if written == len(data) and data.endswith(b"\n") and self._file.tell() > LOG_BYTES_MAX:
                self._file.close()
                self._file = None
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError:
            return 0
        return written


def _dropped_line(size: int) -> bytes:
    return canonical.dumps({"level": "error", "event": "log_lines_dropped", "bytes": size})
