"""Reads over HTTP, on the real system: any version, any time on either clock, any sequence."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from refold import __version__
from refold.core.fold import NEWEST
from refold.core.stream import PARTITIONS
from refold.core.timestamp import format_time, parse_rfc3339, parse_time
from refold.gateway.requests import ANSWER_ITEMS_MAX
from support.http import Api, outcome, problem

YEARS = [f"20{year:02}-06-01T00:00:00Z" for year in range(10, 15)]


async def written(api: Api, count: int = 5) -> list[dict[str, Any]]:
    """Write `[1]`, `[2]`, … to document d, and return the outcomes from version 1 on."""
    return [(await api.put("d", [number])).json() for number in range(1, count + 1)]


async def test_a_read_shows_version_sequence_and_times(api: Api) -> None:
    await api.put("d", 0)
    said = (await api.put("d", {"a": 1}, Refold_Occurred_At="2024-01-01T00:00:00Z")).json()
    found = await api.get("d")
    assert found.content == b'{"a":1}'
    assert found.headers["content-type"] == "application/json"
    assert found.headers["etag"] == '"2"'
    assert found.headers["refold-version"] == "2"
    assert found.headers["refold-sequence"] == str(said["sequence"])
    assert found.headers["refold-recorded-at"] == said["recorded_at"]
    assert found.headers["refold-occurred-at"] == "2024-01-01T00:00:00.000000000Z"


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"9", "1"', "*"])
async def test_a_reader_that_has_the_version_gets_304(api: Api, tag: str) -> None:
    await api.put("d", 1)
    found = await api.ask("GET", "d", If_None_Match=tag)
    assert (found.status_code, found.content) == (304, b"")
    assert (found.headers["etag"], found.headers["refold-version"]) == ('"1"', "1")
    await api.put("d", 2)
    assert (await api.ask("GET", "d", If_None_Match='"1"')).json() == 2
    problem(await api.ask("GET", "d", If_None_Match="1"), 400, "bad_precondition")


async def test_head_is_a_read_without_its_body(api: Api) -> None:
    await api.put("d", [1, 2])
    whole = await api.get("d", path="/0")
    # Of the head, the length is not always known; at a path, the state is read.
    for path in ("", "/0"):
        found = await api.ask("HEAD", "d" + (path and f"?path={path}"))
        assert (found.status_code, found.content) == (200, b"")
        for name in ("etag", "content-type", "refold-version", "refold-sequence", "refold-recorded-at"):
            assert found.headers[name] == whole.headers[name]
        assert found.headers.get("content-length", "5") == ("1" if path else "5")
    assert (await api.ask("HEAD", "d", If_None_Match='"1"')).status_code == 304
    for missing in ("none", "d?path=/9"):
        assert (await api.ask("HEAD", missing)).status_code == 404


async def test_every_version_can_be_read_again(api: Api) -> None:
    views = await written(api)
    await api.delete("d")
    for outcome_ in views:
        found = await api.get("d", version=outcome_["version"])
        assert found.json() == [outcome_["version"]]
        assert found.headers["etag"] == f'"{outcome_["version"]}"'
        assert found.headers["refold-recorded-at"] == outcome_["recorded_at"]
    problem(await api.get("d", version=6), 404, "document_absent")
    problem(await api.get("d", version=0), 404, "document_absent")
    view = problem(await api.get("d", version=7), 404, "version_unknown")
    assert (view["version"], view["head"]) == (7, 6)
    problem(await api.get("never", version=1), 404, "version_unknown")
    problem(await api.get("never"), 404, "document_absent")


async def test_a_read_at_a_time_is_the_last_version_recorded_by_then(api: Api) -> None:
    views = await written(api)
    for before, after in pairwise(views):
        recorded = parse_rfc3339(before["recorded_at"])
        assert (await api.get("d", at=before["recorded_at"])).json() == [before["version"]]
        assert (await api.get("d", at=format_time(recorded + 1))).json() == [before["version"]]
        just_before = parse_rfc3339(after["recorded_at"]) - 1
        assert (await api.get("d", at=format_time(just_before))).json() == [before["version"]]
    first = parse_rfc3339(views[0]["recorded_at"])
    problem(await api.get("d", at=format_time(first - 1)), 404, "document_absent")


async def test_times_are_rfc3339_dates_or_unix_seconds(api: Api) -> None:
    for year in YEARS:
        await api.put("d", year, Refold_Occurred_At=year)
    found = [
        (await api.get("d", at=at, clock="occurred")).json()
        for at in ("2012-06-01", "2012-06-01T02:00:00+02:00", "1338508800", "1338508800.5")
    ]
    assert found == ["2012-06-01T00:00:00Z"] * 4
    assert (await api.get("d", at="1338508799.999999999", clock="occurred")).json() == YEARS[1]


async def test_a_read_by_occurred_time_uses_the_running_maximum(api: Api) -> None:
    for number, year in enumerate(("2010", "2014", "2012", "2014", "2016")):
        await api.put("d", number, Refold_Occurred_At=f"{year}-01-01T00:00:00Z")
    found = {
        year: (await api.get("d", at=f"{year}-01-01", clock="occurred")).json()
        for year in ("2010", "2013", "2014", "2015", "2016")
    }
    assert found == {"2010": 0, "2013": 0, "2014": 3, "2015": 3, "2016": 4}
    problem(await api.get("d", at="2009-12-31", clock="occurred"), 404, "document_absent")


async def test_a_read_right_now_answers_at_once_on_a_quiet_log_and_tomorrow_is_422(api: Api) -> None:
    [views] = await written(api, 1)
    recorded = parse_rfc3339(views["recorded_at"])
    async with asyncio.timeout(4):
        assert (await api.get("d", at=views["recorded_at"], clock="recorded")).json() == [1]
    tomorrow = format_time(recorded + 86_400_000_000_000)
    assert problem(await api.get("d", at=tomorrow), 422, "time_in_future")["field"] == "at"
    assert (await api.get("d", at=tomorrow, clock="occurred")).json() == [1]


async def test_a_read_by_time_or_sequence_waits_for_events_already_in_the_log(api: Api) -> None:
    for number in range(0, 20, 2):
        pending = (await api.put("d", number, Refold_Wait="0")).json()
        assert (await api.get("d", sequence=pending["sequence"])).json() == number
        # The broker's clock is this machine's: by now the event has been recorded.
        assert (await api.put("d", number + 1, Refold_Wait="0")).status_code == 202
        now = format_time(time.time_ns())
        assert (await api.get("d", at=now)).json() == number + 1


async def test_a_read_by_sequence_is_as_of_the_logs_sequence(api: Api) -> None:
    views = await written(api, 3)
    other = (await api.put("other", 1)).json()
    await written(api, 1)
    for outcome_ in views:
        assert (await api.get("d", sequence=outcome_["sequence"])).json() == [outcome_["version"]]
    assert (await api.get("d", sequence=other["sequence"])).json() == [3]
    problem(await api.get("d", sequence=views[0]["sequence"] - 1), 404, "document_absent")
    problem(await api.get("d", sequence=10**9), 422, "sequence_in_future")


async def test_reads_wait_for_a_version_or_sequence_until_their_timeout(api: Api) -> None:
    await written(api, 1)
    problem(await api.get("d", min_version=2, timeout=0), 504, "timed_out")
    problem(await api.get("d", min_sequence=10**9, timeout=0.05), 504, "timed_out")
    waiting = asyncio.create_task(api.get("d", min_version=2, timeout=30))
    await api.put("d", "new", Refold_Wait="0")
    assert (await waiting).json() == "new"


async def test_path_reads_one_value(api: Api) -> None:
    await api.put("d", {"a": [{"b/c": 1}], "": None})
    assert (await api.get("d", path="/a/0/b~1c")).content == b"1"
    assert (await api.get("d", path="")).json() == {"a": [{"b/c": 1}], "": None}
    assert (await api.get("d", path="/")).content == b"null"
    assert (await api.get("d", path="/a", version=1)).headers["etag"] == '"1"'
    problem(await api.get("d", path="/x"), 404, "path_absent")
    problem(await api.get("d", path="a"), 422, "bad_pointer")


async def test_history_is_paged_in_either_order(api: Api) -> None:
    views = await written(api, 7)
    forward = await _followed(api, "d/history", "after", limit=3)
    assert [item["version"] for item in forward] == [1, 2, 3, 4, 5, 6, 7]
    assert [item["sequence"] for item in forward] == [outcome_["sequence"] for outcome_ in views]
    assert forward[0]["patch"] == [{"op": "add", "path": "", "value": [1]}]
    assert forward[1]["patch"] == [{"op": "replace", "path": "", "value": [2]}]
    backward = await _followed(api, "d/history", "after", limit=3, order="desc")
    assert backward == forward[::-1]


async def test_history_by_path_filters_changes(api: Api) -> None:
    await api.put("d", {"a": {"b": 1}, "c": 1})
    await api.merge("d", {"c": 2})
    await api.merge("d", {"a": {"b": 2}})
    await api.delete("d")
    found = (await api.get("d/history", path="/a/b")).json()["items"]
    assert [item["version"] for item in found] == [1, 3, 4]


async def test_a_long_history_is_paged(api: Api) -> None:
    count = ANSWER_ITEMS_MAX + 200
    await api.append({"doc": "d", "put": number} for number in range(count))
    first = (await api.get("d/history")).json()
    assert len(first["items"]) == ANSWER_ITEMS_MAX
    assert first["next"] == ANSWER_ITEMS_MAX
    rest = (await api.get("d/history", after=first["next"])).json()
    assert (len(rest["items"]), rest["next"]) == (200, None)
    middle = await api.get("d", version=count // 2)
    assert middle.json() == count // 2 - 1


async def test_a_history_of_large_changes_is_bounded_in_bytes(api: Api) -> None:
    large = "x" * 1_000_000
    for number in range(10):
        await api.put("d", [number, large])
    first = (await api.get("d/history")).json()
    assert 1 <= len(first["items"]) < 10
    items = await _followed(api, "d/history", "after")
    assert [item["version"] for item in items] == list(range(1, 11))


async def test_diff_transforms_versions_into_each_other(api: Api) -> None:
    await api.put("d", {"a": 1, "b": {"c": [1, 2, 3]}})
    await api.merge("d", {"b": {"c": [1, 3]}})
    await api.delete("d")
    forward = await api.get("d/diff", **{"from": 1, "to": 2})
    assert forward.headers["content-type"] == "application/json-patch+json"
    assert forward.json() == [{"op": "remove", "path": "/b/c/1"}]
    assert (await _diff(api, 2, 1)) == [{"op": "add", "path": "/b/c/1", "value": 2}]
    assert (await _diff(api, 0, 1)) == [{"op": "add", "path": "", "value": {"a": 1, "b": {"c": [1, 2, 3]}}}]
    assert (await _diff(api, 1, 3)) == [{"op": "remove", "path": ""}]
    assert (await _diff(api, 3, 0)) == (await _diff(api, 2, 2)) == []
    problem(await api.get("d/diff", **{"from": 1, "to": 4}), 404, "version_unknown")


async def test_a_list_shows_present_documents_by_id(api: Api) -> None:
    for name in ("b", "a", "c-1", "c-2", "B"):
        await api.put(name, {"name": name})
    await api.delete("a")
    found = (await api.get()).json()
    assert [item["id"] for item in found["items"]] == ["B", "b", "c-1", "c-2"]
    assert found["next"] is None
    item = found["items"][1]
    assert (item["version"], item["state"]) == (1, {"name": "b"})
    assert parse_rfc3339(item["recorded_at"]) > 0
    assert [item["id"] for item in (await api.get(prefix="c-")).json()["items"]] == ["c-1", "c-2"]
    bare = (await api.get(fields="id")).json()["items"]
    assert all("state" not in item for item in bare)
    assert await _followed(api, "", "cursor", limit=1) == found["items"]


async def test_a_list_searches_by_a_json_path(api: Api) -> None:
    for number in range(5):
        await api.put(f"d{number}", {"total": number, "text": "a\u0000b" if number == 4 else "x"})
    found = (await api.get(where="$.total > 2")).json()["items"]
    assert [item["id"] for item in found] in (["d3", "d4"], ["d3"]), "U+0000 may not be convertible"
    assert found[0]["id"] == "d3"
    problem(await api.get(where="$.total >"), 422, "bad_where")
    problem(await api.get(cursor="nonsense!"), 422, "bad_cursor")


async def test_a_list_is_bounded_in_bytes(api: Api) -> None:
    for number in range(10):
        await api.put(f"d{number}", "x" * 1_000_000)
    first = (await api.get()).json()
    assert 1 <= len(first["items"]) < 10
    assert [item["id"] for item in await _followed(api, "", "cursor")] == [f"d{n}" for n in range(10)]


async def test_an_unknown_namespace_is_an_empty_list(api: Api) -> None:
    assert (await api.get()).json() == {"items": [], "next": None}
    problem(await api.client.get("/v1/a.b"), 422, "bad_name")


async def test_rejections_are_newest_first_and_paged_over_http(api: Api) -> None:
    for number in range(5):
        await api.patch("d", {"op": "remove", "path": f"/{number}"}, Refold_Actor=f"a{number}")
    found = await _followed(api, "d/rejections", "after", limit=2)
    assert [item["actor"] for item in found] == ["a4", "a3", "a2", "a1", "a0"]
    assert {item["reason"] for item in found} == {"target_missing"}


async def test_rejections_of_a_namespace_and_of_all_are_newest_first_and_paged(api: Api) -> None:
    for number in range(3):
        await api.patch(f"d{number}", {"op": "remove", "path": "/a"})
    query: dict[str, str | int] = {"namespace": api.namespace, "limit": 2}
    first = (await api.client.get("/v1/_rejections", params=query)).json()
    rest = (await api.client.get("/v1/_rejections", params={**query, "after": first["next"]})).json()
    assert [item["document"] for item in first["items"] + rest["items"]] == ["d2", "d1", "d0"]
    assert rest["next"] is None
    (newest,) = (await api.client.get("/v1/_rejections", params={"limit": 1})).json()["items"]
    assert newest["sequence"] >= first["items"][0]["sequence"]
    assert (await api.client.get("/v1/_rejections?namespace=never")).json() == {"items": [], "next": None}
    problem(await api.client.get("/v1/_rejections?namespace=a.b"), 422, "bad_name")


async def test_a_time_may_be_relative_or_in_milliseconds(api: Api) -> None:
    written = outcome(await api.put("d", 1), 201)
    milliseconds = parse_time(written["recorded_at"]) // 1_000_000 + 1
    for at in ("now", "-0s", "0s ago", str(milliseconds)):
        assert (await api.get("d", at=at)).json() == 1
    problem(await api.get("d", at="-5m"), 404, "document_absent")
    problem(await api.get("d", at="1h ago"), 404, "document_absent")
    await api.put("e", 1)
    cursor = (await api.get("", limit=1)).json()["next"]
    assert problem(await api.get("", at="now", cursor=cursor), 422, "bad_time")["field"] == "at"


async def test_namespaces_count_documents_and_events(api: Api) -> None:
    await api.put("a", 1)
    await api.put("b", 1)
    await api.delete("b")
    await api.patch("a", {"op": "remove", "path": "/x"})
    items = (await api.client.get("/v1")).json()["items"]
    assert {"namespace": api.namespace, "documents": 1, "events": 4} in items


async def test_status_shows_how_far_each_partition_is_folded(api: Api) -> None:
    views = outcome(await api.put("d", 1), 201)
    await api.get("d", version=1)
    status = (await api.client.get("/status")).json()
    assert status["last_sequence"] >= views["sequence"]
    assert status["folded_sequence"] >= views["sequence"]
    assert (status["fold"], len(status["partitions"])) == (NEWEST.number, PARTITIONS)
    assert status["log_id"]
    assert all(status["versions"][name] for name in ("refold", "nats", "postgres"))
    for partition in status["partitions"]:
        behind = partition["last_sequence"] - partition["folded_sequence"]
        assert partition["lag_events"] == max(0, behind)
        assert partition["lag_seconds"] >= 0


async def test_the_operational_endpoints_answer(api: Api) -> None:
    assert (await api.client.get("/healthz")).json() == {"status": "alive"}
    assert (await api.client.get("/readyz")).json() == {"status": "ready"}
    assert "refold_http_request_seconds_bucket" in (await api.client.get("/metrics")).text


async def test_the_root_page_links_the_api(api: Api) -> None:
    index = (await api.client.get("/")).json()
    assert (index["name"], index["version"]) == ("Refold", __version__)
    page = await api.client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    for path in index["links"].values():
        assert f'href="{path}"' in page.text
        assert (await api.client.get(path)).status_code == 200, path


async def test_the_page_of_the_api_needs_nothing_from_the_network(api: Api) -> None:
    page = await api.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    paths = re.findall(r'(?:src|href|url)(?:=|: )"([^"]*)"', page.text)
    assert "/openapi.json" in paths
    for path in paths:
        assert path.startswith("/"), path
        assert (await api.client.get(path)).status_code == 200, path


async def test_not_found_reports_the_document_its_head_and_its_first_version(api: Api) -> None:
    name = f"{api.namespace}/d"
    first = (await api.put("d", 1, Refold_Occurred_At="2020-01-01T00:00:00Z")).json()
    await api.put("d", 2)
    view = problem(await api.get("d", at="2021-01-01"), 404, "document_absent")
    assert (view["version"], view["head"]) == (0, 2)
    for fact in (name, "head is version 2", first["recorded_at"], "2020-01-01T00:00:00.0", "clock=occurred"):
        assert fact in view["detail"]
    view = problem(await api.get("d", at="2019-01-01"), 404, "document_absent")
    assert first["recorded_at"] in view["detail"]
    assert "clock=occurred" not in view["detail"]
    view = problem(await api.get("d", at="2019-01-01", clock="occurred"), 404, "document_absent")
    assert "2020-01-01T00:00:00.0" in view["detail"]
    view = problem(await api.get("d", sequence=first["sequence"] - 1), 404, "document_absent")
    assert f"sequence {first['sequence']}" in view["detail"]
    view = problem(await api.get("d", version=9), 404, "version_unknown")
    assert view["detail"] == f"{name} has no version 9; its head is version 2"
    problem(await api.get("d/diff", **{"from": 1, "to": 9}), 404, "version_unknown")
    await api.delete("d")
    view = problem(await api.get("d"), 404, "document_absent")
    assert view["detail"] == f"{name} is absent: version 3 deleted it; its head is version 3"


async def test_an_unknown_document_is_an_error_and_an_empty_result_of_a_known_one_is_not(api: Api) -> None:
    for path in ("d", "d/history", "d/rejections"):
        view = problem(await api.get(path), 404, "document_absent")
        assert view["detail"] == f"{api.namespace}/d never existed"
    assert problem(await api.get("d", version=1), 404, "version_unknown")["detail"].endswith("never existed")
    await api.put("d", 1)
    await api.patch("rejected", {"op": "remove", "path": "/a"})
    for path in ("d/rejections", "rejected/history"):
        assert (await api.get(path)).json() == {"items": [], "next": None}
    assert (await api.get("d/history", after=1)).json() == {"items": [], "next": None}


async def _diff(api: Api, from_version: int, to_version: int) -> Any:
    response: httpx.Response = await api.get("d/diff", **{"from": from_version, "to": to_version})
    assert response.status_code == 200, response.text
    return response.json()


async def _followed(api: Api, path: str, continued_by: str, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    start: dict[str, Any] = {}
    while True:
        answer = (await api.get(path, **query, **start)).json()
        items += answer["items"]
        if answer["next"] is None:
            return items
        start = {continued_by: answer["next"]}
