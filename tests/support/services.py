"""Projectors and gateways as real processes with real servers, and an undisturbed fold of the same log.

For tests that kill them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import httpx

from refold.core.history import Entry
from refold.core.stream import Checkpoint
from refold.embedded.nats import NatsServer, NatsUser
from refold.log import Appended, Publication
from refold.log.jetstream import JetStreamLog
from refold.store import Head
from refold.store.memory import MemoryStore
from refold.store.ports import SnapshotStore
from refold.store.postgres import PostgresStore
from refold.wiring.servers import make_log, open_log
from support.projection import ports, projecting
from support.system import free_port

T = TypeVar("T")

DEADLINE_SECONDS = 60
LOOK_SECONDS = 0.02

_STANDING_BY = """
SELECT true FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%WITH silent AS%'
"""


@dataclass(frozen=True, slots=True)
class Site:
    """One log and one database, and how to reach them."""

    nats: NatsServer
    dsn: str
    log_id: str

    def environment(self) -> Mapping[str, str]:
        """Return the environment of a projector's process."""
        return os.environ | {
            "REFOLD_NATS_URL": self.nats.url("projector"),
            "REFOLD_NATS_REPLY_URL": self.nats.url("reply"),
            "REFOLD_POSTGRES_URL": self.dsn,
            "REFOLD_PROBE": "127.0.0.1:0",
        }

    def gateway_environment(self, port: int) -> Mapping[str, str]:
        """Return the environment of a gateway's process."""
        return os.environ | {
            "REFOLD_NATS_URL": self.nats.url("gateway"),
            "REFOLD_POSTGRES_URL": self.dsn,
            "REFOLD_HTTP": f"127.0.0.1:{port}",
        }


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway's process, and a client of it."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient

    async def is_ready(self) -> bool:
        """Return whether it reports that all its servers are reachable."""
        return await self._is_fine("/readyz")

    async def is_alive(self) -> bool:
        """Return whether it listens."""
        return await self._is_fine("/healthz")

    async def _is_fine(self, path: str) -> bool:
        assert self.process.returncode is None
        try:
            return (await self.client.get(path)).status_code == 200
        except httpx.TransportError:
            return False


async def make_site(nats: NatsServer, dsn: str) -> Site:
    """Make the log on a fresh server."""
    return Site(nats, dsn, await make_log(nats.url("administrator")))


@asynccontextmanager
async def projector(site: Site, **settings: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a projector's process; it is killed at the end if it still runs."""
    given = {f"REFOLD_{name.upper()}": str(value) for name, value in settings.items()}
    async with _service("projector", {**site.environment(), **given}) as process:
        yield process


@asynccontextmanager
async def gateway(site: Site, *, is_ready_awaited: bool = True, **settings: object) -> AsyncIterator[Gateway]:
    """Run a gateway's process once it is ready, or listens; it is killed at the end if it still runs."""
    port = free_port()
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=DEADLINE_SECONDS)
    given = {f"REFOLD_{name.upper()}": str(value) for name, value in settings.items()}
    async with client, _service("gateway", {**site.gateway_environment(port), **given}) as process:
        running = Gateway(process, client)
        await until(running.is_ready if is_ready_awaited else running.is_alive)
        yield running


@asynccontextmanager
async def _service(name: str, variables: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "refold", name, env=variables, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process as a power cut would."""
    process.send_signal(signal.SIGKILL)
    await process.wait()


@asynccontextmanager
async def log_of(site: Site, user: NatsUser = "gateway") -> AsyncIterator[JetStreamLog]:
    """Open the log as one of its users."""
    log = await open_log(site.nats.url(user), f"test-{user}")
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def store_of(site: Site) -> AsyncIterator[PostgresStore]:
    """Open the projection."""
    store = await PostgresStore.open(site.dsn)
    try:
        yield store
    finally:
        await store.close()


async def append_all(log: JetStreamLog, events: list[tuple[str, bytes]], namespace: str = "n") -> int:
    """Append events (document, body) in order, in groups; return the last sequence."""
    publications = [Publication(namespace=namespace, document=name, body=body) for name, body in events]
    answers = await asyncio.gather(*(log.append(publication) for publication in publications))
    assert all(isinstance(answer, Appended) for answer in answers)
    return max(answer.sequence for answer in answers if isinstance(answer, Appended))


async def until(look: Callable[[], Awaitable[T]]) -> T:
    """Poll until a condition returns a true value; return it."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(LOOK_SECONDS)


async def standing_by(site: Site) -> None:
    """Wait until a projector is on standby."""
    connection = await asyncpg.connect(site.dsn)
    try:
        await until(lambda: connection.fetchval(_STANDING_BY))
    finally:
        await connection.close()


@asynccontextmanager
async def held_commits(dsn: str) -> AsyncIterator[None]:
    """Let the projector's commits wait, in their first statement, for as long as the block runs."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "refold"})
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM log FOR UPDATE")
            yield
    finally:
        await connection.close()


async def folded_to(store: SnapshotStore, sequence: int) -> list[Checkpoint]:
    """Wait until the projection has been committed up to a sequence."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            checkpoints = await store.checkpoints()
            if checkpoints and min(checkpoint.read_sequence for checkpoint in checkpoints) >= sequence:
                return checkpoints
            await asyncio.sleep(LOOK_SECONDS)


async def undisturbed(site: Site) -> MemoryStore:
    """Fold the whole log once, in memory, undisturbed."""
    store = MemoryStore()
    async with log_of(site, "projector") as log, projecting(ports(log, store)) as running:
        await running.committed((await log.info()).last_sequence)
    return store


async def contents(store: SnapshotStore, names: list[str], namespace: str = "n") -> dict[str, Any]:
    """Return everything that must not depend on how the log was read: chains, heads, entries."""
    found: dict[str, Any] = {"chains": [checkpoint.chain for checkpoint in await store.checkpoints()]}
    for name in names:
        runs = [run async for run in store.segments(namespace, name, after_version=None, is_descending=False)]
        entries: list[Entry] = [entry for run in runs for entry in run.entries]
        head: Head | None = await store.head(namespace, name)
        found[name] = (head, entries)
    return found
