"""FastStream's connection to NATS. Used by the services that are FastStream applications: projector and resolver."""

from __future__ import annotations

import re
from typing import Final

from faststream.nats import NatsBroker
from faststream.nats.security import NatsUserPassword

from refold.log.jetstream.connection import credentials_of
from refold.wiring.servers import inbox_of

_UNLIMITED: Final = -1
_PING_SECONDS: Final = 5


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
