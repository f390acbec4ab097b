"""A NATS server that a test may kill and start again on its port and store, and raw sockets that publish any bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from refold.core.stream import Record
from refold.embedded.folder import DataFolder, open_folder
from refold.embedded.nats import Durability, NatsServer, NatsUser, inbox_prefix, start_nats
from refold.embedded.process import wait_ready
from refold.log import EventLog
from refold.log.jetstream import JetStreamLog
from refold.log.jetstream.client import Client, connect
from refold.log.jetstream.stream import create_log

LOG_ID = "0123456789abcdef"
WAIT_SECONDS = 20


class Broker:
    """One server and its data folder."""

    def __init__(self, folder: DataFolder, sync: Durability) -> None:
        self._folder = folder
        self._sync: Durability = sync
        self._clients: list[Client] = []
        self.server: NatsServer
        self.port = 0

    async def start(self) -> None:
        """Start it, on the same port as before."""
        self.server = await start_nats(self._folder, port=self.port, sync=self._sync)
        self.port = self.server.port

    async def restart_with(self, configuration: str) -> None:
        """Start it with a configuration of the test's own, on its port; it has been stopped."""
        command = self.server.child.command
        (command.folder / "nats.conf").write_text(configuration)
        child = self._folder.start(command)

        async def look() -> bool | None:
            try:
                _, writer = await asyncio.open_connection(self.server.host, self.port)
            except OSError:
                return None
            writer.close()
            return True

        await wait_ready(child, look)
        self.server = replace(self.server, child=child)

    def kill(self) -> None:
        """Kill it."""
        self.server.child.kill()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the process."""
        server = psutil.Process(self.server.child.pid)
        server.suspend()
        # Its threads stop one by one.
        while any(psutil.Process(thread.id).status() != psutil.STATUS_STOPPED for thread in server.threads()):
            pass
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):
                server.resume()

    async def connect(self, user: NatsUser = "administrator") -> Client:
        """Connect as a user; closed with the broker."""
        client = await connect(self.server.url(user), inbox_prefix=inbox_prefix(user))
        self._clients.append(client)
        return client

    async def make_log(self, **settings: Any) -> str:
        """Create the log as the administrator."""
        return await create_log(await self.connect(), log_id=LOG_ID, **settings)

    async def open_log(self, user: NatsUser = "administrator", **settings: Any) -> JetStreamLog:
        """Open the log as a user; closed with the broker."""
        log = await JetStreamLog.open(self.server.url(user), inbox_prefix=inbox_prefix(user), **settings)
        self._clients.append(log.client)
        return log

    async def publish_raw(self, *frames: bytes) -> None:
        """Publish raw commands as an author; return when the server has received them."""
        await publish_raw(self.server, *frames)

    async def close(self) -> None:
        """Close every client, then end the server."""
        for client in self._clients:
            await client.close()
        await self.server.stop()


async def publish_raw(server: NatsServer, *frames: bytes) -> None:
    """Publish raw commands as an author; return when the server has received them."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        connect_as = b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n'
        writer.write(connect_as + b"".join(frames) + b"PING\r\n")
        async with asyncio.timeout(WAIT_SECONDS):
            while (line := await reader.readline()) != b"PONG\r\n":
                assert line.startswith((b"INFO", b"PING")), line
    finally:
        writer.close()


@asynccontextmanager
async def held_batches(server: NatsServer, namespace: str) -> AsyncIterator[None]:
    """Hold all atomic batches that the server allows for the stream (50) open, as an author; commit them at the end."""
    for number in range(2):
        commit = b"Nats-Batch-Commit: 1\r\n" * number
        heads = [
            b"NATS/1.0\r\nNats-Batch-Id: held%d\r\nNats-Batch-Sequence: %d\r\n%b\r\n"
            % (batch, number + 1, commit)
            for batch in range(60)
        ]
        subject = f"state.{namespace}.held".encode()
        await publish_raw(server, *(b"HPUB %b %d %d\r\n%b\r\n" % (subject, len(h), len(h), h) for h in heads))
        if not number:
            yield


@asynccontextmanager
async def running_broker(path: Path, *, sync: Durability = "os") -> AsyncIterator[Broker]:
    """Run a broker."""
    with await open_folder(path) as folder:
        broker = Broker(folder, sync)
        await broker.start()
        try:
            yield broker
        finally:
            await broker.close()


async def read_until(
    log: EventLog, last_sequence: int, *, after_sequence: int = 0, into: list[Record] | None = None
) -> list[Record]:
    """Read up to a sequence, with a deadline; `into` keeps what was read if it passes."""
    records = [] if into is None else into
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(after_sequence)) as runs:
        while not records or records[-1].sequence < last_sequence:
            records += await anext(runs)
    return records


def host_of(url: str) -> str:
    """Return an address without its secrets."""
    parts = urlsplit(url)
    return f"nats://{parts.hostname}:{parts.port}"
