"""Live subscriptions over the services' HTTP server and raw sockets; the changes come from a feed in memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import orjson
import pytest

from refold.gateway.access import Access
from refold.gateway.guard import Principal
from refold.gateway.live import LiveLimits
from refold.gateway.responses import Problem
from refold.wiring import http_server
from refold.wiring.http_server import serve
from refold.wiring.service import Listener
from support.contracts import contract, validator
from support.gateway import Twin, twin
from support.http import problem
from support.sse import events
from support.system import free_port

SECONDS = 20
IS_MESSAGE = validator(contract("live.schema.json"))
PATH = "/v1/acme/order-1/live"
JSON = {"Accept": "application/json"}
APP = "https://app.example.org"


class Site:
    """A gateway on a port."""

    def __init__(
        self,
        gateway: Twin,
        url: str,
        client: httpx.AsyncClient,
        stop: asyncio.Event,
        server: asyncio.Task[None],
    ) -> None:
        self.gateway = gateway
        self.url = url
        self.client = client
        self.stop = stop
        self.server = server

    @property
    def open_count(self) -> int:
        """Return how many live connections are counted."""
        return self.gateway.context.live_connections._count

    def put(self, value: Any, document: str = "order-1") -> None:
        """Publish a version of a document that replaces its member `a`."""
        key = "acme", document
        is_first = not self.gateway.feed.changes.get(key)
        operation = {"op": "add", "path": "", "value": {"a": value}}
        if not is_first:
            operation = {"op": "replace", "path": "/a", "value": value}
        self.gateway.feed.publish([operation], key)

    def events(self, path: str = PATH, query: Any = None, **headers: str) -> Any:
        """Open a stream."""
        return events(self.url, path, query, **headers)

    async def poll(self, query: Any = None, path: str = PATH, **headers: str) -> Any:
        """Return what a long poll is answered."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.get(path, params=query, headers=JSON | given)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        for message in answer.json()["messages"]:
            IS_MESSAGE.validate(message)
        return answer.json()


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Site]:
    stop, port = asyncio.Event(), free_port()
    url = f"http://127.0.0.1:{port}"
    async with twin(is_projecting=False, **options) as gateway:
        listener = Listener("127.0.0.1", port)
        server = asyncio.create_task(serve(gateway.app, listener, stop=stop))
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as client:
                await begun(client)
                yield Site(gateway, url, client, stop, server)
        finally:
            stop.set()
            async with asyncio.timeout(SECONDS):
                await server


