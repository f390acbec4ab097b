"""Notifications reach real receivers, again with the same key after a failure, and in a digest where there are many."""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from refold.alerts import Notice, Notification, digest_of
from refold.alerts.delivery import ATTEMPTS_MAX, BURST, Delivery
from refold.alerts.notifiers import NotDelivered
from refold.alerts.notifiers import webhook as module
from refold.alerts.notifiers.documents import Documents
from refold.alerts.notifiers.email import Email
from refold.alerts.notifiers.slack import Slack
from refold.alerts.notifiers.webhook import Webhook, sign
from refold.alerts.state import Alert
from refold.alerts.storage import FORMAT, Storage
from refold.core.errors import Refused
from support.system import free_port

SECRET = "0123456789abcdef"


def notification(number=0, instance="a:1", status="firing"):
    notice = Notice(
        alert="Lag",
        labels={"instance": instance},
        severity="page",
        status=status,
        is_flapping=False,
        starts=1.0,
        ends=0.0,
        value=9.0,
        summary=f"lag <of> {number}",
        runbook="",
    )
    return Notification(key=digest_of(number), group="Lag", notices=(notice,))


class Receiver:
    """A webhook that answers as it is notified, at last always 200."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    async def answer(self, request):
        self.requests.append((request.headers.copy(), await request.read()))
        answer = self.answers.pop(0) if self.answers else web.Response()
        if answer is None:
            await asyncio.sleep(60)
        return answer

    @asynccontextmanager
    async def running(self):
        async with RawTestServer(self.answer) as server:
            yield str(server.make_url("/hook/T0/s3cret"))


class Mailbox:
    """What a mail server does with mails."""

    def __init__(self, mails):
        self.mails = mails

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - the library's name.
        self.mails.append(envelope.content)
        return "250 OK"


def self_signed(folder):
    """Return a certificate for localhost, as a file and in a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    return certificate, context


@pytest.fixture
def storage(tmp_path):
    storage = Storage(tmp_path / "alerts.sqlite")
    yield storage
    storage.close()


@asynccontextmanager
async def delivering(sender, storage, *notifications, more=()):
    """A delivery whose pauses are over at once."""
    delivery = Delivery(sender, storage, clock=lambda: 1_000.0, timer=lambda: 0.0, random=lambda: 0.0)

    def add(some):
        delivery.add(storage.write({"alerts": []}, [(sender.name, each) for each in some]))

    running = asyncio.create_task(delivery.run())
    add(notifications)
    if more:
        await sender.is_asked.wait()
        add(more)
        sender.may_answer.set()
    async with asyncio.timeout(10):
        while delivery.delivered + delivery.lost < len(notifications) + len(more):  # noqa: ASYNC110 - it has no event for that.
            await asyncio.sleep(0.001)
    yield delivery
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_webhook_gets_alertmanagers_payload_signed_and_once(storage):
    receiver = Receiver()
    async with receiver.running() as url:
        sender = Webhook(name="ops", kind="webhook", url=url, secret=SECRET)
        async with delivering(sender, storage, notification()) as delivery:
            assert (delivery.delivered, delivery.is_up, storage.read_outbox()) == (1, True, [])
    ((headers, body),) = receiver.requests
    assert headers["Refold-Signature"] == sign(SECRET, int(headers["Refold-Time"]), body)
    assert headers["Idempotency-Key"] == notification().key
    payload = module.json_text.loads(body)
    assert (payload["version"], payload["status"], payload["receiver"]) == ("4", "firing", "ops")
    (alert,) = payload["alerts"]
    assert alert["labels"] == {"alertname": "Lag", "severity": "page", "instance": "a:1"}
    assert (alert["startsAt"], alert["endsAt"]) == ("1970-01-01T00:00:01.000Z", "0001-01-01T00:00:00Z")


async def test_a_failure_is_tried_again_with_the_same_key(storage, monkeypatch):
    monkeypatch.setattr(module, "SEND_SECONDS", 0.5)
    huge = web.Response(body=bytes(10 * 1024 * 1024))
    receiver = Receiver(web.Response(status=500), None, web.Response(status=429), huge)
    async with (
        receiver.running() as url,
        delivering(Webhook(name="ops", kind="webhook", url=url), storage, notification()) as delivery,
    ):
        assert (delivery.delivered, delivery.lost) == (1, 0)
    assert {headers["Idempotency-Key"] for headers, _ in receiver.requests} == {notification().key}
    assert len(receiver.requests) == 4


