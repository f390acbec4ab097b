"""NATS and PostgreSQL of a data folder: both started here, or found where they run.

Used by `refold.wiring.system` and by commands that work at the servers themselves. They end in this order: what uses
the servers (the caller's task), NATS, PostgreSQL, the folder's locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from refold.core.errors import ServiceUnavailable
from refold.embedded.folder import ENDPOINTS, DataFolder, open_folder, read_passwords
from refold.embedded.nats import Durability, NatsServer, start_nats
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.embedded.process import LOOPBACK
from refold.telemetry.logging import configure
from refold.wiring.endpoints import read_endpoints
from refold.wiring.settings import Settings, described, handed_on, load


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The running servers and their folder; an `async with` block ends them."""

    folder: DataFolder
    nats: NatsServer
    postgres: PostgresServer

    def write_endpoints(self, *, http: str, probe: str, settings: Settings | None = None) -> None:
        """Write the folder's endpoints file, once everything is ready."""
        addresses = {
            "nats": self.nats.address,
            "nats_monitor": self.nats.monitor,
            "postgres": self.postgres.dsn,
        }
        shown = described(settings) if settings else []
        self.folder.write_endpoints({"http": http, "probe": probe, **addresses}, shown)

    async def stop(self) -> None:
        """End both and release the folder; a second call does nothing."""
        try:
            await self.nats.stop()
        finally:
            try:
                await self.postgres.stop()
            finally:
                self.folder.close()

    async def __aenter__(self) -> Self:
        """Use them in an `async with` block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End them."""
        await self.stop()


async def start_servers(
    path: Path,
    *,
    durability: Durability = "fsync",
    nats_port: int = 0,
    postgres_port: int = 0,
    host: str = LOOPBACK,
    postgres_settings: Mapping[str, str] | None = None,
) -> Servers:
    """Lock the folder, end what a killed run has left in it, and start both servers at once; all or nothing."""
    folder = await open_folder(path)
    starting: list[asyncio.Task[NatsServer] | asyncio.Task[PostgresServer]] = []
    try:
        async with asyncio.TaskGroup() as group:
            nats = group.create_task(start_nats(folder, port=nats_port, host=host, sync=durability))
            starting.append(nats)
            postgres = group.create_task(
                start_postgres(folder, port=postgres_port, host=host, settings=postgres_settings)
            )
            starting.append(postgres)
    except BaseException as error:
        for start in starting:
            if not start.cancelled() and start.exception() is None:
                await start.result().stop()
        folder.close()
        if isinstance(error, BaseExceptionGroup):
            # The first failure is the cause; the other start was only cancelled.
            raise error.exceptions[0] from None
        raise
    return Servers(folder=folder, nats=nats.result(), postgres=postgres.result())


@asynccontextmanager
async def servers_of(settings: Settings) -> AsyncIterator[Servers]:
    """Start the servers of a data folder on which no system runs, on free ports, for as long as the block runs.

    No log is opened or created. Raises `DataFolderInUse` while a system runs there, `ServiceUnavailable` if the folder
    holds no system.
    """
    if not read_passwords(settings.data):
        message = "there is no system's data: name its folder (--data), or set REFOLD_NATS_URL and REFOLD_POSTGRES_URL"
        raise ServiceUnavailable(message, missing=str(settings.data))
    async with await start_servers(settings.data, durability=settings.durability) as servers:
        yield servers


def reaching(servers: Servers, settings: Settings) -> Settings:
    """Return the settings with these servers' addresses, as the projector's user."""
    nats_url, postgres_url = servers.nats.url("projector"), servers.postgres.dsn
    return load(**handed_on(settings, nats_url=nats_url, postgres_url=postgres_url))


def reach(data: Path | None) -> Settings:
    """Return settings that reach running servers: those of the folder named, else of `REFOLD_NATS_URL` and
    `REFOLD_POSTGRES_URL`, else of `./.refold`.

    Raises `ServiceUnavailable` if no system runs on the folder.
    """
    # The command's output is its answer; log lines are not part of it.
    configure("error", service="refold")
    settings = load(data=data)
    is_named = "data" in settings.model_fields_set
    if not is_named and settings.nats_url is not None and settings.postgres_url is not None:
        return settings
    endpoints, passwords = read_endpoints(settings.data), read_passwords(settings.data)
    if not endpoints or "projector" not in passwords:
        message = (
            "no system runs there: name its folder (--data), or set REFOLD_NATS_URL and REFOLD_POSTGRES_URL"
        )
        raise ServiceUnavailable(message, missing=str(settings.data / ENDPOINTS))
    address = urlsplit(str(endpoints["nats"])).netloc
    nats_url = f"nats://projector:{passwords['projector']}@{address}"
    return load(data=data, nats_url=nats_url, postgres_url=endpoints["postgres"])
