"""Writes of single documents over HTTP, on the real system."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from refold.core.fold import EVENT_BYTES_MAX
from refold.core.timestamp import parse_rfc3339
from refold.gateway.documents import PUT_BYTES_MAX
from support.http import JSON_PATCH, Api, outcome, problem

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_first_put_creates_and_later_puts_increment_the_version(api: Api) -> None:
    first = outcome(await api.put("d", {"a": 1}), 201)
    assert (first["status"], first["version"], first["created"]) == ("applied", 1, True)
    assert parse_rfc3339(first["recorded_at"]) > 0
    second = outcome(await api.put("d", {"a": 2}))
    assert (second["version"], second["created"]) == (2, False)
    assert second["sequence"] > first["sequence"]
    assert (await api.get("d")).json() == {"a": 2}


async def test_a_patch_changes_only_its_paths(api: Api) -> None:
    outcome(await api.put("d", {"a": [1, 2], "b": {}}), 201)
    outcome(await api.patch("d", {"op": "add", "path": "/a/-", "value": 3}, {"op": "remove", "path": "/b"}))
    assert (await api.get("d")).json() == {"a": [1, 2, 3]}


async def test_a_merge_patch_merges(api: Api) -> None:
    outcome(await api.put("d", {"a": 1, "b": {"c": 1, "d": 2}}), 201)
    outcome(await api.merge("d", {"a": None, "b": {"c": 9}}))
    assert (await api.get("d")).json() == {"b": {"c": 9, "d": 2}}


async def test_the_first_patch_of_an_absent_document_needs_no_preparation(api: Api) -> None:
    assert outcome(await api.patch("p", {"op": "add", "path": "/a", "value": 1}), 201)["created"]
    assert outcome(await api.merge("m", {"a": 1}), 201)["created"]
    assert (await api.get("p")).json() == (await api.get("m")).json() == {"a": 1}


@pytest.mark.parametrize(
    "state", [None, True, 0, -0.5, 1e300, "", "é\u0000𝄞", [], {"": {"~/": [None]}}, 2**64 - 1]
)
async def test_any_json_value_is_a_state(api: Api, state: Any) -> None:
    outcome(await api.put("d", state), 201)
    assert (await api.get("d")).content == orjson.dumps(state)


async def test_a_delete_makes_the_document_absent_and_increments_the_version(api: Api) -> None:
    outcome(await api.put("d", 1), 201)
    deleted = outcome(await api.delete("d"))
    assert (deleted["version"], deleted["created"]) == (2, False)
    assert problem(await api.get("d"), 404, "document_absent")["version"] == 2
    assert outcome(await api.put("d", 2), 201)["version"] == 3


async def test_a_delete_of_an_absent_document_is_404_and_publishes_nothing(api: Api) -> None:
    problem(await api.delete("d"), 404, "document_absent")
    outcome(await api.put("d", 1), 201)
    outcome(await api.delete("d"))
    problem(await api.delete("d"), 404, "document_absent")
    assert await api.events() == 2


async def test_a_delete_right_after_a_write_that_did_not_wait_is_not_404(api: Api) -> None:
    for number in range(20):
        pending = await api.put(f"d{number}", 1, Refold_Wait="0")
        assert pending.status_code == 202
        outcome(await api.delete(f"d{number}"))


async def test_a_rejected_event_is_409_with_its_reason_and_outcome(api: Api) -> None:
    outcome(await api.put("d", {"a": 1}), 201)
    view = problem(await api.patch("d", {"op": "test", "path": "/a", "value": 2}), 409, "rejected")
    assert view["reason"] == "test_failed"
    assert view["outcome"]["status"] == "rejected"
    assert view["outcome"]["version"] == 1
    assert (await api.get("d")).json() == {"a": 1}
    [rejection] = (await api.get("d/rejections")).json()["items"]
    assert (rejection["sequence"], rejection["reason"]) == (view["outcome"]["sequence"], "test_failed")


async def test_a_stale_base_is_folded_as_its_strategy_says(api: Api) -> None:
    outcome(await api.put("d", {"a": 1, "b": 1}), 201)
    outcome(await api.put("d", {"a": 2, "b": 1}, Refold_Base="1"))
    strict = {"Refold_Base": "1", "Refold_On_Conflict": "reject"}
    assert problem(await api.put("d", 3, **strict), 409, "rejected")["reason"] == "conflict"
    assert problem(await api.put("d", 3, Refold_Base="9"), 409, "rejected")["reason"] == "base_in_future"
    said = {"Refold_Base": "1", "Refold_On_Conflict": "merge", "Refold_Session": "s"}
    assert outcome(await api.put("d", {"a": 1, "b": 3}, **said))["status"] == "merged"
    assert (await api.get("d")).json() == {"a": 2, "b": 3}
    # The default is that the last write wins.
    assert outcome(await api.put("d", 4, Refold_Base="1"))["status"] == "merged"
    assert (await api.get("d")).json() == 4


async def test_history_shows_the_fields_of_the_author(api: Api) -> None:
    said = {
        "Idempotency_Key": "event-1",
        "Refold_Type": "order.paid",
        "Refold_Actor": "Zoë",
        "Refold_Occurred_At": "2024-05-01T12:00:00.5+02:00",
        "Refold_Meta": '{"source":"é"}',
        "Refold_Correlation_Id": "c-1",
        "Refold_Causation_Id": "c-0",
        "traceparent": TRACE,
    }
    outcome(await api.put("d", 1, **said), 201)
    [item] = (await api.get("d/history")).json()["items"]
    shown = {name: item[name] for name in ("id", "type", "actor", "meta", "occurred_at")}
    assert shown == {
        "id": "event-1",
        "type": "order.paid",
        "actor": "Zoë",
        "meta": {"source": "é"},
        "occurred_at": "2024-05-01T10:00:00.500000000Z",
    }


async def test_an_event_sent_again_under_its_id_is_a_duplicate_with_the_first_status(api: Api) -> None:
    first = outcome(await api.put("d", 1, Idempotency_Key="k"), 201)
    again = outcome(await api.put("d", 1, Idempotency_Key="k"), 201)
    assert (again["status"], again["version"]) == ("duplicate", 1)
    assert again["first"]["sequence"] == first["sequence"]
    outcome(await api.put("d", 2, Idempotency_Key="l"))
    assert outcome(await api.put("d", 1, Idempotency_Key="k"), 201)["status"] == "duplicate"
    assert (await api.get("d")).json() == 2
    assert problem(await api.put("d", 3, Idempotency_Key="k"), 409, "rejected")["reason"] == "id_reused"


async def test_a_repeated_rejected_event_is_rejected_for_the_same_reason(api: Api) -> None:
    operation = {"op": "remove", "path": "/a"}
    first = problem(await api.patch("d", operation, Idempotency_Key="k"), 409, "rejected")
    again = problem(await api.patch("d", operation, Idempotency_Key="k"), 409, "rejected")
    assert again["reason"] == first["reason"] == "target_missing"
    assert (again["outcome"]["status"], again["outcome"]["first"]["status"]) == ("duplicate", "rejected")


async def test_a_repeated_delete_is_a_duplicate_and_not_404(api: Api) -> None:
    outcome(await api.put("d", 1), 201)
    outcome(await api.delete("d", Idempotency_Key="k"))
    assert outcome(await api.delete("d", Idempotency_Key="k"))["status"] == "duplicate"
    problem(await api.delete("d", Idempotency_Key="l"), 404, "document_absent")


async def test_a_write_that_does_not_wait_is_pending_and_looked_up_later(api: Api) -> None:
    response = await api.put("d", 1, Refold_Wait="0", Idempotency_Key="k")
    assert response.status_code == 202
    pending = response.json()
    assert pending == {"status": "pending", "sequence": pending["sequence"], "id": "k"}
    found = (await api.get("d/outcomes", id="k")).json()
    assert (found["status"], found["sequence"]) == ("applied", pending["sequence"])
    assert (await api.client.get(response.headers["location"])).json() == found
    problem(await api.get("d/outcomes", id="other"), 404, "outcome_unknown")
    problem(await api.get("other/outcomes/1"), 404, "outcome_unknown")


async def test_the_response_equals_the_stored_outcome(api: Api) -> None:
    view = outcome(await api.put("d", 1), 201)
    assert (await api.get(f"d/outcomes/{view['sequence']}")).json() == view


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad_json"),
        (b"", "bad_json"),
        (b"\xff", "bad_json"),
        (b"NaN", "bad_json"),
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'"\\ud800"', "lone_surrogate"),
        (b"18446744073709551616", "number_out_of_range"),
        (b"1e999", "number_out_of_range"),
    ],
)
async def test_a_body_that_does_not_parse_is_400_and_publishes_nothing(
    api: Api, body: bytes, code: str
) -> None:
    problem(await api.ask("PUT", "d", content=body, Content_Type="application/json"), 400, code)
    assert await api.events() == 0


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ({}, "bad_patch"),
        ([1], "bad_patch"),
        ([{"op": "jump", "path": ""}], "bad_patch"),
        ([{"op": "add", "path": "a", "value": 1}], "bad_pointer"),
        ([{"op": "remove", "path": ""}], "remove_root"),
        ([{"op": "inc", "path": "/a", "value": 1}], "bad_patch"),
        ([{"op": "test", "path": "", "value": 1}] * 10_001, "too_many_operations"),
    ],
)
async def test_an_invalid_patch_is_422_and_publishes_nothing(api: Api, operations: Any, code: str) -> None:
    response = await api.ask("PATCH", "d", content=orjson.dumps(operations), Content_Type=JSON_PATCH)
    problem(response, 422, code)
    assert await api.events() == 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Refold_Meta": "{"}, 400, "bad_json"),
        ({"Refold_Meta": "[]"}, 422, "bad_field"),
        ({"Refold_Base": "one"}, 422, "bad_field"),
        ({"Refold_Base": "-1"}, 422, "bad_field"),
        ({"Refold_Occurred_At": "yesterday"}, 422, "bad_time"),
        ({"Refold_On_Conflict": "perhaps"}, 422, "bad_field"),
        ({"Refold_Session": "s" * 129}, 422, "bad_field"),
        ({"Refold_Principal": "ada"}, 422, "not_in_this_fold"),
        ({"Refold_Colour": "red"}, 422, "unknown_field"),
        ({"Idempotency_Key": "x" * 129}, 422, "bad_field"),
        ({"Refold_Wait": "long"}, 422, "bad_parameter"),
        ({"If_Match": "3"}, 400, "bad_precondition"),
        ({"If_Match": '"1"', "Refold_Base": "1"}, 422, "contradictory"),
        ({"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content_Type": JSON_PATCH}, 415, "unsupported_media_type"),
        ({"Content_Encoding": "br"}, 415, "unsupported_media_type"),
    ],
)
async def test_an_invalid_header_is_refused_and_publishes_nothing(
    api: Api, headers: dict[str, str], status: int, code: str
) -> None:
    problem(await api.put("d", 1, **headers), status, code)
    assert await api.events() == 0


async def test_a_state_that_is_too_deep_is_422(api: Api) -> None:
    deep = b"[" * 129 + b"]" * 129
    problem(await api.ask("PUT", "d", content=deep, Content_Type="application/json"), 422, "too_deep")
    fits = b"[" * 128 + b"]" * 128
    outcome(await api.ask("PUT", "d", content=fits, Content_Type="application/json"), 201)


async def test_a_string_up_to_the_event_size_is_accepted(api: Api) -> None:
    size = EVENT_BYTES_MAX - 100
    outcome(await api.put("d", "x" * (size - 2)), 201)
    assert len((await api.get("d")).content) == size


@pytest.mark.parametrize(
    ("size", "code", "limit"),
    [
        # One string is never split.
        (EVENT_BYTES_MAX + 1, "event_too_large", EVENT_BYTES_MAX),
        (20 * EVENT_BYTES_MAX, "state_too_large", PUT_BYTES_MAX),
    ],
)
async def test_a_large_body_is_413_and_names_its_size_and_the_limit(
    api: Api, size: int, code: str, limit: int
) -> None:
    view = problem(await api.put("d", "x" * (size - 2)), 413, code)
    assert str(size) in view["detail"]
    assert str(limit) in view["detail"]
    outcome(await api.put("d", 1), 201)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/{}/%2E%2E", "bad_name"),
        ("/v1/{}/a%0Ab", "bad_name"),
        ("/v1/{}/a%C2%A0b", "bad_name"),
        ("/v1/{}/%FF", "bad_name"),
        ("/v1/{}/" + "x" * 129, "bad_name"),
        ("/v1/{}/" + "." * 43, "bad_name"),
        ("/v1/{}%2Fd/d", "bad_name"),
        ("/v1/_refold/log", "reserved_namespace"),
        ("/v1/_mine/d", "reserved_namespace"),
    ],
)
async def test_an_invalid_name_is_422_with_the_rule(api: Api, path: str, code: str) -> None:
    at = path.format(api.namespace)
    view = problem(await api.client.put(at, json=1), 422, code)
    assert any(rule in view["detail"] for rule in ("A-Z", "begin with _", "printable", "UTF-8"))


async def test_the_longest_and_most_unusual_names_are_accepted(api: Api) -> None:
    unusual = ("-_:=@+~", "A:1@b+c~d=e", "CSS/supports", "50% & <b>?#", "a b", "/..", "%2F")
    for name in ("x" * 128, "." * 42, "é" * 21, *unusual):
        path = quote(name, safe="")
        pending = await api.put(path, 1, Refold_Wait="0")
        location, shown = pending.headers["location"], quote(name, safe="-_:=@+~")
        assert location == f"/v1/{api.namespace}/{shown}/outcomes/{pending.json()['sequence']}"
        assert outcome(await api.put(path, 2))["document"] == name
        assert (await api.get(path)).json() == 2
        found = (await api.client.get(location)).json()
        assert (found["document"], found["version"]) == (name, 1)
        assert (await api.get(f"{path}/history")).json()["items"][0]["version"] == 1


async def test_concurrent_writes_are_all_folded_and_counted(api: Api) -> None:
    answers = await asyncio.gather(*(api.merge("d", {f"k{number}": number}) for number in range(50)))
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 51))
    assert len((await api.get("d")).json()) == 50


async def test_a_write_can_be_read_at_once_by_version_and_sequence(api: Api) -> None:
    for number in range(20):
        pending = (await api.put("d", number, Refold_Wait="0")).json()
        found = await api.get("d", min_sequence=pending["sequence"])
        assert found.json() == number
        assert (await api.get("d", min_version=number + 1)).headers["refold-version"] == str(number + 1)
