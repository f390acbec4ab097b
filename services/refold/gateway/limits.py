"""Bounds of HTTP requests, with their units. Those of connections are in `refold.wiring.serving`."""

from __future__ import annotations

from typing import Final

REQUESTS_MAX: Final = 1_024
"""Requests in work at a time, those that wait for something not counted; more wait for their turn."""

REQUEST_QUEUE_SECONDS: Final = 10.0
"""A request that has not had its turn by then is answered 503."""

WAITING_MAX: Final = 8_192
"""Requests that wait at a time: for the projection, for an outcome, for the rest of their body."""

WAITING_PER_CLIENT_MAX: Final = 4_096
"""The same from one address: half of all, so that one client cannot keep others from waiting."""

VERSION_LOOKS_PER_SECOND_MAX: Final = 1_000
"""Reads of the store, per second, by all requests that wait for a version: while many wait, each looks less often."""

IDLE_SECONDS: Final = 30.0
"""A connection on which no request's headers are complete after this is closed, new or kept alive."""

BODY_SECONDS: Final = 30.0
"""A request whose body makes no progress for so long is ended: 408."""

BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Request bodies in memory while they are being read."""
