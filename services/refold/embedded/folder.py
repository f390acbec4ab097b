"""The data folder: its locks, passwords, endpoints file and children. Only `refold.embedded` may use it.

Two locks: `lock` is held by the one process that may use the folder, `servers.lock` by its servers as long
as any of them lives. So it is certain whether a killed run has left servers behind, and these are ended
before anything else touches their data.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson

from refold.core.errors import DataFolderInUse, EmbeddedError
from refold.embedded import orphans
from refold.embedded.child import Child, Command

USERS: Final = ("administrator", "projector", "reply", "gateway", "author", "postgres")
"""Who has a password: the users of nats.conf.template, and PostgreSQL's one user."""

ENDPOINTS: Final = "endpoints.json"
_LOG_MARKER: Final = "log.json"
_LOCK: Final = "lock"
_SERVERS_LOCK: Final = "servers.lock"
_SECRETS: Final = "secrets.json"
_CHILDREN: Final = "children.json"
_PASSWORD_BYTES: Final = 32


class DataFolder:
    """A data folder that this process holds until `close`."""

    def __init__(self, path: Path, *, lock: int, servers_lock: int) -> None:
        """Take over the two locks' file descriptors (see `open_folder`)."""
        self.path = path
        self.passwords = _passwords(path)
        self._locks = [lock, servers_lock]
        self._children: dict[str, Child] = {}

    def start(self, command: Command) -> Child:
        """Start a child that keeps the servers' lock, and record it."""
        child = Child(command, held=self._locks[1:])
        self._children[command.name] = child
        try:
            self._record()
        except BaseException:
            child.kill()
            raise
        return child

    def write_endpoints(self, endpoints: Mapping[str, str]) -> None:
        """Say where everything is; for its owner alone, as the database's address holds the password."""
        write_private(self.path / ENDPOINTS, _json(dict(endpoints)))

    def close(self) -> None:
        """Give the folder free. The children have been stopped before."""
        if not self._locks:
            return
        (self.path / ENDPOINTS).unlink(missing_ok=True)
        while self._locks:
            os.close(self._locks.pop())

    def _record(self) -> None:
        rows = [{"name": name, "pid": c.pid, "started": c.started} for name, c in self._children.items()]
        write_private(self.path / _CHILDREN, _json(rows))

    def __enter__(self) -> Self:
        """Use it in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give it free."""
        self.close()


class FolderMarker:
    """A `LogMarker` in the data folder, outside of the log's own storage."""

    def __init__(self, folder: Path) -> None:
        """Use a data folder."""
        self._path = folder / _LOG_MARKER

    async def read(self) -> str | None:
        """Return the id of the log that was created in this folder; None where none was."""
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
        """Forget it, for its log is lost."""
        self._path.unlink(missing_ok=True)


async def open_folder(path: Path) -> DataFolder:
    """Make the folder if need be, lock it, and end what a killed run has left there."""
    path, lock = _take(path)
    try:
        (path / ENDPOINTS).unlink(missing_ok=True)
        servers_lock = await orphans.outlive(path / _SERVERS_LOCK, path / _CHILDREN)
        return DataFolder(path, lock=lock, servers_lock=servers_lock)
    except BaseException:
        os.close(lock)
        raise


def read_passwords(path: Path) -> dict[str, str]:
    """Read a data folder's passwords, by user; none where it has none."""
    secrets_file = path / _SECRETS
    known: dict[str, str] = orjson.loads(secrets_file.read_bytes()) if secrets_file.exists() else {}
    return known


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read: whole or not at all."""
    making = path.with_name(path.name + ".new")
    making.unlink(missing_ok=True)
    file = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(file)
    making.replace(path)


def _take(path: Path) -> tuple[Path, int]:
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path, _lock(path / _LOCK)
    except OSError as error:
        raise EmbeddedError(f"the data folder cannot be used: {error}", folder=str(path)) from error


def _json(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def _lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(file, 32, 0).decode().strip()
        os.close(file)
        message = f"process {holder or 'unknown'} uses this data folder"
        raise DataFolderInUse(message, folder=str(path.parent), pid=int(holder or 0)) from error
    os.truncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _passwords(path: Path) -> dict[str, str]:
    known = read_passwords(path)
    missing = [user for user in USERS if user not in known]
    if missing:
        known |= {user: secrets.token_urlsafe(_PASSWORD_BYTES) for user in missing}
        write_private(path / _SECRETS, _json(known))
    return known
