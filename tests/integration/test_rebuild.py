"""`rebuild` beside a live projection under writes: it swaps an equal one, or reports every difference."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from hashlib import sha256

import asyncpg
import pytest

from refold.audit.rebuild import Listener, Stage, rebuild, shards_of
from refold.audit.verify import Listener as Verifying
from refold.audit.verify import Scope, verify
from refold.core.errors import FenceLost, FoldUnknown, StoreDiffers
from refold.core.fold import NEWEST, RULES
from refold.core.fold_state import first_checkpoints
from refold.core.history import Clock, Point
from refold.log.memory import MemoryLog
from refold.projector.replay import begin_replay
from refold.projector.supervisor import Supervisor
from refold.store.postgres import PostgresStore
from refold.store.postgres.rows import Rows
from refold.store.postgres.states import StateLag
from support.encrypted import encryption
from support.fold2 import MOVE_ON, inc
from support.projection import ROOMY, append, ports, projecting
from support.rebuilding import rebuild_parts
from support.services import folded_to
from support.stores import postgres_stores

EVENTS = 400
SETTINGS = {"on_conflict": "reject", "limits": {"state_bytes": 35}, "schema": {"required": ["n"]}}


@pytest.fixture
async def log(request):
    """Make a log of a few documents; the parameter is its rules."""
    made = MemoryLog("log-1", rules=getattr(request, "param", NEWEST))
    for number in range(EVENTS):
        await append(made, f"d{number % 3}", {"merge": {"n": number}, "id": f"e{number % 50}"})
    await append(made, "gone", {"put": "\u0000"})
    await append(made, "gone", {"delete": True})
    await append(made, "bad", b"no event")
    return made


@pytest.fixture
async def live(log, postgres_dsn):
    """Run a projector, and return its store."""
    store = await PostgresStore.open(postgres_dsn)
    projector = asyncio.create_task(Supervisor(ports(log, store), ROOMY).run())
    await folded_to(store, (await log.info()).last_sequence)
    yield store
    projector.cancel()
    with suppress(asyncio.CancelledError):
        await projector
    await store.close()


@pytest.fixture
async def sql(postgres_dsn, live):
    """Open a connection that reads and damages the live schema."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


async def replay_shards(log, dsn, shards, until_sequence):
    """Replay shards in this process instead of several."""

    async def replay(shard):
        store = await PostgresStore.open(dsn, schema="rebuilt", shard=shard.name, readers_max=2)
        try:
            await (await begin_replay(log, store, ROOMY, shard.partitions)).run(until_sequence)
        finally:
            await store.close()

    async with asyncio.TaskGroup() as tasks:
        for shard in shards:
            tasks.create_task(replay(shard))


def parts(log, dsn, processes=1, **options):
    """Open what a rebuild uses."""
    replay = partial(replay_shards, log, dsn)
    return rebuild_parts(log, dsn, processes=processes, replay_in_shards=replay, **options)


async def rebuilt(log, dsn, progress=lambda *_: None, processes=1, **options):
    """Rebuild, and return the result and the differences."""
    found = []
    async with parts(log, dsn, processes, **options) as given:
        ended = await rebuild(given, Listener(difference=found.append, progress=progress))
    assert ended.differences == len(found)
    return ended, found


async def schemas(sql):
    """List the schemas."""
    return {row[0] for row in await sql.fetch("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'")}


async def is_clean(log, store):
    """Verify the live projection."""
    found = []
    await verify(log, store, Verifying(difference=found.append, progress=lambda _: None), Scope())
    return not found


async def test_an_equal_projection_is_swapped_while_events_are_appended(log, live, sql, postgres_dsn):
    epoch = await sql.fetchval("SELECT epoch FROM log")
    await live.snapshot_at("n", "d0", Point(Clock.version, 100))
    is_over = asyncio.Event()

    async def publish():
        while not is_over.is_set():
            await append(log, "d0", {"merge": {"late": True}})
            await append(log, f"new-{(await log.info()).last_sequence}", {"put": 1})
            await asyncio.sleep(0.001)

    publishing = asyncio.create_task(publish())
    ended, found = await rebuilt(log, postgres_dsn)
    is_over.set()
    await publishing
    assert (ended.is_swapped, found) == (True, [])
    assert await sql.fetchval("SELECT epoch FROM log") != epoch
    assert await schemas(sql) == {"public", "information_schema", "refold"}
    # The projector and the readers continue in the new live tables.
    end = await append(log, "d1", {"put": "last"})
    await folded_to(live, end)
    assert (await live.head("n", "d1")).snapshot.state == b'"last"'
    assert (await live.snapshot_at("n", "d0", Point(Clock.version, 100))).version == 100
    assert await is_clean(log, live)


