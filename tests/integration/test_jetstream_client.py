"""The broker's client: what nats-py must keep for it, and what must never end it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from nats.errors import ProtocolError

from refold.core.errors import LogUnavailable, Refused
from refold.embedded.nats import inbox_prefix
from refold.log.jetstream import JetStreamLog, JetStreamNotices, connect
from refold.log.jetstream.client import BrokerClient
from refold.log.jetstream.frames import message_frame
from refold.log.jetstream.parser import LINE_BYTES_MAX, WireParser
from support.broker import WAIT_SECONDS, Broker, host_of, running_broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path) as broker:
        yield broker


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again until something holds; it is to hold in time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():  # noqa: ASYNC110 - what is looked at belongs to others.
            await asyncio.sleep(0.005)


async def echo(client: BrokerClient) -> Callable[[], int]:
    """Answer on `echo` by nats-py's own means; return how often that was done."""
    answered = 0

    async def answer(message: Any) -> None:
        nonlocal answered
        answered += 1
        await client.publish(message.reply, message.data)

    await client.subscribe("echo", cb=answer)
    await client.flush()
    return lambda: answered


def test_nats_py_is_the_one_whose_inside_is_known() -> None:
    assert version("nats-py").startswith("2.16.")


async def test_everything_goes_on_after_the_broker_was_killed_and_came_back(broker: Broker) -> None:
    client, other = await broker.connect(), await broker.connect()
    await echo(other)
    raw: list[bytes] = []
    ordinary: list[bytes] = []

    async def keep(message: Any) -> None:
        ordinary.append(message.data)

    lost: list[bool] = []
    client.when_lost(lambda: lost.append(True))
    client.subscribe_raw("told.>", lambda _, __, ___, body: raw.append(body))
    gone = client.subscribe_raw("told.>", lambda *_: raw.append(b"gone"))
    client.unsubscribe_raw(gone)
    await client.subscribe("told.>", cb=keep)
    await client.flush()
    for number in range(3):
        word = b"%d" % number
        assert await client.ask("echo", word) == (b"", word)
        assert (await client.request("echo", word, timeout=WAIT_SECONDS)).data == word
        other.write(message_frame(b"told.a", word))
        await until(lambda word=word: raw[-1:] == ordinary[-1:] == [word])
        assert len(lost) == number
        broker.kill()
        await until(lambda number=number: len(lost) == number + 1)
        with pytest.raises(LogUnavailable):
            client.write(message_frame(b"told.a", b"lost"))
        await broker.start()
        async with asyncio.timeout(WAIT_SECONDS):
            await client.until_up()
            await other.until_up()
        await client.flush()
    assert raw == ordinary == [b"0", b"1", b"2"]


async def test_a_subscription_made_while_the_broker_is_away_is_there_when_it_is_back(broker: Broker) -> None:
    client = await broker.connect()
    heard: list[bytes] = []
    broker.kill()
    await until(lambda: not client.is_connected)
    client.subscribe_raw("told", lambda _, __, ___, body: heard.append(body))
    asked = asyncio.ensure_future(client.ask("echo", b"1", seconds=WAIT_SECONDS))
    await broker.start()
    other = await broker.connect()
    await echo(other)
    async with asyncio.timeout(WAIT_SECONDS):
        await client.until_up()
        # Nobody may have answered yet when it was asked: then the broker says so.
        assert (await asked)[1] in {b"1", b""}
    other.write(message_frame(b"told", b"2"))
    await until(lambda: heard == [b"2"])


async def test_a_question_on_its_way_when_the_broker_dies_is_answered_at_once(broker: Broker) -> None:
    client = await broker.connect()
    other = await broker.connect()
    other.subscribe_raw("silent", lambda *_: None)
    await other.flush()
    asked = asyncio.ensure_future(client.ask("silent", seconds=WAIT_SECONDS))
    await client.flush()
    broker.kill()
    begun = time.monotonic()
    with pytest.raises(LogUnavailable, match="broke"):
        await asked
    assert time.monotonic() - begun < WAIT_SECONDS / 2


async def test_a_question_that_nobody_answers_has_a_deadline(broker: Broker) -> None:
    client = await broker.connect()
    client.subscribe_raw("silent", lambda *_: None)
    with pytest.raises(LogUnavailable, match="did not answer in time"):
        await client.ask("silent", seconds=0.05)
    headers, body = await client.ask("nobody.is.here")
    assert headers.startswith(b"NATS/1.0 503\r\n")
    assert body == b""


async def test_what_a_user_may_not_ask_is_told_at_once(broker: Broker) -> None:
    client = await broker.connect("gateway")
    with pytest.raises(
        LogUnavailable, match=r"Permissions Violation for Publish to \"\$JS.API.STREAM.NAMES\""
    ):
        await client.ask("$JS.API.STREAM.NAMES", seconds=WAIT_SECONDS)


