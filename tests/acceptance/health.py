"""Break one part of a running system after the other: `/health` names it within 5 s, and passes again afterwards.

A command of its own: `PYTHONPATH=tests python tests/acceptance/health.py [--rounds N] [FAULT …]`. Holds for each fault:

- No answer of `/health` and `/readyz` takes longer than 2 s (and what a busy machine adds), also while a server hangs.
- Within 5 s an answer has the finding, with the status and a reason that names it.
- Once the fault is gone, an answer has the status `pass`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from refold.embedded import read_passwords
from refold.embedded.process import LOOPBACK, choose_port
from refold.log.jetstream.api import STREAM, request_api, stream_info
from refold.wiring.servers import administrator_url, connected
from support.up import Up, environment

NAMED_SECONDS = 5.0
PASSES_SECONDS = 30.0
ANSWER_SECONDS = 2.0
SLACK_SECONDS = 0.5
"""What the machine may add to an answer."""
GATEWAY_AHEAD = """
import time
now = time.time_ns
time.time_ns = lambda: now() + 10 * 10**9
from refold.wiring.service import main
main()
"""

Broken = Callable[[Up], AbstractAsyncContextManager[str]]
"""Breaks something within its block; yields the gateway to ask."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault, and the finding that names it."""

    broken: Broken
    name: str
    status: str
    output: str


def stopped(*programs: str) -> Broken:
    """Stop processes, which hang then."""

    @asynccontextmanager
    async def broken(up: Up) -> AsyncIterator[str]:
        found = [each for each in up.children() if any(part in " ".join(each.cmdline()) for part in programs)]
        assert found, programs
        for each in found:
            os.kill(each.pid, signal.SIGSTOP)
        try:
            yield up.url
        finally:
            for each in found:
                os.kill(each.pid, signal.SIGCONT)

    return broken


def configured(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Broken:
    """Change the stream's configuration as the administrator, from what the stream is."""

    @asynccontextmanager
    async def broken(up: Up) -> AsyncIterator[str]:
        async with connected(administrator_url(up.data), "acceptance") as client:
            info = await stream_info(client)
            await request_api(client, f"STREAM.UPDATE.{STREAM}", {**info["config"], **change(info)})
            try:
                yield up.url
            finally:
                await request_api(client, f"STREAM.UPDATE.{STREAM}", info["config"])

    return broken


@asynccontextmanager
async def clock_off(up: Up) -> AsyncIterator[str]:
    """Run a second gateway whose clock is ahead; afterwards the first one is asked."""
    passwords, port = read_passwords(up.data), choose_port(LOOPBACK)
    endpoints = up.endpoints()
    variables = {
        "REFOLD_NATS_URL": endpoints["nats"].replace("//", f"//gateway:{passwords['gateway']}@"),
        "REFOLD_POSTGRES_URL": endpoints["postgres"],
        "REFOLD_HTTP": f"{LOOPBACK}:{port}",
    }
    with (up.data / "ahead.log").open("wb") as log:
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", GATEWAY_AHEAD, "gateway"),
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        url = f"http://{LOOPBACK}:{port}"
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(PASSES_SECONDS):
            while not await _listens(client, url):  # noqa: ASYNC110 - there is no event for it.
                await asyncio.sleep(0.05)
        yield url
    finally:
        service.terminate()
        await service.wait()


async def _listens(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/healthz")).status_code == 200
    except httpx.TransportError:
        return False


CASES: dict[str, Case] = {
    "nats": Case(broken=stopped("nats-server"), name="nats:responseTime", status="fail", output="no answer"),
    "postgres": Case(
        broken=stopped("postgres"), name="store:responseTime", status="fail", output="no answer"
    ),
    "both": Case(
        broken=stopped("nats-server", "postgres"),
        name="store:responseTime",
        status="fail",
        output="no answer",
    ),
    "projector": Case(
        broken=stopped("refold.wiring.service projector"),
        name="projector:owner",
        status="fail",
        output="no projector answered",
    ),
    "disk": Case(
        broken=configured(lambda info: {"max_bytes": info["state"]["bytes"] * 100 // 99}),
        name="log:utilization",
        status="fail",
        output="bytes are used",
    ),
    "configuration": Case(
        broken=configured(lambda _: {"discard": "old"}),
        name="log:configuration",
        status="fail",
        output="discard: expected 'new', found 'old'",
    ),
    "clock": Case(broken=clock_off, name="log:clockOffset", status="warn", output="-10.0 s off"),
}


async def run(data: Path, names: Sequence[str]) -> list[str]:
    """Start a system, and break it in these ways; return what did not hold."""
    up = await asyncio.to_thread(Up.start, data)
    wrong: list[str] = []
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            # So that the log has some bytes, of which 99 % can be the bound.
            await client.put(f"{up.url}/v1/acceptance/d", json="x" * 100_000)
            for name in names:
                found = await _try(client, up, CASES[name])
                wrong += [f"{name}: {each}" for each in found]
                print(f"{name:<14} {'wrong' if found else 'ok'}", flush=True)
    finally:
        up.stop()
    return wrong


async def _try(client: httpx.AsyncClient, up: Up, case: Case) -> list[str]:
    wrong = await _until(client, up.url, lambda view: view["status"] == "pass", PASSES_SECONDS, "before")
    async with case.broken(up) as url:
        wrong += await _until(client, url, lambda view: _names(view, case), NAMED_SECONDS, case.name)
    return wrong + await _until(
        client, up.url, lambda view: view["status"] == "pass", PASSES_SECONDS, "afterwards"
    )


def _names(view: dict[str, Any], case: Case) -> bool:
    found = view["checks"].get(case.name, [])
    named = any(each["status"] == case.status and case.output in each.get("output", "") for each in found)
    return named and view["status"] == case.status


async def _until(
    client: httpx.AsyncClient, url: str, holds: Callable[[dict[str, Any]], bool], seconds: float, what: str
) -> list[str]:
    """Ask until it holds; return what did not."""
    begun, slowest, view = time.monotonic(), 0.0, None
    while time.monotonic() - begun < seconds:
        asked = time.monotonic()
        answer, _ = await asyncio.gather(client.get(f"{url}/health"), client.get(f"{url}/readyz"))
        slowest = max(slowest, time.monotonic() - asked)
        view = answer.json()
        is_failed = view["status"] == "fail"
        if (answer.status_code == 503) != is_failed:
            return [f"{what}: {view['status']} is answered {answer.status_code}"]
        if slowest > ANSWER_SECONDS + SLACK_SECONDS:
            return [f"{what}: an answer took {slowest:.1f} s"]
        if holds(view):
            print(f"  {what}: {time.monotonic() - begun:.2f} s, slowest answer {slowest:.2f} s", flush=True)
            return []
    return [f"{what}: not within {seconds} s; the last answer was {view}"]


def main() -> None:
    """Run rounds of all faults, or of those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    if unknown := set(given.faults) - CASES.keys():
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    with TemporaryDirectory() as folder:
        wrong = asyncio.run(run(Path(folder) / "data", (given.faults or list(CASES)) * given.rounds))
    sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
