"""The NATS client: it reconnects after any error, and nothing that a server sends ends it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from refold.core.errors import LogUnavailable, Refused
from refold.embedded.nats import inbox_prefix
from refold.log.jetstream import JetStreamNotices
from refold.log.jetstream.client import Client, connect
from refold.log.jetstream.protocol import LINE_BYTES_MAX, Parser, ProtocolError, Subscription, message_frame
from support.broker import WAIT_SECONDS, Broker, host_of, running_broker
from support.system import free_port


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path) as broker:
        yield broker


async def until(holds: Callable[[], bool]) -> None:
    """Poll a condition until it holds, with a deadline."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():  # noqa: ASYNC110 - the condition is not the test's own.
            await asyncio.sleep(0.005)


async def echo(client: Client) -> None:
    """Reply to requests on `echo` with their payload."""
    client.subscribe("echo", lambda _, reply, __, body: client.write(message_frame(reply, body)))
    await client.flush()


async def test_subscriptions_and_requests_work_after_the_broker_was_killed_and_restarted(
    broker: Broker,
) -> None:
    client, other = await broker.connect(), await broker.connect()
    await echo(other)
    received: list[bytes] = []
    lost: list[bool] = []
    client.on_disconnect(lambda: lost.append(True))
    client.subscribe("news.>", lambda _, __, ___, body: received.append(body))
    ended = client.subscribe("news.>", lambda *_: received.append(b"ended"))
    client.unsubscribe(ended)
    await client.flush()
    for number in range(3):
        word = b"%d" % number
        assert await client.request("echo", word) == (b"", word)
        other.write(message_frame(b"news.a", word))
        await until(lambda word=word: received[-1:] == [word])
        assert len(lost) == client.reconnects == number
        broker.kill()
        await until(lambda number=number: len(lost) == number + 1)
        with pytest.raises(LogUnavailable):
            client.write(message_frame(b"news.a", b"lost"))
        await broker.start()
        async with asyncio.timeout(WAIT_SECONDS):
            await client.wait_connected()
            await other.wait_connected()
        await client.flush()
    assert received == [b"0", b"1", b"2"]


async def test_a_subscription_made_while_disconnected_exists_after_the_reconnect(broker: Broker) -> None:
    client = await broker.connect()
    received: list[bytes] = []
    broker.kill()
    await until(lambda: not client.is_connected)
    client.subscribe("news", lambda _, __, ___, body: received.append(body))
    request = asyncio.ensure_future(client.request("echo", b"1", seconds=WAIT_SECONDS))
    await broker.start()
    other = await broker.connect()
    await echo(other)
    async with asyncio.timeout(WAIT_SECONDS):
        await client.wait_connected()
        # If nothing was subscribed yet when the request arrived, the broker replies without a body.
        assert (await request)[1] in {b"1", b""}
    other.write(message_frame(b"news", b"2"))
    await until(lambda: received == [b"2"])


async def test_a_request_in_flight_fails_at_once_when_the_broker_dies(broker: Broker) -> None:
    client = await broker.connect()
    other = await broker.connect()
    other.subscribe("silent", lambda *_: None)
    await other.flush()
    request = asyncio.ensure_future(client.request("silent", seconds=WAIT_SECONDS))
    await client.flush()
    broker.kill()
    started_at = time.monotonic()
    with pytest.raises(LogUnavailable, match="lost"):
        await request
    assert time.monotonic() - started_at < WAIT_SECONDS / 2


async def test_a_request_without_a_reply_has_a_deadline(broker: Broker) -> None:
    client = await broker.connect()
    client.subscribe("silent", lambda *_: None)
    with pytest.raises(LogUnavailable, match="did not answer in time"):
        await client.request("silent", seconds=0.05)
    headers, body = await client.request("no.subscriber")
    assert headers.startswith(b"NATS/1.0 503\r\n")
    assert body == b""


async def test_a_request_that_the_user_may_not_send_fails_at_once(broker: Broker) -> None:
    client = await broker.connect("gateway")
    with pytest.raises(
        LogUnavailable, match=r"Permissions Violation for Publish to \"\$JS.API.STREAM.NAMES\""
    ):
        await client.request("$JS.API.STREAM.NAMES", seconds=WAIT_SECONDS)


async def test_a_message_over_the_payload_limit_does_not_end_the_client(broker: Broker) -> None:
    client = await broker.connect()
    await echo(client)
    lost: list[bool] = []
    client.on_disconnect(lambda: lost.append(True))
    client.write(message_frame(b"too.large", b"x" * (2 * 1024 * 1024 + 1)))
    await until(lambda: bool(lost))
    async with asyncio.timeout(WAIT_SECONDS):
        await client.wait_connected()
    assert await client.request("echo", b"here") == (b"", b"here")
    notices = JetStreamNotices(client)
    with pytest.raises(Refused):
        await notices.send_all([("too.large", b"x" * (2 * 1024 * 1024 + 1))])
    with pytest.raises(Refused):
        await notices.send_all([("a b\r\nPUB c 0", b"")])
    assert await client.request("echo", b"still") == (b"", b"still")


