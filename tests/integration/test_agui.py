"""The AG-UI route: what a run takes in, and the events that it answers with."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import orjson

from support.gateway import Twin, twin

SECONDS = 20
JSON = {"Content-Type": "application/json"}


async def post(
    gateway: Twin,
    state: Any = ...,
    *,
    query: str = "",
    options: Any = None,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    **members: Any,
) -> Any:
    """Send a run as an `HttpAgent` does; return the response."""
    given = {
        "threadId": "t1",
        "runId": "r1",
        "protocolVersion": "1.0",
        "messages": [],
        "tools": [],
        **members,
    }
    if state is not ...:
        given["state"] = state
    given["forwardedProps"] = {} if options is None else {"refold": options}
    content = orjson.dumps(given) if body is None else body
    return await gateway.client.post(f"/agui/n/d{query}", content=content, headers=JSON | (headers or {}))


async def run(gateway: Twin, state: Any = ..., **given: Any) -> list[dict[str, Any]]:
    """Run; return what is between the run's start and its end, and then its result."""
    response = await post(gateway, state, **given)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *events, last = events_of(response.content)
    started = {"type": "RUN_STARTED", "threadId": "t1", "protocolVersion": "1.0"}
    assert first.items() >= started.items()
    assert "input" not in first
    assert (last["type"], last["outcome"]) == ("RUN_FINISHED", {"type": "success"})
    return [*events, last["result"]]


async def patch(gateway: Twin, *operations: dict[str, Any]) -> None:
    """Change the document as others do."""
    headers = {"Content-Type": "application/json-patch+json"}
    response = await gateway.client.patch("/v1/n/d", content=orjson.dumps(operations), headers=headers)
    assert response.is_success, response.text


def events_of(content: bytes) -> list[dict[str, Any]]:
    assert b"\r" not in content
    frames = content.removesuffix(b"\n\n").split(b"\n\n")
    return [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames if frame != b": alive"]


def snapshot(state: Any, version: int, sequence: int, **more: Any) -> dict[str, Any]:
    about = {"version": version, "sequence": sequence, **more}
    return {"type": "STATE_SNAPSHOT", "snapshot": state, "metadata": {"refold": about}}


async def test_a_run_without_a_base_reads_the_state_and_writes_nothing():
    async with twin() as gateway:
        shown, result = await run(gateway, {})
        assert shown == snapshot({}, 0, 0, absent=True)
        assert result == {"version": 0, "sequence": 0, "why": "current"}
        await gateway.put("/v1/n/d", {"a": 1.0})
        shown, result = await run(gateway, {})
        assert shown == snapshot({"a": 1.0}, 1, 2)
        assert result == {"version": 1, "sequence": 2, "why": "current"}
        ignored, shown, _ = await run(gateway, {"a": 2})
        assert (ignored["name"], ignored["value"]) == ("refold.state_ignored", {"reason": "no_base"})
        assert (shown["snapshot"], await gateway.events()) == ({"a": 1}, 1)


async def test_edits_are_one_event_with_their_base_resolved_against_what_others_did():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"list": ["a", "b"], "n": 2**53 + 1})
        await patch(gateway, {"op": "add", "path": "/list/0", "value": "new"})
        # The client folded version 1: its second element is the third by now.
        shown, result = await run(
            gateway, {"list": ["a", "B"], "n": 2**53}, options={"base": 1}, headers={"Refold-Actor": "ann"}
        )
        assert shown["snapshot"] == {"list": ["new", "a", "B"], "n": 2**53 + 1}
        assert result["version"] == 3
        change = (await gateway.client.get("/v1/n/d/history?order=desc&limit=1")).json()["items"][0]
        assert change.items() >= {"id": "agui:t1:r1", "type": "agui.state", "actor": "ann"}.items()
        assert change["patch"] == [{"op": "replace", "path": "/list/2", "value": "B"}]


async def test_two_tabs_of_one_thread_mean_each_its_own_base():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", ["p", "q"])
        await run(gateway, ["x", "p", "q"], query="?base=1", runId="tab-1")
        shown, _ = await run(gateway, ["p", "Q"], query="?base=1", runId="tab-2")
        assert shown["snapshot"] == ["x", "p", "Q"]


async def test_a_run_that_is_sent_again_takes_effect_once():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", [])
        for _ in range(2):
            shown, _ = await run(gateway, ["a"], options={"base": 1})
            assert shown["snapshot"] == ["a"]
        long = {"threadId": "t" * 200, "runId": "r" * 200}
        for _ in range(2):
            response = await post(gateway, ["a", "b"], query="?base=2", **long)
            assert events_of(response.content)[1]["snapshot"] == ["a", "b"]
        for base, thread_id, run_id in [(3, "x", "y:z"), (4, "x:y", "z"), (5, "x%3Ay", "z")]:
            response = await post(gateway, [base], options={"base": base}, threadId=thread_id, runId=run_id)
            assert events_of(response.content)[1]["snapshot"] == [base]


