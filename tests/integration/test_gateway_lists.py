"""A whole namespace as of a sequence or a time, over HTTP, on the real system."""

from __future__ import annotations

import random
from typing import Any

import jsonpatch

from refold.client import Refold
from refold.core.timestamp import format_time, parse_rfc3339
from support.http import Api, problem
from support.prefix import Listed, Prefix, differences, listed

SEED = 20_260_801
EVENTS = 300
SEQUENCES = 10
DOCUMENTS = [f"d{number}" for number in range(12)]


async def followed(api: Api, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        response = await api.get(**query)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert len(answer["items"]) <= query.get("limit", 1_000)
        items += answer["items"]
        if answer["next"] is None:
            return items
        query["cursor"] = answer["next"]


def made_event(rng: random.Random, oracle: Prefix, document: str) -> dict[str, Any]:
    """Make an event that the fold accepts, of any kind."""
    state = oracle.state(document)
    if oracle.is_present(document) and rng.random() < 0.1:
        return {"doc": document, "delete": True}
    values = [None, True, 1, 1.0, "é\u0000", [rng.randrange(9)], {"deep": [{}]}, 2**63]
    wanted = {rng.choice("abcd"): rng.choice(values) for _ in range(3)}
    if not isinstance(state, dict) or rng.random() < 0.2:
        return {"doc": document, "put": rng.choice([wanted, wanted, [wanted], None])}
    return {"doc": document, "patch": jsonpatch.make_patch(state, {**state, **wanted}).patch}


async def test_a_list_at_a_sequence_equals_a_fold_of_the_log_up_to_it(api: Api) -> None:
    print(f"seed {SEED}")
    rng, oracle = random.Random(SEED), Prefix()
    events = []
    for _ in range(EVENTS):
        events.append(made_event(rng, oracle, rng.choice(DOCUMENTS)))
        oracle.fold(events[-1]["doc"], events[-1])
    answers = await api.append(events)
    assert {answer["status"] for answer in answers} == {"applied"}
    chosen = sorted(rng.sample(range(EVENTS), SEQUENCES))
    oracle, compared = Prefix(), 0
    for number, (event, answer) in enumerate(zip(events, answers, strict=True)):
        oracle.fold(event["doc"], event)
        if number in chosen:
            found = listed(await followed(api, sequence=answer["sequence"], limit=rng.choice([1, 5, 1_000])))
            assert differences(oracle.listed(), found) == [], answer
            compared += len(found)
    assert compared > SEQUENCES
    at_last = listed(await followed(api, at=answers[-1]["recorded_at"]))
    assert at_last == listed(await followed(api)) == oracle.listed()


async def test_a_list_at_a_time_shows_what_was_recorded_by_then(api: Api) -> None:
    present = [(await api.put(name, [name])).json() for name in ("b", "a")]
    gone = (await api.delete("b")).json()
    times = [parse_rfc3339(outcome["recorded_at"]) for outcome in (*present, gone)]
    found = [
        [item["id"] for item in await followed(api, at=format_time(time))]
        for time in (times[0] - 1, times[0], times[1], times[2] - 1, times[2])
    ]
    assert found == [[], ["b"], ["a", "b"], ["a", "b"], ["a"]]
    [item] = (await api.get(at=format_time(times[0]), fields="id")).json()["items"]
    assert "state" not in item
    assert (item["id"], item["version"], item["recorded_at"]) == ("b", 1, present[0]["recorded_at"])
    assert await followed(api, at=format_time(times[1]), prefix="b") == [item | {"state": ["b"]}]
    tomorrow = format_time(times[2] + 86_400_000_000_000)
    assert problem(await api.get(at=tomorrow), 422, "time_in_future")["field"] == "at"
    problem(await api.get(at="yesterday"), 422, "bad_time")


async def test_a_list_by_occurred_time_uses_the_running_maximum_of_each_document(api: Api) -> None:
    for document, year in (("a", 2010), ("a", 2014), ("a", 2012), ("b", 2012), ("b", 2016)):
        await api.put(document, year, Refold_Occurred_At=f"{year}-01-01T00:00:00Z")
    found = {
        year: {
            item["id"]: item["state"] for item in await followed(api, at=f"{year}-06-01", clock="occurred")
        }
        for year in (2009, 2010, 2012, 2014, 2016)
    }
    assert found == {
        2009: {},
        2010: {"a": 2010},
        2012: {"a": 2010, "b": 2012},
        2014: {"a": 2012, "b": 2012},
        2016: {"a": 2012, "b": 2016},
    }


async def test_pages_at_a_sequence_are_consistent_under_concurrent_writes(api: Api) -> None:
    outcomes = await api.append({"doc": name, "put": name} for name in "abcde")
    items, query = [], {"sequence": outcomes[-1]["sequence"], "limit": 2}
    while query.get("cursor", "") is not None:
        answer = (await api.get(**query)).json()
        items += answer["items"]
        query["cursor"] = answer["next"]
        await api.append([{"doc": "c", "delete": True}, {"doc": "d", "put": "new"}, {"doc": "f", "put": 1}])
    assert listed(items) == [Listed(name, 1, f'"{name}"') for name in "abcde"]


async def test_a_list_waits_for_events_already_in_the_log(api: Api) -> None:
    for number in range(0, 10, 2):
        pending = (await api.put("d", number, Refold_Wait="0")).json()
        [item] = await followed(api, sequence=pending["sequence"])
        assert item["state"] == number


async def test_a_list_beyond_the_end_of_the_log_reports_the_end(api: Api) -> None:
    last = (await api.put("d", 1)).json()["sequence"]
    for timeout in (0, 300):
        view = problem(await api.get(sequence=10**9, timeout=timeout), 422, "sequence_in_future")
        assert view["last_sequence"] >= last
        assert f"the log ends at {view['last_sequence']}" in view["detail"]


async def test_only_one_point_parameter_is_accepted(api: Api) -> None:
    for query, field in (
        ({"where": "$.a > 1", "at": "2020-01-01"}, "at"),
        ({"where": "$.a > 1", "sequence": 1}, "sequence"),
        ({"where": "", "sequence": 1}, "sequence"),
        ({"at": "2020-01-01", "sequence": 1}, "sequence"),
        ({"clock": "occurred"}, "clock"),
        ({"clock": "recorded", "sequence": 1}, "clock"),
    ):
        assert problem(await api.get(**query), 422, "contradictory")["field"] == field
    for query in ({"clock": "mine", "at": "2020-01-01"}, {"sequence": -1}, {"sequence": 1, "timeout": 301}):
        problem(await api.get(**query), 422, "bad_parameter")
    problem(await api.get(sequence=1, cursor="nonsense!"), 422, "bad_cursor")


async def test_an_unknown_namespace_was_always_empty(api: Api) -> None:
    for query in ({"sequence": 1}, {"at": "2020-01-01"}, {"at": "2020-01-01", "clock": "occurred"}):
        assert (await api.get(**query)).json() == {"items": [], "next": None}


async def test_the_client_lists_a_namespace_as_of_a_time(api: Api) -> None:
    first = (await api.put("a", 1, Refold_Occurred_At="2020-01-01T00:00:00Z")).json()
    await api.put("a", 2)
    await api.put("b", 2)
    async with Refold(str(api.client.base_url)) as refold:
        found = [
            {it.id: it.state async for it in refold.list(api.namespace, **asked)}
            for asked in (
                {},
                {"sequence": first["sequence"]},
                {"at": first["recorded_at"]},
                {"at": "2020-01-01", "clock": "occurred"},
                {"sequence": first["sequence"], "limit": 1, "timeout_seconds": 1},
            )
        ]
    assert found == [{"a": 2, "b": 2}, {"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}]