async def test_more_than_the_broker_takes_does_not_end_the_client(broker: Broker) -> None:
    client = await broker.connect()
    await echo(client)
    lost: list[bool] = []
    client.when_lost(lambda: lost.append(True))
    client.write(message_frame(b"too.large", b"x" * (2 * 1024 * 1024 + 1)))
    await until(lambda: bool(lost))
    async with asyncio.timeout(WAIT_SECONDS):
        await client.until_up()
    assert await client.ask("echo", b"here") == (b"", b"here")
    notices = JetStreamNotices(client)
    with pytest.raises(Refused):
        await notices.send("too.large", b"x" * (2 * 1024 * 1024 + 1))
    with pytest.raises(Refused):
        await notices.send("a b\r\nPUB c 0", b"")
    assert await client.ask("echo", b"still") == (b"", b"still")


HOSTILE_SUBJECTS = [b"x.\xff\xfe", b"x.\x00", b"x." + b"y" * 3000, b"x.\x0b\x0c", b"x.*"]


async def test_no_subject_ends_a_client_of_either_kind(broker: Broker) -> None:
    client = await broker.connect()
    raw: list[bytes] = []
    ordinary: list[str] = []

    async def keep(message: Any) -> None:
        ordinary.append(message.subject)

    client.subscribe_raw("x.>", lambda subject, *_: raw.append(subject))
    await client.subscribe("x.>", cb=keep)
    await client.flush()
    for subject in HOSTILE_SUBJECTS:
        client.write(message_frame(subject, b"{}"))
    block = b"NATS/1.0 \xff\xff\xff \xff\r\n\xff: \xff\r\n\r\n"
    client.write(b"HPUB x.h %d %d\r\n%b\r\n" % (len(block), len(block), block))
    client.write(message_frame(b"x.end", b""))
    await until(lambda: raw[-1:] == [b"x.end"] and ordinary[-1:] == ["x.end"])
    assert raw == [*HOSTILE_SUBJECTS, b"x.h", b"x.end"]
    # What nats-py can stand, it gets.
    assert [subject.encode() for subject in ordinary if subject[:3] == "x.y"] == [HOSTILE_SUBJECTS[2]]
    assert client.stats["reconnects"] == 0


async def test_connecting_to_nobody_has_a_deadline(broker: Broker) -> None:
    address = host_of(broker.server.url("gateway"))
    broker.kill()
    with pytest.raises(LogUnavailable, match="no connection to the broker"):
        await connect(address, connect_seconds=0.4)


async def test_connecting_to_someone_silent_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(WAIT_SECONDS):
            with pytest.raises(LogUnavailable, match="no connection to the broker"):
                await connect(f"nats://127.0.0.1:{silent.getsockname()[1]}", connect_seconds=0.4)


async def test_a_wrong_password_is_told_at_once_and_not_repeated(broker: Broker) -> None:
    address = host_of(broker.server.url("gateway"))
    begun = time.monotonic()
    with pytest.raises(LogUnavailable) as caught:
        await connect(address, user="gateway", password="not-the-secret", connect_seconds=WAIT_SECONDS)
    assert time.monotonic() - begun < WAIT_SECONDS / 2
    assert "uthorization" in str(caught.value)
    assert "not-the-secret" not in str(caught.value)


async def test_user_and_password_may_come_beside_the_address(broker: Broker) -> None:
    await broker.make_log()
    server = broker.server
    log = await JetStreamLog.open(
        host_of(server.url("gateway")),
        user="gateway",
        password=server.passwords["gateway"],
        inbox_prefix=inbox_prefix("gateway"),
    )
    assert (await log.info()).last_sequence == 1
    await log.close()


async def test_an_address_that_is_no_socket_is_refused() -> None:
    with pytest.raises(Refused, match="nats:// or tls://"):
        await connect("ws://127.0.0.1:1")


async def test_of_several_addresses_one_that_answers_is_enough(broker: Broker) -> None:
    servers = f"{broker.server.url('gateway')},nats://127.0.0.1:1"
    for _ in range(4):
        client = await connect(servers, inbox_prefix=inbox_prefix("gateway"))
        with pytest.raises(LogUnavailable, match="Permissions Violation"):
            await client.ask("$JS.API.STREAM.NAMES")
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
        await client.until_up()


async def test_notices_sent_while_the_broker_is_away_are_lost_and_later_ones_not(broker: Broker) -> None:
    client, other = await broker.connect(), await broker.connect()
    notices, ears = JetStreamNotices(client), JetStreamNotices(other)
    heard: list[bytes] = []
    await ears.listen("told", lambda _, body: heard.append(body))
    await ears.flush()
    await notices.send("told", b"1")
    await until(lambda: heard == [b"1"])
    broker.kill()
    await until(lambda: not client.is_connected)
    await notices.send("told", b"lost")
    with pytest.raises(LogUnavailable):
        await notices.flush()
    await broker.start()
    async with asyncio.timeout(WAIT_SECONDS):
        await client.until_up()
        await other.until_up()
    await notices.send("told", b"2")
    await until(lambda: heard == [b"1", b"2"])


