"""A server that runs as our child, ended by its own handle. Only `refold.embedded` may use it.

It dies with the thread that started it (Linux): start it from one that outlives it, such as the main thread.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

from refold.core.errors import ChildFailed
from refold.core.limits import (
    CHILD_LOG_TAIL_BYTES,
    CHILD_POLL_SECONDS,
    CHILD_START_SECONDS,
    CHILD_STOP_SECONDS,
)
from refold.embedded.identity import Identity

T = TypeVar("T")

STOP_SIGNAL: Final = signal.SIGINT
"""Both servers take it as: end cleanly, now."""

DEATH_SIGNAL: signal.Signals | int = STOP_SIGNAL
"""What a child is sent when its parent dies."""

_LAUNCH: Final = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What to run, in `folder`; `arguments` begin with the program's path.

    The first of the `logs` takes what it prints; others it writes itself. Each start begins them anew.
    `process_bytes_max` bounds what each of its processes may allocate for itself; 0: nothing does. `variable` is
    added to its environment, as `NAME=value`.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    logs: tuple[Path, ...]
    identity: Identity | None = None
    process_bytes_max: int = 0
    variable: str = ""


class Child:
    """One running server. Nothing else may end it."""

    def __init__(self, command: Command, *, held: Iterable[int] = ()) -> None:
        """Start it; `held` are file descriptors (locks) that it keeps open as long as it lives."""
        self.command = command
        self._process = _launch(command, held)
        self.pid = self._process.pid
        self.started = psutil.Process(self.pid).create_time()

    @property
    def running(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Give the code it ended with; negative: the signal; None: it runs."""
        return self._process.poll()

    async def ended(self) -> int:
        """Wait until it has ended, and give its exit code."""
        while (code := self.exit_code) is None:
            await pause()
        return code

    async def stop(self, *, wait_seconds: float = CHILD_STOP_SECONDS) -> None:
        """End it: ask, wait, then kill."""
        if self.running:
            self._process.send_signal(STOP_SIGNAL)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self.ended()
        finally:
            self.kill()

    def failure(self, what: str) -> ChildFailed:
        """Make the error that says `what` happened to it, with the end of its log."""
        tails = "\n".join(_tail(log) for log in self.command.logs)
        return ChildFailed(f"{self.command.name} {what}; its log ends:\n{tails}", exit_code=self.exit_code)

    def kill(self) -> None:
        """End it at once, without asking."""
        if self.running:
            # Its session is its own, so this reaches what it has started too.
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


async def pause() -> None:
    """Let a moment pass before looking again: nothing tells us of these events."""
    await asyncio.sleep(CHILD_POLL_SECONDS)


async def wait_ready(child: Child, look: Callable[[], Awaitable[T | None]]) -> T:
    """Look again and again until there is something; otherwise the child is ended."""
    try:
        async with asyncio.timeout(CHILD_START_SECONDS):
            return await _wait_ready(child, look)
    except BaseException as error:
        await child.stop()
        if isinstance(error, TimeoutError):
            raise child.failure("was not ready in time") from error
        raise


async def _wait_ready(child: Child, look: Callable[[], Awaitable[T | None]]) -> T:
    while (found := await look()) is None:
        if not child.running:
            raise child.failure("ended while it was starting")
        await pause()
    return found


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    return log.read_bytes()[-CHILD_LOG_TAIL_BYTES:].decode(errors="replace").strip()


def _launch(command: Command, held: Iterable[int]) -> subprocess.Popen[bytes]:
    for log in command.logs:
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
    uid, gid = (command.identity.uid, command.identity.gid) if command.identity else (-1, -1)
    ties = (os.getpid(), int(DEATH_SIGNAL), uid, gid, command.process_bytes_max, command.variable)
    with command.logs[0].open("xb") as printed:
        return subprocess.Popen(
            (sys.executable, "-I", "-S", str(_LAUNCH), *map(str, ties), *command.arguments),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            pass_fds=tuple(held),
            # Ctrl-C in a terminal goes to us alone: we decide who ends when.
            start_new_session=True,
        )