HOSTILE_SUBJECTS = [b"x.\xff\xfe", b"x.\x00", b"x." + b"y" * 3000, b"x.\x0b\x0c", b"x.*"]


async def test_no_subject_terminates_a_client(broker: Broker) -> None:
    client = await broker.connect()
    received: list[bytes] = []
    client.subscribe("x.>", lambda subject, *_: received.append(subject))
    await client.flush()
    for subject in HOSTILE_SUBJECTS:
        client.write(message_frame(subject, b"{}"))
    block = b"NATS/1.0 \xff\xff\xff \xff\r\n\xff: \xff\r\n\r\n"
    client.write(b"HPUB x.h %d %d\r\n%b\r\n" % (len(block), len(block), block))
    client.write(message_frame(b"x.end", b""))
    await until(lambda: received[-1:] == [b"x.end"])
    assert received == [*HOSTILE_SUBJECTS, b"x.h", b"x.end"]
    assert client.reconnects == 0


async def test_a_failing_handler_closes_the_connection_and_not_the_client(broker: Broker) -> None:
    """A connection that has stopped reading must not count as connected."""
    client = await broker.connect()
    await echo(client)

    def fail(*_: bytes) -> None:
        raise ValueError

    client.subscribe("bad", fail)
    client.write(message_frame(b"bad", b""))
    await until(lambda: client.reconnects == 1)
    assert await client.request("echo", b"here") == (b"", b"here")


async def test_a_connection_to_a_silent_server_is_closed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.log.jetstream.connection.PING_SECONDS", 0.05)
    client = await broker.connect()
    with broker.frozen():
        await until(lambda: not client.is_connected)
    async with asyncio.timeout(WAIT_SECONDS):
        await client.wait_connected()
    await client.flush()


async def test_connecting_to_a_closed_port_has_a_deadline(broker: Broker) -> None:
    address = host_of(broker.server.url("gateway"))
    broker.kill()
    with pytest.raises(LogUnavailable, match="no connection to the broker"):
        await connect(address, connect_seconds=0.4)


async def test_connecting_to_a_silent_server_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(WAIT_SECONDS):
            with pytest.raises(LogUnavailable, match="no connection to the broker"):
                await connect(f"nats://127.0.0.1:{silent.getsockname()[1]}", connect_seconds=0.4)


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"INFO x\r\n", b"INFO []\r\n", b"x" * 500_000]
)
async def test_connecting_to_another_kind_of_server_has_a_deadline(first: bytes) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(LogUnavailable, match="no connection to the broker"):
            await connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_seconds=0.4)


async def test_a_server_without_a_free_connection_is_a_distinct_error(broker: Broker) -> None:
    host = await with_configuration(broker, "max_connections: 1")
    first = await connect(host)
    with pytest.raises(LogUnavailable, match=r"connection limit|maximum connections"):
        await connect(host, connect_seconds=0.6)
    await first.close()


async def test_a_wrong_password_fails_at_once_and_is_not_shown(broker: Broker) -> None:
    address = host_of(broker.server.url("gateway")).replace("nats://", "nats://gateway:not-the-secret@")
    started_at = time.monotonic()
    with pytest.raises(LogUnavailable) as caught:
        await connect(address, connect_seconds=WAIT_SECONDS)
    assert time.monotonic() - started_at < WAIT_SECONDS / 2
    assert "uthorization" in str(caught.value)
    assert "not-the-secret" not in str(caught.value)


async def with_configuration(broker: Broker, text: str) -> str:
    """Restart the server with a configuration of its own; return its address without a user."""
    await broker.server.stop()
    await broker.restart_with(f'listen: "127.0.0.1:{broker.port}"\n{text}')
    return f"127.0.0.1:{broker.port}"


async def test_user_and_password_may_contain_any_characters(broker: Broker) -> None:
    host = await with_configuration(broker, r'authorization {user: "a@b:c", password: "p/@:%ä"}')
    client = await connect(f"nats://a%40b%3Ac:p%2F%40%3A%25%C3%A4@{host}")
    await client.flush()
    await client.close()


async def test_a_token_is_a_user_without_a_password(broker: Broker) -> None:
    host = await with_configuration(broker, 'authorization {token: "t0ken"}')
    client = await connect(f"nats://t0ken@{host}")
    await client.flush()
    await client.close()
    with pytest.raises(LogUnavailable, match="uthorization"):
        await connect(f"nats://other@{host}")


