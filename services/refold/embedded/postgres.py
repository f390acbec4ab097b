"""The PostgreSQL server as our child: its settings, port and database. Whoever starts the system may use it.

It listens on TCP alone, with a password; `dsn` is a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import asyncpg
import psutil

from refold.core.errors import ChildFailed, EmbeddedError
from refold.core.limits import (
    CHILD_START_SECONDS,
    CHILD_STOP_SECONDS,
    CONNECT_SECONDS,
    PORT_ATTEMPTS_MAX,
    POSTGRES_PROCESS_BYTES_MAX,
    SHARED_BUFFERS_BYTES_MAX,
)
from refold.embedded.child import Child, pause, wait_ready
from refold.embedded.cluster import USER, Cluster, open_cluster
from refold.embedded.folder import DataFolder
from refold.embedded.ports import LOOPBACK, free_port, lost_port, port_taken, refuse_taken

DATABASE: Final = "refold"

_MEMORY_SHARE: Final = 8
_HELD: Final = "pre-existing shared memory block"
_SETTINGS: Final = {
    # A socket's path would be too long in many a folder.
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Clients hear of their errors themselves: the log is for what the server does, and stays small.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    # The wheel's build has neither lz4 nor zstd; so TOAST stays with pglz too.
    "wal_compression": "pglz",
    # Nobody replicates: a table that is filled in the transaction that made it is not logged as well.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Few and spread-out checkpoints: after each, every page is logged whole once.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Short statements by the thousand: compiling them costs more than it gives.
    "jit": "off",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresServer:
    """A running PostgreSQL server."""

    child: Child
    host: str
    port: int
    password: str = field(repr=False)

    @property
    def address(self) -> str:
        """Give the address without the password."""
        return f"postgres://{USER}@{self.host}:{self.port}/{DATABASE}"

    @property
    def dsn(self) -> str:
        """Give the address with the password: a secret."""
        return f"postgres://{USER}:{self.password}@{self.host}:{self.port}/{DATABASE}"

    async def answers(self) -> bool:
        """Ask for a connection, without a bound on the time; False where nothing listens. A refusal is an answer."""
        try:
            connection = await asyncpg.connect(self.dsn, timeout=CHILD_START_SECONDS, ssl=False)
        except asyncpg.PostgresError:
            return True
        except OSError:
            return False
        connection.terminate()
        return True

    async def stop(self, *, wait_seconds: float = CHILD_STOP_SECONDS) -> None:
        """End it cleanly, whoever is connected."""
        await self.child.stop(wait_seconds=wait_seconds)


async def start_postgres(
    folder: DataFolder, *, port: int = 0, host: str = LOOPBACK, settings: Mapping[str, str] | None = None
) -> PostgresServer:
    """Make the cluster if there is none, start the server, wait until it answers; port 0 = any free one."""
    refuse_taken(host, port)
    cluster = await open_cluster(folder)
    for attempt in range(1, PORT_ATTEMPTS_MAX + 1):
        chosen = port or free_port(host)
        try:
            return await _outlive(partial(_start, folder, cluster, host, chosen, settings or {}))
        except ChildFailed as error:
            if not lost_port(error):
                raise
            if port or attempt == PORT_ATTEMPTS_MAX:
                raise port_taken(host, chosen) from error
    raise AssertionError


async def _outlive(start: Callable[[], Awaitable[PostgresServer]]) -> PostgresServer:
    """Start it; the last processes of one that was killed may hold its memory for a moment longer."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CHILD_STOP_SECONDS
    while True:
        try:
            return await start()
        except ChildFailed as error:
            if _HELD not in error.message or loop.time() >= deadline:
                raise
        await pause()


async def _start(
    folder: DataFolder, cluster: Cluster, host: str, port: int, settings: Mapping[str, str]
) -> PostgresServer:
    buffers = min(SHARED_BUFFERS_BYTES_MAX, psutil.virtual_memory().total // _MEMORY_SHARE)
    place = {"listen_addresses": host, "port": str(port), "shared_buffers": f"{buffers // 1024}kB"}
    given = {**_SETTINGS, **place, **settings}
    arguments = (f"--{name}={value}" for name, value in given.items())
    # One mad query fails, and does not bring all of them down.
    bounded = replace(cluster.command("postgres", *arguments), process_bytes_max=POSTGRES_PROCESS_BYTES_MAX)
    child = folder.start(bounded)
    server = PostgresServer(child=child, host=host, port=port, password=folder.passwords["postgres"])
    await wait_ready(child, lambda: _answering(server))
    return server


async def _answering(server: PostgresServer) -> bool | None:
    """Say True once the database takes a statement; make the database when it is the first time."""
    try:
        await _run(server, DATABASE, "SELECT 1")
    except asyncpg.InvalidCatalogNameError:
        await _run(server, "postgres", f"CREATE DATABASE {DATABASE}")
    except asyncpg.InvalidPasswordError as error:
        message = "the password in the data folder is not the one that its database was made with"
        raise EmbeddedError(message) from error
    except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
        return None
    return True


async def _run(server: PostgresServer, database: str, statement: str) -> None:
    connection = await asyncpg.connect(server.dsn, database=database, timeout=CONNECT_SECONDS, ssl=False)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