async def test_a_rejected_and_a_partly_dropped_edit_are_told_with_their_outcome():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1, "list": [["first"], ["second"], ["third"]]})
        await patch(gateway, {"op": "remove", "path": "/list/1"}, {"op": "replace", "path": "/a", "value": 2})
        edited = {"a": 3, "list": [["first"], ["second", "more"], ["third"]]}
        custom, shown, _ = await run(gateway, edited, options={"base": 1}, runId="first")
        assert custom["name"] == "refold.merged"
        assert [dropped["reason"] for dropped in custom["value"]["dropped"]] == ["target_gone"]
        assert shown["snapshot"] == {"a": 3, "list": [["first"], ["third"]]}
        custom, shown, _ = await run(
            gateway,
            {"a": 4, "b": {"c": 1}},
            query="?base=1&on_conflict=merge",
            options={"on_conflict": "reject"},
        )
        assert (custom["name"], custom["value"]["reason"]) == ("refold.rejected", "conflict")
        assert shown["snapshot"]["a"] == 3


async def test_the_stamp_carries_the_base_inside_the_state():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        shown, _ = await run(gateway, {}, query="?stamp=_version")
        assert shown["snapshot"] == {"a": 1, "_version": 1}
        shown, _ = await run(gateway, {"_version": 1, "a": 2}, query="?stamp=_version")
        assert shown["snapshot"] == {"a": 2, "_version": 2}
        assert (await gateway.client.get("/v1/n/d")).json() == {"a": 2}
        response = await post(gateway, {"a": 5, "_version": 1}, options={"stamp": "a"})
        assert (response.status_code, response.json()["code"]) == (409, "stamp_taken")
        await gateway.put("/v1/n/d", [1])
        shown, _ = await run(gateway, {}, query="?stamp=a")
        assert shown["snapshot"] == [1]


async def test_an_empty_state_clears_a_document_only_where_it_is_asked_to():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        custom, shown, _ = await run(gateway, {}, options={"base": 1})
        assert (custom["value"], shown["snapshot"]) == ({"reason": "empty_state"}, {"a": 1})
        shown, _ = await run(gateway, {}, options={"base": 1, "clear": True})
        assert shown["snapshot"] == {}
        # An absent document reads as {}: the edits of its first state have the base 0.
        await gateway.client.delete("/v1/n/d")
        shown, _ = await run(gateway, {"b": 1}, options={"base": 3}, runId="next")
        assert shown["snapshot"] == {"b": 1}


async def test_a_base_that_the_log_does_not_have_is_told_and_the_run_goes_on():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        custom, shown, _ = await run(gateway, {"a": 2}, options={"base": 99})
        assert (custom["value"], shown["snapshot"]) == ({"reason": "base_unknown"}, {"a": 1})


async def test_a_state_that_no_document_can_have_is_rejected_and_the_run_goes_on():
    async with twin() as gateway:
        await gateway.put("/v1/n/d", {"a": 1})
        start = b'{"threadId":"t1","runId":"r1","forwardedProps":{"refold":{"base":1}},"messages":["\\ud800"],"state":'
        for state, reason in [
            (b"[" * 200 + b"]" * 200, "too_deep"),
            (b'{"a":"\\ud83d"}', "lone_surrogate"),
            (b'{"a":1e999}', "bad_json"),
            (b'{"a":"%b"}' % (b"x" * 2_000_000), "event_too_large"),
        ]:
            custom, shown, _ = await run(gateway, body=start + state + b"}")
            assert (custom["name"], custom["value"]["status"]) == ("refold.rejected", "refused")
            assert (custom["value"]["reason"], shown["snapshot"]) == (reason, {"a": 1})
        shown, _ = await run(gateway, body=start + b'{"a":123456789012345678901234567890}}')
        assert shown["snapshot"] == {"a": 1.2345678901234568e29}


async def test_what_is_wrong_with_a_run_is_a_problem_before_the_stream():
    async with twin() as gateway:
        for given, status, code, field in [
            ({"query": "?bass=1"}, 422, "unknown_parameter", "bass"),
            ({"options": {"base": -1}}, 422, "bad_parameter", "base"),
            ({"options": {"stamp": "__proto__"}}, 422, "bad_parameter", "stamp"),
            ({"options": [1]}, 422, "bad_field", "forwardedProps.refold"),
            ({"threadId": 5}, 422, "bad_field", "threadId"),
            ({"runId": ""}, 422, "bad_field", "runId"),
            ({"body": b"[]"}, 422, "bad_field", "body"),
            ({"body": b"{"}, 400, "bad_json", None),
            ({"body": b" " * (9 * 1024 * 1024 + 1)}, 413, "input_too_large", "body"),
            ({"headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type", "content-type"),
            (
                {"state": [1], "query": "?base=0", "headers": {"Refold-Base": "1"}},
                422,
                "unknown_field",
                "refold-base",
            ),
        ]:
            response = await post(gateway, **given)
            problem = response.json()
            assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field)
        assert (await gateway.client.post("/agui/_x/d", content=b"{}", headers=JSON)).status_code == 422
        assert await gateway.events() == 0


