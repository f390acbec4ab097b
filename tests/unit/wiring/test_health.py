"""What the checks of `/health` find in the answers of projectors, and of stores where there are several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from refold.log import Replicas
from refold.log.memory import MemoryLog
from refold.telemetry.health import Finding
from refold.wiring.health import (
    _Checks,
    _clock,
    _degraded,
    _owner,
    _replicas,
    _stage,
    _used,
    _versions,
    check_alerts,
)
from refold.wiring.instances import owner_problem, read_answer
from support.projection import append


def projector(instance: str, shard: str = "0-63", *, stage: str = "working", **facts: str) -> dict[str, Any]:
    about = {"service": "projector", "instance": instance, "version": "1"}
    return {**about, "shard": shard, "stage": stage, **facts}


@pytest.mark.parametrize(
    ("answers", "status", "output"),
    [
        ([projector("a")], "pass", ""),
        ([projector("a", "0-31"), projector("b", "32-63")], "pass", ""),
        ([projector("a"), projector("b", stage="standby")], "pass", ""),
        ([], "fail", "no projector answered"),
        ([projector("a", "0-31")], "fail", "32 of 64 partitions have no owner"),
        ([projector("a", stage="waiting")], "fail", "64 of 64 partitions have no owner"),
        ([projector("a"), projector("b", "60-63")], "fail", "4 of 64 partitions have several owners"),
    ],
)
def test_every_partition_has_one_owner(answers: list[dict[str, Any]], status: str, output: str) -> None:
    found = _owner("", answers)
    assert (found.status, found.output) == (status, output)


def test_each_of_several_stores_has_owners_of_its_own() -> None:
    answers = [projector("a", store="files"), projector("b", store="redis")]
    assert [_owner(store, answers).value for store in ("files", "redis", "postgres")] == ["a", "b", None]
    assert _owner("postgres", answers).status == "fail"


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        b"{}",
        orjson.dumps(projector("a", "9-1")),
        orjson.dumps(projector("a") | {"commit_age_seconds": "x"}),
        orjson.dumps(projector("a") | {"instance": None}),
    ],
)
def test_an_answer_that_is_not_valid_is_left_out(body: bytes) -> None:
    assert read_answer(body) is None
    assert read_answer(orjson.dumps(projector("a") | {"commit_age_seconds": 1.5, "new": 1})) is not None


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([projector("a", "0-31"), projector("b", "32-63")], ""),
        ([projector("a"), projector("b", stage="waiting", error="x")], ""),
        ([projector("a", "0-31")], "32 of 64 partitions have no projector"),
        ([projector("a", stage="standby")], "64 of 64 partitions have no projector"),
        ([projector("a", "0-31"), projector("b", stage="waiting", error="x")], "the projector is waiting: x"),
        ([projector("a", error="unreachable")], "the projector is working: unreachable"),
    ],
)
def test_a_gateway_is_ready_while_each_partition_has_an_owner(
    answers: list[dict[str, Any]], text: str
) -> None:
    assert owner_problem("", cast(Any, answers)) == text


def checks_of(log: MemoryLog, folded: dict[str, int]) -> _Checks:
    sources = [SimpleNamespace(name=name, sequences=[sequence] * 64) for name, sequence in folded.items()]
    stores = SimpleNamespace(sources=SimpleNamespace(stores=sources), key_problem=None)
    return _Checks(
        log=cast(Any, log), stores=cast(Any, stores), consistency=cast(Any, None), lag_seconds_max=-1
    )


async def test_each_of_several_stores_has_a_lag_of_its_own() -> None:
    log = MemoryLog("log-1")
    for _ in range(10):
        sequence = await append(log, "a", {"put": 1})
    for folded, statuses in (
        ({"postgres": sequence - 9, "files": sequence - 9}, ["fail", "fail"]),
        ({"postgres": sequence - 9}, ["fail"]),
    ):
        checks = checks_of(log, folded)
        checks.info = await log.info()
        found = await checks._lag()
        events = {each.component: each.value for each in found if each.name == "projector:lagEvents"}
        assert events == dict.fromkeys(folded, 9)
        seconds = [each for each in found if each.name == "projector:lagSeconds"]
        assert [each.status for each in seconds] == statuses
        assert seconds[0].output == "postgres is behind the log by 9 events"


async def test_where_nats_does_not_answer_nothing_is_said_of_what_is_asked_through_it() -> None:
    checks = checks_of(MemoryLog("log-1"), {"postgres": 0})
    assert await checks.state(1.0) == []
    assert [each.name for each in await checks.instances(1.0)] == ["keys:problems"]


def test_a_failure_is_a_warning_while_another_store_has_none() -> None:
    good, bad = Finding(name="store:responseTime"), Finding(name="store:responseTime", status="fail")
    assert [each.status for each in _degraded([[good], [bad]])] == ["pass", "warn"]
    assert [each.status for each in _degraded([[bad], [bad]])] == ["fail", "fail"]
    assert [each.status for each in _degraded([[bad]])] == ["fail"]


@pytest.mark.parametrize(
    ("replicas", "status"),
    [
        (Replicas(), "pass"),
        (Replicas(3), "pass"),
        (Replicas(2, lagging=1), "warn"),
        (Replicas(1, lagging=1, offline=1), "fail"),
    ],
)
def test_replicas_are_compared_with_how_many_there_should_be(replicas: Replicas, status: str) -> None:
    assert _replicas(replicas).status == status


def test_values_are_compared_with_their_limits() -> None:
    assert [_used(used, 100).status for used in (80, 81, 95, 96)] == ["pass", "warn", "warn", "fail"]
    assert [_clock(offset).status for offset in (1.0, -1.0, 1.1, -10.0)] == ["pass", "pass", "warn", "warn"]
    assert _clock(-10.0).value == -10.0


def test_a_stage_that_does_not_fold_is_named_with_its_error() -> None:
    stages = ("working", "standby", "starting", "waiting", "stopped")
    found = [_stage(projector("a", stage=stage)) for stage in stages]
    assert [each.status for each in found] == ["pass", "pass", "warn", "fail", "fail"]
    for stage in ("waiting", "working"):
        failed = _stage(projector("a", stage=stage, error="it is full"))
        assert (failed.status, failed.component, failed.output) == ("fail", "a", f"{stage}: it is full")


def test_other_versions_are_a_warning_that_names_the_instances() -> None:
    found = _versions([{"instance": "old:1", "version": "0.0.9"}])
    assert (found.status, found.value) == ("warn", 2)
    assert "old:1: 0.0.9" in found.output


STATES = """\
refold_alert_state{{alert="LagSeconds",severity="ticket"}} {}
refold_alert_state{{alert="NoOwner",severity="page"}} {}
"""


@pytest.mark.parametrize(
    ("metrics", "status", "value", "output"),
    [
        (STATES.format(0, 1), "pass", 0, ""),
        (STATES.format(2, 2), "warn", 2, "LagSeconds, NoOwner"),
        ("refold_ready 1\n", "warn", None, "is not an alert engine"),
        ("<html>", "warn", None, "not known, the alert engine at"),
    ],
)
async def test_the_alert_engine_says_which_alerts_fire(
    metrics: str, status: str, value: int | None, output: str
) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=metrics)

    async with RawTestServer(answer) as server:
        [found] = await check_alerts(str(server.make_url("")).rstrip("/"), 10.0)
    assert (found.name, found.status, found.value) == ("alerts:firing", status, value)
    assert output in found.output
    [silent] = await check_alerts("http://127.0.0.1:9", 10.0)
    assert (silent.status, silent.value) == ("warn", None)
    assert "not known, the alert engine at http://127.0.0.1:9 does not answer" in silent.output
