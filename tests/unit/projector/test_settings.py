"""Settings are in force from their own sequence on, however the log is read and wherever a shard starts."""

from __future__ import annotations

from typing import Any

import pytest

from refold.audit.verify import Listener, Scope, verify
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.settings import SETTINGS_KEPT_MAX
from refold.core.stream import partition_of
from refold.log.memory import MemoryLog
from refold.projector.windows import resume_system
from refold.store import Depth
from refold.store.memory import MemoryStore, Tables
from support.projection import NARROW, ROOMY, append, ports, project, projecting

STALE = {"patch": [{"op": "replace", "path": "/n", "value": 0}], "base": 1}
NUMBERS = {"properties": {"n": {"type": "number"}}}
STORY: list[tuple[str, Any, str]] = [
    ("d", {"put": {"n": 1}}, ""),
    ("d", {"put": {"n": 2}}, ""),
    ("d", STALE, ""),
    ("settings:n", {"put": {"on_conflict": "reject"}}, ""),
    ("d", STALE, "conflict"),
    ("d", {**STALE, "on_conflict": "first_write_wins"}, "conflict"),
    ("d", {**STALE, "on_conflict": "last_write_wins"}, ""),
    ("settings:n", {"put": {"limits": {"state_bytes": 20, "operations": 1}}}, ""),
    ("d", {"merge": {"text": "longer than that"}}, "state_too_large"),
    ("d", {"patch": [{"op": "test", "path": "", "value": 0}] * 2}, "too_many_operations"),
    ("settings:n", {"put": {"limits": {"state_bytes": 0}}}, "bad_system_event"),
    ("settings:n", {"merge": {}}, "bad_system_event"),
    ("d", {"merge": {"text": "longer than that"}}, "state_too_large"),
    ("settings:n", {"put": {"schema": NUMBERS}}, ""),
    ("d", {"merge": {"text": "longer than that"}}, ""),
    ("d", {"put": {"n": "text"}}, "schema"),
    ("d", {"merge": {"n": "text"}}, "schema"),
    ("d", {"patch": [{"op": "remove", "path": "/n"}]}, ""),
    ("settings:n", {"put": {}}, ""),
    ("d", {"put": {"n": "text"}}, ""),
    ("d", {"delete": True}, ""),
]


async def log_of_settings() -> MemoryLog:
    """Return the log of the story; the events of another namespace are not affected."""
    log = MemoryLog("log-1")
    for document, event, _ in STORY:
        is_system = document.startswith("settings:")
        await append(log, document, event, namespace="_refold" if is_system else "n")
        if not is_system:
            await append(log, document, {"put": {"n": "text of another namespace"}}, namespace="other")
    return log


async def contents(store: MemoryStore) -> object:
    """Return all that the settings may change."""
    keys = ("n", "d"), ("other", "d"), ("_refold", "settings:n")
    runs = [
        [run async for run in store.segments(*key, after_version=None, is_descending=False)] for key in keys
    ]
    found = [[entry for run in each for entry in run.entries] for each in runs]
    return found, [await store.head(*key) for key in keys]


async def test_they_are_in_force_from_their_own_sequence_on() -> None:
    store = await project(await log_of_settings())
    reasons = []
    for namespace, document in (("n", "d"), ("_refold", "settings:n")):
        async for run in store.segments(namespace, document, after_version=None, is_descending=False):
            reasons += [(entry.sequence, entry.reason) for entry in run.entries]
    assert [reason for _, reason in sorted(reasons)] == [reason for *_, reason in STORY]
    assert await store.rejections("other", None, limit=9, before_sequence=None) == []
    (rejection, *_) = [
        each
        for each in await store.rejections("n", "d", limit=99, before_sequence=None)
        if each.reason == "schema"
    ]
    assert "state/n" in rejection.detail


async def test_a_small_cache_and_restarts_at_any_sequence_make_no_difference() -> None:
    log = await log_of_settings()
    last, tables = (await log.info()).last_sequence, Tables()
    whole = await contents(await project(log, ROOMY))
    assert await contents(await project(log, NARROW)) == whole
    for stop_at in range(2, last + 1):
        async with projecting(ports(log, MemoryStore(tables)), NARROW) as running:
            await running.committed(stop_at)
        tables.leases.clear()
    assert await contents(MemoryStore(tables)) == whole


async def test_verify_folds_every_event_under_the_settings_at_its_sequence() -> None:
    log = await log_of_settings()
    found: list[object] = []
    store = await project(log)
    await verify(log, store, Listener(difference=found.append, progress=lambda _: None), Scope())
    assert found == []


OWN = partition_of(b"n", b"d")


class Prefix(MemoryLog):
    """A log up to a sequence."""

    def __init__(self, whole: MemoryLog, until_sequence: int) -> None:
        super().__init__("log-1")
        self._records = whole._records[:until_sequence]


@pytest.mark.parametrize("owner_at", [1, 3, 7, 12])
@pytest.mark.parametrize("shard_at", [1, 3, 7, 12])
@pytest.mark.parametrize("depth", Depth)
async def test_a_shard_that_starts_again_has_those_of_its_checkpoint(
    owner_at: int, shard_at: int, depth: Depth
) -> None:
    log = MemoryLog("log-1")
    for number in range(1, SETTINGS_KEPT_MAX + 4):
        limits = {"depth": number} if number != 5 else {"depth": 0}
        await append(log, "settings:n", {"put": {"limits": limits}}, namespace="_refold")
    owner = MemoryStore(depth=depth)
    async with projecting(ports(Prefix(log, owner_at), owner)) as running:
        await running.committed(owner_at)
    # What the other shard has seen: every event up to its checkpoint.
    seen = FoldState([each for each in first_checkpoints("log-1") if each.partition == OWN])
    for record in log._records[:shard_at]:
        assert record is not None
        seen.skip(record, seen.route(record.subject))
    shard = FoldState(seen.checkpoints())
    await resume_system(shard, log, owner)
    assert shard.rules_of("n") == seen.rules_of("n")
    for sequence in range(shard_at + 1):
        assert shard.rules_under("n", sequence) == seen.rules_under("n", sequence)
    for record in log._records[shard_at:]:
        assert record is not None
        shard.skip(record, shard.route(record.subject))
    assert shard.rules_of("n").limits.depth == SETTINGS_KEPT_MAX + 3
