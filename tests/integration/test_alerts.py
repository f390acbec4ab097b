"""`refold up` with alerts: a projector that does not answer reaches a webhook, Slack's format, SMTP and the log."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import AsyncExitStack, contextmanager
from email import message_from_bytes

import httpx
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from aiosmtpd.controller import Controller

from support.metrics import SEVERAL_STORES, check_metrics
from support.system import free_port
from support.up import Up, until

RULES = """\
interval_seconds = 0.5
group_seconds = 0

[[alert]]
name = "ProjectorStopped"
metric = "up"
labels = {{ service = "projector*" }}
below = 1
by = ["service"]
for_seconds = 1
severity = "page"
summary = "{{service}} does not answer"

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

[[notifier]]
name = "documents"
kind = "documents"
"""

FIRED_AND_RESOLVED = ["firing", "resolved"]


class Mailbox:
    """What a mail server has taken."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - the library's name.
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"

    @contextmanager
    def running(self, port):
        controller = Controller(self, hostname="127.0.0.1", port=port)
        controller.start()
        try:
            yield
        finally:
            controller.stop()

    def statuses(self):
        return [mail["Subject"].split("]")[0].strip("[").lower() for mail in self.mails]


class Hook:
    """What was posted to a webhook."""

    def __init__(self):
        self.bodies, self.keys = [], []

    async def take(self, request):
        self.bodies.append(await request.json())
        self.keys.append(request.headers["Idempotency-Key"])
        return web.Response()


def logged(up):
    lines = map(json.loads, (up.data / "alerts.log").read_text().splitlines())
    return [line["status"] for line in lines if line["event"] == "alert"]


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
    webhook, slack, mailbox, port = Hook(), Hook(), Mailbox(), free_port()
    async with AsyncExitStack() as stack:
        urls = {
            name: str((await stack.enter_async_context(RawTestServer(hook.take))).make_url("/"))
            for name, hook in (("webhook", webhook), ("slack", slack))
        }
        stack.enter_context(mailbox.running(port))
        rules = tmp_path / "alerts.toml"
        rules.write_text(RULES.format(**urls, port=port))
        store = ("--store", "files", "--durability", "os")
        up = await asyncio.to_thread(Up.start, tmp_path / "data", *store, "--alerts", str(rules))
        stack.callback(lambda: up.process.poll() is None and up.stop())

        def notified():
            return [
                [body["status"] for body in webhook.bodies],
                [
                    "firing" if "red" in body["blocks"][0]["text"]["text"] else "resolved"
                    for body in slack.bodies
                ],
                mailbox.statuses(),
                logged(up),
            ]

        async def until_told(statuses):
            await asyncio.to_thread(until, lambda: all(len(each) >= len(statuses) for each in notified()))
            assert notified() == [statuses] * 4

        services = up.endpoints()["services"]
        check_metrics(services, missing=SEVERAL_STORES)
        probe = f"{services['alerts']}/readyz"
        assert (await asyncio.to_thread(httpx.get, probe, trust_env=False)).status_code == 200
        targets = "refold_alert_targets_answering"
        await asyncio.to_thread(until, lambda: engine_metrics(up, targets) == ["3.0"])
        assert notified() == [[]] * 4
        projector = up.child("projector")
        projector.send_signal(signal.SIGSTOP)
        await until_told(["firing"])
        # What is delivered, and not known to be, would be sent again after a kill.
        waiting = "refold_alert_notifier_waiting"
        await asyncio.to_thread(until, lambda: engine_metrics(up, waiting) == ["0.0"] * 5)
        engine = up.child("alerts")
        engine.kill()
        await asyncio.to_thread(until, lambda: re.search(r"alerts +ended .* started again", up.said()))
        projector.send_signal(signal.SIGCONT)
        await until_told(FIRED_AND_RESOLVED)
        await asyncio.to_thread(until, lambda: len(history_of_alert(up)) == 2)
        first, second = history_of_alert(up)
        assert (first["type"], second["type"]) == ("alert.firing", "alert.resolved")
        assert first["occurred_at"] < second["occurred_at"]
        assert await asyncio.to_thread(up.stop) == 0
        assert notified() == [FIRED_AND_RESOLVED] * 4
    assert webhook.keys == slack.keys
    assert len(set(webhook.keys)) == 2
    assert len({mail["References"] for mail in mailbox.mails}) == 1