@pytest.mark.parametrize(("status", "attempts"), [(302, 1), (404, 1), (503, ATTEMPTS_MAX)])
async def test_it_is_given_up_after_a_final_answer_or_all_attempts(storage, status, attempts):
    receiver = Receiver(*(web.Response(status=status, headers={"Location": "/"}) for _ in range(20)))
    async with (
        receiver.running() as url,
        delivering(Webhook(name="ops", kind="webhook", url=url), storage, notification()) as delivery,
    ):
        assert (delivery.lost, delivery.is_up, storage.read_outbox()) == (1, False, [])
    assert len(receiver.requests) == attempts


class Broken(Slack):
    """A notifier with an error that it does not expect."""

    async def send(self, notification, *, now):
        raise UnicodeError(f"{self.url.get_secret_value()} at {now} for {notification.key}")


class BrokenFollower(Broken):
    """The same, of those that try without a limit where an error is expected."""

    is_follower: ClassVar[bool] = True


@pytest.mark.parametrize("kind", [Broken, BrokenFollower])
async def test_an_unexpected_error_is_an_attempt_that_failed_and_shows_no_secret(storage, kind):
    sender = kind(name="chat", kind="slack", url="https://hooks.example.org/T0/s3cret")
    with capture_logs() as lines:
        async with delivering(sender, storage, notification(1), notification(2)) as delivery:
            assert (delivery.lost, delivery.is_up, storage.read_outbox()) == (2, False, [])
    errors = [line["error"] for line in lines if line["event"] == "alert_not_delivered"]
    assert errors == ["unexpected UnicodeError"] * 2 * ATTEMPTS_MAX
    assert "s3cret" not in str(lines)


async def test_the_receiver_says_when_to_try_again_and_no_error_shows_its_path():
    for header, seconds in (("7", 7), ("Thu, 01 Jan 1970 00:17:00 GMT", 20), ("soon", 0)):
        receiver = Receiver(web.Response(status=429, headers={"Retry-After": header}))
        async with receiver.running() as url:
            with pytest.raises(NotDelivered, match="answered 429") as failed:
                await Slack(name="chat", kind="slack", url=url).send(notification(), now=1_000.0)
            assert (failed.value.retry_seconds, failed.value.is_final) == (seconds, False)
            assert "s3cret" not in str(failed.value)


async def test_a_full_queue_does_not_give_up_what_is_being_sent(storage, monkeypatch):
    monkeypatch.setattr("refold.alerts.delivery.QUEUE_MAX", 2)
    keys = []

    class Slow(Slack):
        is_asked: ClassVar = asyncio.Event()
        may_answer: ClassVar = asyncio.Event()

        async def send(self, notification, *, now):
            self.is_asked.set()
            await self.may_answer.wait()
            keys.append((notification.key, now))

    sender = Slow(name="chat", kind="slack", url="https://hooks.example.org/")
    several = [notification(number) for number in range(4)]
    async with delivering(sender, storage, several[0], more=several[1:]) as delivery:
        assert (delivery.delivered, delivery.lost, delivery.waiting, storage.read_outbox()) == (3, 1, 0, [])
    assert [key for key, _ in keys] == [several[number].key for number in (0, 2, 3)]


async def test_private_addresses_are_refused_unless_allowed():
    sender = Webhook(name="ops", kind="webhook", url="https://127.0.0.2:1/")
    with pytest.raises(NotDelivered, match="is at the private address") as refused:
        await sender.send(notification(), now=0.0)
    assert refused.value.is_final
    with pytest.raises(NotDelivered, match="cannot be reached"):
        await sender.model_copy(update={"allow_private": True}).send(notification(), now=0.0)


async def test_documents_follow_however_long_the_gateway_does_not_answer(storage):
    cut_off = {"unreachable": ["nats", "projector"]}
    not_ready = [web.json_response(cut_off, status=503) for _ in range(2 * ATTEMPTS_MAX)]
    written = web.json_response({"status": "pending"}, status=202)
    behind = web.json_response({"unreachable": ["projection"]}, status=503)
    receiver = Receiver(*not_ready, web.Response(), web.Response(status=503), behind, written)
    async with receiver.running() as url:
        sender = Documents(name="documents", kind="documents", url=url.removesuffix("/hook/T0/s3cret"))
        async with delivering(sender, storage, notification()) as delivery:
            assert (delivery.delivered, delivery.lost) == (1, 0)
    # While it does not reach the log it is sent no event: that error would be counted as one of its clients.
    keys = [headers.get("Idempotency-Key") for headers, _ in receiver.requests]
    assert keys == [None] * (2 * ATTEMPTS_MAX + 1) + [notification().key, None, notification().key]


