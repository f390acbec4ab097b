"""Asks the parts of the system how they are, by the ways that anyone has: HTTP probes, a connection.

Used by `refold.wiring.system` and `refold.wiring.service_process`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import orjson

from refold.core.limits import BATCH_BYTES_MAX, CHILD_START_SECONDS
from refold.embedded.postgres import PostgresServer
from refold.wiring.part import SILENT_SECONDS, Fault

_NOT_LISTENING: Final = Fault("it does not listen", CHILD_START_SECONDS)
_WRITE_ERROR: Final = "write error"
_UNWRITABLE_SECONDS: Final = 2.0
ROOM_AT_BOUND_BYTES: Final = 32 * 1024 * 1024
"""A server at its bound is started again only where its bound would grow by more than this."""


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Ask by HTTP; return status and body. Raises `OSError` where nothing listens, `TimeoutError`."""
    reader, writer = await asyncio.open_connection(host.strip("[]"), port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        return (int(status[0]) if status and status[0].isdigit() else 0), body
    finally:
        writer.close()


async def service_fault(host: str, port: int) -> Fault | None:
    """Ask a service's `/healthz`."""
    try:
        status, _ = await get(host, port, "/healthz")
    except OSError:
        return _NOT_LISTENING
    return None if status == 200 else Fault(f"/healthz answered {status}", SILENT_SECONDS)


async def nats_fault(host: str, port: int, room: Callable[[], int]) -> Fault | None:
    """Ask nats-server's monitoring whether the log can be written; `room` returns how much it may grow, in bytes.

    After a failed write, its stream takes no event until the server starts again; its bound is set when it starts.
    """
    try:
        status, body = await get(host, port, "/healthz")
        if status != 200:
            what = _error_in(body) or f"/healthz answered {status}"
            return Fault(what, _UNWRITABLE_SECONDS if _WRITE_ERROR in what else SILENT_SECONDS)
        left = _left_bytes((await get(host, port, "/jsz"))[1])
    except OSError:
        return _NOT_LISTENING
    if left is not None and left < BATCH_BYTES_MAX and room() > ROOM_AT_BOUND_BYTES:
        return Fault("the log has reached its bound, and the disk has room", _UNWRITABLE_SECONDS)
    return None


def _error_in(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""


def _left_bytes(body: bytes) -> int | None:
    """Return how many bytes are left until the server's bound; None where it does not say."""
    try:
        told = orjson.loads(body)
        return int(told["config"]["max_storage"]) - int(told["storage"])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None


async def postgres_fault(server: PostgresServer) -> Fault | None:
    """Ask PostgreSQL for a connection; a server that refuses one does answer."""
    return None if await server.answers() else _NOT_LISTENING
