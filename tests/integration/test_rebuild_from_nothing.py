"""A damaged projection is rebuilt from the log alone while it is in use; the damaged one is kept."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import httpx
import pytest

from refold.audit.rebuild import Listener, Stage, rebuild
from refold.audit.verify import Listener as Verifying
from refold.audit.verify import Scope, verify
from refold.core.errors import LogHole, StoreDiffers
from refold.embedded import SECRETS
from refold.log.memory import MemoryLog
from refold.projector.supervisor import Supervisor
from refold.store.postgres import PostgresStore, schema
from support.projection import ROOMY, append, ports
from support.rebuilding import rebuild_parts
from support.services import append_all, folded_to, log_of, make_site, projector, store_of, until
from support.up import Up, execute, run_refold
from support.up import until as until_so

EVENTS = 300
TABLES = (*schema.TABLES, "migrations")
KEPT = "refold_damaged_20261129_073000"


@pytest.fixture
async def log():
    """Make a log of documents with pages and journal, and a rejection."""
    made = MemoryLog("log-1")
    for number in range(EVENTS):
        await append(made, f"d{number % 3}", {"merge": {"n": number}, "id": f"e{number}"})
    await append(made, "bad", b"no event")
    return made


@pytest.fixture
async def sql(postgres_dsn):
    """Open a connection that reads and damages the live schema."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


@asynccontextmanager
async def projecting(log, dsn):
    """Run a projector that has folded the log; yield its store."""
    store = await PostgresStore.open(dsn)
    task = asyncio.create_task(Supervisor(ports(log, store), ROOMY).run())
    try:
        await folded_to(store, (await log.info()).last_sequence)
        yield store
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


@pytest.fixture
async def stopped(log, postgres_dsn):
    """Make a projection whose projector has ended."""
    async with projecting(log, postgres_dsn):
        pass


async def from_nothing(log, dsn, progress=lambda *_: None):
    """Rebuild; return the result and the name that the damaged projection is kept under."""
    async with rebuild_parts(log, dsn, is_compared=False, keep_as=KEPT) as parts:
        ended = await rebuild(parts, Listener(difference=print, progress=progress))
        return ended, parts.swap.kept


async def assert_clean(log, dsn):
    """Verify the live projection."""
    found = []
    store = await PostgresStore.open(dsn)
    try:
        await verify(log, store, Verifying(difference=found.append, progress=lambda _: None), Scope())
    finally:
        await store.close()
    assert found == []


async def schemas(sql):
    """List the schemas."""
    rows = await sql.fetch(
        "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(refold|rebuilt)' ORDER BY nspname"
    )
    return [row[0] for row in rows]


DAMAGES = [f"{verb} TABLE {table}" for table in TABLES for verb in ("DROP", "TRUNCATE")]
QUICK = {"DROP TABLE log", "TRUNCATE TABLE documents", "DROP TABLE pages"}


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(it, marks=[] if it in QUICK else [pytest.mark.slow]) for it in DAMAGES),
        "DROP SCHEMA refold",
    ],
)
async def test_a_running_projector_continues_in_the_rebuilt_projection(log, sql, postgres_dsn, damage):
    async with projecting(log, postgres_dsn) as store:
        epoch = await sql.fetchval("SELECT epoch FROM log")
        await sql.execute(f"{damage} CASCADE")
        await append(log, "d1", {"put": "meanwhile"})
        ended, kept = await from_nothing(log, postgres_dsn)
        assert kept == ("" if "SCHEMA" in damage else KEPT)
        assert await schemas(sql) == (["refold", KEPT] if kept else ["refold"])
        assert await sql.fetchval("SELECT epoch FROM log") != epoch
        assert ended.replayed_events == (await log.info()).last_sequence
        end = await append(log, "d1", {"put": "after"})
        await folded_to(store, end)
        assert (await store.head("n", "d1")).snapshot.state == b'"after"'
    await assert_clean(log, postgres_dsn)


async def test_commits_of_a_running_projector_are_not_lost(log, sql, postgres_dsn):
    """The projector does not notice the damage, and commits up to the swap."""
    is_over = asyncio.Event()

    async def publish():
        while not is_over.is_set():
            await append(log, "d1", {"merge": {"late": True}})
            await append(log, f"new-{(await log.info()).last_sequence}", {"put": 1})
            await asyncio.sleep(0.001)

    async with projecting(log, postgres_dsn) as store:
        await sql.execute("UPDATE pages SET payload = 'x'")
        publishing = asyncio.create_task(publish())
        await from_nothing(log, postgres_dsn)
        is_over.set()
        await publishing
        await folded_to(store, (await log.info()).last_sequence)
    await assert_clean(log, postgres_dsn)


@pytest.mark.parametrize("stage", [Stage.replaying, Stage.swapping])
async def test_a_stopped_rebuild_leaves_the_damaged_projection_in_place_and_is_continued(
    log, stopped, sql, postgres_dsn, stage
):
    await sql.execute("DROP TABLE pages")

    class Ended(Exception):
        pass

    def end(now, *_):
        if now is stage:
            raise Ended

    with pytest.raises(Ended):
        await from_nothing(log, postgres_dsn, progress=end)
    assert await schemas(sql) == ["rebuilt", "refold"]
    assert await sql.fetchval("SELECT to_regclass('refold.pages')") is None
    await from_nothing(log, postgres_dsn)
    assert await schemas(sql) == ["refold", KEPT]
    await assert_clean(log, postgres_dsn)