DAMAGES = {
    "a state": ("UPDATE documents SET state = '{}' WHERE document = 'd1'", {"d1"}),
    "a version": ("UPDATE documents SET version = 7 WHERE document = 'd2'", {"d2"}),
    "a last sequence": ("UPDATE documents SET last_sequence = 2 WHERE document = 'gone'", {"gone"}),
    "a missing one": ("DELETE FROM documents WHERE document = 'd0'", {"d0"}),
    "one too many": ("UPDATE documents SET document = 'x' WHERE document = 'd0'", {"d0", "x"}),
}


async def test_a_difference_is_reported_and_prevents_the_swap(log, live, sql, postgres_dsn):
    epoch = await sql.fetchval("SELECT epoch FROM log")
    for damage, (statement, documents) in DAMAGES.items():
        await sql.execute("CREATE TABLE public.saved AS TABLE documents")
        await sql.execute(statement)
        ended, found = await rebuilt(log, postgres_dsn)
        assert not ended.is_swapped, damage
        assert {unequal.document for unequal in found} == documents, damage
        await sql.execute("TRUNCATE documents; INSERT INTO documents SELECT * FROM public.saved")
        await sql.execute("DROP TABLE public.saved")
    await sql.execute("UPDATE namespaces SET events = 1")
    assert {unequal.namespace for unequal in (await rebuilt(log, postgres_dsn))[1]} == {"n"}
    assert await sql.fetchval("SELECT epoch FROM log") == epoch


@pytest.fixture
async def outdated(log, postgres_dsn):
    """Make a live projection with one row of an older state and an idle projector."""
    async with postgres_stores(postgres_dsn) as open_store:
        store = await open_store(state_lag=StateLag(bytes_min=0, seconds=3_600))
        async with projecting(ports(log, store)) as running:
            for number in range(3):
                await running.committed(await append(log, "lags", {"merge": {"n": number}}))
            yield store


async def test_a_live_row_with_an_older_state_is_compared_by_its_exact_state(log, outdated, postgres_dsn):
    assert ("n", "lags") in await outdated.flusher.outdated(after=("", ""), limit=99)
    ended, found = await rebuilt(log, postgres_dsn)
    assert (ended.is_swapped, found) == (True, [])
    assert await outdated.flusher.outdated(after=("", ""), limit=99) == []
    assert (await outdated.head("n", "lags")).snapshot.state == b'{"n":2}'


async def test_a_rebuild_writes_states_as_it_is_set_and_compares_what_they_say(log, outdated, postgres_dsn):
    codec = encryption("log-1")
    encrypted = {"codec": codec, "is_history_encrypted": True, "are_states_encrypted": True}
    sql = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    counted = "SELECT count(*) FROM documents WHERE starts_with(state::text, ' \"encrypted:')"
    present = await sql.fetchval("SELECT count(*) FROM documents WHERE state IS NOT NULL")
    # From plain to encrypted states, to the same under other nonces, and back.
    for options, expected in ((encrypted, present), (encrypted, present), ({"codec": codec}, 0)):
        ended, found = await rebuilt(log, postgres_dsn, **options)
        assert (ended.is_swapped, found) == (True, [])
        assert await sql.fetchval(counted) == expected
        assert await sql.fetch("SELECT FROM documents WHERE state_version IS NOT NULL") == []
    await rebuilt(log, postgres_dsn, **encrypted)
    rows = Rows(codec, has_content=True, has_encoded_states=True)
    change = "UPDATE documents SET state = $2::text::json WHERE document = $1"
    await sql.execute(change, "d1", rows.of_state(("n", "d1"), b"{}").decode())
    await sql.execute(change, "d2", rows.of_state(("n", "d1"), b"{}").decode())
    await sql.close()
    ended, found = await rebuilt(log, postgres_dsn, **encrypted)
    assert not ended.is_swapped
    hashes = {unequal.document: unequal.live.state_hash for unequal in found}
    assert hashes == {"d1": sha256(b"{}").hexdigest(), "d2": "unreadable (live)"}