# --- Runs that follow ------------------------------------------------------------------------------------


class Following:
    """A run that follows, called without a socket; the changes are those of the feed."""

    def __init__(self, gateway: Twin, query: str) -> None:
        self.gateway = gateway
        self._query = query
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._is_gone = asyncio.Event()
        self._has_body = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        body = orjson.dumps({"threadId": "t1", "runId": "r1", "state": {}})
        path = "/agui/n/d"
        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": f"follow=true&{self._query}".encode(),
            "headers": [(b"content-type", b"application/json")],
        }

        async def receive() -> dict[str, Any]:
            if not self._has_body:
                self._has_body = True
                return {"type": "http.request", "body": body}
            await self._is_gone.wait()
            return {"type": "http.disconnect"}

        self._task = asyncio.create_task(self.gateway.app(scope, receive, self._sent.put))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._is_gone.set()
        async with asyncio.timeout(SECONDS):
            await self._task
        assert not self.gateway.feed.documents

    async def next(self) -> list[dict[str, Any]]:
        """Return the events of the next message; the response's head is a status."""
        async with asyncio.timeout(SECONDS):
            message = await self._sent.get()
        if message["type"] == "http.response.start":
            assert message["status"] == 200, await self._sent.get()
            return await self.next()
        return events_of(message["body"]) if message["body"] else []


def publish(gateway: Twin, *operations: dict[str, Any]) -> None:
    gateway.feed.publish(list(operations), ("n", "d"))


async def test_a_run_that_follows_has_a_snapshot_first_and_then_each_change():
    async with twin() as gateway:
        publish(gateway, {"op": "add", "path": "", "value": {"a": 1}})
        async with Following(gateway, "interval=0&stamp=_v") as run:
            assert [event["type"] for event in await run.next()] == ["RUN_STARTED", "STATE_SNAPSHOT"]
            publish(
                gateway, {"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 2}
            )
            (delta,) = await run.next()
            stamp = {"op": "replace", "path": "/_v", "value": 2}
            assert delta["delta"] == [{"op": "replace", "path": "/a", "value": 2}, stamp]
            assert delta["metadata"]["refold"] == {"version": 2, "sequence": 2}
            publish(gateway, {"op": "remove", "path": ""})
            assert await run.next() == [snapshot({"_v": 3}, 3, 3, absent=True)]
            publish(gateway, {"op": "add", "path": "", "value": [1]})
            assert await run.next() == [snapshot([1], 4, 4)]
            publish(gateway, {"op": "add", "path": "/-", "value": 2})
            assert (await run.next())[0]["delta"] == [{"op": "add", "path": "/-", "value": 2}]
            # While it follows, it holds no permit for requests in work.
            assert gateway.app._in_flight.working_count == 0


async def test_a_run_that_follows_ends_when_it_was_asked_to_and_with_the_gateway():
    async with twin() as gateway:
        async with Following(gateway, "seconds=0") as run:
            await run.next()
            (finished,) = await run.next()
            assert finished["result"] == {"version": 0, "sequence": 0, "why": "seconds"}
            assert await run.next() == []
        async with Following(gateway, "") as run:
            await run.next()
            gateway.context.live.shut_down()
            (finished,) = await run.next()
            assert (finished["type"], finished["result"]["why"]) == ("RUN_FINISHED", "shutdown")
            assert await run.next() == []
        response = await post(gateway, {}, query="?follow=true")
        assert (response.status_code, response.json()["code"]) == (503, "live_full")


async def test_a_run_whose_stream_ends_before_its_event_is_taken_still_ends_with_an_event():
    async with twin() as gateway, Following(gateway, "interval=0") as run:
        await run.next()
        publish(gateway, {"op": "add", "path": "", "value": {"a": 1}})
        # After the change is held, and before the run takes it.
        asyncio.get_running_loop().call_soon(gateway.context.live.shut_down)
        assert await run.next() == [snapshot({"a": 1}, 1, 1)]
        (finished,) = await run.next()
        assert finished["type"] == "RUN_FINISHED"
        assert finished["result"] == {"version": 1, "sequence": 1, "why": "ended"}
        assert await run.next() == []


async def test_a_run_fails_where_the_document_gets_a_member_of_the_name_of_the_stamp():
    async with twin() as gateway:
        publish(gateway, {"op": "add", "path": "", "value": {"a": 1}})
        async with Following(gateway, "stamp=_v") as run:
            await run.next()
            publish(gateway, {"op": "add", "path": "/_v", "value": 1})
            (failed,) = await run.next()
            assert (failed["type"], failed["code"]) == ("RUN_ERROR", "stamp_taken")
            assert await run.next() == []