async def test_a_projection_of_another_log_is_not_replaced(stopped, sql, postgres_dsn):
    other = MemoryLog("log-2")
    await append(other, "d1", {"put": 1})
    await sql.execute("DROP TABLE documents")
    with pytest.raises(StoreDiffers) as raised:
        await from_nothing(other, postgres_dsn)
    assert raised.value.facts == {"expected": "log-2", "found": "log-1"}
    assert await sql.fetchval("SELECT log_id FROM refold.log") == "log-1"


async def test_a_projection_ahead_of_its_log_is_not_replaced(stopped, sql, postgres_dsn):
    shorter = MemoryLog("log-1")
    await append(shorter, "d1", {"put": 1})
    await sql.execute("DROP TABLE documents")
    with pytest.raises(LogHole):
        await from_nothing(shorter, postgres_dsn)
    assert KEPT not in await schemas(sql)


async def test_a_schema_with_foreign_tables_is_not_moved(log, stopped, sql, postgres_dsn):
    await sql.execute("DROP TABLE pages; CREATE TABLE theirs (n integer)")
    with pytest.raises(StoreDiffers) as raised:
        await from_nothing(log, postgres_dsn)
    assert raised.value.facts["found"] == ["theirs"]
    assert KEPT not in await schemas(sql)


async def test_added_views_and_indexes_are_kept(log, stopped, sql, postgres_dsn):
    await sql.fetch("SELECT create_view('n')")
    await sql.execute("CREATE INDEX theirs ON documents ((refold_jsonb(state) -> 'n'))")
    await sql.execute("TRUNCATE documents")
    assert await sql.fetchval("SELECT count(*) FROM refold_views.n") == 0
    await from_nothing(log, postgres_dsn)
    assert await sql.fetchval("SELECT count(*) FROM refold_views.n") == 3
    assert await sql.fetchval("SELECT to_regclass('refold.theirs')") is not None


async def test_a_damaged_fresh_schema_of_an_earlier_rebuild_is_dropped(fresh_nats, postgres_dsn, sql):
    site = await make_site(fresh_nats, postgres_dsn)
    async with projector(site), log_of(site) as log, store_of(site) as store:
        end = await append_all(log, [("a", b'{"put":1}'), ("b", b'{"put":2}')])
        await folded_to(store, end)
        left = await PostgresStore.open(postgres_dsn, schema="refold_rebuild")
        await left.bind(site.log_id)
        await left.close()
        await sql.execute("DROP TABLE refold_rebuild.journal; TRUNCATE refold.checkpoints")
        given = {"REFOLD_NATS_URL": site.nats.url("projector"), "REFOLD_POSTGRES_URL": site.dsn}
        rebuilt = await asyncio.to_thread(run_refold, "rebuild", "--from-nothing", "--json", **given)
        assert rebuilt.returncode == 0, rebuilt.stderr
        answer = json.loads(rebuilt.stdout)
        assert (answer["swapped"], answer["sequence"]) == (True, end)
        assert await schemas(sql) == ["refold", answer["kept"]]
        # The waiting projector continues.
        await folded_to(store, await append_all(log, [("a", b'{"put":3}')]))
        assert await until(lambda: store.head("n", "a"))


@pytest.mark.slow
def test_refold_up_keeps_running_with_a_damaged_projection_and_names_the_repair_command(tmp_path):
    up = Up.start(tmp_path / "data", "--durability", "os")
    try:
        write(up, 1)
        execute(up, "DROP TABLE refold.documents CASCADE")
        answer = httpx.get(f"{up.url}/v1/n/d")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_damaged")
        named = until_so(lambda: named_by(httpx.get(f"{up.url}/readyz").json().get("detail", "")))
        rebuilt = run_refold(*named, "--data", str(up.data))
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert re.search(r"kept as refold_damaged_\d{8}_\d{6}", rebuilt.stdout)
        until_so(lambda: httpx.get(f"{up.url}/readyz").status_code == 200)
        assert write(up, 2)["version"] == 2
        # Now such that a start detects it.
        execute(up, "TRUNCATE refold.log")
        assert up.stop() == 0
        again = Up(up.data, "--http", "127.0.0.1:0", "--nats-port", "0")
        assert again.process.wait(60) == 1
        line = again.said()[again.said().rfind("refold: ") :]
        assert "store_damaged" in line
        command = shlex.split(re.search(r"run='refold (.*?)'", line)[1])
        assert run_refold(*command).returncode == 0
    finally:
        if up.process.poll() is None:
            up.stop()
    up = Up.start(tmp_path / "data", "--durability", "os")
    try:
        assert write(up, 3)["version"] == 3
        assert run_refold("verify", "--data", str(up.data)).returncode == 0
    finally:
        up.stop()


@pytest.mark.slow
def test_a_lost_password_of_the_database_is_named_and_its_folder_may_be_moved_away(tmp_path):
    up = Up.start(tmp_path / "data", "--durability", "os")
    try:
        write(up, 1)
        assert up.stop() == 0
        (up.data / SECRETS).unlink()
        refused = Up(up.data, "--http", "127.0.0.1:0", "--nats-port", "0")
        assert refused.process.wait(60) == 1
        line = refused.said()[refused.said().rfind("refold: ") :]
        assert SECRETS in line
        folder = Path(re.search(r"move (\S+) away", line)[1])
        folder.rename(tmp_path / "away")
        up = Up.start(up.data, "--durability", "os")
        assert httpx.get(f"{up.url}/v1/n/d").json() == {"n": 1}
    finally:
        if up.process.poll() is None:
            up.stop()


def write(up, number):
    """Write the document; return the outcome."""
    answer = httpx.put(f"{up.url}/v1/n/d", json={"n": number})
    assert answer.json()["status"] == "applied"
    return answer.json()


def named_by(detail):
    """Return the command that a message names, without the program."""
    found = re.search(r"`refold (rebuild --from-nothing)`", detail)
    return found and found[1].split()
