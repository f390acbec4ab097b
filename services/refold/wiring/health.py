"""Asks the parts of the system how they are, by the ways that anyone has: HTTP probes, a connection.

Used by `refold.wiring.system` and `refold.wiring.service_process`.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson

from refold.core.limits import CHILD_START_SECONDS
from refold.embedded.postgres import PostgresServer
from refold.wiring.part import SILENT_SECONDS, Fault

_NOT_LISTENING: Final = Fault("it does not listen", CHILD_START_SECONDS)
_WRITE_ERROR: Final = "write error"
_WRITE_ERROR_SECONDS: Final = 2.0


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


async def nats_fault(host: str, port: int) -> Fault | None:
    """Ask nats-server's monitoring. After a failed write, its stream takes no event until the server starts again."""
    try:
        status, body = await get(host, port, "/healthz")
    except OSError:
        return _NOT_LISTENING
    if status == 200:
        return None
    try:
        what = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        what = f"/healthz answered {status}"
    return Fault(what, _WRITE_ERROR_SECONDS if _WRITE_ERROR in what else SILENT_SECONDS)


async def postgres_fault(server: PostgresServer) -> Fault | None:
    """Ask PostgreSQL for a connection; a server that refuses one does answer."""
    return None if await server.answers() else _NOT_LISTENING
