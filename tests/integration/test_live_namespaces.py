"""A consumer of a namespace on real servers: from its beginning through the live tail, while processes are killed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import orjson

from refold.core.stream import Route
from refold.history import notice_of
from support.broker import running_broker
from support.contracts import contract, validator
from support.services import Site, append_all, gateway, kill, log_of, make_site, projector, undisturbed, until
from support.sse import events

IS_MESSAGE = validator(contract("live.schema.json"))
DOCUMENTS = [f"d{number}" for number in range(30)]
BODIES = (b'{"put":%d,"type":"order.paid"}', b'{"merge":{"n":%d},"meta":{"a":1}}', b'{"base":99,"put":%d}')
HISTORY = 4_000
BURST = 300
RECONNECT_SECONDS = 0.05


class Consumer:
    """Reads each change of the namespace from its beginning on, and returns with its cursor to any gateway."""

    def __init__(self) -> None:
        self.url = ""
        self.changes: list[dict[str, Any]] = []
        self.connections_count = 0
        self._cursor: str | None = None

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self._read()
            except (OSError, EOFError):
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _read(self) -> None:
        asked = {"namespace": "n", "mode": "changes"}
        headers = {} if self._cursor is None else {"Last_Event_ID": self._cursor}
        query = [("sub", orjson.dumps(asked if headers else asked | {"after": 0}).decode())]
        async with events(self.url, "/live/v1", query, **headers) as stream:
            self.connections_count += 1
            while True:
                event = await stream.next("change")
                IS_MESSAGE.validate(event.message)
                self.changes.append(event.message)
                self._cursor = event.cursor


async def write(site: Site, random: Random, count: int) -> int:
    """Write events, of which some are rejected; return the last sequence."""
    async with log_of(site) as log:
        some = [(random.choice(DOCUMENTS), random.choice(BODIES) % random.randrange(9)) for _ in range(count)]
        await append_all(log, [("elsewhere", b'{"put":1}')] * 10, "other")
        return await append_all(log, some)


async def test_a_consumer_reads_every_change_in_order_from_the_beginning_whatever_dies(
    tmp_path: Path, postgres_dsn: str
) -> None:
    random, consumer = Random(7), Consumer()
    async with running_broker(tmp_path) as broker, AsyncExitStack() as opened:
        site = await make_site(broker.server, postgres_dsn)
        projecting = await opened.enter_async_context(projector(site))
        await write(site, random, HISTORY)
        async with gateway(site) as first, asyncio.TaskGroup() as tasks:
            consumer.url = str(first.client.base_url)
            consuming = tasks.create_task(consumer.run())
            await until(lambda: _has(consumer, HISTORY // 3))
            writing = tasks.create_task(write(site, random, BURST))
            await kill(first.process)
            async with gateway(site) as second:
                consumer.url = str(second.client.base_url)
                await writing
                await until(lambda: _has(consumer, HISTORY // 2 + BURST))
                writing = tasks.create_task(write(site, random, BURST))
                await kill(projecting)
                await opened.enter_async_context(projector(site))
                await writing
                await write(site, random, BURST)
                expected = await changes_of(site)
                await until(lambda: _has(consumer, len(expected)))
                consuming.cancel()
        assert consumer.changes == expected
        assert consumer.connections_count >= 2


async def _has(consumer: Consumer, count: int) -> bool:
    return len(consumer.changes) >= count


async def changes_of(site: Site) -> list[dict[str, Any]]:
    """Return what an undisturbed fold of the log says are the namespace's changes."""
    store = await undisturbed(site)
    found = []
    for document in DOCUMENTS:
        where = Route.of("n", document)
        runs = store.segments("n", document, after_version=None, is_descending=False)
        entries = [entry async for run in runs for entry in run.entries if entry.status.is_effective]
        found += [{"kind": "change", **orjson.loads(notice_of(where, entry))} for entry in entries]
    return sorted(found, key=lambda change: change["sequence"])
