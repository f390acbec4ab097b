"""Two projectors, each of half of the partitions, on one log and one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest

from refold.audit.verify import Listener, Scope, verify
from refold.core.errors import Refused
from refold.core.stream import parse_shard
from refold.log import Publication
from refold.log.memory import MemoryLog, MemoryNotices
from refold.projector import Stage
from refold.projector.supervisor import Supervisor, lease_of
from support.projection import ROOMY, append, ports, project
from support.services import contents, folded_to, until
from support.stores import OpenStore, postgres_stores

NAMES = [f"d{number}" for number in range(20)]


@pytest.fixture
async def open_store(postgres_dsn: str) -> AsyncIterator[OpenStore]:
    async with postgres_stores(postgres_dsn) as opener:
        yield opener


@asynccontextmanager
async def projector(
    log: MemoryLog, open_store: OpenStore, shard: str, notices: MemoryNotices | None = None
) -> AsyncIterator[Supervisor]:
    """Run a projector of one shard."""
    store = await open_store(shard=lease_of(parse_shard(shard)))
    supervisor = Supervisor(replace(ports(log, store, notices), shard=shard), ROOMY)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        await asyncio.wait({task})
        await store.close()


async def write(log: MemoryLog, numbers: range) -> int:
    """Change every document in turn, and at times all of them in a transaction; some events are rejected."""
    for number in numbers:
        if number % 40 == 0:
            await transact(log, number)
        event: Any = {"merge": {"n": number}, "id": f"e{number % 50}"}
        last = await append(log, NAMES[number % len(NAMES)], event if number % 7 else b"no event")
    return last


async def transact(log: MemoryLog, number: int) -> None:
    """Append a transaction to all documents, which are of both shards."""
    events = [
        {"merge": {"t": number}, "txn": {"id": f"t{number}", "index": at, "count": len(NAMES)}}
        for at in range(len(NAMES))
    ]
    await log.append_atomically(
        [
            Publication(namespace="n", document=name, body=orjson.dumps(event))
            for name, event in zip(NAMES, events, strict=True)
        ]
    )


async def assert_whole(log: MemoryLog, open_store: OpenStore) -> None:
    """Compare the projection with that of a single loop, and verify it."""
    store = await open_store()
    assert await contents(store, NAMES) == await contents(await project(log), NAMES)
    found: list[Any] = []
    await verify(log, store, Listener(difference=found.append, progress=lambda _: None), Scope())
    assert found == []


async def test_two_shards_produce_the_same_projection_as_one(open_store: OpenStore) -> None:
    log, reader = MemoryLog("log-1"), await open_store()
    await write(log, range(300))
    async with projector(log, open_store, "0-31") as first, projector(log, open_store, "32-63") as second:
        await folded_to(reader, await write(log, range(300, 600)))
        assert {first.stage, second.stage} == {Stage.working}
    await assert_whole(log, open_store)


async def test_one_projector_continues_where_two_shards_stopped_at_different_sequences(
    open_store: OpenStore,
) -> None:
    log, reader = MemoryLog("log-1"), await open_store()
    last = await write(log, range(100))
    async with projector(log, open_store, "0-31") as first:
        await until(lambda: _reached(first, last))
    last = await write(log, range(100, 200))
    async with projector(log, open_store, "32-63") as second:
        await until(lambda: _reached(second, last))
    assert len({checkpoint.read_sequence for checkpoint in await reader.checkpoints()}) == 2
    async with projector(log, open_store, "0-63"):
        await folded_to(reader, await write(log, range(200, 300)))
    await assert_whole(log, open_store)


async def test_a_progress_notice_contains_shard_epoch_and_sequence(open_store: OpenStore) -> None:
    log, notices = MemoryLog("log-1"), MemoryNotices()
    received: list[dict[str, Any]] = []
    await notices.listen("refold.progress", lambda _, body: received.append(orjson.loads(body)))
    last = await write(log, range(10))
    epochs = set()
    for _ in range(2):
        async with projector(log, open_store, "32-63", notices) as running:
            await until(partial(_reached, running, last))
            last = await write(log, range(10))
            await until(partial(_has_received, received, last))
        assert {notice["shard"] for notice in received} == {"32-63"}
        epochs |= {notice["epoch"] for notice in received}
    assert len(epochs) == 2


@pytest.mark.parametrize("text", ["", "1", "0/2", "2-1", "0-64", "-1-2", "0-2-3", "a-b", "00-100"])
def test_an_invalid_shard_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_shard(text)


async def _reached(supervisor: Supervisor, sequence: int) -> bool:
    return supervisor.committed_sequence >= sequence


async def _has_received(received: list[dict[str, Any]], sequence: int) -> bool:
    return any(notice["sequence"] == sequence for notice in received)


SETTINGS: list[Any] = [
    {"on_conflict": "reject"},
    {"limits": {"state_bytes": 20}},
    {"schema": {"properties": {"n": {"type": "number"}}}},
    {},
]


async def set_and_write(log: MemoryLog, settings: Any, number: int) -> int:
    """Set the namespace's settings, and write to every document what some settings reject."""
    last = await append(log, "settings:n", {"put": settings}, namespace="_refold")
    for name in NAMES:
        await append(log, name, {"merge": {"text": "x" * (20 + number)}})
        await append(log, name, {"merge": {"n": "text"}})
        last = await append(log, name, {"put": {"n": 1}, "base": 1})
    return last


async def test_settings_are_in_force_in_both_shards_wherever_they_start_again(open_store: OpenStore) -> None:
    log, reader = MemoryLog("log-1"), await open_store()
    last = await write(log, range(100))
    for number, settings in enumerate(SETTINGS):
        last = await set_and_write(log, settings, number)
        # In turn each shard has committed less than the other one when that starts again.
        async with projector(log, open_store, ("0-31", "32-63")[number % 2]):
            await until(lambda at=last: _has_read(reader, at))  # type: ignore[misc]
    async with projector(log, open_store, "0-31"), projector(log, open_store, "32-63"):
        await folded_to(reader, last)
    reasons = {each.reason for each in await reader.rejections("n", None, limit=1_000, before_sequence=None)}
    assert {"conflict", "state_too_large", "schema"} <= reasons
    await assert_whole(log, open_store)


async def _has_read(reader: Any, sequence: int) -> bool:
    return max((each.read_sequence for each in await reader.checkpoints()), default=0) >= sequence
