"""One GET: bodies of both kinds are read whole, and what is no complete answer is an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from refold.telemetry import http
from refold.telemetry.http import AddressRefused, BadAnswer, get

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """Listen on the loopback, and answer one connection so; None: never."""
    is_done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer or b"")
            if answer is None:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        is_done.set()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/metrics"
        await is_done.wait()


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"5;note=a\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello, world",
        b"HTTP/1.0 200 OK\r\n\r\nhello, world",
    ],
    ids=["chunked", "with its length", "until the end"],
)
async def test_a_body_is_read_whole(answer: bytes) -> None:
    async with answering(answer) as url:
        assert (await get(url, seconds=5)).body == b"hello, world"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"five\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"-6\r\nabcdefgh",
        b"HTTP/1.1 " + b"2" * 5_000 + b" OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(21),
    ],
    ids=[
        "nothing",
        "another protocol",
        "cut off",
        "cut off between chunks",
        "no chunk",
        "a chunk that goes back",
        "no status",
        "too large",
    ],
)
async def test_what_is_no_complete_answer_is_an_error(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_BYTES_MAX", 20)
    async with answering(answer) as url:
        with pytest.raises(BadAnswer):
            await get(url, seconds=5)


async def test_a_server_that_does_not_answer_in_time_is_given_up() -> None:
    async with answering(None) as url:
        with pytest.raises(TimeoutError):
            await get(url, seconds=0.2)


@pytest.mark.parametrize(
    "url",
    [
        "http://a:99999/",
        "http://a:one/",
        "http://a..b/",
        f"https://{'a' * 64}.org/",
        "http:///x",
        "http://[::1",
    ],
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        await get(url, seconds=5)
