"""Live subscriptions to the real system: what is written is sent, once each, also to a client that returns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson

from refold.wiring import http_server
from support.contracts import contract, validator
from support.http import Api
from support.sse import Event, events
from support.system import System, free_port, start_service, wait_ready

IS_MESSAGE = validator(contract("live.schema.json"))
WRITES = 20


def json(value: Any) -> str:
    return orjson.dumps(value).decode()


def sent(found: list[Event]) -> list[tuple[str, int]]:
    for event in found:
        IS_MESSAGE.validate(event.message)
    return [(event.kind, event.message["version"]) for event in found]


async def test_a_subscriber_is_sent_what_is_written_once_each_over_reconnects(
    system: System, api: Api
) -> None:
    path = f"/v1/{api.namespace}/d/live"
    await api.put("d", {"n": 0})
    cursor, versions = None, []
    for _ in range(3):
        headers = {} if cursor is None else {"Last_Event_ID": cursor}
        async with events(system.url, path, {"merge": "false"}, **headers) as stream:
            first = [] if cursor else [await stream.next()]
            last = (first[0].message["version"] if first else versions[-1]) + WRITES
            writing = asyncio.create_task(write(api, WRITES))
            found = first + await stream.until(last)
            await writing
        # These are written while no client is connected.
        await write(api, 3)
        versions += [version for _, version in sent(found)]
        cursor = found[-1].cursor
    assert versions == list(range(1, versions[-1] + 1))


async def write(api: Api, count: int) -> None:
    for number in range(count):
        await api.patch("d", {"op": "replace", "path": "/n", "value": number})


async def test_one_connection_follows_parts_of_several_documents(system: System, api: Api) -> None:
    await api.put("a", {"users": {"1": {"at": 1}, "2": {"at": 2}}, "text": "x"})
    subscriptions: list[Any] = [
        {"namespace": api.namespace, "document": "a", "path": "/users/*/at"},
        {"namespace": api.namespace, "document": "b", "path": "/lines"},
    ]
    query = [("sub", json(each)) for each in subscriptions]
    async with events(system.url, "/live/v1", query) as stream:
        first = [(await stream.next()).message for _ in query]
        assert first[0]["values"] == {"/users/1/at": 1, "/users/2/at": 2}
        assert first[1]["absent"] is True
        await api.patch("a", {"op": "replace", "path": "/text", "value": "y"})
        await api.patch("a", {"op": "remove", "path": "/users/1"})
        await api.put("b", {"lines": [1]})
        gone, made = await stream.next(), await stream.next()
        assert gone.message["gone"] == ["/users/1/at"]
        assert made.message["patch"] == [{"op": "add", "path": "", "value": [1]}]
        last = (await api.put("b", {"lines": [1, 2]})).json()
        change = await stream.next()
        log, _, sequence = str(change.cursor).partition("@")
        # It may be behind what was sent: a client drops the versions that it has.
        assert len(log) == 8
        assert 0 < int(sequence) <= last["sequence"]
    async with events(system.url, "/live/v1", query, Last_Event_ID=str(change.cursor)) as stream:
        await api.put("b", {"lines": [1, 2, 3]})
        assert (await stream.until(3))[-1].message["version"] == 3


async def test_a_namespace_is_followed_from_any_sequence(system: System, api: Api) -> None:
    first = (await api.put("a", 1, Refold_Type="order.made")).json()["sequence"]
    await api.put("b", 1)
    query = {
        "sub": json({"namespace": api.namespace, "mode": "changes", "type": "order.*", "after": first - 1})
    }
    async with events(system.url, "/live/v1", query) as stream:
        made = await stream.next()
        await api.put("b", 2)
        await api.put("a", 2, Refold_Type="order.paid")
        paid = await stream.next()
        assert [(each.message["document"], each.message["type"]) for each in (made, paid)] == [
            ("a", "order.made"),
            ("a", "order.paid"),
        ]
    query = {"sub": json({"namespace": api.namespace})}
    async with events(system.url, "/live/v1", query) as stream:
        ready = await stream.next()
        await api.put("c", 1, Refold_Actor="ann")
        head = await stream.next()
        for event in (made, paid, ready, head):
            IS_MESSAGE.validate(event.message)
        assert (ready.kind, ready.message["namespace"]) == ("ready", api.namespace)
        assert (head.kind, head.message["document"], head.message["actor"]) == ("head", "c", "ann")


async def test_a_stopping_gateway_sends_its_subscribers_to_another_with_their_cursor(
    system: System, api: Api, tmp_path: Path
) -> None:
    path = f"/v1/{api.namespace}/d/live"
    await api.put("d", {"n": 0})
    url = f"http://127.0.0.1:{free_port()}"
    given = {"REFOLD_HTTP": url.removeprefix("http://"), "REFOLD_LIVE_PER_CLIENT_MAX": "1"}
    service = start_service("gateway", {**system.gateway_environment, **given}, tmp_path / "gateway.log")
    try:
        await asyncio.to_thread(wait_ready, url, {"gateway": service})
        async with events(url, path) as stream:
            first = await stream.next()
            async with events(url, path) as other:
                assert (await other.next()).message["reason"] == "full"
                assert await other.ended()
            service.process.terminate()
            bye = await stream.next()
            assert (bye.message["reason"], await stream.ended()) == ("shutdown", True)
        # It waits for no stream, else it would be killed (`STOP_SECONDS`).
        assert await asyncio.to_thread(service.process.wait, http_server.STOP_SECONDS / 2) == 0
    finally:
        service.process.kill()
        service.process.wait()
    await write(api, 2)
    async with events(system.url, path, Last_Event_ID=str(first.cursor)) as stream:
        assert [version for _, version in sent(await stream.until(3))] == [2, 3]


async def test_a_long_poll_returns_what_came_after_its_cursor(api: Api) -> None:
    await api.put("d", 1)
    accepted = {"Accept": "application/json"}
    first = (await api.ask("GET", "d/live", **accepted)).json()
    assert [message["kind"] for message in first["messages"]] == ["snapshot"]
    query = {"cursor": first["cursor"], "wait": 20}
    polled = asyncio.create_task(api.ask("GET", "d/live", query=query, **accepted))
    await api.put("d", 2)
    second = (await polled).json()
    assert [message["version"] for message in second["messages"]] == [2]
