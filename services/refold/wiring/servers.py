"""NATS and PostgreSQL of a data folder: both started here, or found where they run.

Used by `refold.wiring.system` and by commands that work at the servers themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from refold.core.errors import ServiceUnavailable, raising_first
from refold.embedded import SECRETS, no_system, read_endpoints, read_passwords
from refold.embedded.folder import DataFolder, open_folder
from refold.embedded.nats import Durability, NatsServer, start_nats
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.embedded.process import Server
from refold.telemetry.logging import configure
from refold.wiring.settings import Settings, load

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The running servers and their folder."""

    folder: DataFolder
    nats: NatsServer
    postgres: PostgresServer

    @property
    def addresses(self) -> dict[str, str]:
        """Their addresses, as the endpoints file names them; that of PostgreSQL is a secret."""
        return {
            "nats": self.nats.address,
            "nats_monitor": self.nats.monitor,
            "postgres": self.postgres.dsn,
        }


@asynccontextmanager
async def running_servers(
    path: Path, *, durability: Durability = "fsync", nats_port: int = 0, postgres_port: int = 0
) -> AsyncIterator[Servers]:
    """Lock the folder, end what a killed run has left in it, start both servers at once, and end them afterwards."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(await open_folder(path))

        async def started(start: Awaitable[AnyServer]) -> AnyServer:
            server = await start
            stack.push_async_callback(server.stop)
            return server

        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                nats = tasks.create_task(started(start_nats(folder, port=nats_port, sync=durability)))
                postgres = tasks.create_task(started(start_postgres(folder, port=postgres_port)))
        yield Servers(folder=folder, nats=nats.result(), postgres=postgres.result())


@asynccontextmanager
async def servers_of(settings: Settings) -> AsyncIterator[Servers]:
    """Start the servers of a data folder on which no system runs, on free ports, for as long as the block runs.

    No log is opened or created. Raises `DataFolderInUse` while a system runs there, `ServiceUnavailable` if the folder
    holds no system.
    """
    if not read_passwords(settings.data):
        message = f"{settings.data} holds no system's data; is it the right folder (--data)?"
        raise ServiceUnavailable(message, missing=str(settings.data / SECRETS))
    async with running_servers(settings.data, durability=settings.durability) as servers:
        yield servers


def reach(data: Path | None) -> Settings:
    """Return settings that reach running servers: those of the folder named, else of `REFOLD_NATS_URL` and
    `REFOLD_POSTGRES_URL`, else of `./.refold`.

    Raises `ServiceUnavailable` if no system runs on the folder.
    """
    # The command's output is its answer; log lines are not part of it.
    configure("error", service="refold")
    settings = load(data=data)
    if settings.names_servers:
        return settings
    endpoints, passwords = read_endpoints(settings.data), read_passwords(settings.data)
    if not endpoints or "projector" not in passwords:
        raise no_system(settings.data if "data" in settings.model_fields_set else None)
    address = urlsplit(str(endpoints["nats"])).netloc
    nats_url = f"nats://projector:{passwords['projector']}@{address}"
    return load(data=data, nats_url=nats_url, postgres_url=endpoints["postgres"])
