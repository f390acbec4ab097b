"""`/health` of a real system: what it says where all is well, and in one round of `tests/acceptance/health.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from acceptance.health import CASES, run
from support.http import Api, problem


async def test_a_healthy_system_passes_every_check(api: Api) -> None:
    await api.put("d", 1)
    answer = await api.client.get("/health")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/health+json")
    view = answer.json()
    found = {name: each["status"] for name, findings in view["checks"].items() for each in findings}
    assert (view["status"], set(found.values())) == ("pass", {"pass"}), view
    assert found.keys() == {
        *("nats:responseTime", "log:configuration", "log:replicas", "log:clockOffset", "log:integrityAge"),
        *("store:responseTime", "store:migration", "keys:problems", "builds:versions"),
        *("projector:stage", "projector:owner", "projector:lagEvents", "projector:lagSeconds"),
        "projector:lastCommit",
    }
    assert view["checks"]["projector:owner"][0]["observedValue"]


async def test_those_who_ask_at_once_get_one_answer(api: Api) -> None:
    answers = await asyncio.gather(*(api.client.get("/health") for _ in range(100)))
    times = [answer.json()["checks"]["nats:responseTime"][0]["time"] for answer in answers]
    # The last of them may come when the first have their answer.
    assert len(set(times)) < 10


async def test_a_parameter_is_refused(api: Api) -> None:
    problem(await api.client.get("/health", params={"x": 1}), 422, "unknown_parameter")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
async def test_each_fault_is_named_within_five_seconds_and_is_over_afterwards(
    name: str, tmp_path: Path
) -> None:
    assert await run(tmp_path / "data", [name]) == []
