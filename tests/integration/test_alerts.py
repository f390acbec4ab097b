"""The alert engine beside a running system: what it finds reaches a webhook, Slack's format, SMTP and the log once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from refold.embedded.nats import NatsServer
from support.metrics import SEVERAL_STORES, check_metrics
from support.receivers import Hook, Mailbox
from support.services import gateway, make_site, projector
from support.up import Up, until

PROJECTOR_STOPPED = """\
interval_seconds = 0.5
group_seconds = 0

[[alert]]
name = "ProjectorStopped"
metric = "up"
labels = { service = "projector*" }
below = 1
by = ["service"]
for_seconds = 1
severity = "page"
summary = "{service} does not answer"

[[notifier]]
name = "documents"
kind = "documents"
"""

NOT_READY = """\
interval_seconds = 0.5
group_seconds = 20

[[alert]]
name = "NotReady"
metric = "refold_ready"
below = 1
by = ["service", "instance"]
severity = "page"
summary = "{service} at {instance} runs, but is not ready"
"""

NOTIFIERS = """
[[notifier]]
name = "ops"
kind = "webhook"
url = "{webhook}"

[[notifier]]
name = "chat"
kind = "slack"
url = "{slack}"

[[notifier]]
name = "mail"
kind = "email"
host = "127.0.0.1"
port = {port}
starttls = false
sender = "refold@example.org"
to = ["ops@example.org"]

[[notifier]]
name = "log"
kind = "log"
"""

FIRED_AND_RESOLVED = ["firing", "resolved"]
GATEWAYS = 4


class Notified:
    """What the four notifiers have sent."""

    def __init__(self, log: Path):
        self.webhook, self.slack, self.mailbox = Hook(), Hook(), Mailbox()
        self._log = log

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[str]:
        """Run the receivers; yield the notifiers' tables."""
        async with self.webhook.running() as webhook, self.slack.running() as slack:
            with self.mailbox.running() as port:
                yield NOTIFIERS.format(webhook=webhook, slack=slack, port=port)

    def logged(self):
        """Return the status of each notification that was logged; its lines have the same key."""
        lines = map(json.loads, self._log.read_text().splitlines() if self._log.exists() else [])
        alerts = [line for line in lines if line["event"] == "alert"]
        return list({line["notification"]: line["status"] for line in alerts}.values())

    def statuses(self):
        return [self.webhook.statuses(), self.slack.statuses(), self.mailbox.statuses(), self.logged()]

    async def until(self, statuses):
        """Wait until all have had as many notifications, and compare."""
        await asyncio.to_thread(until, lambda: all(len(each) >= len(statuses) for each in self.statuses()))
        assert self.statuses() == [statuses] * 4


def engine_metrics(up, name):
    """Return the values of one of the engine's metrics, none while it is starting."""
    url = up.endpoints()["services"]["alerts"]
    try:
        text = httpx.get(f"{url}/metrics", trust_env=False).text
    except httpx.TransportError:
        return []
    return re.findall(rf"^{name}(?:\{{.*\}})? (.*)", text, re.MULTILINE)


def history_of_alert(up):
    """Return what was written to the document of the one alert."""
    with httpx.Client(base_url=up.url, trust_env=False) as client:
        (item,) = client.get("/v1/alerts").json()["items"]
        return client.get(f"/v1/alerts/{item['id']}/history").json()["items"]


async def test_a_stopped_projector_is_told_once_to_each_notifier_and_resolved_once(tmp_path):
    notified = Notified(tmp_path / "data" / "alerts.log")
    async with AsyncExitStack() as stack:
        rules = tmp_path / "alerts.toml"
        rules.write_text(PROJECTOR_STOPPED + await stack.enter_async_context(notified.receiving()))
        store = ("--store", "files", "--durability", "os")
        up = await asyncio.to_thread(Up.start, tmp_path / "data", *store, "--alerts", str(rules))
        stack.callback(lambda: up.process.poll() is None and up.stop())
        services = up.endpoints()["services"]
        check_metrics(services, missing=SEVERAL_STORES)
        probe = f"{services['alerts']}/readyz"
        assert (await asyncio.to_thread(httpx.get, probe, trust_env=False)).status_code == 200
        targets = "refold_alert_targets_answering"
        await asyncio.to_thread(until, lambda: engine_metrics(up, targets) == ["3.0"])
        assert notified.statuses() == [[]] * 4
        projector = up.child("projector")
        projector.send_signal(signal.SIGSTOP)
        await notified.until(["firing"])
        # Its document is not folded now, but the gateway asks the engine.
        health = (await asyncio.to_thread(httpx.get, f"{up.url}/health", trust_env=False)).json()
        [firing] = health["checks"]["alerts:firing"]
        assert (firing["status"], firing["output"]) == ("warn", "ProjectorStopped")
        # What is delivered, and not known to be, would be sent again after a kill.
        waiting = "refold_alert_notifier_waiting"
        await asyncio.to_thread(until, lambda: engine_metrics(up, waiting) == ["0.0"] * 5)
        engine = up.child("alerts")
        engine.kill()
        await asyncio.to_thread(until, lambda: re.search(r"alerts +ended .* started again", up.said()))
        projector.send_signal(signal.SIGCONT)
        await notified.until(FIRED_AND_RESOLVED)
        await asyncio.to_thread(until, lambda: len(history_of_alert(up)) == 2)
        first, second = history_of_alert(up)
        assert (first["type"], second["type"]) == ("alert.firing", "alert.resolved")
        assert first["occurred_at"] < second["occurred_at"]
        assert await asyncio.to_thread(up.stop) == 0
        assert notified.statuses() == [FIRED_AND_RESOLVED] * 4
    assert notified.webhook.keys == notified.slack.keys
    assert len(set(notified.webhook.keys)) == 2
    assert len({mail["References"] for mail in notified.mailbox.mails}) == 1


@asynccontextmanager
async def alerting(folder: Path, rules: str, targets: list[str]) -> AsyncIterator[None]:
    """Run `refold alerts` on gateways; its log is in the folder."""
    (folder / "alerts.toml").write_text(rules)
    arguments = ["--alerts", folder / "alerts.toml", "--data", folder / "data"]
    arguments += ["--alerts-targets", ",".join(f"gateway={url}" for url in targets)]
    with (folder / "alerts.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "refold", "alerts", *arguments, stderr=log
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


@pytest.mark.slow
async def test_what_four_gateways_report_is_one_notification_of_each_notifier(
    tmp_path: Path, fresh_nats: NatsServer, postgres_dsn: str
) -> None:
    notified = Notified(tmp_path / "alerts.log")
    async with AsyncExitStack() as stack:
        notifiers = await stack.enter_async_context(notified.receiving())
        site = await make_site(fresh_nats, postgres_dsn)
        await stack.enter_async_context(projector(site))
        gateways = [await stack.enter_async_context(gateway(site)) for _ in range(GATEWAYS)]
        urls = [str(each.client.base_url) for each in gateways]
        await stack.enter_async_context(alerting(tmp_path, NOT_READY + notifiers, urls))
        os.kill(fresh_nats.child.pid, signal.SIGSTOP)
        stack.callback(os.kill, fresh_nats.child.pid, signal.SIGCONT)
        await notified.until(["firing"])
        os.kill(fresh_nats.child.pid, signal.SIGCONT)
        await notified.until(FIRED_AND_RESOLVED)
    for body in notified.webhook.bodies:
        assert len({alert["labels"]["instance"] for alert in body["alerts"]}) == GATEWAYS
    assert notified.statuses() == [FIRED_AND_RESOLVED] * 4
