"""The engine over a real server: silences, rules that change while it runs, notifiers that are down."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from structlog.testing import capture_logs

from refold.alerts.engine import Engine
from refold.alerts.rules import load_rules
from refold.alerts.samples import Target
from refold.alerts.storage import Storage
from refold.wiring.alerts import changes_of
from support.system import free_port

HEAD = "interval_seconds = 0.1\ngroup_seconds = 0\n"
LAG = '[[alert]]\nname = "Lag"\nmetric = "refold_lag_seconds"\nabove = 5\nseverity = "page"\nsummary = "{value} s"\n'
DOWN = """
[[alert]]
name = "NotifierDown"
metric = "refold_alert_notifier_up"
below = 1
by = ["notifier"]
severity = "ticket"
summary = "{notifier} is down"
"""
SILENCE = "[[silence]]\nuntil = 2100-01-01T00:00:00Z\n"


class Service:
    """A service that exposes its lag, and a webhook: it counts what comes."""

    def __init__(self):
        self.scrapes, self.notified, self.statuses = 0, [], []
        self.changed = asyncio.Condition()

    async def answer(self, request):
        if request.method == "GET":
            self.scrapes += 1
            response = web.Response(text='refold_lag_seconds{partition="1"} 9\n')
        else:
            payload = await request.json()
            self.notified += [alert["annotations"]["summary"] for alert in payload["alerts"]]
            self.statuses += [
                f"{alert['labels']['alertname']} {alert['status']}" for alert in payload["alerts"]
            ]
            response = web.Response()
        async with self.changed:
            self.changed.notify_all()
        return response

    async def until(self, holds):
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: holds(self))


@pytest.fixture
async def service():
    service = Service()
    async with RawTestServer(service.answer) as server:
        service.url = str(server.make_url(""))
        yield service


def metrics_of(engine, name, label):
    samples = [sample for family in engine.collect() for sample in family.samples if sample.name == name]
    return {sample.labels[label]: sample.value for sample in samples}


@asynccontextmanager
async def running(path, service):
    storage = Storage(path.parent / "alerts.sqlite")
    targets = [Target("projector", service.url)]
    engine = Engine(load_rules(path), storage, lambda: targets, changed_rules=changes_of(path))
    task = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        storage.close()


async def test_a_silence_is_taken_back_while_it_runs_and_a_faulty_file_changes_nothing(tmp_path, service):
    path = tmp_path / "alerts.toml"
    webhook = f'[[notifier]]\nname = "ops"\nkind = "webhook"\nurl = "{service.url}"\n'
    path.write_text(HEAD + LAG + webhook + SILENCE)
    async with running(path, service):
        await service.until(lambda it: it.scrapes >= 2)
        path.write_text(HEAD + LAG + webhook + "[[alert]]\n")
        seen = service.scrapes
        await service.until(lambda it: it.scrapes >= seen + 2)
        assert service.notified == []
        path.write_text(HEAD + LAG + webhook)
        await service.until(lambda it: it.notified)
    assert service.notified == ["9 s"]


async def test_the_end_of_what_fired_is_told_after_its_rule_was_replaced_but_not_by_an_empty_file(
    tmp_path, service
):
    path = tmp_path / "alerts.toml"
    webhook = f'[[notifier]]\nname = "ops"\nkind = "webhook"\nurl = "{service.url}"\n'
    path.write_text(HEAD + LAG + webhook)
    async with running(path, service) as engine:
        await service.until(lambda it: it.notified)
        path.write_text("")
        seen = service.scrapes
        await service.until(lambda it: it.scrapes >= seen + 4)
        path.write_text(HEAD + LAG.replace('"Lag"', '"Late"') + webhook)
        await service.until(lambda it: len(it.notified) == 3)
        await service.until(lambda _: {alert.rule for alert in engine.machine.alerts} == {"Late"})
        assert metrics_of(engine, "refold_alert_state", "alert") == {"Late": 2}
        assert metrics_of(engine, "refold_alert_notifications_total", "result") == {"delivered": 3, "lost": 0}
        assert metrics_of(engine, "refold_alert_dropped_total", "what") == {"value": 0, "alert": 0}
    assert sorted(service.statuses) == ["Lag firing", "Lag resolved", "Late firing"]


async def test_what_is_left_out_is_counted_and_logged_once(tmp_path, service, monkeypatch):
    monkeypatch.setattr("refold.alerts.samples.SERIES_MAX", 0)
    path = tmp_path / "alerts.toml"
    path.write_text(HEAD + LAG)
    with capture_logs() as lines:
        async with running(path, service) as engine:
            await service.until(lambda it: it.scrapes >= 4)
            assert metrics_of(engine, "refold_alert_dropped_total", "what")["value"] >= 3
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["alerts_incomplete"]


async def test_a_notifier_that_is_down_is_told_by_the_others(tmp_path, service):
    path = tmp_path / "alerts.toml"
    names = {"ops": service.url, "dead": f"http://127.0.0.1:{free_port()}/"}
    hooks = [
        f'[[notifier]]\nname = "{name}"\nkind = "webhook"\nurl = "{url}"\n' for name, url in names.items()
    ]
    path.write_text(HEAD + LAG + DOWN + "".join(hooks))
    async with running(path, service):
        await service.until(lambda it: len(it.notified) == 2)
    assert service.notified == ["9 s", "dead is down"]
