"""Two projectors on one shard under load: one works, the other takes over when the first is killed or stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
import orjson
import pytest

from refold.embedded.nats import NatsServer
from refold.log.jetstream import JetStreamNotices
from support.services import (
    Gateway,
    Site,
    append_all,
    contents,
    folded_to,
    gateway,
    kill,
    log_of,
    make_site,
    projector,
    standing_by,
    store_of,
    undisturbed,
    until,
)

NAMES = [f"doc-{number}" for number in range(12)]
APPENDED = 50
HOLDER = """
SELECT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
"""


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    return await make_site(fresh_nats, postgres_dsn)


class Load:
    """Continuously append, write over HTTP and wait for outcomes; record the published changes."""

    def __init__(self) -> None:
        self.last_sequence = 0
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.changes: list[dict[str, Any]] = []

    async def append(self, site: Site) -> None:
        """Append patches to all documents; every eleventh breaks a rule."""
        async with log_of(site) as log:
            notices = JetStreamNotices(log.client)
            await notices.listen("change.n.*", lambda _, body: self.changes.append(orjson.loads(body)))
            for begin in count(0, APPENDED):
                events = [_event(number) for number in range(begin, begin + APPENDED)]
                self.last_sequence = await append_all(log, events)
                await asyncio.sleep(0.02)

    async def write(self, through: Gateway) -> None:
        """Write one after another, waiting for each outcome without a bound."""
        for number in count():
            name = NAMES[number % len(NAMES)]
            headers = {"Idempotency-Key": f"h{number}", "Refold-Wait": "60"}
            answer = await through.client.put(f"/v1/n/{name}", json={"written": number}, headers=headers)
            assert answer.status_code in {200, 201}, answer.text
            self.answers.append((name, answer.json()))

    async def continues(self, store: Any) -> None:
        """Wait until an event that is appended from now on is folded and its author has the outcome."""
        answered = len(self.answers)
        await folded_to(store, self.last_sequence + 1)

        async def is_answered() -> bool:
            return len(self.answers) > answered

        await until(is_answered)


@asynccontextmanager
async def loaded(site: Site, through: Gateway) -> AsyncIterator[Load]:
    """Load the system; re-raise errors of the load."""
    load = Load()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(load.append(site)), tasks.create_task(load.write(through))]
        yield load
        for task in running:
            task.cancel()


@pytest.mark.parametrize("end", ["killed", pytest.param("stopped, then killed", marks=pytest.mark.slow)])
async def test_a_standby_takes_over_from_a_stopped_or_killed_projector_without_folding_twice(
    site: Site, end: str
) -> None:
    async with (
        store_of(site) as store,
        projector(site) as first,
        gateway(site) as through,
        projector(site) as second,
    ):
        async with loaded(site, through) as load:
            await standing_by(site)
            await load.continues(store)
            working, other = first, second
            if end != "killed":
                first.send_signal(signal.SIGSTOP)
                await _shard_moves(site)
                await load.continues(store)
                first.send_signal(signal.SIGCONT)
                await load.continues(store)
                assert (first.returncode, second.returncode) == (None, None)
                await standing_by(site)
                working, other = second, first
            await kill(working)
            await load.continues(store)
            assert other.returncode is None
        await folded_to(store, load.last_sequence)
        oracle = await undisturbed(site)
        assert await contents(store, NAMES) == await contents(oracle, NAMES)
        await _hold_answers(load, oracle)
        await _hold_changes(load, oracle)


async def _hold_answers(load: Load, oracle: Any) -> None:
    """Check that every author received the outcome of an undisturbed fold."""
    for name, answer in load.answers:
        entry = await oracle.entry("n", name, answer["sequence"])
        assert (answer["status"], answer["version"]) == (entry.status.name, entry.version)


async def _hold_changes(load: Load, oracle: Any) -> None:
    """Check that every change was announced correctly; what two projectors folded may be announced by both."""
    for change in load.changes:
        entry = await oracle.entry("n", change["document"], change["sequence"])
        assert (change["version"], change["id"]) == (entry.version, orjson.loads(entry.body)["id"])


async def _shard_moves(site: Site) -> None:
    """Wait until another connection holds the lock."""
    connection = await asyncpg.connect(site.dsn)
    try:
        before = await connection.fetchval(HOLDER)
        await until(lambda: connection.fetchval(f"SELECT ({HOLDER}) <> $1", before))
    finally:
        await connection.close()


def _event(number: int) -> tuple[str, bytes]:
    operation = {"op": "add", "path": f"/m{number % 7}", "value": number}
    event = {"patch": [operation], "id": f"e{number}", **({"nope": 1} if number % 11 == 0 else {})}
    return NAMES[number % len(NAMES)], orjson.dumps(event)
