"""Transactions over HTTP: changes of several documents are appended together, checked ahead, and read together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from refold.core import json_text
from refold.core.fold import RULES, genesis
from refold.log import Publication
from support.gateway import Twin, twin

NANOSECONDS = 1_000_000_000


@pytest.fixture
async def gateway() -> AsyncIterator[Twin]:
    async with twin() as made:
        for name in ("a", "b"):
            assert (await made.put(f"/v1/bank/{name}", {"balance": 100})).status_code == 201
        yield made


def change(doc: str, version: int, by: int) -> dict[str, Any]:
    return {"doc": doc, "version": version, "patch": [{"op": "inc", "path": "/balance", "inc": by}]}


async def transact(gateway: Twin, changes: Any, *, wait: str = "5", **body: Any) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", "Refold-Wait": wait}
    content = orjson.dumps({"changes": changes, **body})
    answer = await gateway.client.post("/v1/bank/transactions", content=content, headers=headers)
    return answer.status_code, answer.json()


async def balances(gateway: Twin, **query: Any) -> dict[str, int]:
    listed = (await gateway.client.get("/v1/bank", params=query)).json()
    return {item["id"]: item["state"]["balance"] for item in listed["items"]}


async def test_the_outcome_of_each_change_is_answered(gateway: Twin) -> None:
    status, view = await transact(gateway, [change("a", 1, -30), change("b", 1, 30)], id="t1")
    assert status == 200, view
    outcomes = view.pop("outcomes")
    assert view == {"id": "t1", "status": "applied", "first_sequence": 4, "last_sequence": 5}
    assert [(it["document"], it["sequence"], it["version"], it["id"]) for it in outcomes] == [
        ("a", 4, 2, "t1"),
        ("b", 5, 2, "t1"),
    ]
    assert outcomes[0]["recorded_at"] == outcomes[1]["recorded_at"]
    assert await balances(gateway) == {"a": 70, "b": 130}
    assert gateway.log.batches[-1] == 2


async def test_every_kind_of_change_may_be_a_member(gateway: Twin) -> None:
    changes = [
        {"doc": "a", "version": 1, "merge": {"owner": "x"}, "actor": "me", "meta": {"k": 1}},
        {"doc": "b", "version": 1, "delete": True},
        {"doc": "c", "version": 0, "put": {"balance": 5}, "type": "opened"},
    ]
    status, view = await transact(gateway, changes)
    assert status == 200, view
    assert [it["created"] for it in view["outcomes"]] == [False, False, True]
    assert await balances(gateway) == {"a": 100, "c": 5}
    item = (await gateway.client.get("/v1/bank/a/history?after=1")).json()["items"][0]
    assert (item["actor"], item["meta"]) == ("me", {"k": 1})


async def test_one_change_is_one_strict_event(gateway: Twin) -> None:
    status, view = await transact(gateway, [change("a", 1, 1)], id="t")
    assert (status, view["first_sequence"], view["last_sequence"]) == (200, 4, 4)
    status, view = await transact(gateway, [change("a", 1, 1)], id="t")
    assert (status, view["status"], view["first_sequence"]) == (200, "duplicate", 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([change("a", 1, -1), {**change("b", 1, 1), "patch": [{"op": "inc", "path": "/no", "inc": "x"}]}], None),
        ([change("a", 1, -1), {"doc": "b", "version": 1, "patch": [{"op": "test", "path": "/balance", "value": 1}]}],
         "test_failed"),
        ([change("a", 1, -1), {"doc": "c", "version": 0, "delete": True}], "document_absent"),
        ([change("a", 1, -1), {**change("b", 1, 1), "occurred_at": "2100-01-01T00:00:00Z"}], "occurred_in_future"),
    ],
)  # fmt: skip
async def test_a_change_that_would_be_rejected_refuses_all(
    gateway: Twin, changes: Any, reason: str | None
) -> None:
    events = await gateway.events()
    status, view = await transact(gateway, changes)
    assert status == (409 if reason else 422)
    if reason:
        assert (view["code"], view["reason"]) == ("rejected", reason)
        assert (view["doc"], view["index"]) == (changes[1]["doc"], 1)
    else:
        assert view["field"] == "changes/1/patch/0/inc"
    assert await gateway.events() == events
    assert await balances(gateway) == {"a": 100, "b": 100}


async def test_a_version_that_is_not_the_current_one_is_named(gateway: Twin) -> None:
    events = await gateway.events()
    for version in (0, 2):
        status, view = await transact(gateway, [change("a", 1, -1), change("b", version, 1)])
        assert (status, view["code"]) == (412, "precondition_failed")
        assert (view["doc"], view["index"], view["version"]) == ("b", 1, 1)
    assert await gateway.events() == events


GOOD = change("a", 1, 1)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"changes": []}, "changes"),
        ({"changes": {}}, "changes"),
        ({}, "changes"),
        ([], "body"),
        ({"changes": [GOOD], "more": 1}, "body"),
        ({"changes": [GOOD], "id": 1}, "id"),
        ({"changes": [GOOD], "id": ""}, "id"),
        ({"changes": [GOOD], "id": "x" * 129}, "id"),
        ({"changes": [GOOD, GOOD]}, "changes/1/doc"),
        ({"changes": [1]}, "changes/0"),
        ({"changes": [{**GOOD, "doc": ""}]}, "changes/0/doc"),
        ({"changes": [{"version": 1, "put": 1}]}, "changes/0/doc"),
        ({"changes": [{"doc": "a", "put": 1}]}, "changes/0/version"),
        ({"changes": [{**GOOD, "version": True}]}, "changes/0/version"),
        ({"changes": [{**GOOD, "version": -1}]}, "changes/0/version"),
        ({"changes": [{"doc": "a", "version": 1}]}, "changes/0/body"),
        ({"changes": [{**GOOD, "put": 1}]}, "changes/0/body"),
        ({"changes": [{**GOOD, "id": "i"}]}, "changes/0/id"),
        ({"changes": [{**GOOD, "base": 1}]}, "changes/0/base"),
        ({"changes": [{**GOOD, "on_conflict": "reject"}]}, "changes/0/on_conflict"),
        ({"changes": [{**GOOD, "txn": {}}]}, "changes/0/txn"),
        ({"changes": [{"doc": str(number), "version": 0, "put": 1} for number in range(1001)]}, "changes"),
    ],
)
async def test_what_is_no_transaction_is_refused(gateway: Twin, body: Any, field: str) -> None:
    answer = await gateway.client.post(
        "/v1/bank/transactions", content=orjson.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.json()
    assert answer.json().get("field") == field, answer.json()
    assert await gateway.events() == 2


async def test_what_is_too_large_is_refused(gateway: Twin) -> None:
    large = {"doc": "a", "version": 1, "put": {"x": "x" * (8 * 1024 * 1024)}}
    status, view = await transact(gateway, [large])
    assert (status, view["code"]) == (413, "transaction_too_large")
    # Each is within its bound; with what a member says in addition, all are not.
    many = [{"doc": f"l{at}", "version": 0, "put": "x" * (1024 * 1024 - 150)} for at in range(8)]
    assert len(orjson.dumps({"changes": many})) < 8 * 1024 * 1024
    status, view = await transact(gateway, [*many, {"doc": "m", "version": 0, "put": "x" * 700}])
    assert (status, view["code"]) == (413, "transaction_too_large")
    assert await gateway.events() == 2


async def test_the_namespace_of_the_system_takes_no_transactions(gateway: Twin) -> None:
    answer = await gateway.client.post(
        "/v1/_refold/transactions",
        content=orjson.dumps({"changes": [GOOD]}),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "reserved_namespace")


async def test_another_write_before_the_append_is_found_and_named(gateway: Twin) -> None:
    async def overtake() -> None:
        await gateway.put("/v1/bank/b", {"balance": 7})

    gateway.log.before_append.append(overtake)
    status, view = await transact(gateway, [change("a", 1, -1), change("b", 1, 1)])
    assert (status, view["doc"], view["version"]) == (412, "b", 2)
    assert await balances(gateway) == {"a": 100, "b": 7}


async def test_a_rejected_event_before_the_append_is_passed_over(gateway: Twin) -> None:
    async def overtake() -> None:
        body = b'{"patch":[{"op":"remove","path":"/nothing"}]}'
        await gateway.log.append(Publication(namespace="bank", document="b", body=body))

    gateway.log.before_append.append(overtake)
    status, view = await transact(gateway, [change("a", 1, -1), change("b", 1, 1)])
    assert (status, view["first_sequence"]) == (200, 5), view
    assert await balances(gateway) == {"a": 99, "b": 101}


@pytest.mark.parametrize("fault", ["lost", "dropped"])
async def test_a_transaction_without_an_acknowledgement_is_appended_once(gateway: Twin, fault: str) -> None:
    gateway.log.faults.append(fault)
    status, view = await transact(gateway, [change("a", 1, -1), change("b", 1, 1)])
    assert (status, view["status"], view["first_sequence"]) == (200, "applied", 4), view
    assert await gateway.events() == 4
    assert await balances(gateway) == {"a": 99, "b": 101}


async def test_the_same_transaction_again_changes_nothing(gateway: Twin) -> None:
    changes = [change("a", 1, -1), change("b", 1, 1)]
    _, first = await transact(gateway, changes, id="t")
    await gateway.put("/v1/bank/a", {"balance": 0})
    events = await gateway.events()
    settings = json_text.dumps({"put": {"feed": True}})
    await gateway.log.append(Publication(namespace="_refold", document="settings:bank", body=settings))
    status, again = await transact(gateway, changes, id="t")
    assert (status, again["status"], again["first_sequence"]) == (200, "duplicate", first["first_sequence"])
    assert [it["first"]["version"] for it in again["outcomes"]] == [2, 2]
    assert await gateway.events() == events + 1


async def test_an_id_that_was_used_for_another_transaction_is_refused(gateway: Twin) -> None:
    await transact(gateway, [change("a", 1, -1), change("b", 1, 1)], id="t")
    events = await gateway.events()
    # The first change is the same, the second is not.
    status, view = await transact(gateway, [change("a", 1, -1), change("b", 1, 2)], id="t")
    assert (status, view["reason"], view["doc"]) == (409, "id_reused", "b")
    # All versions are the current ones, but one of the documents knows the id.
    status, view = await transact(gateway, [change("c", 0, -1), change("b", 2, 2)], id="t")
    assert (status, view["reason"], view["doc"]) == (409, "rejected", "c") or status == 409
    changes = [{"doc": "c", "version": 0, "put": {"balance": 1}}, change("b", 2, 2)]
    status, view = await transact(gateway, changes, id="t")
    assert (status, view["reason"], view["doc"]) == (409, "id_reused", "b")
    assert await gateway.events() == events


async def test_without_waiting_the_sequences_are_answered(gateway: Twin) -> None:
    status, view = await transact(gateway, [change("a", 1, -1), change("b", 1, 1)], id="t", wait="0")
    assert status == 202
    assert view == {"status": "pending", "id": "t", "first_sequence": 4, "last_sequence": 5}
    status, view = await transact(gateway, [change("a", 2, -1), change("b", 2, 1)], wait="5; committed")
    assert (status, view["first_sequence"]) == (200, 6)


async def test_no_read_as_of_a_sequence_or_time_is_between_the_members(gateway: Twin) -> None:
    docs = ["a", "b", "c"]
    await gateway.put("/v1/bank/c", {"balance": 100})
    for round_ in range(4):
        parts = [change(doc, 1 + round_, by) for doc, by in zip(docs, (-2, 1, 1), strict=True)]
        status, view = await transact(gateway, parts)
        assert status == 200, view
    last = await gateway.events() + 1
    sums = {}
    for sequence in range(4, last + 1):
        found = await balances(gateway, sequence=sequence, limit=2)
        found |= await balances(gateway, sequence=sequence)
        sums[sequence] = sum(found.values())
        single = [
            (await gateway.client.get(f"/v1/bank/{doc}", params={"sequence": sequence})).json()
            for doc in docs
        ]
        assert [each["balance"] for each in single] == [found[doc] for doc in docs]
    assert set(sums.values()) == {300}
    assert await balances(gateway, sequence=last - 1) == {"a": 94, "b": 103, "c": 103}
    assert await balances(gateway, sequence=last) == {"a": 92, "b": 104, "c": 104}
    times = [(await gateway.log.get(sequence)).time for sequence in range(4, last + 1)]  # type: ignore[union-attr]
    for time in times:
        for at in (time - 1000, time, time + 1000):
            if at >= times[0]:
                seconds, rest = divmod(at, NANOSECONDS)
                assert sum((await balances(gateway, at=f"{seconds}.{rest:09}")).values()) == 300


async def test_events_that_only_say_that_they_are_members_are_divided(gateway: Twin) -> None:
    bodies = [
        json_text.dumps({"put": {"balance": at}, **fields})
        for at, fields in enumerate([{}, {"txn": {"id": "t", "index": 1, "count": 3}}, {}])
    ]
    await gateway.log.append_atomically(
        [
            Publication(namespace="bank", document=doc, body=body)
            for doc, body in zip("abc", bodies, strict=True)
        ]
    )
    assert await balances(gateway, sequence=5) == {"a": 0, "b": 100}
    assert await balances(gateway, sequence=6) == {"a": 0, "b": 100, "c": 2}


async def test_members_are_folded_under_the_settings_that_they_were_checked_under(gateway: Twin) -> None:
    async def lower() -> None:
        body = json_text.dumps({"put": {"limits": {"state_bytes": 10}}})
        await gateway.log.append(Publication(namespace="_refold", document="settings:bank", body=body))

    gateway.log.before_append.append(lower)
    changes = [change("a", 1, -1), change("b", 1, 1)]
    status, view = await transact(gateway, changes)
    assert (status, view["first_sequence"]) == (200, 5), view
    longer = {"doc": "b", "version": 2, "put": {"balance": 123456}}
    status, view = await transact(gateway, [{"doc": "a", "version": 2, "put": 1}, longer])
    assert (status, view["reason"], view["doc"]) == (409, "state_too_large", "b")


@pytest.mark.parametrize("path", ["/v1/bank/a", "/v1/bank/events"])
async def test_no_other_write_makes_a_member(gateway: Twin, path: str) -> None:
    txn = {"id": "t", "index": 0, "count": 1}
    if path.endswith("events"):
        line = orjson.dumps({"doc": "a", "put": 1, "txn": txn})
        answer = await gateway.request("POST", path, content=line)
        assert answer.json()["reason"] == "bad_field"
    else:
        answer = await gateway.put(path, 1, Refold_Txn=orjson.dumps(txn).decode())
        assert (answer.status_code, answer.json()["field"]) == (422, "txn")
    assert await gateway.events() == 2


async def test_a_log_under_fold_1_takes_no_transactions() -> None:
    async with twin(is_projecting=False) as made:
        first = made.log._records[0]
        assert first is not None
        body = json_text.dumps(genesis("log-1", RULES[1]))
        made.log._records[0] = first._replace(body=body)
        async with made.projector():
            status, view = await transact(made, [{"doc": "a", "version": 0, "put": 1}])
            assert (status, view["code"]) == (422, "not_in_this_fold")
            assert "refold fold 2" in view["detail"]
