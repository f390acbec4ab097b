"""One folder, one projection: its database file, its tables and migrations, and the log that it is bound to.

Part of the SQLite adapter. `refold.sqlite` is a link to one of two files: a rebuild fills the other, and swaps by
replacing the link, so that each file keeps the name of its write-ahead log.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import psutil

from refold.core.errors import StoreDamaged, StoreDiffers
from refold.core.fold_state import first_checkpoints
from refold.core.stream import PARTITIONS, Checkpoint
from refold.store.sql import migrations_of
from refold.store.sqlite.pool import (
    SQL,
    STORE_WRITE_WAIT_SECONDS,
    Connection,
    Pool,
    connect,
    translated,
    view,
)
from refold.store.sqlite.rows import checkpoint_rows, to_checkpoint, to_shard

LIVE: Final = "refold.sqlite"
FILES: Final = ("refold.1.sqlite", "refold.2.sqlite")
REBUILD: Final = "refold.rebuild.sqlite"
"""The name that the lock of a rebuild's file has."""

MIGRATIONS: Final = migrations_of(__package__)

_APPLICATION: Final = 0x5265_666F
"""Identifies a file as this adapter's, in its header."""

_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "fuse"})
"""File systems without locks and shared memory that can be relied on; so are all whose type begins with `fuse.`."""


def open_file(folder: Path, *, is_rebuild: bool) -> Path:
    """Return the path of the database in a folder, made where there is none, checked and migrated.

    Raises `StoreDiffers` for a network file system, another program's file, or a newer program's; `StoreDamaged`.
    """
    with translated():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreDiffers("the address of the store is not a folder", path=str(folder)) from error
        refuse_network(folder)
        with _locked(folder / f"{LIVE}.open.lock"):
            path = fresh_path(folder) if is_rebuild else folder / LIVE
            if not path.exists():
                _make(folder, path)
            elif not is_rebuild and not path.is_symlink():
                message = f"{LIVE} must be a link to the database: rename the file to {FILES[0]}, and link it"
                raise StoreDiffers(message, path=str(path))
            with closing(connect(path, STORE_WRITE_WAIT_SECONDS)) as connection:
                _migrate(connection, path)
        with closing(connect(path, STORE_WRITE_WAIT_SECONDS)) as connection:
            _check(connection, path)
    return path


def fresh_path(folder: Path) -> Path:
    """Return the path of the file that is not live, which a rebuild fills."""
    live = (folder / LIVE).resolve().name
    return folder / (FILES[1] if live == FILES[0] else FILES[0])


def with_log(path: Path) -> Iterator[Path]:
    """Yield the paths of a database file and of what SQLite keeps beside it."""
    for suffix in ("-wal", "-shm", ""):
        yield path.with_name(path.name + suffix)


