"""Transactions on the real system: all or none, in the log next to each other, and never read in part."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson

from support.http import Api, outcome, problem

ACCOUNTS = 8
WRITERS = 4
TRANSFERS = 5


async def transact(api: Api, *changes: Any, **headers: str) -> Any:
    content = orjson.dumps({"changes": changes})
    return await api.ask("POST", "transactions", content=content, Content_Type="application/json", **headers)


def inc(doc: str, version: int, by: int) -> dict[str, Any]:
    return {"doc": doc, "version": version, "patch": [{"op": "inc", "path": "/balance", "inc": by}]}


async def items(api: Api, **query: Any) -> dict[str, Any]:
    return {item["id"]: item for item in (await api.get(**query)).json()["items"]}


async def test_members_are_in_the_log_next_to_each_other_or_not_at_all(api: Api) -> None:
    for name in ("a", "b/c.d"):
        outcome(await api.put(name.replace("/", "%2F"), {"balance": 10}), 201)
    answer = await transact(api, inc("a", 1, -3), inc("b/c.d", 1, 3), Refold_Wait="5; committed")
    view = answer.json()
    assert answer.status_code == 200, view
    assert [it["sequence"] for it in view["outcomes"]] == [view["first_sequence"], view["last_sequence"]]
    assert len({it["recorded_at"] for it in view["outcomes"]}) == 1
    stale = await transact(api, inc("a", 2, 1), inc("b/c.d", 1, -1))
    assert problem(stale, 412, "precondition_failed")["doc"] == "b/c.d"
    refused = await transact(api, inc("a", 2, 1), {"doc": "c", "version": 0, "delete": True})
    assert problem(refused, 409, "rejected")["reason"] == "document_absent"
    states = {name: item["state"]["balance"] for name, item in (await items(api)).items()}
    assert states == {"a": 7, "b/c.d": 13}
    assert await api.events() == 4


async def test_large_states_and_many_documents(api: Api) -> None:
    changes = [{"doc": f"d{at}", "version": 0, "put": {"n": at, "pad": "x" * 5_000}} for at in range(1_000)]
    view = (await transact(api, *changes, Refold_Wait="60")).json()
    assert view["last_sequence"] - view["first_sequence"] == 999
    assert {it["version"] for it in view["outcomes"]} == {1}
    outcome(await api.put("large", {"pad": "x" * 200_000, "n": 0}), 201)
    for version in range(1, 4):
        both = [inc("d1", version, 0) | {"patch": [{"op": "inc", "path": "/n", "inc": 1}]}]
        both.append({**both[0], "doc": "large"})
        view = (await transact(api, *both)).json()
        assert view["status"] == "applied", view
    found = await items(api, sequence=view["last_sequence"] - 1, prefix="large")
    assert found["large"]["state"]["n"] == 2


async def transfer_often(api: Api, seed: int) -> list[tuple[int, int]]:
    """Transfer between random accounts; return the sequences of each transaction."""
    chance, done = random.Random(seed), []
    while len(done) < TRANSFERS:
        names = chance.sample(range(ACCOUNTS), 3)
        found = await items(api)
        amount = chance.randint(1, 9)
        changes = [
            inc(f"a{name}", found[f"a{name}"]["version"], by)
            for name, by in zip(names, (-2 * amount, amount, amount), strict=True)
        ]
        answer = await transact(api, *changes)
        if answer.status_code == 200:
            done.append((answer.json()["first_sequence"], answer.json()["last_sequence"]))
        else:
            assert answer.status_code in {412, 503}, answer.text
    return done


async def test_concurrent_transfers_are_never_read_in_part(api: Api) -> None:
    for number in range(ACCOUNTS):
        outcome(await api.put(f"a{number}", {"balance": 100}), 201)
    is_done, listed = asyncio.Event(), 0

    async def read() -> None:
        nonlocal listed
        while not is_done.is_set():
            found = await items(api)
            assert sum(item["state"]["balance"] for item in found.values()) == 100 * ACCOUNTS
            listed += 1

    reading = asyncio.create_task(read())
    done = await asyncio.gather(*(transfer_often(api, seed) for seed in range(WRITERS)))
    is_done.set()
    await reading
    assert listed
    ranges = sorted(each for writer in done for each in writer)
    assert len(ranges) == WRITERS * TRANSFERS
    for first, last in ranges:
        assert last == first + 2
        sums = set()
        for sequence in range(first - 1, last + 1):
            found = await items(api, sequence=sequence)
            sums.add(sum(item["state"]["balance"] for item in found.values()))
        assert sums == {100 * ACCOUNTS}
