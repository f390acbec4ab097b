"""A projection in the format of an older program is refused with the command that replaces it, and is replaced."""

from __future__ import annotations

import asyncio
import json
import os

import httpx
import pytest

from refold.audit.rebuild import Listener, rebuild
from refold.audit.verify import Listener as Verifying
from refold.audit.verify import Scope, verify
from refold.core.errors import StoreDiffers, StoreOutdated
from refold.log.memory import MemoryLog
from refold.store.postgres import PostgresStore
from refold.store.postgres.schema import MIGRATIONS
from support.format1 import DUMP, log_of_format_1
from support.rebuilding import rebuild_parts
from support.services import make_site
from support.up import Up, execute, run_refold

REPAIR = "`refold rebuild`"


@pytest.fixture
async def outdated(aside):
    """Load a projection of format 1; yield a connection to it."""
    await aside.execute(DUMP.read_text())
    return aside


async def rebuilt(log, dsn):
    """Rebuild beside the live projection; return the result and the differences."""
    found = []
    async with rebuild_parts(log, dsn) as parts:
        return await rebuild(parts, Listener(difference=found.append, progress=lambda *_: None)), found


async def test_it_is_refused_and_left_as_it_is(outdated, postgres_dsn):
    before = await outdated.fetch("SELECT number, name FROM migrations ORDER BY number")
    with pytest.raises(StoreOutdated, match=REPAIR) as raised:
        await PostgresStore.open(postgres_dsn)
    assert raised.value.facts == {"schema": "refold", "migration": 8}
    assert await outdated.fetch("SELECT number, name FROM migrations ORDER BY number") == before


async def test_it_is_compared_with_a_fresh_one_and_replaced(outdated, postgres_dsn):
    log = log_of_format_1()
    assert await outdated.fetchval("SELECT count(*) FROM documents WHERE state_version IS NOT NULL") == 1
    ended, found = await rebuilt(log, postgres_dsn)
    assert (ended.is_swapped, found) == (True, [])
    assert ended.sequence == (await log.info()).last_sequence
    store = await PostgresStore.open(postgres_dsn)
    try:
        differences = []
        listener = Verifying(difference=differences.append, progress=lambda _: None)
        await verify(log, store, listener, Scope())
        assert differences == []
        assert (await store.head("n", "lags")).snapshot.version == 3
    finally:
        await store.close()
    # The view was made by the older program, and shows the new tables.
    assert await outdated.fetchval("SELECT state ->> 'n' FROM refold_views.n WHERE document = 'lags'") == "2"
    assert await outdated.fetchval("SELECT max(number) FROM migrations") == MIGRATIONS[-1].number


DIFFERENCES = {
    "a version": ("UPDATE documents SET version = 149 WHERE document = 'd0'", "d0"),
    "a state": ("UPDATE documents SET state = '{}' WHERE document = 'd1'", "d1"),
    "a state that is older than its row": (
        "UPDATE documents SET state = '{}' WHERE document = 'lags'",
        "lags",
    ),
    "a lost row": ("DELETE FROM documents WHERE document = 'gone'", "gone"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
async def test_a_difference_prevents_the_swap(outdated, postgres_dsn, difference):
    statement, document = DIFFERENCES[difference]
    await outdated.execute(statement)
    ended, found = await rebuilt(log_of_format_1(), postgres_dsn)
    assert not ended.is_swapped
    assert document in {unequal.document for unequal in found}
    with pytest.raises(StoreOutdated):
        await PostgresStore.open(postgres_dsn)


async def test_that_of_another_log_is_not_replaced(outdated, postgres_dsn):
    with pytest.raises(StoreDiffers, match="another log"):
        await rebuilt(MemoryLog("log-2"), postgres_dsn)


async def test_projector_and_gateway_end_with_one_line_that_names_the_command(
    outdated, fresh_nats, postgres_dsn
):
    site = await make_site(fresh_nats, postgres_dsn)
    for service, variables in (
        ("projector", site.environment()),
        ("gateway", site.gateway_environment(0)),
    ):
        given = {name: value for name, value in variables.items() if name not in os.environ}
        ended = await asyncio.to_thread(run_refold, service, **given)
        assert ended.returncode == 1
        last = ended.stderr.splitlines()[-1]
        assert "store_outdated" in last, ended.stderr
        assert REPAIR in last


@pytest.mark.slow
def test_refold_up_names_the_command_which_starts_the_servers_and_replaces_it(tmp_path):
    up = Up.start(tmp_path / "data", "--durability", "os")
    try:
        for number in range(3):
            httpx.put(f"{up.url}/v1/n/d", json={"n": number}).raise_for_status()
        execute(up, "DELETE FROM refold.migrations", "INSERT INTO refold.migrations VALUES (8, 'format 1')")
    finally:
        assert up.stop() == 0
    again = Up(up.data, "--http", "127.0.0.1:0", "--nats-port", "0")
    assert again.process.wait(60) == 1
    line = again.said()[again.said().rfind("refold: ") :]
    assert "store_outdated" in line
    assert f"run='refold rebuild --data {up.data}'" in line
    ended = run_refold("rebuild", "--data", str(up.data), "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["swapped"] is True
    up = Up.start(tmp_path / "data", "--durability", "os")
    try:
        assert httpx.get(f"{up.url}/v1/n/d").json() == {"n": 2}
    finally:
        up.stop()
