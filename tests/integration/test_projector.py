"""The projector as a process on real servers: killed, run twice, given invalid events."""

from __future__ import annotations

import asyncio
import signal

import asyncpg
import pytest

from refold.core import json_text
from refold.embedded.nats import NatsServer
from refold.log.jetstream import JetStreamNotices
from refold.store.postgres import PostgresStore
from support.services import (
    Site,
    append_all,
    contents,
    folded_to,
    kill,
    log_of,
    make_site,
    projector,
    store_of,
    undisturbed,
)

NAMES = [f"doc-{number}" for number in range(20)]


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    return await make_site(fresh_nats, postgres_dsn)


def _events(count: int, begin: int = 0) -> list[tuple[str, bytes]]:
    """Make patches of twenty documents; every eleventh breaks a rule."""
    events = []
    for number in range(begin, begin + count):
        operation = {"op": "add", "path": f"/m{number % 7}", "value": number}
        event = {"patch": [operation], "id": f"e{number}", **({"nope": 1} if number % 11 == 0 else {})}
        events.append((NAMES[number % len(NAMES)], json_text.dumps(event)))
    return events


async def test_after_repeated_kills_the_projection_equals_an_undisturbed_replay(site: Site) -> None:
    async with log_of(site) as log, store_of(site) as store:
        for round_number in range(5):
            async with projector(site) as process:
                last = await append_all(log, _events(1_500, round_number * 1_500))
                await folded_to(store, last - 1_400)
                await kill(process)
        async with projector(site):
            await folded_to(store, last)
        assert await contents(store, NAMES) == await contents(await undisturbed(site), NAMES)
        # No version is missing or there twice.
        for name in NAMES:
            runs = [run async for run in store.segments("n", name, after_version=None, is_descending=False)]
            effective = [entry for run in runs for entry in run.entries if entry.status.is_effective]
            assert [entry.version for entry in effective] == list(range(1, len(effective) + 1))


async def test_sigterm_exits_with_code_0_and_loses_nothing(site: Site) -> None:
    async with log_of(site) as log, store_of(site) as store:
        async with projector(site) as process:
            await folded_to(store, await append_all(log, _events(300)))
            last = await append_all(log, _events(300, 300))
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        async with projector(site):
            await folded_to(store, last)
        assert await contents(store, NAMES) == await contents(await undisturbed(site), NAMES)


async def test_the_projector_continues_after_postgres_closed_every_connection(site: Site) -> None:
    async with log_of(site) as log, projector(site) as process:
        async with store_of(site) as store:
            await folded_to(store, await append_all(log, _events(200)))
        admin = await asyncpg.connect(site.dsn)
        try:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            thrown_out = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
            assert len(await admin.fetch(thrown_out)) > 0
        finally:
            await admin.close()
        async with store_of(site) as store:
            await folded_to(store, await append_all(log, _events(200, 200)))
            assert process.returncode is None
            assert await contents(store, NAMES) == await contents(await undisturbed(site), NAMES)


_COMMITTED = ("documents", "journal", "pages", "shards", "checkpoints", "namespaces")
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def test_after_a_crash_that_lost_commits_no_document_is_loaded_from_before_them(site: Site) -> None:
    """As after a power cut: PostgreSQL has ended every connection, and lacks commits that the projector has made."""
    sent: list[tuple[int, int]] = []

    def note(_: str, body: bytes) -> None:
        change = json_text.object_in(body)
        sent.append((change["sequence"], change["version"]))

    admin = await asyncpg.connect(site.dsn, server_settings={"search_path": "refold"})
    async with log_of(site) as log, projector(site, cache_bytes_max=2**20), store_of(site) as store:
        await JetStreamNotices(log.client).listen("change.n.a", note)
        await folded_to(store, await append_all(log, [("a", b'{"put":{"n":1}}')]))
        for table in _COMMITTED:
            await admin.execute(f"CREATE TEMPORARY TABLE kept_{table} AS TABLE {table}")
        await folded_to(store, await append_all(log, [("a", b'{"merge":{"n":2}}')]))
        # Too large to be in memory beside `a`, which must be loaded again.
        large = json_text.dumps({"put": "x" * 2**18})
        await folded_to(store, await append_all(log, [("large", large)]))
        async with admin.transaction():
            for table in _COMMITTED:
                await admin.execute(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}")
            await admin.fetch(_END_OTHERS)
        last = await append_all(log, [("a", b'{"merge":{"n":3}}')])
        async with store_of(site) as reader:
            await folded_to(reader, last)
            head = await reader.head("n", "a")
    await admin.close()
    assert head is not None
    assert head.snapshot.version == 3
    assert {version for sequence, version in sent if sequence == last} == {3}


async def test_invalid_events_are_stored_with_their_reason_and_stop_nothing(site: Site) -> None:
    names = [b"n.\xff\xfe", b"n.a\x00b", b"n." + b"x" * 3_000, b"n.*", b"_own.d", b"na\xc3\xafve.d"]
    async with projector(site), store_of(site) as store, log_of(site) as log:
        await _publish_raw(site, names)
        last = await append_all(log, [("doc-0", b"garbage"), ("doc-0", b'{"put":1}')])
        await folded_to(store, last)
        unnamed = await store.rejections("", "", limit=100, before_sequence=None)
        head = await store.head("n", "doc-0")
        rejected = await store.rejections("n", "doc-0", limit=10, before_sequence=None)
    assert len(unnamed) == len(names)
    assert {rejection.reason for rejection in unnamed} == {"bad_name", "reserved_namespace"}
    assert all(rejection.detail.startswith("state.") for rejection in unnamed)
    kept = [rejection.record for rejection in unnamed]
    assert all(record is not None and record.body == b'{"put":1}' for record in kept)
    assert head is not None
    assert (head.snapshot.version, head.snapshot.state) == (1, b"1")
    assert [rejection.reason for rejection in rejected] == ["bad_json"]


async def test_a_projection_of_another_log_is_refused(site: Site, fresh_nats: NatsServer) -> None:
    store = await PostgresStore.open(site.dsn)
    await store.bind("another-log")
    await store.close()
    async with projector(site) as process:
        assert await asyncio.wait_for(process.wait(), 30) == 1


async def _publish_raw(site: Site, names: list[bytes]) -> None:
    """Publish to `state.<name>` for each, as bytes that no client library would send."""
    reader, writer = await asyncio.open_connection(site.nats.host, site.nats.port)
    writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    for name in names:
        writer.write(b'PUB state.%b 9\r\n{"put":1}\r\n' % name)
    writer.write(b"PING\r\n")
    async with asyncio.timeout(10):
        while b"PONG" not in await reader.readline():
            pass
    writer.close()
    await writer.wait_closed()