@pytest.mark.parametrize("shown", ['{"n":0,"x":1}', "[]"])
async def test_damage_to_a_row_with_an_older_state_is_reported(log, outdated, postgres_dsn, shown):
    sql = await asyncpg.connect(postgres_dsn)
    await sql.execute("UPDATE refold.documents SET state = $1 WHERE document = 'lags'", shown)
    await sql.close()
    ended, found = await rebuilt(log, postgres_dsn)
    assert not ended.is_swapped
    assert [unequal.document for unequal in found] == ["lags"]


async def test_a_stopped_rebuild_can_be_continued(log, live, sql, postgres_dsn):
    async with parts(log, postgres_dsn) as given:

        async def never(*_):
            raise asyncio.CancelledError
            yield

        given.swap.unequal = never
        with pytest.raises(asyncio.CancelledError):
            await rebuild(given, Listener(difference=pytest.fail, progress=lambda *_: None))
    assert await sql.fetchval("SELECT max(read_sequence) FROM rebuilt.shards") >= EVENTS
    end = await append(log, "d0", {"put": 0})
    await folded_to(live, end)
    ended, _ = await rebuilt(log, postgres_dsn)
    assert (ended.is_swapped, ended.replayed_events) == (True, 1)


@asynccontextmanager
async def _stalls_before(store, _sql):
    async with store.open_commit() as opened:
        await asyncio.sleep(3_600)
        yield opened


@asynccontextmanager
async def _stalls_after(store, _sql):
    async with store.open_commit() as opened:
        yield opened
    await asyncio.sleep(3_600)


@asynccontextmanager
async def _stalls_within(store, sql):
    async with sql.transaction():
        await sql.fetch("SELECT FROM rebuilt.shards FOR UPDATE")
        async with store.open_commit() as opened:
            yield opened


@pytest.mark.parametrize("stalled", [_stalls_before, _stalls_after, _stalls_within])
async def test_a_rebuild_continues_after_a_timeout_during_a_commit(
    log, live, sql, postgres_dsn, monkeypatch, stalled
):
    monkeypatch.setattr("refold.audit.rebuild.REBUILD_HOLD_SECONDS", 1.0)
    async with parts(log, postgres_dsn) as given:
        copy_indexes = given.swap.copy_indexes

        async def append_one_more():
            """Append an event that is committed only while the live projection is locked."""
            await copy_indexes()
            await folded_to(live, await append(log, "d1", {"put": "last"}))
            given.fresh.open_commit = stall

        def stall():
            del given.fresh.open_commit
            return stalled(given.fresh, sql)

        given.swap.copy_indexes = append_one_more
        ended = await rebuild(given, Listener(difference=pytest.fail, progress=lambda *_: None))
        assert "open_commit" not in vars(given.fresh), "nothing stalled"
    assert ended.is_swapped
    assert (await live.head("n", "d1")).snapshot.state == b'"last"'
    assert await is_clean(log, live)


