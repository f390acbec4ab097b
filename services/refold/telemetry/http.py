"""One HTTP request with bounds: probes, metrics, and deliveries to webhooks. No redirects, no proxies, no reuse.

Used by `refold.alerts`, by `refold.embedded` and `refold.wiring` for the parts that they watch, and by `refold top`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of metrics and of monitoring; probes have far less."""

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Response(NamedTuple):
    """An answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AddressRefused(OSError):
    """The host has an address that must not be reached."""


class BadAnswer(OSError):
    """The answer is no HTTP, incomplete, or too large."""


async def get(url: str, *, seconds: float, body_bytes_max: int = BODY_BYTES_MAX) -> Response:
    """Send a GET and read the whole answer. Raises `OSError`; of its kinds, `TimeoutError` and `BadAnswer`."""
    return await _exchange("GET", url, {}, b"", seconds, body_bytes_max, allows_private=True)


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, seconds: float, allows_private: bool
) -> Response:
    """Send a POST and read the head of the answer only. Raises `OSError`, as `get`."""
    return await _exchange("POST", url, headers, body, seconds, 0, allows_private=allows_private)


async def _exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    seconds: float,
    body_bytes_max: int,
    *,
    allows_private: bool,
) -> Response:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Host": parts.netloc, "Connection": "close", **headers}
    if method == "POST":
        sent["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    async with asyncio.timeout(seconds):
        reader, writer = await _connect(url, allows_private=allows_private)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
            status, answered = _read_head(await reader.readuntil(b"\r\n\r\n"))
            content = await _read_body(reader, body_bytes_max) if body_bytes_max else b""
            return Response(status, answered, _whole(content, answered) if body_bytes_max else b"")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise BadAnswer("the answer is no HTTP") from error
        finally:
            writer.transport.abort()


async def _connect(url: str, *, allows_private: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to an address of the URL's host that was looked at: a second look-up could return another."""
    parts = urlsplit(url)
    host, is_secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        is_private = not ipaddress.ip_address(address.partition("%")[0]).is_global
        if is_private and not allows_private and host not in LOOPBACK_HOSTS:
            raise AddressRefused(f"{host} is at the private address {address}, which is not allowed")
    context = ssl.create_default_context() if is_secure else None
    failure: OSError = OSError(f"{host} has no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(
                address, port, ssl=context, server_hostname=host if is_secure else None, limit=HEAD_BYTES_MAX
            )
        except OSError as error:
            failure = error
    raise failure


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if (
        len(words) < 2
        or not words[0].startswith("HTTP/1.")
        or not (words[1].isdigit() and words[1].isascii())
    ):
        raise BadAnswer("the answer is no HTTP")
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _read_body(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Read until the connection ends, which was asked for."""
    content = bytearray()
    while more := await reader.read(HEAD_BYTES_MAX):
        content += more
        if len(content) > bytes_max:
            raise BadAnswer(f"the answer has more than {bytes_max:,} bytes")
    return bytes(content)


def _whole(content: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the body of what was received, which must be complete."""
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return _joined(content)
        is_whole = len(content) == int(headers.get("content-length", len(content)))
    except ValueError as error:
        raise BadAnswer("the answer is no HTTP, or incomplete") from error
    if not is_whole:
        raise BadAnswer("the answer is incomplete")
    return content


def _joined(chunked: bytes) -> bytes:
    """Return the content of chunks. Raises `ValueError` unless the last one, which is empty, is there."""
    content, at = bytearray(), 0
    while True:
        end = chunked.index(b"\r\n", at)
        size = int(chunked[at:end].partition(b";")[0], 16)
        if size == 0:
            return bytes(content)
        content += chunked[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
