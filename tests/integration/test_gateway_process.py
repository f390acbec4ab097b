"""The gateway as a process: its port, its shutdown, and a second gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import orjson
import pytest

from support.servers import complete
from support.system import READY_SECONDS, Service, System, free_port, start_service, wait_ready


class Second:
    """A second gateway on the session's system."""

    def __init__(self, service: Service, url: str) -> None:
        self.service = service
        self.url = url


@pytest.fixture
def second(system: System, tmp_path: Path) -> Iterator[Second]:
    port = free_port()
    service = start_service("gateway", changed(system, http=f"127.0.0.1:{port}"), tmp_path / "gateway.log")
    url = f"http://127.0.0.1:{port}"
    wait_ready(url, {"gateway": service})
    yield Second(service, url)
    service.process.kill()
    service.process.wait()


def changed(system: System, **settings: str) -> Mapping[str, str]:
    named = {f"REFOLD_{name.upper()}": value for name, value in settings.items()}
    return {**system.gateway_environment, **named}


def events(service: Service) -> dict[str, dict[str, object]]:
    lines = [orjson.loads(line) for line in service.log.read_bytes().splitlines()]
    return {line["event"]: line for line in lines}


def ended(system: System, path: Path, **settings: str) -> tuple[int, dict[str, object]]:
    """Start a gateway that must fail; return its exit code and its last log line."""
    service = start_service("gateway", changed(system, **settings), path / "gateway.log")
    code = service.process.wait(READY_SECONDS)
    return code, events(service)["service_ended"]


async def test_after_sigterm_waiting_requests_are_answered_and_the_exit_is_clean(second: Second) -> None:
    async with httpx.AsyncClient(base_url=second.url, trust_env=False, timeout=60) as client:
        waiting = asyncio.create_task(client.get("/v1/n/never?min_version=1&timeout=60"))
        metrics = await client.get("/metrics")
        assert metrics.status_code == 200
        second.service.process.terminate()
        answer = await waiting
        assert (answer.status_code, answer.json()["code"]) == (504, "timed_out")
    assert await asyncio.to_thread(second.service.process.wait, READY_SECONDS) == 0
    assert "gateway_stopped" in events(second.service)


async def test_each_gateway_receives_its_own_outcomes(system: System, second: Second) -> None:
    namespace = system.namespace()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        for number in range(20):
            url = (system.url, second.url)[number % 2]
            answer = await client.put(f"{url}/v1/{namespace}/d", json=number)
            assert answer.json()["version"] == number + 1


def test_a_port_in_use_is_reported(system: System, tmp_path: Path) -> None:
    code, last = ended(system, tmp_path, http=system.url.removeprefix("http://"))
    assert (code, last["code"]) == (1, "port_taken")


def test_a_failed_login_is_reported_without_the_password(system: System, tmp_path: Path) -> None:
    url = f"nats://gateway:wrong-password@127.0.0.1:{system.nats.port}"
    code, last = ended(system, tmp_path, nats_url=url, http="127.0.0.1:0")
    assert (code, last["code"]) == (1, "log_unavailable")
    assert "wrong-password" not in (tmp_path / "gateway.log").read_text()


def test_port_0_selects_a_free_port_and_logs_it(system: System, tmp_path: Path) -> None:
    service = start_service("gateway", changed(system, http="127.0.0.1:0"), tmp_path / "gateway.log")
    try:
        port = complete(_listening(service))
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
    finally:
        assert service.stop() == 0


async def _listening(service: Service) -> int:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            event = events(service).get("listening")
            if event is not None:
                return int(str(event["port"]))
            await asyncio.sleep(0.05)
