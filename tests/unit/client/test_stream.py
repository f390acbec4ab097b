"""A streamed answer: events are whole or not there, wherever the network splits or cuts it."""

import asyncio
from contextlib import closing

import pytest

from refold.client import Refused, ServiceUnavailable, TimedOut, connection
from refold.client.connection import ServerEvent
from refold.client.transport import Transport
from support.scripted import STREAM_HEAD, chunk, never, problem, scripted_server, stream, then_wait

SECONDS = {"first_seconds": 20.0, "silence_seconds": 20.0}
LAST_CHUNK = b"0\r\n\r\n"
PIECES = (
    b"retry: 1000\n\n",
    b": a comment\n\n",
    b'event: change\nid: a-1\ndata: {"version": 1}\n\nevent: change\nid: a-2\ndata:{"version": 2}\n',
    b"\nunknown: x\ndata: one\ndata: two\n\n",
)
EVENTS = [
    ServerEvent("change", "a-1", b'{"version": 1}'),
    ServerEvent("change", "a-2", b'{"version": 2}'),
    ServerEvent("", "", b"one\ntwo"),
]


@pytest.fixture
async def server():
    async with scripted_server() as made:
        yield made


@pytest.fixture
async def transport(server):
    made = Transport(server.url, timeout_seconds=20.0, trace=None)
    yield made
    await made.close()


async def until_cut(transport):
    """Read events until the answer breaks."""
    found = []
    try:
        with closing(await transport.stream("GET", "/live", **SECONDS)) as events:
            while (each := await events.next()) is not None:
                found.append(each)
    except ServiceUnavailable:
        return found, False
    return found, True


async def test_events_are_read_from_chunks_however_they_are_split(server, transport):
    body = b"".join(PIECES)
    ended = stream(*PIECES) + LAST_CHUNK
    by_byte = (
        STREAM_HEAD + b"".join(chunk(body[place : place + 1]) for place in range(len(body))) + LAST_CHUNK
    )
    unframed = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    server.add(ended, by_byte, unframed)
    for _ in range(3):
        assert await until_cut(transport) == (EVENTS, True)
    assert server.asked[0].headers["accept"] == "text/event-stream"


async def test_an_answer_that_is_cut_at_any_byte_gives_whole_events_only(server, transport):
    ended = stream(*PIECES) + LAST_CHUNK
    for place in range(len(ended) - len(LAST_CHUNK) + 1):
        server.add(ended[:place])
        found, is_whole = await until_cut(transport)
        assert not is_whole, place
        assert found == EVENTS[: len(found)], place
    assert found == EVENTS


async def test_bytes_that_arrive_slowly_are_waited_for(server, transport):
    async def slowly(_asked, write):
        for byte in stream(*PIECES) + LAST_CHUNK:
            await write(bytes([byte]))
            await asyncio.sleep(0)

    server.add(slowly)
    assert await until_cut(transport) == (EVENTS, True)


async def test_silence_ends_a_stream_before_and_after_its_first_byte(server, transport):
    server.add(never, then_wait(stream()), then_wait(stream(PIECES[0])))
    short = {"first_seconds": 0.05, "silence_seconds": 0.05}
    with pytest.raises(TimedOut):
        await transport.stream("GET", "/live", **short)
    for has_begun in (False, True):
        events = await transport.stream("GET", "/live", **short)
        with pytest.raises(TimedOut):
            await events.next()
        assert events.has_begun == has_begun
        events.close()


async def test_an_answer_that_is_no_success_raises_its_error(server, transport):
    server.add(problem(400, "bad_pattern"), problem(503, "full"))
    with pytest.raises(Refused, match="bad_pattern") as refused:
        await transport.stream("GET", "/live", **SECONDS)
    assert refused.value.reason == "bad_pattern"
    with pytest.raises(ServiceUnavailable):
        await transport.stream("GET", "/live", **SECONDS)


async def test_an_event_without_end_is_refused(server, transport, monkeypatch):
    monkeypatch.setattr(connection, "EVENT_BYTES_MAX", 100)
    server.add(then_wait(stream(b"data: " + 200 * b"x")))
    events = await transport.stream("GET", "/live", **SECONDS)
    with pytest.raises(ServiceUnavailable, match="more than 100 bytes"):
        await events.next()
    events.close()


async def test_closing_the_client_ends_what_waits_for_an_event(server, transport):
    server.add(then_wait(stream(PIECES[0])))
    events = await transport.stream("GET", "/live", **SECONDS)
    waiting = asyncio.create_task(events.next())
    await asyncio.sleep(0)
    await transport.close()
    with pytest.raises(ServiceUnavailable):
        await waiting
    await server.until_closed(1)


async def test_a_stream_holds_no_connection_of_the_pool(server, transport):
    server.add(*[then_wait(stream(PIECES[0]))] * 70)
    opened = [await transport.stream("GET", "/live", **SECONDS) for _ in range(70)]
    server.add(problem(404, "document_absent"))
    with pytest.raises(Exception, match="document_absent"):
        await transport.request("GET", "/v1/a/b")
    for events in opened:
        events.close()