async def begun(client: httpx.AsyncClient) -> None:
    """Wait until the gateway listens."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(httpx.ConnectError):
                await client.get("/healthz")
                return
            await asyncio.sleep(0.005)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with served() as made:
        yield made


def sub(**fields: Any) -> tuple[str, str]:
    return "sub", orjson.dumps({"namespace": "acme", **fields}).decode()


def versions(found: list[Any]) -> list[int]:
    return [event.message["version"] for event in found]


# --- Streams ---------------------------------------------------------------------------------------------


async def test_a_stream_begins_with_the_state_and_goes_on_with_each_change(site: Site) -> None:
    async with site.events() as stream:
        assert stream.status == 200
        assert {
            name: stream.headers[name] for name in ("content-type", "cache-control", "x-accel-buffering")
        } == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
        }
        assert 1_000 <= stream.retry <= 5_000
        first = await stream.next()
        assert (first.kind, first.message["absent"], first.message["why"]) == ("snapshot", True, "first")
        for number in (1, 2):
            site.put(number)
            event = await stream.next()
            IS_MESSAGE.validate(event.message)
            assert (event.kind, event.message["version"]) == ("change", number)
            assert event.cursor == f"0123abcd-{number}"


async def test_a_stream_continues_after_its_last_event_whatever_its_address_says(site: Site) -> None:
    for number in range(3):
        site.put(number)
    async with site.events() as stream:
        cursor = (await stream.next()).cursor
    for number in range(3):
        site.put(number)
    async with site.events(query={"after": 1}, Last_Event_ID=str(cursor)) as stream:
        found = await stream.until(6)
        assert versions(found) == [4, 5, 6]
    async with site.events(query={"after": 1}) as stream:
        assert versions(await stream.until(6)) == [2, 3, 4, 5, 6]
    async with site.events(query={"cursor": cursor}) as stream:
        assert versions(await stream.until(6)) == [4, 5, 6]


async def test_a_browser_with_a_cursor_that_is_none_gets_a_snapshot(site: Site) -> None:
    async with site.events(Last_Event_ID="nonsense") as stream:
        assert (await stream.next()).message["why"] == "log"


async def test_several_subscriptions_share_a_connection(site: Site) -> None:
    query = [
        sub(document="order-1"),
        sub(document="order-2", path="/a"),
        sub(document="order-2", path="/*", mode="values"),
    ]
    async with site.events("/live/v1", query) as stream:
        first = [await stream.next() for _ in query]
        assert [event.message["document"] for event in first] == ["order-1", "order-2", "order-2"]
        site.put(1, "order-2")
        found = {event.kind: event.message for event in [await stream.next(), await stream.next()]}
        assert found["change"]["patch"] == [{"op": "add", "path": "", "value": 1}]
        assert found["values"]["values"] == {"/a": 1}
        site.put(2, "order-1")
        last = await stream.next()
        assert (last.message["document"], last.cursor) == ("order-1", "0123abcd@2")
    async with site.events("/live/v1", query, Last_Event_ID="0123abcd@1") as stream:
        assert (await stream.next()).message["document"] == "order-1"


async def test_curl_and_head_are_answered_without_an_accept_header(site: Site) -> None:
    async with site.events(Accept="*/*") as stream:
        assert (await stream.next()).kind == "snapshot"
    head = await site.client.head(PATH)
    assert head.status_code == 200
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_reader_that_stops_holds_one_message_and_gets_a_snapshot_for_what_it_missed(
    site: Site,
) -> None:
    # Each change is of 64 KiB: the kernels of both ends keep some.
    count = 100
    async with site.events() as slow, site.events() as quick:
        await slow.next()
        slow.writer.transport.pause_reading()
        for number in range(1, count + 1):
            site.put(f"{number:065536}")
            await quick.until(number)
        slow.writer.transport.resume_reading()
        found = await slow.until(count)
        assert len(found) < count / 2
        last = found[-1].message
        assert (last["kind"], last["why"], last["state"]) == ("snapshot", "slow", {"a": f"{count:065536}"})


async def test_a_stream_holds_no_permit_and_is_counted_until_it_ends(site: Site) -> None:
    async with site.events() as stream:
        await stream.next()
        assert site.gateway.app._in_flight.working_count == 0
        metrics = (await site.client.get("/metrics")).text
        assert 'refold_live_connections{endpoint="sse"} 1.0' in metrics
    await until(lambda: not site.open_count)
    assert not site.gateway.feed.documents


# --- Ends ------------------------------------------------------------------------------------------------


async def test_a_stopping_gateway_says_bye_and_when_to_return(site: Site) -> None:
    async with site.events() as stream, site.events() as paused:
        await stream.next()
        polled = asyncio.create_task(site.client.get(PATH, params={"after": 0}, headers=JSON))
        await until(lambda: site.open_count == 3)
        site.gateway.context.live.shut_down()
        site.stop.set()
        bye = await stream.next()
        IS_MESSAGE.validate(bye.message)
        assert (bye.kind, bye.message["reason"]) == ("bye", "shutdown")
        assert bye.retry == round(bye.message["retry_seconds"] * 1_000)
        assert await stream.ended()
        problem(await polled, 503, "live_full")
        await paused.next("bye")
        async with asyncio.timeout(http_server.STOP_SECONDS / 4):
            await site.server


async def test_connections_are_bounded_and_what_may_pass_is_no_error_of_a_stream() -> None:
    async with served(live_limits=LiveLimits(connections_max=3, per_client_max=2)) as site:
        async with AsyncExitStack() as opened:
            for _ in range(2):
                await opened.enter_async_context(site.events())
            await assert_sent_away(site)
            answer = await site.client.get(PATH, headers=JSON)
            assert int(answer.headers["retry-after"]) > 0
            assert "REFOLD_LIVE_PER_CLIENT_MAX" in problem(answer, 503, "live_full")["detail"]
        await until(lambda: not site.open_count)
        async with site.events() as stream:
            assert (await stream.next()).kind == "snapshot"


async def assert_sent_away(site: Site) -> None:
    async with site.events() as stream:
        assert (stream.status, stream.headers["cache-control"]) == (200, "no-store")
        bye = await stream.next()
        assert (bye.message["kind"], bye.message["reason"]) == ("bye", "full")
        assert bye.retry
        assert await stream.ended()


async def test_a_gateway_that_has_not_caught_up_sends_browsers_away_for_some_seconds(site: Site) -> None:
    site.gateway.context.readiness.is_caught_up = False
    await assert_sent_away(site)
    problem(await site.client.get(PATH, headers=JSON), 503, "projection_behind")


# --- Long poll -------------------------------------------------------------------------------------------


async def test_a_long_poll_is_answered_at_once_or_when_there_is_something(site: Site) -> None:
    first = await site.poll()
    assert [message["kind"] for message in first["messages"]] == ["snapshot"]
    polled = asyncio.create_task(site.poll({"cursor": first["cursor"], "wait": 20}))
    await until(lambda: site.gateway.feed.documents)
    site.put(1)
    second = await polled
    assert [message["version"] for message in second["messages"]] == [1]
    site.put(2)
    site.put(3)
    third = await site.poll({"cursor": second["cursor"]})
    assert [message["version"] for message in third["messages"]] == [2, 3]
    fourth = await site.poll({"wait": 0}, Last_Event_ID=third["cursor"])
    assert fourth == {"messages": [], "cursor": third["cursor"]}
    assert site.gateway.app._in_flight.waiting_count == 0
    assert not site.gateway.feed.documents


async def test_a_long_poll_whose_client_has_left_ends(site: Site) -> None:
    polled = asyncio.create_task(site.poll({"after": 0}))
    await until(lambda: site.gateway.feed.documents)
    polled.cancel()
    await until(lambda: not (site.gateway.feed.documents or site.open_count))


async def test_what_has_ended_is_freed_without_the_garbage_collector(site: Site) -> None:
    """It would come to a stream of an hour only after millions of objects; a document's state may have 16 MiB."""
    documents = site.gateway.feed.documents
    gc.disable()
    try:
        async with site.events() as stream:
            await stream.next()
            watched = [weakref.ref(documents["acme", "order-1"])]
        await until(lambda: not documents)
        polled = asyncio.create_task(site.poll({"after": 0}))
        await until(lambda: documents)
        watched.append(weakref.ref(documents["acme", "order-1"]))
        polled.cancel()
        await until(lambda: not any(each() for each in watched))
    finally:
        gc.enable()


