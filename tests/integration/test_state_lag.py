"""Large documents on real servers: rows keep older states for a bounded time, through kills; reads are exact."""

from __future__ import annotations

import asyncio
import signal
from itertools import count
from typing import Any

import asyncpg
import orjson
import pytest

from refold.audit.verify import Listener, Scope, verify
from refold.core.history import Clock, Point
from refold.embedded.nats import NatsServer
from refold.store.postgres import PostgresStore
from support.services import (
    Site,
    append_all,
    contents,
    folded_to,
    gateway,
    kill,
    log_of,
    make_site,
    projector,
    store_of,
    undisturbed,
    until,
)

NAMES = ["large-1", "large-2", "small"]
LARGE = {"state_lag_bytes": 10_000, "state_lag_seconds": 3_600}
BRIEF = {"state_lag_bytes": 10_000, "state_lag_seconds": 0.3}
SHOWN = """
SELECT coalesce(state_version, version) FROM documents WHERE document = $1
"""


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    return await make_site(fresh_nats, postgres_dsn)


@pytest.fixture
async def sql(site: Site) -> Any:
    """Open a connection that reads the rows."""
    connection = await asyncpg.connect(site.dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


def made(name: str) -> tuple[str, bytes]:
    text = "x" * (100 if name == "small" else 50_000)
    return name, orjson.dumps({"put": {"text": text, "of": name}})


def patch(name: str, number: int) -> tuple[str, bytes]:
    """Make a small change; every eleventh breaks a rule, every fiftieth replaces the document."""
    if number % 50 == 49:
        return made(name)
    operation = {"op": "add", "path": f"/m{number % 7}", "value": number}
    return name, orjson.dumps({"patch": [operation], **({"nope": 1} if number % 11 == 5 else {})})


async def fill(site: Site, store: PostgresStore, numbers: range) -> None:
    """Make documents, then change them in several commits."""
    async with log_of(site) as log:
        if not numbers.start:
            await folded_to(store, await append_all(log, [made(name) for name in NAMES]))
        for number in numbers:
            last = await append_all(log, [patch(name, number) for name in NAMES])
            if number % 10 == 9:
                await folded_to(store, last)
        await folded_to(store, last)


async def outdated(store: PostgresStore) -> list[str]:
    return [document for _, document in await store.flusher.outdated(after=("", ""), limit=99)]


async def every_state_is_current(store: PostgresStore) -> None:
    async def looked() -> bool:
        return not await outdated(store)

    await until(looked)


async def assert_exact(site: Site, store: PostgresStore) -> None:
    """Compare every head and every version with an undisturbed fold, and verify."""
    oracle = await undisturbed(site)
    assert await contents(store, NAMES) == await contents(oracle, NAMES)
    for name in NAMES:
        head = await oracle.head("n", name)
        assert head is not None
        for version in range(1, head.snapshot.version + 1, 7):
            point = Point(Clock.version, version)
            assert await store.snapshot_at("n", name, point) == await oracle.snapshot_at("n", name, point)
    differences: list[Any] = []
    async with log_of(site, "projector") as log:
        await verify(log, store, Listener(difference=differences.append, progress=lambda _: None), Scope())
    assert differences == []


async def test_a_kill_loses_no_state_and_the_next_projector_flushes_them(site: Site) -> None:
    async with store_of(site) as store:
        for begin in (0, 100):
            async with projector(site, **LARGE) as process:
                await fill(site, store, range(begin, begin + 100))
                assert await outdated(store) == ["large-1", "large-2"]
                await assert_exact(site, store)
                await kill(process)
            await assert_exact(site, store)
        async with projector(site, **BRIEF):
            await every_state_is_current(store)
            await assert_exact(site, store)


async def test_a_stopped_projector_leaves_no_older_state(site: Site) -> None:
    async with store_of(site) as store:
        async with projector(site, **LARGE) as process:
            await fill(site, store, range(30))
            assert await outdated(store) == ["large-1", "large-2"]
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        assert await outdated(store) == []
        await assert_exact(site, store)


async def test_a_changing_document_is_flushed_in_time_and_every_response_is_exact(
    site: Site, sql: asyncpg.Connection
) -> None:
    async with store_of(site) as store, projector(site, **BRIEF), gateway(site) as through:
        await fill(site, store, range(1))
        changing = asyncio.create_task(change(site))
        shown = await sql.fetchval(SHOWN, "large-1")
        for _ in range(3):
            shown = await until(
                lambda shown=shown: sql.fetchval(f"{SHOWN} AND ({SHOWN}) > $2", "large-1", shown)
            )
            await until(lambda: outdated(store))
            answer = await through.client.get("/v1/n/large-1")
            version = answer.headers["Refold-Version"]
            again = await through.client.get(f"/v1/n/large-1?version={version}")
            assert (answer.status_code, answer.content) == (200, again.content)
        changing.cancel()
        await asyncio.wait({changing})
        async with log_of(site) as log:
            await folded_to(store, (await log.info()).last_sequence)
        await every_state_is_current(store)
        await assert_exact(site, store)


async def change(site: Site) -> None:
    """Change documents repeatedly, usually in separate commits."""
    async with log_of(site) as log:
        for number in count(1):
            await append_all(log, [patch(name, number) for name in NAMES])
            await asyncio.sleep(0.01)
