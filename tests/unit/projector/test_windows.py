"""A log that changes its fold number, folded by the projector's loop, in shards and across restarts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from refold.audit.verify import Listener, Scope, verify
from refold.core import json_text
from refold.core.errors import FoldUnknown, LogHole
from refold.core.fold import RULES
from refold.core.fold.window import WINDOW_BYTES_MAX
from refold.core.fold_state import FoldState
from refold.core.history import Segment
from refold.core.stream import Record, partition_of
from refold.log.memory import MemoryLog, MemoryNotices
from refold.projector.loop import ShardLoop
from refold.projector.windows import resume_system
from refold.store import Depth
from refold.store.memory import MemoryStore, Tables
from support.fold2 import MOVE_ON, NUMBER, inc
from support.projection import NARROW, ROOMY, append, ports, project, projecting
from support.services import until

SYSTEM = "_refold"


async def write(log: MemoryLog, rounds: int = 40) -> None:
    """Write events before, at and after the change of the fold number, some with old bases."""
    for number in range(rounds):
        if number == rounds // 2:
            await append(log, "fold", MOVE_ON, namespace=SYSTEM)
        for document in ("a", "b", "c"):
            await append(log, document, {"merge": {"n": number, "m": 0}} if number < 3 else inc())
            await append(log, document, {"patch": [{"op": "add", "path": "/x", "value": number}]})
            await append(log, document, inc("/m", base=max(0, number - 1)))
            await append(log, document, inc("/x", base=number // 2))


async def contents(store: MemoryStore) -> dict[str, object]:
    """Return everything that must not depend on how the log was read."""
    found: dict[str, object] = {"chains": [checkpoint.chain for checkpoint in await store.checkpoints()]}
    for document in ("a", "b", "c"):
        runs = [run async for run in store.segments("n", document, after_version=None, is_descending=False)]
        found[document] = [entry for run in runs for entry in run.entries], await store.head("n", document)
    return found


async def test_a_fold_change_gives_the_same_result_with_a_tiny_cache_and_tiny_commits() -> None:
    log = MemoryLog("log-1", rules=RULES[1])
    await write(log)
    store = await project(log, ROOMY)
    assert await contents(await project(log, NARROW)) == await contents(store)
    assert (await store.checkpoints())[0].fold == NUMBER


async def test_an_event_receives_the_changes_since_its_base_in_any_commit() -> None:
    log = MemoryLog("log-1")
    await append(log, "d", {"put": {"n": 0, "x": 0}})
    for number in range(300):
        await append(log, "d", {"patch": [{"op": "replace", "path": "/x", "value": number}]})
    await append(log, "d", inc("/n", base=1))
    await append(log, "d", inc("/x", base=100, on_conflict="reject"))
    for bounds in (ROOMY, NARROW):
        store = await project(log, bounds)
        head = await store.head("n", "d")
        assert head is not None
        assert head.snapshot.state == b'{"n":1,"x":299}'
        assert [it.reason for it in await store.rejections("n", "d", limit=9, before_sequence=None)] == [
            "conflict"
        ]


async def test_a_restart_around_a_fold_change_does_not_change_the_result() -> None:
    log = MemoryLog("log-1", rules=RULES[1])
    await write(log, 8)
    last, tables = (await log.info()).last_sequence, Tables()
    for stop_at in [*range(40, 60, 3), last]:
        async with projecting(ports(log, MemoryStore(tables)), NARROW) as running:
            await running.committed(stop_at)
        tables.leases.clear()
    assert await contents(MemoryStore(tables)) == await contents(await project(log))


async def test_verify_folds_every_event_by_the_rules_at_its_sequence() -> None:
    log = MemoryLog("log-1", rules=RULES[1])
    await write(log)
    store, found = await project(log), []
    await verify(log, store, Listener(difference=found.append, progress=lambda _: None), Scope())
    assert found == []


async def test_a_log_is_folded_up_to_an_unknown_fold_number() -> None:
    log, store = MemoryLog("log-1", rules=RULES[1]), MemoryStore()
    await append(log, "a", {"put": 1})
    moved = await append(log, "fold", {"put": {"fold": 9}}, namespace=SYSTEM)
    await append(log, "a", {"put": 2})
    with pytest.raises(FoldUnknown) as unknown:
        async with projecting(ports(log, store)) as running:
            await running.committed(moved + 1)
    assert unknown.value.facts == {"fold": 9, "known": NUMBER, "sequence": moved + 1}
    assert {checkpoint.read_sequence for checkpoint in await store.checkpoints()} == {moved}


FOLD_PARTITION = partition_of(SYSTEM.encode(), b"fold")


@pytest.mark.parametrize("owner_at", [1, 3, 5, 8])
@pytest.mark.parametrize("shard_at", [1, 3, 5, 8])
@pytest.mark.parametrize("depth", Depth)
async def test_a_restarted_foreign_shard_has_the_system_document_as_of_its_checkpoint(
    owner_at: int, shard_at: int, depth: Depth
) -> None:
    log = MemoryLog("log-1", rules=RULES[1])
    await append(log, "d", {"put": {"n": 1}})
    # Rejected for its time; the retry is a duplicate where the first is known, and would change the number elsewhere.
    early = {**MOVE_ON, "id": "x", "occurred_at": "2999-01-01T00:00:00Z"}
    await append(log, "fold", early, namespace=SYSTEM)
    await append(log, "fold", {"put": {"fold": 0}}, namespace=SYSTEM)
    await append(log, "fold", {**MOVE_ON, "id": "y"}, namespace=SYSTEM)
    await append(log, "d", inc())
    await append(log, "fold", {"put": {"fold": 2}, "id": "x"}, namespace=SYSTEM)
    await append(log, "d", inc())
    owner = MemoryStore(depth=depth)
    async with projecting(ports(_Prefix(log, owner_at), owner)) as running:
        await running.committed(owner_at)
    checkpoints = await (await project(_Prefix(log, shard_at))).checkpoints()
    shard = FoldState([it for it in checkpoints if it.partition != FOLD_PARTITION])
    await resume_system(shard, log, owner)
    found = shard._system.get("fold")
    whole = (await (await project(_Prefix(log, shard_at))).load([(SYSTEM, "fold")])) if shard_at > 1 else []
    if not whole:
        assert found is None or found.events == 0
        return
    assert found is not None
    assert (found.version, found.events, found.identities) == (
        whole[0].version,
        whole[0].events,
        whole[0].identities,
    )
    assert found.last_sequence == whole[0].last_sequence


class _Prefix(MemoryLog):
    """A log up to a sequence."""

    def __init__(self, whole: MemoryLog, until_sequence: int) -> None:
        super().__init__("log-1", rules=RULES[1])
        self._records = whole._records[:until_sequence]


class _Unread(MemoryLog):
    """A log that cannot be read as a whole."""

    def read(self, *_: object, **__: object) -> AsyncGenerator[list[Record], None]:
        raise AssertionError


async def test_a_start_on_a_store_of_recent_depth_reads_only_the_systems_events_with_their_times() -> None:
    times = iter([0, 50, 40, 60, *range(100, 200)])
    log = _Unread("log-1", rules=RULES[1], clock=lambda: next(times))
    await append(log, "d", {"put": {"n": 1}})
    await append(log, "fold", MOVE_ON, namespace=SYSTEM)
    last = await append(log, "d", inc())
    tables = Tables()
    stores = [MemoryStore(tables, depth=depth) for depth in Depth]
    whole = MemoryLog("log-1", rules=RULES[1], clock=lambda: 300)
    whole._records = log._records
    async with projecting(ports(whole, stores[0])) as running:
        await running.committed(last)
    found = []
    for store in stores:
        shard = FoldState([it for it in await store.checkpoints() if it.partition != FOLD_PARTITION])
        await resume_system(shard, log, store)
        document = shard._system["fold"]
        found.append((document.version, document.recorded_at, shard.rules_under("n", 0)))
    assert found[0] == found[1]
    assert found[0][:2] == (1, 50)


async def test_a_log_that_ends_before_the_checkpoints_of_a_store_of_recent_depth_is_refused() -> None:
    log, store = MemoryLog("log-1"), MemoryStore(depth=Depth.recent)
    for number in range(9):
        await append(log, "d", {"put": number})
    async with projecting(ports(log, store)) as running:
        await running.committed(10)
    log._records = log._records[:5]
    loop = ShardLoop(ports(log, store), ROOMY, FoldState(await store.checkpoints()))
    with pytest.raises(LogHole):
        await loop.run()


async def test_a_change_shows_the_effective_patch_of_an_operation_that_json_patch_does_not_have() -> None:
    log, notices, received = MemoryLog("log-1"), MemoryNotices(), []
    await notices.listen("change.n.*", lambda _, body: received.append(json_text.loads(body)["patch"]))
    await append(log, "d", {"put": {"n": 1}})
    last = await append(log, "d", inc())
    async with projecting(ports(log, MemoryStore(), notices)) as running:
        await running.committed(last)
        await until(lambda: _has(received, 2))
    assert received[1] == [{"op": "inc", "path": "/n", "inc": 1}]


async def test_a_name_is_valid_from_the_event_after_the_change_of_the_fold_on() -> None:
    log, store = MemoryLog("log-1", rules=RULES[1]), MemoryStore()
    early = await append(log, "a.b", {"put": 1})
    await append(log, "fold", MOVE_ON, namespace=SYSTEM)
    # In the same part of the log, under a subject that was read before.
    await append(log, "a.b", {"put": 2})
    last = await append(log, "c/d", {"put": 3})
    async with projecting(ports(log, store)) as running:
        await running.committed(last)
    found = await store.head("n", "a.b"), await store.head("n", "c/d")
    assert [head and (head.snapshot.version, head.snapshot.state) for head in found] == [(1, b"2"), (1, b"3")]
    (refused,) = await store.rejections(None, None, limit=9, before_sequence=None)
    assert (refused.sequence, refused.reason) == (early, "bad_name")
    differences: list[object] = []
    await verify(log, store, Listener(difference=differences.append, progress=lambda _: None), Scope())
    assert differences == []


async def _has(received: list[object], count: int) -> bool:
    return len(received) == count


class Reading(MemoryStore):
    """A store that counts the segments that are read."""

    reads = 0

    async def segments(self, *key: Any, **asked: Any) -> AsyncIterator[Segment]:
        async for segment in super().segments(*key, **asked):
            self.reads += 1
            yield segment


async def test_no_more_is_read_of_a_document_than_shows_that_a_base_is_too_old() -> None:
    log, versions = MemoryLog("log-1"), 60
    for number in range(versions):
        await append(log, "d", {"put": {"n": number, "x": "x" * 200_000}})
    await append(log, "d", inc("/n", base=1))
    last = await append(log, "d", inc("/n", base=versions - 1))
    reasons = []
    for bounds in (ROOMY, NARROW):
        store = Reading()
        async with projecting(ports(log, store), bounds) as running:
            await running.committed(last)
        # Pages of this size have one event each.
        assert store.reads <= 2 * (WINDOW_BYTES_MAX // 200_000 + 2)
        rejections = await store.rejections("n", "d", limit=9, before_sequence=None)
        reasons.append([(it.reason, it.detail) for it in rejections])
        head = await store.head("n", "d")
        assert head is not None
        assert head.snapshot.version == versions + 1
    assert reasons[0] == reasons[1]
    assert [reason for reason, _ in reasons[0]] == ["base_too_old"]
