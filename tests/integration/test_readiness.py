"""Readiness: the gateway's responses and its probe while the projection is behind the log."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import httpx
import orjson
import pytest

from refold.embedded.nats import NatsServer
from support.services import Gateway, Site, append_all, gateway, kill, log_of, make_site, projector, until

DOCUMENTS = 100
EVENTS = 3_000
END = EVENTS + 1
"""The genesis is the first event."""
LAG_HEADER = "refold-lag-events"

READS = [
    "/v1",
    "/v1/n",
    "/v1/n?fields=id&limit=10",
    "/v1/n/d1",
    "/v1/n/d1?version=1",
    "/v1/n/d1?min_sequence=1",
    "/v1/n/d1/history",
    "/v1/n/d1/diff?from=0&to=1",
    "/v1/n/d1/rejections",
    "/v1/n/d1/outcomes?id=1",
    "/v1/n/d1/outcomes/2",
]


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    """A log with events, and an empty database, as after its loss."""
    made = await make_site(fresh_nats, postgres_dsn)
    async with log_of(made) as log:
        events = [(f"d{number % DOCUMENTS}", b'{"put":%d}' % number) for number in range(EVENTS)]
        assert await append_all(log, events) == END
    return made


async def readiness(of: Gateway) -> dict[str, Any]:
    response = await of.client.get("/readyz")
    view: dict[str, Any] = response.json()
    assert response.status_code == (200 if view == {"status": "ready"} else 503)
    return view


async def named(of: Gateway, *names: str) -> dict[str, Any]:
    """Wait until the probe names these, and only these."""

    async def look() -> dict[str, Any]:
        view = await readiness(of)
        return view if view.get("unreachable", []) == sorted(names) else {}

    return await until(look)


async def test_reads_wait_until_the_projection_reaches_the_end_of_the_log_at_start(
    site: Site,
) -> None:
    async with gateway(site, is_ready_awaited=False) as started:
        for path in READS:
            answer = await started.client.get(path)
            assert answer.status_code == 503, path
            view = answer.json()
            assert view["code"] == "projection_behind"
            assert (view["folded_sequence"], view["required_sequence"]) == (0, END)
            assert "0 of 3,001 events" in view["detail"]
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await started.client.head("/v1/n/d1")).status_code == 503
        for path in ("/healthz", "/metrics", "/status", "/openapi.json"):
            assert (await started.client.get(path)).status_code == 200, path
        view = await readiness(started)
        assert view["unreachable"] == ["projection", "projector"]
        assert "no projector is running" in view["detail"]
        assert (view["folded_sequence"], view["required_sequence"]) == (0, END)
        async with projector(site):
            await until(started.is_ready)
            listed = (await started.client.get("/v1/n?limit=1000")).json()
            assert {item["state"] for item in listed["items"]} == set(range(EVENTS - DOCUMENTS, EVENTS))
            head = await started.client.get("/v1/n/d1")
            assert (head.status_code, head.headers["etag"]) == (200, f'"{EVENTS // DOCUMENTS}"')
            assert LAG_HEADER not in head.headers


@pytest.mark.slow
async def test_a_gateway_is_not_ready_while_half_of_the_partitions_have_no_projector(site: Site) -> None:
    async with (
        projector(site, shard="0-31"),
        projector(site, shard="32-63") as second,
        gateway(site) as started,
    ):
        second.send_signal(signal.SIGSTOP)
        view = await named(started, "projector")
        assert "32 of 64 partitions have no projector" in view["detail"]
        second.send_signal(signal.SIGCONT)
        await until(started.is_ready)


@pytest.mark.slow
async def test_a_write_needs_only_the_log_and_a_conditional_one_waits_for_the_projection(site: Site) -> None:
    async with gateway(site, is_ready_awaited=False) as started:
        client, version = started.client, EVENTS // DOCUMENTS
        written = await client.put("/v1/n/new", json=1, headers={"Refold-Wait": "0"})
        assert (written.status_code, written.json()["sequence"]) == (202, END + 1)
        line = orjson.dumps({"doc": "d2", "put": 2})
        about = {"Content-Type": "application/x-ndjson", "Refold-Wait": "0"}
        bulk = await client.post("/v1/n/events", content=line, headers=about)
        assert bulk.json() == {"sequence": END + 2, "status": "pending"}
        stale = client.put("/v1/n/d1", json=0, headers={"If-Match": '"1"'})
        right = client.put("/v1/n/d3", json=0, headers={"If-Match": f'"{version}"'})
        asked = [
            asyncio.create_task(call)
            for call in (stale, right, client.delete("/v1/n/d4"), client.delete("/v1/n/none"))
        ]
        async with projector(site):
            refused, strict, deleted, absent = await asyncio.gather(*asked)
        assert (refused.status_code, refused.json()["version"]) == (412, version)
        assert (strict.status_code, strict.json()["version"]) == (200, version + 1)
        assert (deleted.status_code, deleted.json()["version"]) == (200, version + 1)
        assert (absent.status_code, absent.json()["code"]) == (404, "document_absent")


@pytest.mark.slow
async def test_stale_reads_are_answered_only_if_configured_and_marked(site: Site) -> None:
    async with gateway(site, is_ready_awaited=False, stale_reads=True) as started:
        listed = await started.client.get("/v1/n")
        assert (listed.status_code, listed.json()["items"]) == (200, [])
        assert listed.headers[LAG_HEADER] == str(END)
        absent = await started.client.get("/v1/n/d1")
        assert (absent.status_code, absent.headers[LAG_HEADER]) == (404, str(END))
        assert "projection" in (await readiness(started))["unreachable"]
        async with projector(site):
            await until(started.is_ready)
            head = await started.client.get("/v1/n/d1")
            assert (head.status_code, LAG_HEADER in head.headers) == (200, False)


@pytest.mark.slow
async def test_a_projector_that_is_not_running_is_reported(site: Site) -> None:
    async with gateway(site, is_ready_awaited=False) as started:
        async with projector(site) as folding:
            await until(started.is_ready)
            await kill(folding)
        view = await named(started, "projector")
        assert "no projector is running" in view["detail"]
        assert "refold projector" in view["detail"]
        assert (await started.client.get("/v1/n/d1")).status_code == 200


@pytest.mark.slow
async def test_a_lag_over_the_bound_only_ends_readiness(site: Site) -> None:
    async with projector(site) as folding, gateway(site, ready_lag_seconds=0.5) as running:
        folding.send_signal(signal.SIGSTOP)
        # It does not answer, but an idle log has no lag.
        quiet = await named(running, "projector")
        assert "lag_events" not in quiet
        await running.client.put("/v1/n/d1", json=0, headers={"Refold-Wait": "0"})
        view = await named(running, "projection", "projector")
        assert view["lag_events"] == 1
        assert view["lag_seconds"] > 0.5
        assert view["folded_sequence"] == END
        assert "behind the log by 1 events" in view["detail"]
        assert "more than 0.5 s" in view["detail"]
        head: httpx.Response = await running.client.get("/v1/n/d1")
        assert (head.status_code, head.headers["etag"]) == (200, f'"{EVENTS // DOCUMENTS}"')
        folding.send_signal(signal.SIGCONT)
        await until(running.is_ready)
