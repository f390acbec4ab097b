"""Opens the log, and tells the broker's time. Used by every composition that needs the log."""

from __future__ import annotations

import time
import uuid
from urllib.parse import urlsplit

from refold.embedded.nats import NATS_USERS, inbox_prefix
from refold.log.jetstream import JetStreamLog, create_log
from refold.log.jetstream.client import DEFAULT_INBOX_PREFIX, BrokerClient, connect


def inbox_of(url: str) -> str:
    """Return the inbox prefix of the URL's user: each of ours has its own, anyone else the usual one."""
    prefixes: dict[str, str] = {user: inbox_prefix(user) for user in NATS_USERS}
    return prefixes.get(urlsplit(url).username or "", DEFAULT_INBOX_PREFIX)


async def connect_to(url: str, name: str) -> BrokerClient:
    """Connect as the URL's user. Raises `LogUnavailable`."""
    return await connect(url, inbox_prefix=inbox_of(url), name=name)


async def make_log(admin_url: str, *, replicas: int = 1) -> str:
    """Make the log, or complete or check the one that is there; return its id."""
    client = await connect_to(admin_url, "refold-administrator")
    try:
        return await create_log(client, log_id=uuid.uuid4().hex, replicas=replicas)
    finally:
        await client.close()


class BrokerClock:
    """The broker's clock, carried on by our own monotonic one."""

    def __init__(self, broker_nanoseconds: int) -> None:
        """Set it to what the broker just said."""
        self._offset = broker_nanoseconds - time.monotonic_ns()

    def __call__(self) -> int:
        """Return nanoseconds since 1970."""
        return time.monotonic_ns() + self._offset


async def open_log(url: str, name: str) -> JetStreamLog:
    """Open the log that is there. Raises `LogUnavailable`, `LogDiffers`, `LogHole`."""
    return await JetStreamLog.open(url, inbox_prefix=inbox_of(url), name=name)
