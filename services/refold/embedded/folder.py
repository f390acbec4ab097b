"""The data folder: its locks, passwords and children. Used by `refold.embedded` and `refold.wiring`.

Two locks: `lock` is held by the one process that may use the folder, `servers.lock` by its servers as long as any of
them runs. So it is certain whether a killed run has left servers behind, and these are ended before anything else
touches their data.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import orjson
import psutil

from refold.core.errors import DataFolderInUse, EmbeddedError, PortTaken
from refold.embedded import LOCK, SECRETS, SERVERS_LOCK, read_passwords, remove_endpoints, write_json
from refold.embedded.process import STOP_SECONDS, Command, Process, choose_port, pause

USERS: Final = ("administrator", "projector", "reply", "gateway", "author", "postgres")
"""The users of nats.conf.template, and PostgreSQL's only user."""

_LOG_MARKER: Final = "log.json"
_CHILDREN: Final = "children.json"
_PORTS: Final = "ports.json"
_PASSWORD_BYTES: Final = 32
_CLOCK_SECONDS: Final = 2
"""Recorded start times differ by as much as the wall clock has been set since."""
_LOCK_ATTEMPTS_MAX: Final = 5
_LOCK_PAUSE_SECONDS: Final = 0.02
"""A command that looks whether a system runs holds the lock for a moment."""


class DataFolder:
    """A data folder that this process holds until `close`."""

    def __init__(self, path: Path, *, locks: list[int]) -> None:
        """Take over the file descriptors of the folder's and the servers' lock (see `open_folder`)."""
        self.path = path
        self.passwords = _passwords(path)
        self._locks = locks
        self._children: dict[str, dict[str, Any]] = {}
        self._ports = _chosen_ports(path)

    def start(self, command: Command) -> Process:
        """Start a child that holds the servers' lock, and record it."""
        child = Process(command, held=self._locks[1:])
        try:
            started = psutil.Process(child.pid).create_time()
            self._children[command.name] = {"name": command.name, "pid": child.pid, "started": started}
            write_json(self.path / _CHILDREN, list(self._children.values()))
        except BaseException:
            child.kill()
            raise
        return child

    def choose_port(self, name: str, host: str, port: int = 0) -> int:
        """Return the port if it is free; for 0 the one that was chosen before if it is free, else any free one.

        `name` is who listens. Only what was chosen is kept. Raises `PortTaken`.
        """
        if port:
            return choose_port(host, port)
        others = {number for other, number in self._ports.items() if other != name}
        if (last := self._ports.get(name)) and last not in others:
            with suppress(PortTaken):
                return choose_port(host, last)
        while (chosen := choose_port(host)) in others:
            pass
        self._ports[name] = chosen
        write_json(self.path / _PORTS, self._ports)
        return chosen

    def close(self) -> None:
        """Release the folder, after its children have ended; a second call does nothing."""
        if self._locks:
            remove_endpoints(self.path)
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FolderMarker:
    """A `LogMarker` in the data folder, outside of the log's own storage."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOG_MARKER

    async def read(self) -> str | None:
        """Return the id of the log that was created in this folder; None if there was none."""
        if not self._path.exists():
            return None
        try:
            return str(orjson.loads(self._path.read_bytes())["log_id"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            message = (
                "the file that says which log was created here cannot be read: delete it if the log is there"
            )
            raise EmbeddedError(message, path=str(self._path), reason=str(error)) from error

    async def write(self, log_id: str) -> None:
        """Remember the log that was created in this folder."""
        write_json(self._path, {"log_id": log_id})

    async def forget(self) -> None:
        """Forget the log, because it is lost."""
        self._path.unlink(missing_ok=True)


async def open_folder(path: Path) -> DataFolder:
    """Make the folder if necessary, lock it, and end the servers that a killed run has left in it.

    Raises `DataFolderInUse`, `EmbeddedError`.
    """
    path, lock = _lock(path)
    held = [lock]
    try:
        remove_endpoints(path)
        held.append(os.open(path / SERVERS_LOCK, os.O_RDWR | os.O_CREAT, 0o600))
        await _end_orphans(held[1], path)
        return DataFolder(path, locks=held)
    except BaseException:
        for file in held:
            os.close(file)
        raise


def _passwords(path: Path) -> dict[str, str]:
    known = read_passwords(path)
    missing = [user for user in USERS if user not in known]
    if missing:
        known |= {user: secrets.token_urlsafe(_PASSWORD_BYTES) for user in missing}
        write_json(path / SECRETS, known)
    return known


def _chosen_ports(path: Path) -> dict[str, int]:
    """Return the ports that earlier starts chose, by name; empty if they cannot be read: others are as good."""
    try:
        found = orjson.loads((path / _PORTS).read_bytes())
        return {str(name): int(port) for name, port in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _lock(path: Path) -> tuple[Path, int]:
    folder = path.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        is_other = folder.exists() and not folder.is_dir()
        reason = "it is not a folder" if is_other else error.strerror
        raise EmbeddedError(f"the data folder cannot be used: {reason}", folder=str(folder)) from error
    for _ in range(_LOCK_ATTEMPTS_MAX):
        if _is_locked(file):
            os.truncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            return folder, file
        time.sleep(_LOCK_PAUSE_SECONDS)
    holder = os.pread(file, 32, 0).decode().strip()
    os.close(file)
    message = f"process {holder or 'unknown'} uses this data folder"
    raise DataFolderInUse(message, folder=str(folder), pid=int(holder or 0))


def _is_locked(file: int) -> bool:
    """Lock a file; return whether this worked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _end_orphans(file: int, folder: Path) -> None:
    if _is_locked(file):
        return
    recorded = list(_recorded(folder / _CHILDREN))
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in recorded:
            # It may have ended, or belong to another user: only the lock counts.
            with suppress(psutil.Error):
                process.send_signal(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while not _is_locked(file):
                    await pause()
                return
    message = "servers of an earlier run still use this data folder, and could not be ended"
    raise DataFolderInUse(message, folder=str(folder), pids=[process.pid for process in recorded])


def _recorded(children: Path) -> Iterator[psutil.Process]:
    """Return the recorded processes that still run: pid and start time must both be the recorded ones."""
    rows: list[dict[str, Any]] = orjson.loads(children.read_bytes()) if children.exists() else []
    for row in rows:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(row["pid"])
            if abs(process.create_time() - row["started"]) <= _CLOCK_SECONDS:
                yield process
