"""One HTTP request with bounds: probes, metrics, and deliveries to webhooks. No redirects, no proxies, no reuse.

Used by `refold.alerts`, by `refold.embedded` and `refold.wiring` for the parts that they watch, and by `refold top`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of metrics and of monitoring; probes have far less."""

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")


class Response(NamedTuple):
    """An answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AddressRefused(OSError):
    """The URL has no valid host or port, or its host has an address that must not be reached."""


class BadAnswer(OSError):
    """The answer is no HTTP, incomplete, or too large."""


def address_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL. Raises `ValueError` where it has no valid ones."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port must be from 1 to 65535")
    return valid_host(parts.hostname or ""), port or (443 if parts.scheme == "https" else 80)


def valid_host(host: str) -> str:
    """Return the host. Raises `ValueError` where it cannot be looked up."""
    try:
        is_valid = bool(host) and "\0" not in host and bool(host.encode("idna"))
    except UnicodeError:
        is_valid = False
    if not is_valid:
        raise ValueError("the host must have labels of 1 to 63 characters between its dots")
    return host


async def get(url: str, *, seconds: float) -> Response:
    """Send a GET and read the whole answer. Raises `OSError`; of its kinds, `TimeoutError` and `BadAnswer`."""
    return await _exchange("GET", url, {}, b"", seconds, allows_private=True)


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, seconds: float, allows_private: bool
) -> Response:
    """Send a POST and read the head of the answer only. Raises `OSError`, as `get`."""
    return await _exchange("POST", url, headers, body, seconds, allows_private=allows_private)


async def _exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    seconds: float,
    *,
    allows_private: bool,
) -> Response:
    try:
        host, port = address_of(url)
    except ValueError as error:
        raise AddressRefused(str(error)) from error
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Host": parts.netloc, "Connection": "close", **headers}
    if method == "POST":
        sent["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    async with asyncio.timeout(seconds):
        reader, writer = await _connect(
            host, port, is_secure=parts.scheme == "https", allows_private=allows_private
        )
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
            status, answered = _read_head(await reader.readuntil(b"\r\n\r\n"))
            content = _whole(await _read_body(reader), answered) if method == "GET" else b""
            return Response(status, answered, content)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise BadAnswer("the answer is no HTTP") from error
        finally:
            writer.transport.abort()


async def _connect(
    host: str, port: int, *, is_secure: bool, allows_private: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to an address of the host that was looked at: a second look-up could return another."""
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
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not re.fullmatch("[1-9][0-9]{2}", words[1]):
        raise BadAnswer("the answer is no HTTP")
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    """Read until the connection ends, which was asked for."""
    content = bytearray()
    while more := await reader.read(HEAD_BYTES_MAX):
        content += more
        if len(content) > BODY_BYTES_MAX:
            raise BadAnswer(f"the answer has more than {BODY_BYTES_MAX:,} bytes")
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
        digits = chunked[at:end].partition(b";")[0].strip()
        if not _CHUNK_SIZE.fullmatch(digits):
            raise ValueError("a chunk has no size")
        size = int(digits, 16)
        if size == 0:
            return bytes(content)
        content += chunked[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
