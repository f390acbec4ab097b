"""HTTP for clients without NATS: writes by group commit with their outcomes, reads of any version.

`refold.gateway.app.Gateway` is the ASGI application; wiring makes its `Context`. Here are the bounds that a setting can
change; every other bound is beside its user.
"""

from __future__ import annotations

from typing import Final

WAITING_MAX: Final = 8_192
"""Requests that wait at a time: for the projection, for an outcome, for the rest of their body."""

WAITING_PER_CLIENT_MAX: Final = 4_096
"""The same from one address: half of all, so that one client cannot keep others from waiting."""

BODY_SECONDS: Final = 30.0
"""A request whose body makes no progress for so long is ended: 408."""

IDLE_SECONDS: Final = 30.0
"""A connection on which no request's headers are complete after this is closed, new or kept alive."""

LIVE_CONNECTIONS_MAX: Final = 10_000
"""Live connections of one gateway."""

LIVE_PER_CLIENT_MAX: Final = 200
"""The same of one client."""

LIVE_SECONDS_MAX: Final = 3_600.0
"""A live connection ends after this, give or take a tenth."""

PROBES: Final = frozenset({"/health", "/healthz", "/metrics", "/readyz"})
"""Paths of probes: they are not counted as requests in flight, and traced only where their caller samples them."""
