"""Conflicts over HTTP: what each strategy records, in which order it is listed, and what is open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest

from refold.client import Refold
from refold.core.errors import Refused
from support.http import Api, problem
from support.system import System

STATE = {"a": 1, "o": {"x": 1}, "l": [1, 2]}


@pytest.fixture
async def refold(system: System) -> AsyncIterator[Refold]:
    async with Refold(system.url) as client:
        yield client


def replace(path: str, value: Any) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": path, "value": value}]


async def test_each_strategy_records_what_came_of_a_stale_event_and_who_wrote_what(
    api: Api, refold: Refold
) -> None:
    key = (api.namespace, "d")
    await refold.put(*key, STATE, actor="ada")
    await refold.patch(*key, replace("/a", 2), actor="bob")
    stale = {"base": 1, "actor": "eve"}
    refused = [
        await refold.patch(*key, replace("/o/x", 2), on_conflict="reject", **stale),
        await refold.patch(*key, replace("/a", 3), on_conflict="first_write_wins", **stale),
        await refold.patch(*key, replace("/a", 3), on_conflict="custom:mine", id="c", **stale),
    ]
    assert [outcome.reason for outcome in refused] == ["conflict", "conflict", "needs_resolution"]
    last = await refold.patch(*key, replace("/a", 4), on_conflict="last_write_wins", **stale)
    assert (last.status, last.version, last.overwrote, last.is_effective) == ("merged", 3, (2,), True)
    merged = await refold.put(*key, {**STATE, "m": 1}, on_conflict="merge", **stale)
    assert (merged.status, merged.is_effective) == ("merged", True)
    assert (await refold.get(*key)).state == {**STATE, "a": 4, "m": 1}
    await refold.patch(*key, [{"op": "remove", "path": "/o"}], actor="bob")
    gone = [*replace("/o/x", 9), *replace("/l/0", 9)]
    dropped = await refold.patch(*key, gone, base=merged.version, actor="eve")
    assert dropped.dropped == ({"operation": 0, "reason": "target_gone"},)
    whole = await refold.patch(*key, gone, base=merged.version, all_or_nothing=True)
    assert (whole.status, whole.reason) == ("rejected", "target_gone")

    found = [conflict async for conflict in refold.conflicts(*key)]
    written = [*refused, last, merged, dropped, whole]
    assert [it.sequence for it in found] == [outcome.sequence for outcome in written]
    assert [(it.strategy, it.status, it.version) for it in found] == [
        ("reject", "rejected", None),
        ("first_write_wins", "rejected", None),
        ("custom:mine", "rejected", None),
        ("last_write_wins", "merged", 3),
        ("merge", "merged", 4),
        ("last_write_wins", "merged", 6),
        ("last_write_wins", "rejected", None),
    ]
    assert {it.actor for it in found[:-1]} == {"eve"}
    assert found[0].others == found[1].others == found[3].others == [{"version": 2, "actor": "bob"}]
    assert found[5].others == [{"version": 5, "actor": "bob"}]
    assert found[5].dropped == [{"operation": 0, "reason": "target_gone"}]
    assert found[5].event == {"patch": gone}
    assert [it.is_open for it in found] == [it.strategy == "custom:mine" for it in found]
    for outcome, conflict in zip(written, found, strict=True):
        looked_up = await refold.outcome(*key, sequence=outcome.sequence)
        assert looked_up == outcome
        assert tuple(conflict.overwrote) == outcome.overwrote


async def test_an_event_names_only_conflicts_and_versions_of_its_document(api: Api, refold: Refold) -> None:
    key, other = (api.namespace, "d"), (api.namespace, "e")
    await refold.put(*key, STATE)
    await refold.put(*key, {**STATE, "a": 2})
    opened = await refold.patch(*key, replace("/a", 3), base=1, on_conflict="custom:mine")
    applied = await refold.put(*other, {"a": 1})
    for where, resolves in ((other, opened.sequence), (other, applied.sequence), (key, 9_999_999)):
        with pytest.raises(Refused, match="resolves"):
            await refold.merge(*where, {"b": 1}, resolves=resolves)
    for _ in range(2):
        decided = await refold.merge(*key, {"b": 1}, resolves=opened.sequence, id="decision")
    assert decided.status == "duplicate"
    answer = await api.put("d", STATE, Refold_Reverts="4")
    assert problem(answer, 422, "bad_field")["field"] == "reverts"
    assert (await api.put("d", STATE, Refold_Reverts="3")).status_code == 200


async def test_open_conflicts_are_those_that_no_later_accepted_event_resolves(
    api: Api, refold: Refold
) -> None:
    key = (api.namespace, "d")
    await refold.put(*key, STATE)
    await refold.patch(*key, replace("/a", 2))
    contested = [
        await refold.patch(*key, replace("/a", number), base=1, on_conflict="custom:mine")
        for number in (5, 6)
    ]
    first, second = [outcome.sequence or 0 for outcome in contested]
    # Events of a bulk write, as those over NATS, are not checked for what they name.
    assert (await api.append([{"doc": "other", "put": 2, "resolves": first}]))[0]["status"] == "applied"
    rejected = await refold.patch(*key, replace("/none", 1), resolves=first)
    assert rejected.status == "rejected"
    assert await listed(refold, *key, is_open=True) == [first, second]
    assert await listed(refold, *key, is_open=True, is_reversed=True, after=second) == [first]

    one = await refold.conflict(*key, first)
    assert one.states == {"base": STATE, "head": {**STATE, "a": 2}, "incoming": {**STATE, "a": 5}}
    decision = await refold.patch(*key, replace("/a", 5), if_version=one.head or 0, resolves=first)
    assert decision.status == "applied"
    assert await listed(refold, *key, is_open=True) == await listed(refold, api.namespace) == [second]
    assert second in await listed(refold)
    assert await listed(refold, *key) == [first, second]
    assert not (await refold.conflict(*key, first)).is_open


async def listed(refold: Refold, *names: str, **asked: Any) -> list[int]:
    return [conflict.sequence async for conflict in refold.conflicts(*names, **asked)]


async def test_conflicts_are_paged_in_either_order_and_pages_without_any_are_not_read(
    api: Api, system: System
) -> None:
    await api.append([{"doc": "d", "put": {"n": number}} for number in range(600)])
    sequences: list[int] = []
    for version in range(600, 1200, 121):
        stale = {"doc": "d", "put": {"n": -1}, "base": version - 1}
        plain = [{"doc": "d", "put": {"n": number}} for number in range(120)]
        sequences.append((await api.append([stale, *plain]))[0]["sequence"])
    connection = await asyncpg.connect(system.postgres_dsn)
    damage = "UPDATE refold.pages SET payload = '\\x00' || payload WHERE namespace = $1 AND version < 500"
    assert await connection.execute(damage, api.namespace) != "UPDATE 0"
    for order, expected in (("asc", sequences), ("desc", sequences[::-1])):
        found: list[Any] = []
        query: dict[str, Any] = {"limit": 2, "order": order}
        while True:
            page = (await api.get("d/conflicts", **query)).json()
            found += page["items"]
            if page["next"] is None:
                break
            query["after"] = page["next"]
        assert [item["sequence"] for item in found] == expected
        assert all(len(item["others"]) == 1 for item in found)
    # The system is shared with other tests.
    mend = "UPDATE refold.pages SET payload = substr(payload, 2) WHERE namespace = $1 AND version < 500"
    await connection.execute(mend, api.namespace)
    await connection.close()


async def test_an_unknown_document_or_sequence_has_no_conflict(api: Api) -> None:
    problem(await api.get("nothing/conflicts"), 404, "document_absent")
    sequence = orjson.loads((await api.put("d", 1)).content)["sequence"]
    assert (await api.get("d/conflicts")).json() == {"items": [], "next": None}
    problem(await api.get(f"d/conflicts/{sequence}"), 404, "conflict_unknown")
    problem(await api.client.get("/v1/_conflicts?namespace=a.b"), 422, "bad_name")
