"""Both servers in one data folder. `refold up`, `refold demo`, tests and benches start the system here.

They end in this order: who uses the servers (the caller's task), NATS, PostgreSQL, the folder's locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from refold.embedded.folder import DataFolder, open_folder
from refold.embedded.nats import Durability, NatsServer, start_nats
from refold.embedded.ports import LOOPBACK
from refold.embedded.postgres import PostgresServer, start_postgres


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The running servers and the folder that they live in; ends them when its `async with` block ends."""

    folder: DataFolder
    nats: NatsServer
    postgres: PostgresServer

    def write_endpoints(self, *, http: str, probe: str) -> None:
        """Write the folder's endpoints file, once everything is ready."""
        addresses = {
            "nats": self.nats.address,
            "nats_monitor": self.nats.monitor,
            "postgres": self.postgres.dsn,
        }
        self.folder.write_endpoints({"http": http, "probe": probe, **addresses})

    async def stop(self) -> None:
        """End both and give the folder free; again is harmless."""
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
    """Lock the folder, end what a killed run left in it, start both servers at once; all or nothing."""
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
        await _abandon(starting)
        folder.close()
        if isinstance(error, BaseExceptionGroup):
            # What went wrong first; the other start was only called off.
            raise error.exceptions[0] from None
        raise
    return Servers(folder=folder, nats=nats.result(), postgres=postgres.result())


async def _abandon(starting: list[asyncio.Task[NatsServer] | asyncio.Task[PostgresServer]]) -> None:
    for start in starting:
        if not start.cancelled() and start.exception() is None:
            await start.result().stop()
