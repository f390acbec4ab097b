"""Health as health+json: its checks run one after another, within a bound, once for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

import pytest

from refold.core.errors import LogUnavailable
from refold.telemetry import health
from refold.telemetry.health import Check, Finding, Health, Status

SECOND = 1_000_000_000


def finds(name: str, status: Status = "pass") -> Check:
    async def run(_: float) -> Sequence[Finding]:
        return [Finding(name=name, status=status, output="" if status == "pass" else "why")]

    return Check(name, run)


def hangs(name: str) -> Check:
    async def run(_: float) -> Sequence[Finding]:
        await asyncio.Event().wait()
        raise AssertionError

    return Check(name, run)


async def test_the_status_is_the_worst_of_the_findings() -> None:
    for statuses, expected in (
        ((), "pass"),
        (("pass", "warn"), "warn"),
        (("warn", "fail", "pass"), "fail"),
    ):
        checks = [finds(f"a:{number}", status) for number, status in enumerate(statuses)]
        report = await Health(checks, version="1").report()
        assert (report.status, report.view["status"]) == (expected, expected)


async def test_a_hundred_who_ask_at_once_share_one_run() -> None:
    runs, goes_on = count(), asyncio.Event()

    async def run(_: float) -> Sequence[Finding]:
        await goes_on.wait()
        return [Finding(name="a:b", value=next(runs))]

    checked = Health([Check("a:b", run)])
    asked = [asyncio.create_task(checked.report()) for _ in range(100)]
    await asyncio.sleep(0)
    # One that leaves does not end the run of the others.
    asked.pop().cancel()
    goes_on.set()
    reports = await asyncio.gather(*asked)
    assert {id(report) for report in reports} == {id(reports[0])}
    assert (next(runs), (await checked.report()) is reports[0]) == (1, False)


async def test_checks_that_hang_leave_time_to_those_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUN_SECONDS", "CHECK_SECONDS", "RESERVED_SECONDS"):
        monkeypatch.setattr(health, name, getattr(health, name) / 20)
    checks = [*(hangs(f"a:{number}") for number in range(4)), finds("z:last")]
    async with asyncio.timeout(5):
        report = await Health(checks).report()
    found = report.view["checks"]
    assert [each[0]["status"] for each in found.values()] == [*["fail"] * 4, "pass"]
    assert "no answer within" in found["a:0"][0]["output"]
    assert sum(each[0]["seconds"] for each in found.values()) <= 2 * health.RUN_SECONDS


async def test_an_error_that_a_check_does_not_expect_hides_nothing_of_the_others() -> None:
    async def run(_: float) -> Sequence[Finding]:
        raise ValueError("x")

    report = await Health([Check("a:b", run), finds("z:last")]).report()
    found = report.view["checks"]
    assert (found["a:b"][0]["status"], found["z:last"][0]["status"]) == ("fail", "pass")
    assert found["a:b"][0]["output"] == "internal: ValueError: x"


async def test_since_is_when_the_status_last_changed() -> None:
    times = count(1)
    statuses: list[Status] = ["pass", "pass", "fail", "fail", "pass"]

    async def run(_: float) -> Sequence[Finding]:
        status = statuses.pop(0)
        if status == "fail":
            raise LogUnavailable("no log at nats://admin:hunter2@host")
        return [Finding(name="a:b")]

    checked = Health([Check("a:b", run)], clock=lambda: next(times) * SECOND)
    views = [(await checked.report()).view["checks"]["a:b"][0] for _ in range(5)]
    assert [each["since"][17:19] for each in views] == ["01", "01", "03", "03", "05"]
    assert [each["time"][17:19] for each in views] == ["01", "02", "03", "04", "05"]
    assert views[2]["output"] == "log_unavailable: no log at nats://admin:***@host"
    assert "output" not in views[4]


async def test_what_is_slow_to_end_when_it_is_cancelled_does_not_hold_the_answer_up() -> None:
    cancellations: list[str] = []

    async def slow() -> None:
        # As asyncpg, which waits until the server has cancelled a query.
        for name in ("first", "second"):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancellations.append(name)
        raise ValueError("is not reported as never retrieved")

    with pytest.raises(TimeoutError):
        await health.within(slow(), 0)
    await asyncio.sleep(0)
    assert cancellations == ["first", "second"]
