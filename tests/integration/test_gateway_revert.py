"""Revert, undo and blame at the gateway: forward events, resolved by the fold as any stale event."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from refold.client import Refold
from refold.core.fold import EVENT_BYTES_MAX, NEWEST, v1
from support.gateway import Twin, twin
from support.system import System

PATCH = {"Content-Type": "application/json-patch+json"}


async def revert(gateway: Twin, what: dict[str, Any], status: int = 200, **headers: str) -> Any:
    """Send a revert; return its answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"Content-Type": "application/json"} | named
    response = await gateway.client.post("/v1/n/d/revert", content=orjson.dumps(what), headers=given)
    assert response.status_code == status, response.text
    return response.json()


async def patch(gateway: Twin, *operations: dict[str, Any], **headers: str) -> Any:
    """Change the document; return the outcome."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = orjson.dumps(list(operations))
    response = await gateway.client.patch("/v1/n/d", content=content, headers=PATCH | named)
    assert response.is_success, response.text
    return response.json()


async def state(gateway: Twin) -> Any:
    response = await gateway.client.get("/v1/n/d")
    assert response.status_code == 200, response.text
    return response.json()


async def last_change(gateway: Twin) -> Any:
    answer = await gateway.client.get("/v1/n/d/history", params={"order": "desc", "limit": 1})
    return answer.json()["items"][0]


async def blame(gateway: Twin, status: int = 200, **params: Any) -> Any:
    response: httpx.Response = await gateway.client.get("/v1/n/d/blame", params=params)
    assert response.status_code == status, response.text
    return response.json()


async def test_a_revert_brings_back_the_state_at_a_version_as_a_new_one():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        await patch(gateway, {"op": "add", "path": "/a", "value": 2})
        assert (await revert(gateway, {"version": 1}, Refold_Actor="ann"))["version"] == 3
        assert await state(gateway) == {"a": 1}
        change = await last_change(gateway)
        assert (change["reverts"], change["actor"]) == (1, "ann")
        await gateway.client.delete("/v1/n/d")
        await revert(gateway, {"version": 2}, 201)
        await revert(gateway, {"version": 4})
        assert (await gateway.client.get("/v1/n/d")).status_code == 404
        assert (await revert(gateway, {"version": 4}, 404))["code"] == "document_absent"


async def test_an_undo_takes_back_what_one_version_did_and_keeps_what_others_did_since():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"items": ["a", "b"], "n": 1, "t": "one"})
        await patch(
            gateway,
            {"op": "remove", "path": "/items/0"},
            {"op": "inc", "path": "/n", "inc": 5},
            {"op": "str_ins", "path": "/t", "pos": 3, "str": " two"},
        )
        await patch(
            gateway,
            {"op": "add", "path": "/items/0", "value": "c"},
            {"op": "inc", "path": "/n", "inc": 10},
            {"op": "str_ins", "path": "/t", "pos": 0, "str": "zero "},
        )
        outcome = await revert(gateway, {"undo": 2})
        assert (outcome["status"], outcome["version"]) == ("merged", 4)
        undone = await state(gateway)
        assert (sorted(undone["items"]), undone["n"], undone["t"]) == (["a", "b", "c"], 11, "zero one")
        assert (await last_change(gateway))["reverts"] == 2
        # The undo of the undo takes place without conflict, and brings back everything.
        before = (await gateway.client.get("/v1/n/d", params={"version": 3})).content
        assert (await revert(gateway, {"undo": 4}))["status"] == "applied"
        assert (await gateway.client.get("/v1/n/d")).content == before


async def test_an_undo_of_a_put_takes_back_only_what_it_changed():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1, "b": 1})
        await gateway.put("/v1/n/d", {"a": 2, "b": 1})
        await patch(gateway, {"op": "replace", "path": "/b", "value": 5})
        await revert(gateway, {"undo": 2})
        assert await state(gateway) == {"a": 1, "b": 5}


async def test_an_undo_follows_the_strategy_where_others_changed_the_same_value():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        for value in (2, 3):
            await patch(gateway, {"op": "replace", "path": "/a", "value": value})
        outcome = await revert(gateway, {"undo": 2}, 409, Refold_On_Conflict="first_write_wins")
        assert (outcome["reason"], await state(gateway)) == ("conflict", {"a": 3})
        assert (await revert(gateway, {"undo": 2}))["status"] == "merged"
        assert await state(gateway) == {"a": 1}


async def test_a_creation_is_undone_by_a_delete_and_a_delete_by_a_creation():
    async with twin() as gateway:
        await patch(gateway, {"op": "add", "path": "/a", "value": 1})
        await revert(gateway, {"undo": 1})
        assert (await gateway.client.get("/v1/n/d")).status_code == 404
        assert (await revert(gateway, {"undo": 1}, 404))["code"] == "document_absent"
        await revert(gateway, {"undo": 2}, 201)
        assert await state(gateway) == {"a": 1}


async def test_an_undo_of_a_creation_or_a_delete_keeps_what_others_wrote_since():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        await gateway.client.delete("/v1/n/d")
        await gateway.put("/v1/n/d", {"b": 1})
        for version, strategies in ((1, [{}, {"Refold_On_Conflict": "merge"}]), (2, [{}])):
            for strategy in strategies:
                refused = await revert(gateway, {"undo": version}, 409, **strategy)
                assert refused["reason"] == "conflict"
                assert "last_write_wins" in refused["outcome"]["detail"]
        assert await state(gateway) == {"b": 1}
        # Two whole objects are merged key by key.
        assert (await revert(gateway, {"undo": 2}, Refold_On_Conflict="merge"))["status"] == "merged"
        assert await state(gateway) == {"a": 1, "b": 1}
        await revert(gateway, {"undo": 1}, Refold_On_Conflict="last_write_wins")
        assert (await gateway.client.get("/v1/n/d")).status_code == 404


async def test_an_undo_is_a_write_with_conditions_and_an_id():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": [0]})
        await patch(gateway, {"op": "add", "path": "/a/0", "value": 1})
        await patch(gateway, {"op": "add", "path": "/a/0", "value": 2})
        await revert(gateway, {"undo": 2}, 412, If_Match='"2"')
        # The head is checked, and yet the paths mean version 2.
        first = await revert(gateway, {"undo": 2}, If_Match='"3"', Idempotency_Key="u")
        assert await state(gateway) == {"a": [2, 0]}
        again = await revert(gateway, {"undo": 2}, If_Match='"3"', Idempotency_Key="u")
        assert (again["status"], again["version"]) == ("duplicate", first["version"])


@pytest.mark.parametrize(
    ("what", "headers", "code"),
    [
        ({"undo": 1}, {"Refold_Session": "s"}, "contradictory"),
        ({"undo": 1}, {"Refold_Base": "2"}, "contradictory"),
        ({"version": 1}, {"Refold_Reverts": "2"}, "contradictory"),
        ({"undo": 0}, {}, "bad_field"),
        ({"undo": True}, {}, "bad_field"),
        ({"undo": 1, "version": 1}, {}, "bad_field"),
        ({}, {}, "bad_field"),
        ([1], {}, "bad_field"),
    ],
)
async def test_a_revert_that_contradicts_itself_is_refused(what, headers, code):
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        assert (await revert(gateway, what, 422, **headers))["code"] == code
        assert await gateway.events() == 1


async def test_an_undo_that_the_fold_would_not_take_names_the_alternative():
    async with twin() as gateway:
        versions_max = NEWEST.limits.window_versions
        assert versions_max is not None
        lines = b"".join(b'{"doc":"d","put":{"n":%d}}\n' % n for n in range(versions_max + 2))
        await gateway.request("POST", "/v1/n/events", content=lines)
        found = await revert(gateway, {"undo": 1}, 422)
        assert found["code"] == "base_too_old"
        assert "revert to a version instead" in found["detail"]
        await revert(gateway, {"undo": 2})
        assert (await revert(gateway, {"undo": 5000}, 404))["code"] == "version_unknown"
        assert (await revert(gateway, {"version": 5000}, 404))["code"] == "version_unknown"


async def test_an_inverse_that_is_too_large_for_an_event_is_refused_and_the_state_can_be_brought_back():
    large = {"texts": ["x" * (EVENT_BYTES_MAX // 3)] * 4}
    async with twin() as gateway:
        assert (await gateway.put("/v1/n/d", large)).status_code == 201
        version = (await gateway.client.get("/v1/n/d")).headers["Refold-Version"]
        await gateway.client.delete("/v1/n/d")
        found = await revert(gateway, {"undo": int(version) + 1}, 413)
        assert "revert to a version instead" in found["detail"]
        await revert(gateway, {"version": int(version)}, 201)
        assert await state(gateway) == large
        assert (await last_change(gateway))["reverts"] == int(version)


async def test_under_fold_1_a_state_is_brought_back_and_the_last_version_undone():
    async with twin(rules=v1.RULES) as gateway:
        for value in (1, 2, 3):
            await gateway.put("/v1/n/d", {"a": value})
        await revert(gateway, {"undo": 3})
        assert await state(gateway) == {"a": 2}
        assert (await revert(gateway, {"undo": 2}, 409))["reason"] == "conflict"
        await revert(gateway, {"version": 1})
        assert await state(gateway) == {"a": 1}


async def test_a_gateway_undoes_a_version_that_it_has_not_heard_of_yet():
    async with twin(is_projecting=False) as gateway:
        await gateway.put("/v1/n/d", {"a": 1}, Refold_Wait="0")
        async with gateway.projector():
            await revert(gateway, {"undo": 1})
            assert (await gateway.client.get("/v1/n/d")).status_code == 404


# --- Blame -------------------------------------------------------------------------------------------------


async def test_blame_names_the_version_and_the_actor_that_last_wrote_each_leaf():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"items": [{"n": 1}], "t": "a"}, Refold_Actor="ann")
        await patch(gateway, {"op": "add", "path": "/items/0", "value": {}}, Refold_Actor="bob")
        outcome = await patch(
            gateway,
            {"op": "inc", "path": "/items/1/n", "inc": 1},
            {"op": "move", "from": "/t", "path": "/u"},
        )
        found = await blame(gateway)
        assert (found["version"], found["searched_from"], found["next"]) == (3, 1, None)
        assert [(it["path"], it["version"], it["actor"], it["value"]) for it in found["items"]] == [
            ("/items/0", 2, "bob", {}),
            ("/items/1/n", 3, None, 2),
            ("/u", 1, "ann", "a"),
        ]
        assert found["items"][1]["recorded_at"] == outcome["recorded_at"]
        then = await blame(gateway, version=1, path="/items")
        assert [(it["path"], it["version"]) for it in then["items"]] == [("/items/0/n", 1)]


async def test_a_long_blame_continues_at_the_same_version():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": [0, 1, 2]})
        first = await blame(gateway, path="/a", limit=2)
        await patch(gateway, {"op": "remove", "path": "/a/0"})
        rest = await blame(gateway, path="/a", limit=2, cursor=first["next"])
        assert [it["value"] for it in first["items"] + rest["items"]] == [0, 1, 2]
        assert (rest["version"], rest["next"]) == (1, None)
        assert (await blame(gateway, 422, cursor=first["next"], version=2))["code"] == "contradictory"
        assert (await blame(gateway, 422, cursor="x"))["code"] == "bad_cursor"


async def test_blame_reads_back_as_far_as_its_bound_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("refold.history.BLAME_VERSIONS_MAX", 100)
    async with twin() as gateway:
        lines = [b'{"doc":"d","put":{"a":0,"n":0}}']
        lines += [b'{"doc":"d","patch":[{"op":"replace","path":"/n","value":%d}]}' % n for n in range(1000)]
        await gateway.request("POST", "/v1/n/events", content=b"\n".join(lines))
        found = await blame(gateway)
        assert found["searched_from"] > 1
        assert [(it["path"], it["version"]) for it in found["items"]] == [("/a", None), ("/n", 1001)]
        monkeypatch.setattr("refold.history.BLAME_VERSIONS_MAX", 2000)
        assert [it["version"] for it in (await blame(gateway))["items"]] == [1, 1001]


async def test_blame_of_what_is_not_there_is_refused():
    async with twin() as gateway:
        assert (await blame(gateway, 404))["code"] == "document_absent"
        await gateway.put("/v1/n/d", {"a": 1})
        assert (await blame(gateway, 404, path="/b"))["code"] == "path_absent"
        assert (await blame(gateway, 404, version=2))["code"] == "version_unknown"
        assert (await blame(gateway, 404, version=0))["code"] == "document_absent"
        await gateway.client.delete("/v1/n/d")
        assert (await blame(gateway, 404))["code"] == "document_absent"


# --- Over PostgreSQL's pages -------------------------------------------------------------------------------

EVENTS = 1_500


async def test_blame_and_undo_reach_over_pages_while_others_write(system: System):
    names, state = (system.namespace(), "d"), {"slots": dict.fromkeys("abcdefg", 0), "list": [], "n": 0}
    events: list[dict[str, Any]] = [{"doc": "d", "put": state, "actor": "first"}]
    writers = {f"/slots/{slot}": 1 for slot in "abcdefg"} | {"/n": 1}
    elements: list[int] = []
    for version in range(2, EVENTS + 2):
        # One slot is never written again.
        slot = "abcdef"[version % 6]
        patch = [{"op": "replace", "path": f"/slots/{slot}", "value": version}]
        writers[f"/slots/{slot}"] = version
        if version % 50 == 0:
            patch.append({"op": "add", "path": f"/list/{len(elements) // 2}", "value": version})
            elements.insert(len(elements) // 2, version)
        events.append({"doc": "d", "patch": patch})
    async with Refold(system.url) as refold:
        await refold.append(names[0], events)
        writers |= {f"/list/{place}": version for place, version in enumerate(elements)}
        leaves = [leaf async for leaf in refold.blame(*names)]
        assert {leaf.path: leaf.version for leaf in leaves} == writers
        assert {leaf.path: leaf.actor for leaf in leaves}["/slots/g"] == "first"
        added = await refold.patch(*names, [{"op": "inc", "path": "/n", "inc": 100}])
        assert added.version is not None
        others = [refold.patch(*names, [{"op": "inc", "path": "/n", "inc": 1}]) for _ in range(30)]
        await asyncio.gather(*others, refold.undo(*names, added.version), refold.undo(*names, 1_000))
        found = (await refold.get(*names)).state
        # Of version 1,000 only the element is left to undo: its slot has been written since, and is overwritten.
        assert found["n"] == 30
        assert found["list"] == [element for element in elements if element != 1_000]
