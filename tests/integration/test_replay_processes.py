"""A replay in several processes on real servers: the same projection; a failed process ends all with its reason."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from refold.audit.rebuild import shards_of
from refold.audit.verify import Listener, Scope
from refold.core import json_text
from refold.core.errors import ChildFailed, StoreDamaged
from refold.core.fold_state import first_checkpoints
from refold.store.postgres import PostgresStore
from refold.store.postgres.pool import Pool
from refold.wiring.audit import replay_in_processes, run_verify
from refold.wiring.settings import load
from support.services import append_all, contents, log_of, make_site, undisturbed, until

NAMES = [f"doc-{number}" for number in range(20)]


def _events(count):
    for number in range(count):
        event = {"merge": {f"m{number % 7}": number}, "id": f"e{number % 90}"}
        yield NAMES[number % len(NAMES)], json_text.dumps(event)


@pytest.fixture
async def site(fresh_nats, postgres_dsn):
    return await make_site(fresh_nats, postgres_dsn)


@pytest.fixture
def settings(site):
    return load(nats_url=site.nats.url("projector"), postgres_url=site.dsn)


def rebuilt(settings):
    return settings.model_copy(update={"postgres_schema": "rebuilt"})


async def test_all_shards_together_equal_an_undisturbed_replay(site, settings):
    async with log_of(site) as log:
        last = await append_all(log, list(_events(2_000)))
        store = await PostgresStore.open(site.dsn, schema="rebuilt")
        await store.bind(site.log_id)
        shards = shards_of(first_checkpoints(site.log_id), 2)
        await replay_in_processes(rebuilt(settings), shards, last)
        assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {last}
        assert await contents(store, NAMES) == await contents(await undisturbed(site), NAMES)
        await store.close()
    found = []
    listener = Listener(difference=found.append, progress=lambda _: None)
    await run_verify(rebuilt(settings), listener, Scope())
    assert found == []


async def test_a_projection_that_is_not_there_is_neither_clean_nor_created(site, settings):
    """As where its schema was dropped: a gateway would read the empty one."""
    listener = Listener(difference=print, progress=lambda _: None)
    with pytest.raises(StoreDamaged, match=r"holds no projection.*refold rebuild --from-nothing"):
        await run_verify(rebuilt(settings), listener, Scope())
    async with Pool(site.dsn, "rebuilt", 1).connected() as connection:
        assert not await connection.fetchval("SELECT to_regnamespace('rebuilt') IS NOT NULL")


async def test_a_failed_shard_ends_the_others_with_its_reason(site, settings):
    async with log_of(site) as log, AsyncExitStack() as endings:
        await append_all(log, list(_events(20)))
        store = await PostgresStore.open(site.dsn, schema="rebuilt")
        endings.push_async_callback(store.close)
        await store.bind(site.log_id)
        free, taken = shards_of(first_checkpoints(site.log_id), 2)
        other = await PostgresStore.open(site.dsn, schema="rebuilt", shard=taken.name)
        endings.push_async_callback(other.close)
        assert await other.acquire_lease()
        with pytest.raises(ChildFailed, match="fence_lost"):
            # No event arrives there: the free shard would wait forever.
            await replay_in_processes(rebuilt(settings), [free, taken], 10_000)
        # Its process and its lock are gone.
        again = await PostgresStore.open(site.dsn, schema="rebuilt", shard=free.name)
        endings.push_async_callback(again.close)
        await until(again.acquire_lease)