# --- Who may, and what is refused ------------------------------------------------------------------------


async def test_pages_of_allowed_origins_may_watch() -> None:
    async with served(access=Access(cors_origins=(APP,))) as site:
        asked = {"Origin": APP, "Access-Control-Request-Method": "GET"}
        preflight = await site.client.options(
            PATH, headers=asked | {"Access-Control-Request-Headers": "last-event-id"}
        )
        assert preflight.headers["access-control-allow-origin"] == APP
        assert preflight.headers["access-control-allow-headers"] == "last-event-id"
        async with site.events(Origin=APP) as stream:
            assert stream.headers["access-control-allow-origin"] == APP
            assert (await stream.next()).kind == "snapshot"
        async with site.events(Origin="https://attacker.example") as stream:
            assert (stream.status, "access-control-allow-origin" in stream.headers) == (403, False)
        async with site.events(Host="attacker.example") as stream:
            assert stream.status == 421


class OneNamespace:
    """A guard that knows one client, and lets it watch one namespace."""

    def admit(self, request: Any) -> Principal:
        if request.headers.get("cookie") != "session=1":
            raise Problem(401, "unauthorized", "log in")
        return Principal(name="ada")

    def may(self, principal: Principal, action: str, namespace: str, *_: Any) -> bool:
        return (principal.name, action, namespace) == ("ada", "watch", "acme")


async def test_the_guard_is_asked_about_the_client_and_each_subscription() -> None:
    async with served(guard=OneNamespace()) as site:
        problem(await site.client.get(PATH), 401, "unauthorized")
        cookie = {"Cookie": "session=1"}
        assert (await site.client.get(PATH, headers=JSON | cookie)).status_code == 200
        query = [sub(document="a"), sub(document="b", namespace="other")]
        for accepted in (JSON, {}):
            answer = await site.client.get("/live/v1", params=query, headers=accepted | cookie)
            problem(answer, 403, "forbidden")