async def test_webhooks_and_mail_servers_must_have_a_certificate_for_their_name(tmp_path, monkeypatch):
    certificate, server_context = self_signed(tmp_path)
    hook, port, mails = Receiver(), free_port(), []
    server = TestServer(web.Application(), scheme="https", host="localhost")
    server.app.router.add_post("/", hook.answer)
    await server.start_server(ssl=server_context)
    controller = Controller(
        Mailbox(mails), hostname="localhost", port=port, tls_context=server_context, require_starttls=True
    )
    controller.start()
    try:
        senders = [
            Webhook(name="ops", kind="webhook", url=f"https://localhost:{server.port}/"),
            Email(name="mail", kind="email", host="localhost", port=port, sender="a@x.org", to=["b@x.org"]),
        ]
        for sender in senders:
            with pytest.raises(NotDelivered, match="certificate"):
                await sender.send(notification(), now=0.0)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for sender in senders:
            await sender.send(notification(), now=0.0)
    finally:
        controller.stop()
        await server.close()
    assert len(hook.requests) == len(mails) == 1


async def test_a_mail_is_not_sent_where_the_server_has_no_starttls():
    port, mails = free_port(), []
    controller = Controller(Mailbox(mails), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        sender = Email(
            name="mail", kind="email", host="127.0.0.1", port=port, sender="a@x.org", to=["b@x.org"]
        )
        with pytest.raises(NotDelivered, match="STARTTLS") as refused:
            await sender.send(notification(), now=0.0)
        await sender.model_copy(update={"starttls": False}).send(notification(), now=0.0)
    finally:
        controller.stop()
    assert refused.value.is_final
    assert len(mails) == 1


async def test_after_a_burst_what_waits_is_one_digest(storage, monkeypatch):
    monkeypatch.setattr("refold.alerts.delivery.REFILL_SECONDS", 0.01)
    receiver = Receiver()
    several = [notification(number, f"a:{number % 15}") for number in range(BURST + 20)]
    async with (
        receiver.running() as url,
        delivering(Slack(name="chat", kind="slack", url=url), storage, *several),
    ):
        pass
    assert len(receiver.requests) == BURST + 1
    message = module.json_text.loads(receiver.requests[-1][1])
    texts = [block["text"]["text"] for block in message["blocks"]]
    assert len(texts) == 15
    assert any("lag &lt;of&gt; 29" in text for text in texts)


async def test_what_is_not_delivered_survives_a_restart_and_one_engine_has_the_file(
    storage, tmp_path, monkeypatch
):
    monkeypatch.setattr("refold.store.exclusive.WAIT_SECONDS", 0.01)
    storage.write({"alerts": []}, [("ops", notification())])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("alerts.sqlite*")} == {0o600}
    with pytest.raises(Refused, match="another `refold alerts` may run on it"):
        Storage(tmp_path / "alerts.sqlite")
    storage.close()
    again = Storage(tmp_path / "alerts.sqlite")
    assert [(each.notifier, each.notification) for each in again.read_outbox()] == [("ops", notification())]
    assert again.read_state() == {"alerts": []}
    again.close()
    # Without the file, alerts are still notified.
    assert [each.notifier for each in again.write({}, [("ops", notification(2))])] == ["ops"]


def test_a_file_of_another_format_is_emptied(tmp_path):
    path = tmp_path / "alerts.sqlite"
    for number, kept in ((FORMAT, 1), (FORMAT + 1, 0), (0, 0)):
        with closing(Storage(path)) as storage:
            storage.write({"alerts": [number]}, [("ops", notification())])
        with closing(sqlite3.connect(path)) as file:
            file.execute(f"PRAGMA user_version = {number}")
        with capture_logs() as lines, closing(Storage(path)) as storage:
            assert storage.read_state() == ({"alerts": [number]} if kept else None)
            assert len(storage.read_outbox()) == kept
        assert [line["event"] for line in lines] == ["alert_state_emptied"] * (1 - kept)


def test_the_stored_fields_are_those_of_the_format():
    names = {kind: {each.name for each in fields(kind)} for kind in (Alert, Notice, Notification)}
    # Where this fails, FORMAT must be raised: an engine of another version cannot read them.
    assert FORMAT == 1
    assert names[Notification] == {"key", "group", "notices"}
    common = {"labels", "severity", "is_flapping", "starts", "value", "summary", "runbook"}
    assert names[Notice] - common == {"alert", "status", "ends"}
    own = {"rule", "state", "since", "ended", "seen", "notified", "notified_at", "count", "changes"}
    assert names[Alert] - common == own
