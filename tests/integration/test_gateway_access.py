"""Access to the gateway from a browser, over a socket on the real system: hosts, origins, CORS, media types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from support.http import Api, problem
from support.system import System, free_port, start_service, wait_ready

APP = "https://app.example.org"
LINE = b'{"doc":"d","put":1}\n'


@pytest.fixture(scope="module")
def url(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that serves a name of its own and the web pages of another origin."""
    port = free_port()
    given = {
        "REFOLD_HTTP": f"127.0.0.1:{port}",
        "REFOLD_HTTP_HOSTS": "state.example.org, *.example.net",
        "REFOLD_CORS_ORIGINS": APP,
    }
    log = tmp_path_factory.mktemp("access") / "gateway.log"
    service = start_service("gateway", {**system.gateway_environment, **given}, log)
    wait_ready(f"http://127.0.0.1:{port}", {"gateway": service})
    yield f"http://127.0.0.1:{port}"
    service.process.kill()
    service.process.wait()


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as made:
        yield made


async def test_a_name_that_resolves_to_loopback_cannot_read_the_gateway(api: Api) -> None:
    await api.put("d", {"secret": 1})
    for host in (
        "attacker.example",
        "attacker.example:8080",
        "localhost.attacker.example",
        "a b",
        "[::1",
        "::1",
    ):
        for path in ("/", "/v1", f"/v1/{api.namespace}/d", "/healthz"):
            answer = await api.client.get(path, headers={"Host": host})
            problem(answer, 421, "host_not_allowed")
    for host in (
        "localhost",
        "LocalHost:80",
        "refold.localhost",
        "127.0.0.1:1",
        "[::1]:8080",
        "10.1.2.3",
        "localhost.",
    ):
        answer = await api.client.get(f"/v1/{api.namespace}/d", headers={"Host": host})
        assert answer.status_code == 200, host


async def test_named_hosts_are_served(client: httpx.AsyncClient) -> None:
    for host in ("state.example.org", "STATE.example.org:443", "a.example.net", "a.b.example.net"):
        assert (await client.get("/v1", headers={"Host": host})).status_code == 200, host
    for host in ("example.org", "x.state.example.org", "example.net", "badexample.net"):
        problem(await client.get("/v1", headers={"Host": host}), 421, "host_not_allowed")


async def test_a_page_of_another_origin_cannot_append(api: Api) -> None:
    for origin in ("https://attacker.example", "null", "http://127.0.0.1:1", "http://localhost"):
        for content_type in ("", "text/plain", "application/x-ndjson"):
            refused = await api.ask("POST", "events", content=LINE, Origin=origin, Content_Type=content_type)
            problem(refused, 403, "origin_not_allowed")
        problem(await api.ask("GET", "d", Origin=origin), 403, "origin_not_allowed")
    assert await api.events() == 0


async def test_a_page_of_the_gateways_own_origin_may_write(api: Api) -> None:
    origin = f"http://{api.client.base_url.netloc.decode()}"
    assert (await api.put("d", 1, Origin=origin)).status_code == 201


async def test_a_body_without_a_media_type_is_refused(api: Api) -> None:
    for method, document, body in (("POST", "events", LINE), ("PUT", "d", b"1"), ("PATCH", "d", b"[]")):
        refused = await api.ask(method, document, content=body, Content_Type="")
        view = problem(refused, 415, "unsupported_media_type")
        assert "got none" in view["detail"]
    assert await api.events() == 0


async def test_a_configured_origin_is_answered_with_cors_headers(
    client: httpx.AsyncClient, system: System
) -> None:
    path = f"/v1/{system.namespace()}/d"
    asked = {
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type,if-match",
    }
    preflight = await client.options(path, headers={"Origin": APP, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "content-type,if-match"
    written = await client.put(path, json=1, headers={"Origin": APP})
    assert (written.status_code, written.headers["access-control-allow-origin"]) == (201, APP)
    assert "ETag" in written.headers["access-control-expose-headers"]
    refused = await client.options(path, headers={"Origin": "https://other.example", **asked})
    problem(refused, 403, "origin_not_allowed")
    absent = await client.get(f"{path}-absent", headers={"Origin": APP})
    assert (absent.status_code, absent.headers["access-control-allow-origin"]) == (404, APP)


async def test_idle_bulk_uploads_do_not_block_others(api: Api) -> None:
    """More than are served at a time; each sends a line, part of one or nothing, and then stops."""
    base = api.client.base_url
    head = f"POST /v1/{api.namespace}/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
    typed = f"{head}Content-Type: application/x-ndjson\r\n\r\n".encode()
    async with AsyncExitStack() as stack:
        for number in range(48):
            reader, writer = await asyncio.open_connection(base.host, base.port)
            stack.callback(writer.close)
            writer.write(typed + (b"", LINE[:9], LINE)[number % 3])
            if number % 3 == 2:
                await reader.readuntil(b'"status":"applied"')
        async with asyncio.timeout(60):
            [answer] = await api.append([{"doc": "mine", "put": 1}])
        assert answer["status"] == "applied"