@pytest.fixture(params=["asyncio", "uvloop"])
def in_loop(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Run a coroutine in a loop of this kind; the services run on uvloop."""

    def run(coroutine: Any) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(coroutine)

    return run


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a server's configuration with a certificate for `localhost`, which this process trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return f'tls {{cert_file: "{certificate}", key_file: "{key}"}}\n'


def test_tls_is_used_where_the_server_requires_it_and_the_certificate_is_verified(
    in_loop: Callable[[Any], None], tmp_path: Path, tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running_broker(tmp_path / "data") as broker:
            await with_configuration(broker, tls)
            for scheme in ("nats", "tls"):
                client = await connect(f"{scheme}://localhost:{broker.port}")
                await echo(client)
                payload = b"x" * 1_000_000
                assert await client.request("echo", payload) == (b"", payload)
                await client.close()
            with pytest.raises(LogUnavailable, match="IP address mismatch"):
                await connect(f"tls://127.0.0.1:{broker.port}", connect_seconds=1)
            monkeypatch.delenv("SSL_CERT_FILE")
            with pytest.raises(LogUnavailable, match="certificate verify failed"):
                await connect(f"nats://localhost:{broker.port}", connect_seconds=1)

    in_loop(run())


def test_an_announced_server_is_verified_by_the_host_name_of_the_first_one(
    in_loop: Callable[[Any], None], tmp_path: Path, tls: str
) -> None:
    async def run() -> None:
        async with running_broker(tmp_path / "1") as first, running_broker(tmp_path / "2") as second:
            ports = {first: free_port(), second: free_port()}
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports.values())
            for broker, port in ports.items():
                cluster = f'cluster {{name: c, listen: "127.0.0.1:{port}", routes: [{routes}]}}'
                await with_configuration(broker, tls + cluster)
            client = await connect(f"tls://localhost:{first.port}")
            # A server that joins later is announced to the clients that are connected.
            await until(lambda: f"127.0.0.1:{second.port}" in client.server_info.get("connect_urls", ()))
            first.kill()
            await until(lambda: client.reconnects == 1)
            await client.flush()
            assert client.server_info["port"] == second.port
            await client.close()

    in_loop(run())


async def test_a_tls_address_never_falls_back_to_plain_text(broker: Broker) -> None:
    with pytest.raises(LogUnavailable):
        await connect(f"tls://127.0.0.1:{broker.port}", connect_seconds=0.1)


def test_a_client_works_on_uvloop(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_broker(tmp_path) as broker:
            client = await broker.connect()
            await echo(client)
            broker.kill()
            await broker.start()
            assert await client.request("echo", b"x" * 100_000, seconds=WAIT_SECONDS)
            assert client.server_info["version"].startswith("2.")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("address", ["ws://127.0.0.1:1", "http://127.0.0.1", "nats://", "nats://h:99999"])
async def test_an_address_with_another_scheme_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="nats://HOST:PORT or tls://HOST:PORT"):
        await connect(address)


def test_a_version_of_nats_py_without_a_private_name_that_is_used_is_refused_at_import() -> None:
    program = "from nats.aio.client import Client; del Client._process_info; import refold.log.jetstream"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "ImportError: this version of nats-py lacks _process_info" in ended.stderr


async def test_one_reachable_address_of_several_is_enough(broker: Broker) -> None:
    servers = f"{broker.server.url('gateway')},nats://127.0.0.1:1"
    for _ in range(4):
        client = await connect(servers, inbox_prefix=inbox_prefix("gateway"))
        with pytest.raises(LogUnavailable, match="Permissions Violation"):
            await client.request("$JS.API.STREAM.NAMES")
        await client.close()


async def test_a_connection_waits_for_a_broker_that_is_starting(broker: Broker) -> None:
    url = broker.server.url("gateway")
    broker.kill()
    coming = asyncio.ensure_future(
        connect(url, inbox_prefix=inbox_prefix("gateway"), connect_seconds=WAIT_SECONDS)
    )
    await asyncio.sleep(0)
    await broker.start()
    client = await coming
    await client.flush()
    await client.close()
    with pytest.raises(LogUnavailable, match="closed"):
        await client.wait_connected()


async def test_notices_sent_while_disconnected_are_lost_and_later_ones_are_not(broker: Broker) -> None:
    client, other = await broker.connect(), await broker.connect()
    notices, listener = JetStreamNotices(client), JetStreamNotices(other)
    received: list[bytes] = []
    await listener.listen("news", lambda _, body: received.append(body))
    await listener.flush()
    await notices.send_all([("news", b"1")])
    await until(lambda: received == [b"1"])
    broker.kill()
    await until(lambda: not client.is_connected)
    await notices.send_all([("news", b"lost")])
    with pytest.raises(LogUnavailable):
        await notices.flush()
    await broker.start()
    async with asyncio.timeout(WAIT_SECONDS):
        await client.wait_connected()
        await other.wait_connected()
    await notices.send_all([("news", b"2")])
    await until(lambda: received == [b"1", b"2"])


async def test_a_flush_in_flight_fails_at_once_when_the_broker_dies(broker: Broker) -> None:
    notices = JetStreamNotices(await broker.connect())
    with broker.frozen():
        flushed = asyncio.ensure_future(notices.flush())
        await asyncio.sleep(0)
        broker.kill()
    with pytest.raises(LogUnavailable, match="lost"):
        await flushed


async def test_a_failing_listener_does_not_affect_others(broker: Broker) -> None:
    client = await broker.connect()
    notices = JetStreamNotices(client)
    received: list[bytes] = []

    def fail(_: str, __: bytes) -> None:
        raise ValueError

    await notices.listen("news", fail)
    await notices.listen("news", lambda _, body: received.append(body))
    await notices.send_all([("news", b"1")])
    await notices.flush()
    assert received == [b"1"]
    assert client.reconnects == 0


STREAM = (
    b'INFO {"a": 1}\r\nPING\r\n'
    b"MSG s.a 7 2\r\n\r\n\r\n"
    b"MSG s.a 7 re.ply 5\r\nMSG 1\r\n"
    b"HMSG s.b 7 12 13\r\nNATS/1.0\r\n\r\nx\r\n"
    b"HMSG s.b 8 re.ply 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"MSG s.e 9 4\r\nPING\r\n"
    b"HMSG s.c 8 14 14\r\nNATS/1.0 1\r\n\r\n\r\n"
    b"MSG s.\xff\x00 8 r 0\r\n\r\n"
    b"MSG s.d 8 1\r\nz\r\n"
    b"-ERR 'one two three four five'\r\n+OK\r\nPONG\r\n"
)
OPERATIONS = [
    (b"INFO", b'{"a": 1}'),
    (b"PING", b""),
    (b"-ERR", b"'one two three four five'"),
    (b"+OK", b""),
    (b"PONG", b""),
]
MESSAGES = {
    b"7": [
        (b"s.a", b"", b"", b"\r\n"),
        (b"s.a", b"re.ply", b"", b"MSG 1"),
        (b"s.b", b"", b"NATS/1.0\r\n\r\n", b"x"),
    ],
    b"8": [
        (b"s.b", b"re.ply", b"NATS/1.0\r\n\r\n", b""),
        (b"s.c", b"", b"NATS/1.0 1\r\n\r\n", b""),
        (b"s.\xff\x00", b"r", b"", b""),
        (b"s.d", b"", b"", b"z"),
    ],
}


class Taken:
    """Records what a parser delivers; no subscription has the id 9."""

    def __init__(self) -> None:
        self.operations: list[tuple[bytes, bytes]] = []
        self.messages: dict[bytes, list[tuple[bytes, ...]]] = {b"7": [], b"8": []}
        subscriptions = {
            sid: Subscription(b"s.>", lambda *message, kept=kept: kept.append(message), None)
            for sid, kept in self.messages.items()
        }
        self.parser = Parser(subscriptions, lambda *operation: self.operations.append(operation))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 20, 64, 10_000])
def test_messages_do_not_depend_on_chunk_boundaries(chunk_bytes: int) -> None:
    taken = Taken()
    for _ in range(3):
        for at in range(0, len(STREAM), chunk_bytes):
            taken.parser.feed(STREAM[at : at + chunk_bytes])
    assert taken.operations == OPERATIONS * 3
    assert taken.messages == {sid: messages * 3 for sid, messages in MESSAGES.items()}


@pytest.mark.parametrize(
    "line", [b"MSG a 1\r\n", b"MSG a 1 x y z 3\r\n", b"HMSG a 1 2\r\n", b"MSG a b c d\r\n"]
)
def test_a_line_that_is_not_the_protocol_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        Taken().parser.feed(line)


def test_a_line_without_an_end_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        Taken().parser.feed(b"x" * (LINE_BYTES_MAX + 1))


def test_a_parser_stopped_during_a_parse_drops_the_rest() -> None:
    taken = Taken()
    taken.parser = Parser({}, lambda *operation: (taken.operations.append(operation), taken.parser.stop()))
    taken.parser.feed(b"-ERR 'x'\r\nPING\r\nMSG a 1 100\r\nhalf")
    taken.parser.feed(b"PONG\r\n")
    assert taken.operations == [(b"-ERR", b"'x'")]


async def test_waiting_until_writable_returns_while_disconnected(broker: Broker) -> None:
    client = await broker.connect()
    broker.kill()
    await until(lambda: not client.is_connected)
    await client.wait_writable()
