"""The whole system on a NATS cluster: three servers by infra's configuration, a projector and a gateway.

For tests that kill servers while it is written to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from refold.core.errors import LogError, LogUnavailable
from refold.core.stream import Record
from refold.log import EventLog
from refold.log.jetstream.api import stream_info
from refold.log.jetstream.client import Client
from refold.wiring.servers import connect_to, make_log, open_log
from refold.wiring.settings import environment_without
from support.delivered import Delivered, three_servers, urls
from support.system import Service, free_port, start_service, wait_ready

DEADLINE_SECONDS = 60
LOOK_SECONDS = 0.05
DOCUMENTS = 8
REPLICAS = 3


@dataclass
class Clustered:
    """The running system, and the acknowledged writes: document and number by sequence."""

    servers: list[Delivered]
    services: dict[str, Service]
    client: httpx.AsyncClient
    acknowledged: dict[int, tuple[str, int]] = field(default_factory=dict)
    tries: int = 0
    longest_seconds: float = 0.0

    async def write(self, number: int) -> None:
        """Write one number, again under the same id until it is acknowledged."""
        document, started_at = f"d{number % DOCUMENTS}", time.monotonic()
        while True:
            assert time.monotonic() < started_at + DEADLINE_SECONDS, f"{number} was not taken in time"
            self.tries += 1
            answer = await self.client.put(
                f"/v1/n/{document}", json={"number": number}, headers={"Idempotency-Key": f"i{number}"}
            )
            if answer.status_code in {200, 201}:
                break
            assert answer.status_code in {202, 503, 504}, answer.text
            await asyncio.sleep(LOOK_SECONDS)
        self.acknowledged[answer.json()["sequence"]] = (document, number)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - started_at)

    async def write_together(self, writes: int) -> None:
        """Write by the bulk route: atomic batches, each over all documents, numbered on."""
        first = len(self.acknowledged)
        lines = [
            {"doc": f"d{number % DOCUMENTS}", "put": {"number": number}}
            for number in range(first, first + writes)
        ]
        answer = await self.client.post(
            "/v1/n/events",
            content=b"\n".join(map(orjson.dumps, lines)),
            headers={"Content-Type": "application/x-ndjson"},
        )
        for line, outcome in zip(lines, map(orjson.loads, answer.content.splitlines()), strict=True):
            assert outcome["status"] == "applied", outcome
            self.acknowledged[outcome["sequence"]] = (line["doc"], line["put"]["number"])

    async def until_ready(self) -> None:
        """Wait until the gateway reaches everything."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                if (await self.client.get("/readyz")).status_code == 200:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def until_acknowledged(self, writes: int) -> None:
        """Wait until so many writes are acknowledged."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                if len(self.acknowledged) >= writes:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def leader(self) -> Delivered:
        """Return the stream's leader."""
        name = (await self._stream())["cluster"]["leader"]
        return next(server for server in self.servers if server.name == name)

    async def until_whole(self) -> None:
        """Wait until every server has the whole log."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                replicas = (await self._stream())["cluster"].get("replicas", [])
                if len(replicas) == REPLICAS - 1 and all(is_current(each) for each in replicas):
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def lost(self) -> list[int]:
        """Return the acknowledged sequences where the log, or the projection, does not have what was written."""
        log, gone = await open_log(urls(self.servers, "projector"), "test-reader"), []
        try:
            for sequence, (document, number) in self.acknowledged.items():
                record = await self._record(log, sequence)
                if record is None or not (
                    record.subject.endswith(f".n.{document}".encode())
                    and b'"number":%d}' % number in record.body
                ):
                    gone.append(sequence)
        finally:
            await log.close()
        return gone + await self._unfolded()

    async def _record(self, log: EventLog, sequence: int) -> Record | None:
        """Return an event; while the cluster elects a leader, it answers that it is unavailable."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                with suppress(LogUnavailable):
                    return await log.get(sequence)
                await asyncio.sleep(LOOK_SECONDS)

    async def _unfolded(self) -> list[int]:
        last = {document: sequence for sequence, (document, _) in sorted(self.acknowledged.items())}
        gone = []
        for document, sequence in last.items():
            found = await self.client.get(f"/v1/n/{document}", params={"min_sequence": sequence})
            if found.json() != {"number": self.acknowledged[sequence][1]}:
                gone.append(sequence)
        return gone

    async def _stream(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    return await asked(urls(self.servers, "administrator"))
                except LogError:
                    await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def clustered(path: Path, dsn: str) -> AsyncIterator[Clustered]:
    """Run the whole system."""
    with ExitStack() as endings:
        servers = endings.enter_context(three_servers(path))
        await made(servers)
        port = free_port()
        started = {}
        for name in ("projector", "gateway"):
            given = {
                "REFOLD_NATS_URL": urls(servers, name),
                "REFOLD_POSTGRES_URL": dsn,
                "REFOLD_HTTP": f"127.0.0.1:{port}",
            }
            if name == "projector":
                given["REFOLD_NATS_REPLY_URL"] = urls(servers, "reply")
            started[name] = start_service(name, environment_without() | given, path / f"{name}.log")
            endings.callback(started[name].stop)
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(wait_ready, url, started)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            yield Clustered(servers=servers, services=started, client=client)


async def made(servers: list[Delivered]) -> str:
    """Create the log once the servers have formed a cluster."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                return await make_log(urls(servers, "administrator"), replicas=REPLICAS)
            except LogError:
                await asyncio.sleep(LOOK_SECONDS)


async def asked(url: str) -> dict[str, Any]:
    """Request the stream's configuration, state and cluster."""
    client: Client = await connect_to(url, "test-administrator")
    try:
        return await stream_info(client)
    finally:
        await client.close()


def is_current(replica: dict[str, Any]) -> bool:
    """Return whether a replica has caught up with its leader."""
    return bool(replica["current"]) and not replica.get("offline", False) and not replica.get("lag", 0)