async def test_a_flush_on_its_way_when_the_broker_dies_fails_at_once(broker: Broker) -> None:
    notices = JetStreamNotices(await broker.connect())
    with broker.frozen():
        flushed = asyncio.ensure_future(notices.flush())
        await asyncio.sleep(0)
        broker.kill()
    with pytest.raises(LogUnavailable, match="broke"):
        await flushed


async def test_a_listener_that_fails_fails_alone(broker: Broker) -> None:
    client = await broker.connect()
    notices = JetStreamNotices(client)
    heard: list[bytes] = []

    def fail(_: str, __: bytes) -> None:
        raise ValueError

    await notices.listen("told", fail)
    await notices.listen("told", lambda _, body: heard.append(body))
    await notices.send("told", b"1")
    await notices.flush()
    assert heard == [b"1"]
    assert client.stats["reconnects"] == 0


class Taker:
    """Keeps what the parser hands on."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    async def take_message(self, *message: Any) -> None:
        self.taken.append(message)

    async def take_operation(self, *operation: Any) -> None:
        self.taken.append(operation)


STREAM = (
    b'INFO {"a": 1}\r\nPING\r\n'
    b"MSG s.a 7 2\r\n\r\n\r\n"
    b"MSG s.a 7 re.ply 5\r\nMSG 1\r\n"
    b"HMSG s.b 7 12 13\r\nNATS/1.0\r\n\r\nx\r\n"
    b"HMSG s.b 8 re.ply 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"HMSG s.c 8 14 14\r\nNATS/1.0 1\r\n\r\n\r\n"
    b"MSG s.\xff\x00 8 r 0\r\n\r\n"
    b"MSG s.d 8 1\r\nz\r\n"
    b"-ERR 'one two three four five'\r\n+OK\r\nPONG\r\n"
)
HANDED_ON = [
    (b"INFO", b'{"a": 1}'),
    (b"PING", b""),
    (7, b"s.a", b"", b"", b"\r\n"),
    (7, b"s.a", b"re.ply", b"", b"MSG 1"),
    (7, b"s.b", b"", b"NATS/1.0\r\n\r\n", b"x"),
    (b"-ERR", b"'one two three four five'"),
    (b"+OK", b""),
    (b"PONG", b""),
]
RAW = [
    (b"s.b", b"re.ply", b"NATS/1.0\r\n\r\n", b""),
    (b"s.c", b"", b"NATS/1.0 1\r\n\r\n", b""),
    (b"s.\xff\x00", b"r", b"", b""),
    (b"s.d", b"", b"", b"z"),
]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 20, 64, 10_000])
async def test_however_the_socket_cuts_its_bytes_the_messages_are_the_same(chunk_bytes: int) -> None:
    taker, raw = Taker(), []
    parser = WireParser(taker)
    parser.raw[b"8"] = lambda *message: raw.append(message)
    for _ in range(3):
        for at in range(0, len(STREAM), chunk_bytes):
            await parser.parse(STREAM[at : at + chunk_bytes])
    assert taker.taken == HANDED_ON * 3
    assert raw == RAW * 3


@pytest.mark.parametrize(
    "line", [b"MSG a 1\r\n", b"MSG a 1 x y z 3\r\n", b"HMSG a 1 2\r\n", b"MSG a b c d\r\n"]
)
async def test_a_line_that_is_no_protocol_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await WireParser(Taker()).parse(line)


async def test_a_line_without_an_end_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        await WireParser(Taker()).parse(b"x" * (LINE_BYTES_MAX + 1))


async def test_after_a_reset_nothing_of_the_old_connection_is_left() -> None:
    taker = Taker()
    parser = WireParser(taker)
    await parser.parse(b"MSG a 1 100\r\nhalf of it")
    parser.reset()
    await parser.parse(b"PING\r\n")
    assert taker.taken == [(b"PING", b"")]


async def test_a_reset_in_mid_parse_drops_the_rest_of_the_old_connection() -> None:
    taker = Taker()
    parser = WireParser(taker)
    taken = taker.take_operation

    async def reset_on_error(operation: bytes, argument: bytes) -> None:
        await taken(operation, argument)
        if operation == b"-ERR":
            parser.reset()

    taker.take_operation = reset_on_error  # type: ignore[assignment,method-assign]
    await parser.parse(b"-ERR 'x'\r\nPING\r\nMSG a 1 100\r\nhalf")
    await parser.parse(b"PONG\r\n")
    assert taker.taken == [(b"-ERR", b"'x'"), (b"PONG", b"")]


async def test_waiting_for_what_is_unsent_ends_where_there_is_no_connection() -> None:
    """As in the midst of connecting anew, when nats-py has no writer."""
    await BrokerClient().until_sent()