def point_to(link: Path, target: Path) -> None:
    """Make a link to a file in the same folder, or replace it, durably."""
    made = link.with_name(f"{link.name}.link")
    made.unlink(missing_ok=True)
    made.symlink_to(target.name)
    made.replace(link)
    folder = os.open(link.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def bound_log(folder: Path) -> str | None:
    """Return the id of the log that a folder's database projects; None where there is no database."""
    path = folder / LIVE
    if not path.exists():
        return None
    with translated(), closing(connect(path, STORE_WRITE_WAIT_SECONDS)) as connection:
        row = connection.execute(SQL["bound_log"]).fetchone()
    return None if row is None else str(row[0])


def bind(pool: Pool, connection: Connection, log_id: str) -> str:
    """Create log and checkpoints where there are none; return the projection's epoch. Raises `StoreDiffers`.

    The second of two processes finds those of the first. A rebuild begins another epoch.
    """
    with view(connection):
        found = _bound(connection)
    if found is None:
        with pool.transaction(connection, is_synchronous=True):
            found = _bound(connection) or _make_log(connection, log_id)
    if found[0] != log_id:
        raise StoreDiffers("the database projects another log", expected=log_id, found=found[0])
    return found[1]


def _bound(connection: Connection) -> tuple[str, str] | None:
    _refuse_emptied(connection)
    row: tuple[str, str] | None = connection.execute(SQL["bound_log"]).fetchone()
    return row


def _make_log(connection: Connection, log_id: str) -> tuple[str, str]:
    bound = (log_id, str(uuid4()))
    connection.execute(SQL["bind_log"], bound)
    checkpoints = first_checkpoints(log_id)
    connection.executemany(SQL["make_checkpoint"], checkpoint_rows(checkpoints))
    first, partitions = checkpoints[0], bytes(checkpoint.partition for checkpoint in checkpoints)
    connection.execute(SQL["make_shard"], (partitions, first.fold, first.read_sequence, first.recorded_at))
    return bound


def read_checkpoints(connection: Connection) -> list[Checkpoint]:
    """Read every partition's checkpoint, in their order; none before a log is bound. Raises `StoreDamaged`."""
    shards = {
        partition: shard
        for shard in map(to_shard, connection.execute(SQL["shards"]))
        for partition in shard.partitions
    }
    rows = connection.execute(SQL["checkpoints"]).fetchall()
    if not len(rows) == len(shards) == PARTITIONS:
        _refuse_emptied(connection)
    return [to_checkpoint(row, shards[row[0]]) for row in rows]


def folded_sequences(connection: Connection) -> dict[int, int]:
    """Return how far each partition is folded; nothing of a file that is being made."""
    if not pragma_number(connection, "user_version"):
        return {}
    shards = map(to_shard, connection.execute(SQL["shards"]))
    return {partition: shard.read_sequence for shard in shards for partition in shard.partitions}


def refuse_network(folder: Path) -> None:
    """Raise `StoreDiffers` where a folder is on a file system of another machine."""
    real = folder.resolve()
    mounted = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    # Of two on the same path, the later one hides the earlier.
    found = max(enumerate(mounted), key=lambda each: (len(each[1].mountpoint), each[0]), default=None)
    kind = found[1].fstype if found else ""
    if kind in _REMOTE or kind.startswith("fuse."):
        message = "the folder is on a network file system, whose locks cannot be relied on: use a local disk"
        raise StoreDiffers(message, path=str(real), file_system=kind)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes that open the database: for milliseconds, so it is waited for."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _make(folder: Path, path: Path) -> None:
    """Create an empty database; the link first, so that a file without it is one that has lost it."""
    if path.name == LIVE and not path.is_symlink():
        if any((folder / name).exists() for name in FILES):
            raise StoreDamaged(f"{LIVE}, the link to the database, is missing", path=str(path))
        point_to(path, folder / FILES[0])
    target = path.resolve()
    for stale in with_log(target):
        stale.unlink(missing_ok=True)
    connection = sqlite3.connect(target, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    finally:
        connection.close()
    target.chmod(0o600)


def _check(connection: Connection, path: Path) -> None:
    """Read the structure of the whole file: 1.5 s for each GB that the operating system has in memory."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise StoreDamaged("the database file is damaged", path=str(path), cause="; ".join(found))


def _migrate(connection: Connection, path: Path) -> None:
    applied, newest = pragma_number(connection, "user_version"), MIGRATIONS[-1].number
    if pragma_number(connection, "application_id") != _APPLICATION:
        raise StoreDiffers("the file is not a database of this program", path=str(path))
    if applied > newest:
        message = "the database was made by a newer program"
        raise StoreDiffers(message, path=str(path), migration=applied, known=newest)
    if applied == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    # An error leaves the transaction open, and closing the connection rolls it back.
    for migration in MIGRATIONS[applied:]:
        for statement in _statements(migration.text):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {newest}")
    connection.execute("COMMIT")


def _statements(text: str) -> Iterator[str]:
    """Divide a migration into its statements, each of which ends a line."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def pragma_number(connection: Connection, name: str) -> int:
    """Read a number that SQLite keeps in the file's header, such as `user_version`, the newest migration."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _refuse_emptied(connection: Connection) -> None:
    """Raise `StoreDamaged` where a table has lost rows that other tables refer to."""
    (table,) = connection.execute(SQL["find_emptied"], (PARTITIONS,)).fetchone()
    if table is not None:
        raise StoreDamaged("a table of the projection has lost rows", table=table)
