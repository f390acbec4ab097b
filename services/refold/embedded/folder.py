"""The data folder: its locks, passwords, ports, endpoints and children. Used by `refold.embedded` and `refold.wiring`.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import orjson
import psutil

from refold.core.errors import DataFolderInUse, EmbeddedError
from refold.embedded.process import STOP_SECONDS, Command, Process, pause

USERS: Final = ("administrator", "projector", "reply", "gateway", "author", "postgres")
"""The users of nats.conf.template, and PostgreSQL's only user."""

ENDPOINTS: Final = "endpoints.json"
RUNNING_SETTINGS: Final = "settings.json"
_LOCK: Final = "lock"
_LOG_MARKER: Final = "log.json"
_SERVERS_LOCK: Final = "servers.lock"
_SECRETS: Final = "secrets.json"
_PORTS: Final = "ports.json"
_CHILDREN: Final = "children.json"
_PASSWORD_BYTES: Final = 32
_CLOCK_SECONDS: Final = 2
"""Recorded start times differ by as much as the wall clock has been set since."""
_LOCK_ATTEMPTS_MAX: Final = 5
_LOCK_PAUSE_SECONDS: Final = 0.02
"""A command that looks whether a system runs holds the lock for a moment."""


class DataFolder:
    """A data folder that this process holds until `close`."""

    def __init__(self, path: Path, *, lock: int, servers_lock: int) -> None:
        """Take over the two locks' file descriptors (see `open_folder`)."""
        self.path = path
        self.passwords = _passwords(path)
        self._locks = [lock, servers_lock]
        self._children: dict[str, Process] = {}

    def start(self, command: Command) -> Process:
        """Start a child that holds the servers' lock, and record it."""
        child = Process(command, held=self._locks[1:])
        self._children[command.name] = child
        try:
            rows = [{"name": name, "pid": c.pid, "started": c.started} for name, c in self._children.items()]
            write_private(self.path / _CHILDREN, _json(rows))
        except BaseException:
            child.kill()
            raise
        return child

    def last_port(self, server: str) -> int | None:
        """Return the port that a server had at its last start."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            return int(orjson.loads((self.path / _PORTS).read_bytes())[server])
        return None

    def keep_port(self, server: str, port: int) -> None:
        """Remember a server's port for its next start."""
        write_private(self.path / _PORTS, _json({server: port}))

    def write_endpoints(self, endpoints: Mapping[str, str], settings: Sequence[Mapping[str, str]]) -> None:
        """Write where everything is, and the settings in force; for the owner alone, as addresses hold passwords."""
        write_private(self.path / RUNNING_SETTINGS, _json({"settings": settings}))
        write_private(self.path / ENDPOINTS, _json(dict(endpoints)))

    def close(self) -> None:
        """Release the folder, after its children have ended."""
        if not self._locks:
            return
        remove_endpoints(self.path)
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        """Use it in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.close()


class FolderMarker:
    """A `LogMarker` in the data folder, outside of the log's own storage."""

    def __init__(self, folder: Path) -> None:
        """Use a data folder."""
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
        write_private(self._path, _json({"log_id": log_id}))

    async def forget(self) -> None:
        """Forget the log, because it is lost."""
        self._path.unlink(missing_ok=True)


async def open_folder(path: Path) -> DataFolder:
    """Make the folder if necessary, lock it, and end the servers that a killed run has left in it.

    Raises `DataFolderInUse`, `EmbeddedError`.
    """
    path, lock = _lock_folder(path)
    try:
        remove_endpoints(path)
        servers_lock = await _lock_servers(path)
        return DataFolder(path, lock=lock, servers_lock=servers_lock)
    except BaseException:
        os.close(lock)
        raise


def remove_endpoints(path: Path) -> None:
    """Remove what says where the system is."""
    for name in (ENDPOINTS, RUNNING_SETTINGS):
        (path / name).unlink(missing_ok=True)


def read_passwords(path: Path) -> dict[str, str]:
    """Return a data folder's passwords by user; empty if it has none. Raises `EmbeddedError` if they are unreadable."""
    secrets_file = path / _SECRETS
    if not secrets_file.exists():
        return {}
    try:
        return {
            str(user): str(password) for user, password in orjson.loads(secrets_file.read_bytes()).items()
        }
    except (OSError, ValueError, AttributeError) as error:
        message = (
            "the file with the passwords cannot be read: restore it, or move it and the folder `postgres` away; "
            "the projection is then made anew from the log"
        )
        raise EmbeddedError(message, path=str(secrets_file), reason=str(error)) from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    making = path.with_name(path.name + ".new")
    making.unlink(missing_ok=True)
    file = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(file)
    making.replace(path)


def _json(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def _passwords(path: Path) -> dict[str, str]:
    known = read_passwords(path)
    missing = [user for user in USERS if user not in known]
    if missing:
        known |= {user: secrets.token_urlsafe(_PASSWORD_BYTES) for user in missing}
        write_private(path / _SECRETS, _json(known))
    return known


def _lock_folder(path: Path) -> tuple[Path, int]:
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path, _lock(path / _LOCK)
    except OSError as error:
        raise EmbeddedError(f"the data folder cannot be used: {error}", folder=str(path)) from error


def _lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_LOCK_ATTEMPTS_MAX):
        if _is_locked(file):
            break
        time.sleep(_LOCK_PAUSE_SECONDS)
    else:
        holder = os.pread(file, 32, 0).decode().strip()
        os.close(file)
        message = f"process {holder or 'unknown'} uses this data folder"
        raise DataFolderInUse(message, folder=str(path.parent), pid=int(holder or 0))
    os.truncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _is_locked(file: int) -> bool:
    """Lock a file; return whether this worked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _lock_servers(folder: Path) -> int:
    """Lock the servers' lock, ending the processes that still hold it; return its file descriptor."""
    file = os.open(folder / _SERVERS_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await _end_orphans(file, folder)
    except BaseException:
        os.close(file)
        raise
    return file


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