BAD: list[tuple[str, Any, int, str, str]] = [
    (PATH, {"path": "a"}, 400, "bad_pattern", "path"),
    (PATH, {"path": "/~3"}, 400, "bad_pattern", "path"),
    (PATH, {"path": "/a" * 33}, 400, "bad_pattern", "path"),
    (PATH, {"path": "/*", "mode": "patch"}, 400, "bad_pattern", "path"),
    (PATH, {"cursor": "nonsense"}, 400, "bad_cursor", "cursor"),
    (PATH, {"mode": "all"}, 422, "bad_mode", "mode"),
    (PATH, {"mode": "heads"}, 422, "bad_mode", "mode"),
    (PATH, {"mode": "changes", "ops": "native"}, 422, "contradictory", "ops"),
    (PATH, {"depth": "-1"}, 422, "bad_parameter", "depth"),
    (PATH, {"interval": "60001"}, 422, "bad_parameter", "interval"),
    (PATH, {"merge": "yes"}, 422, "bad_parameter", "merge"),
    (PATH, {"merge": "false", "mode": "values"}, 422, "contradictory", "merge"),
    (PATH, {"after": "1.0"}, 422, "bad_parameter", "after"),
    (PATH, {"after": "1", "cursor": "0123abcd-1"}, 422, "contradictory", "after"),
    (PATH, {"type": "order.*"}, 422, "contradictory", "type"),
    (PATH, {"sub": "{}"}, 422, "unknown_parameter", "sub"),
    (PATH, [("path", "/a"), ("path", "/b")], 422, "repeated_parameter", "path"),
    ("/v1/a.b/c/live", None, 422, "bad_name", "namespace"),
    ("/live/v1", None, 422, "bad_parameter", "sub"),
    ("/live/v1", [sub(document=f"d{n}") for n in range(65)], 422, "too_many_subscriptions", "sub"),
    ("/live/v1", {"sub": "{"}, 400, "bad_json", "sub[0]"),
    ("/live/v1", {"sub": '{"namespace":"a","namespace":"a"}'}, 400, "duplicate_key", "sub[0]"),
    ("/live/v1", {"sub": "[]"}, 422, "bad_parameter", "sub[0]"),
    ("/live/v1", {"sub": '{"document":"a"}'}, 422, "bad_parameter", "sub[0].namespace"),
    ("/live/v1", [sub(document="a"), sub(document="a", wait=1)], 422, "unknown_parameter", "sub[1].wait"),
    ("/live/v1", [sub(document="a"), sub(document="..")], 422, "bad_name", "sub[1].document"),
    ("/live/v1", [sub(document="a", after="1")], 422, "bad_parameter", "sub[0].after"),
    ("/live/v1", [sub(document="a", depth=True)], 422, "bad_parameter", "sub[0].depth"),
    ("/live/v1", [sub(document="a", prefix="b")], 422, "contradictory", "sub[0].prefix"),
    ("/live/v1", [sub(mode="patch")], 422, "bad_mode", "sub[0].mode"),
    ("/live/v1", [sub(prefix="\n")], 422, "bad_name", "prefix"),
    ("/live/v1", [sub(path="/a")], 422, "contradictory", "sub[0].path"),
]


async def test_a_bad_request_is_refused_with_its_field_by_a_status_that_ends_event_source(site: Site) -> None:
    for path, query, status, code, field in BAD:
        for accepted in (JSON, {"Accept": "text/event-stream"}):
            answer = await site.client.get(path, params=query, headers=accepted)
            assert problem(answer, status, code).get("field") == field, (path, query, answer.text)
    answer = await site.client.get(PATH, params={"wait": "1"})
    assert problem(answer, 422, "contradictory")["field"] == "wait"
    answer = await site.client.get(PATH, params={"wait": "61"}, headers=JSON)
    assert problem(answer, 422, "bad_parameter")["field"] == "wait"
    problem(await site.client.post(PATH), 405, "method_not_allowed")
    assert not site.open_count
    assert not site.gateway.feed.documents


async def test_a_pattern_that_is_too_wide_is_refused_at_once_and_ends_a_stream_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.live.values.MATCHES_MAX", 2)
    site.put({"x": 1, "y": 2})
    async with site.events(query={"path": "/a/*"}) as stream:
        await stream.next()
        site.put({"x": 1, "y": 2, "z": 3})
        error = await stream.next()
        IS_MESSAGE.validate(error.message)
        assert (error.kind, error.message["code"]) == ("error", "pattern_too_wide")
        assert (await stream.next()).message["reason"] == "protocol"
        assert await stream.ended()
    problem(await site.client.get(PATH, params={"path": "/a/*"}), 422, "pattern_too_wide")