@pytest.fixture
def far(monkeypatch):
    """Treat a few events as far behind."""
    monkeypatch.setattr("refold.audit.rebuild.SHARDED_EVENTS_MIN", EVENTS // 2)


@pytest.mark.usefixtures("far")
async def test_a_rebuild_in_shards_has_the_same_result(log, live, postgres_dsn):
    seen = []
    ended, found = await rebuilt(log, postgres_dsn, lambda *found: seen.append(found), processes=3)
    end = (await log.info()).last_sequence
    assert (ended.is_swapped, found, ended.replayed_events) == (True, [], end)
    assert seen[0] == (Stage.replaying, 0, end)
    assert await is_clean(log, live)
    await folded_to(live, await append(log, "d1", {"put": "last"}))
    assert (await live.head("n", "d1")).snapshot.state == b'"last"'


async def test_shards_stopped_at_different_sequences_are_aligned_first(log, live, sql, postgres_dsn):
    async with parts(log, postgres_dsn) as given:
        await given.fresh.bind("log-1")
    first, second = shards_of(first_checkpoints("log-1"), 2)
    await replay_shards(log, postgres_dsn, [first], 100)
    await replay_shards(log, postgres_dsn, [second], 250)
    read = "SELECT DISTINCT read_sequence FROM rebuilt.shards ORDER BY 1"
    assert [row[0] for row in await sql.fetch(read)] == [100, 250]
    ended, found = await rebuilt(log, postgres_dsn)
    assert (ended.is_swapped, found) == (True, [])
    assert await is_clean(log, live)


async def test_a_shard_that_is_being_replayed_is_refused(log, live, postgres_dsn):
    (shard,) = shards_of(first_checkpoints("log-1"), 1)
    store = await PostgresStore.open(postgres_dsn, schema="rebuilt", shard=shard.name, readers_max=1)
    assert await store.acquire_lease()
    with pytest.raises(ExceptionGroup) as raised:
        await replay_shards(log, postgres_dsn, [shard], 10)
    assert isinstance(raised.value.exceptions[0], FenceLost)
    await store.close()


async def test_two_concurrent_rebuilds_are_refused(log, live, postgres_dsn):
    async with parts(log, postgres_dsn) as first, parts(log, postgres_dsn) as second:
        assert await first.fresh.acquire_lease()
        with pytest.raises(FenceLost):
            await rebuild(second, Listener(difference=pytest.fail, progress=lambda *_: None))


async def test_a_swap_keeps_indexes_and_views_and_is_prevented_by_foreign_readers(
    log, live, sql, postgres_dsn
):
    await sql.execute("CREATE INDEX mine ON documents USING gin (refold_jsonb(state))")
    await sql.execute("SELECT create_view('n')")
    ended, _ = await rebuilt(log, postgres_dsn)
    assert ended.is_swapped
    end = await append(log, "d2", {"put": "seen"})
    await folded_to(live, end)
    assert await sql.fetchval("""SELECT state FROM refold_views.n WHERE document = 'd2'""") == '"seen"'
    definition = await sql.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = 'mine'")
    assert definition.startswith("CREATE INDEX mine ON refold.documents")
    await sql.execute("CREATE VIEW public.other AS SELECT * FROM documents")
    with pytest.raises(StoreDiffers, match="other"):
        await rebuilt(log, postgres_dsn)


@pytest.mark.parametrize("log", [RULES[1]], indirect=True, ids=["from fold 1"])
@pytest.mark.parametrize("stopped_at", [0, EVENTS + 20])
async def test_a_rebuild_in_shards_changes_the_fold_number_in_all_of_them(
    log, postgres_dsn, monkeypatch, stopped_at
):
    monkeypatch.setattr("refold.audit.rebuild.SHARDED_EVENTS_MIN", 1)
    for number in range(40):
        if number == 10:
            await append(log, "fold", MOVE_ON, namespace="_refold")
        if number in {20, 30}:
            await append(log, "settings:n", {"put": SETTINGS if number == 20 else {}}, namespace="_refold")
        await append(log, f"d{number % 3}", inc("/n", base=number))
        await append(log, f"d{number % 3}", {"merge": {"text": "x" * number}})
    async with AsyncExitStack() as endings:
        live = await PostgresStore.open(postgres_dsn)
        endings.push_async_callback(live.close)
        end = (await log.info()).last_sequence
        async with projecting(ports(log, live)) as running:
            await running.committed(end)
        if stopped_at:
            fresh = await PostgresStore.open(postgres_dsn, schema="rebuilt", readers_max=2)
            shards = shards_of(await fresh.bind("log-1"), 3)
            await fresh.close()
            # Of three shards only one has passed the change of the fold number.
            await replay_shards(log, postgres_dsn, shards[:1], stopped_at)
        ended, found = await rebuilt(log, postgres_dsn, processes=3)
        assert (ended.is_swapped, found) == (True, [])
        assert {checkpoint.fold for checkpoint in await live.checkpoints()} == {2}
        assert await is_clean(log, live)


async def test_a_rebuild_in_shards_stops_at_an_unknown_fold(log, postgres_dsn, monkeypatch):
    monkeypatch.setattr("refold.audit.rebuild.SHARDED_EVENTS_MIN", 1)
    moved = await append(log, "fold", {"put": {"fold": 3}}, namespace="_refold")
    await append(log, "d0", {"put": 1})
    live = await PostgresStore.open(postgres_dsn)
    try:
        await live.bind("log-1")
        shards = shards_of(await live.checkpoints(), 3)
        with pytest.raises(ExceptionGroup) as stopped:
            await replay_shards(log, postgres_dsn, shards, moved + 1)
    finally:
        await live.close()
    for unknown in stopped.value.exceptions:
        assert isinstance(unknown, FoldUnknown)
        assert unknown.facts == {"fold": 3, "known": 2, "sequence": moved + 1}
