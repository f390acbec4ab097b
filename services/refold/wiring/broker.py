"""FastStream's connection to NATS, and what NATS' monitoring says.

Used by projector and resolver, which are FastStream applications; the limit of the log also by the gateway.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from faststream.nats import NatsBroker
from faststream.nats.security import NatsUserPassword

from refold.core import json_text
from refold.core.errors import LogUnavailable
from refold.log.jetstream import JetStreamLog
from refold.log.jetstream.api import account_limit
from refold.log.jetstream.connection import credentials_of
from refold.telemetry.http import get
from refold.wiring.servers import inbox_of

LIMIT_SECONDS: Final = 30.0
"""How often NATS is asked how much it may store."""

_MONITOR_SECONDS: Final = 2.0
_UNLIMITED: Final = -1
_PING_SECONDS: Final = 5


@contextmanager
def watching_storage_limit(log: JetStreamLog, monitor: str | None) -> Iterator[None]:
    """Within the block, ask how many bytes NATS may store for the log, which has no bound of its own.

    NATS' monitoring knows the server's limit; without it, only that of the account is known, if it has one.
    """
    asking = asyncio.create_task(_watch_storage_limit(log, monitor), name="log-limit")
    try:
        yield
    finally:
        asking.cancel()


async def _watch_storage_limit(log: JetStreamLog, monitor: str | None) -> None:
    while True:
        with suppress(LogUnavailable, OSError):
            if monitor is None:
                log.server_limit_bytes = await account_limit(log.client)
            else:
                answer = await get(f"{monitor}/jsz", seconds=_MONITOR_SECONDS)
                log.server_limit_bytes = _max_storage(answer.body) or log.server_limit_bytes
        # It is set when the server starts.
        await asyncio.sleep(LIMIT_SECONDS)


def _max_storage(body: bytes) -> int | None:
    """Read an answer of NATS' monitoring; None for that of another server."""
    config = json_text.object_in(body).get("config")
    limit = config.get("max_storage") if isinstance(config, dict) else None
    return limit if type(limit) is int else None


def broker_of(url: str) -> NatsBroker:
    """Return a connection to any of the servers of an address, which reconnects without limit."""
    servers = url.split(",")
    user, password = credentials_of(servers)
    # nats-py would forget the addresses' user for a server that it discovers; FastStream accepts one user for all.
    security = None if user is None else NatsUserPassword(user, password or "")
    return NatsBroker(
        [re.sub("//.*@", "//", server) for server in servers],
        security=security,
        inbox_prefix=inbox_of(url),
        max_reconnect_attempts=_UNLIMITED,
        ping_interval=_PING_SECONDS,
        logger=None,
    )
