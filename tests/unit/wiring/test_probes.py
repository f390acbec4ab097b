"""Probes and metrics are answered alike by every service but the gateway."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from refold.core import json_text
from refold.core.errors import LogUnavailable
from refold.gateway.access import Access
from refold.gateway.responses import json_response
from refold.log.memory import MemoryLog
from refold.usage.reader import UsageReader
from refold.usage.storage import Storage
from refold.wiring import alerts, usage
from refold.wiring.probes import application, not_found, not_ready
from support.projection import append, project


def client(
    *, is_ready: bool = True, access: Access | None = None, host: str = "127.0.0.1"
) -> httpx.AsyncClient:
    registry = CollectorRegistry()
    Counter("refold_told_total", "Told.", registry=registry).inc()
    readiness = json_response({"status": "ready"}) if is_ready else not_ready("it waits")
    app = application(registry, lambda: readiness, not_found, access)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


async def test_probes_and_metrics_are_answered():
    async with client() as http:
        assert (await http.get("/healthz")).json() == {"status": "alive"}
        assert (await http.get("/readyz")).status_code == 200
        answer = await http.get("/metrics")
        assert ("refold_told_total 1.0" in answer.text, answer.headers["content-type"][:10]) == (
            True,
            "text/plain",
        )
        head = await http.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == answer.headers["content-length"]
    async with client(is_ready=False) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/none", 404, "not_found"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem(method, path, status, code):
    async with client() as http:
        answer = await http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/none"])
async def test_a_foreign_host_is_refused_where_hosts_are_checked(path):
    async with client(access=Access(), host="elsewhere.example") as http:
        assert (await http.get(path)).status_code == 421
    async with client(host="elsewhere.example") as http:
        assert (await http.get(path)).status_code == (404 if path == "/none" else 200)


class Cut:
    """A reader that cannot reach its log, or can."""

    is_cut = True

    async def catch_up(self, _):
        if self.is_cut:
            raise LogUnavailable("no answer")


@pytest.mark.parametrize(("silent_seconds", "status"), [(24, 200), (26, 503)])
def test_the_alert_engine_is_not_ready_when_no_round_ends(silent_seconds, status):
    engine = SimpleNamespace(interval_seconds=5, silent_seconds=silent_seconds)
    assert alerts.readiness(engine).status == status


async def test_the_usage_service_is_not_ready_when_it_cannot_count(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "LOOK_SECONDS", 0)
    storage, reader, now = Storage(tmp_path / "usage.sqlite", "log-1"), Cut(), 0.0
    service = usage.Service(reader, storage, timer=lambda: now)
    counting = asyncio.create_task(service.count())
    for reader.is_cut, now, status in ((True, 4, 200), (True, 6, 503), (False, 8, 200), (True, 14, 503)):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert service.readiness().status == status, now
    assert b"log_unavailable: no answer" in service.readiness().body
    counting.cancel()
    with suppress(asyncio.CancelledError):
        await counting
    storage.close()


async def test_questions_and_counts_wait_for_the_file_off_the_event_loop(tmp_path):
    log = MemoryLog("log-1")
    await append(log, "d", {"put": 1, "actor": "ada"})
    storage = Storage(tmp_path / "usage.sqlite", "log-1")
    reader = UsageReader(log, await project(log), storage)
    service = usage.Service(reader, storage)
    scope = {"path": "/usage", "query_string": b"by=actor"}
    with storage.using():
        waiting = [asyncio.create_task(reader.catch_up()), asyncio.create_task(service.answer(scope))]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
    await asyncio.gather(*waiting)
    assert json_text.loads((await service.answer(scope)).body)["total"]["events"] == 2
    storage.close()
