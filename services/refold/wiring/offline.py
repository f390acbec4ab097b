"""Both servers of a data folder on which no system runs, for a command that needs them for a while.

Used by `refold.wiring.proof`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from refold.core.errors import ServiceUnavailable
from refold.embedded.folder import read_passwords
from refold.embedded.system import Servers, start_servers
from refold.wiring.settings import Settings, handed_on, load


@asynccontextmanager
async def servers_of(settings: Settings) -> AsyncIterator[Servers]:
    """Start NATS and PostgreSQL of the data folder on free ports, and end them afterwards. No log is opened or made.

    Raises `DataFolderInUse` while a system runs there, `ServiceUnavailable` where there never was one.
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
