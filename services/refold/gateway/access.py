"""Decide which hosts and web pages may reach the gateway; every request is checked by `refold.gateway.app`.

The gateway asks for no password, so a web page in a browser on the same machine must not reach it: neither by a
cross-origin request (a `no-cors` POST needs no preflight) nor by DNS rebinding (a name that resolves to 127.0.0.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from refold.gateway.responses import Problem

ANY: Final = "*"
HOSTS_CACHED_MAX: Final = 1_024
PREFLIGHT_SECONDS: Final = 600
"""How long a browser may cache the answer to a preflight request."""

METHODS: Final = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "POST")
EXPOSED_HEADERS: Final = (
    *("ETag", "Location", "Retry-After", "Refold-Version", "Refold-Sequence"),
    *("Refold-Recorded-At", "Refold-Occurred-At", "Refold-Lag-Events", "Refold-Request-Id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Host names and origins that are allowed besides loopback names, IP addresses and the gateway's own origin.

    A host is a name, `*.example.org` for all names below one, or `*`. An origin is `scheme://host[:port]`, or `*`.
    """

    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()

    def refusal(self, scope: Scope) -> Problem | None:
        """Return the problem of a request for an unknown host or from a foreign origin; None for any other."""
        host = origin = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if host and not _is_host_allowed(host, self.hosts):
            detail = f"this gateway does not serve the host {_text(host)}: add its name to REFOLD_HTTP_HOSTS"
            return Problem(421, "host_not_allowed", detail, field="host")
        if origin and not self._is_origin_allowed(origin, host):
            detail = (
                f"requests of web pages of {_text(origin)} are not allowed: add it to REFOLD_CORS_ORIGINS"
            )
            return Problem(403, "origin_not_allowed", detail, field="origin")
        return None

    def answering_cors(self, app: ASGIApp) -> ASGIApp:
        """Return an application that lets browsers show its answers to pages of the allowed origins."""
        if not self.cors_origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self.cors_origins,
            allow_methods=METHODS,
            allow_headers=(ANY,),
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )

    def _is_origin_allowed(self, origin: bytes, host: bytes) -> bool:
        # Only the authority is compared: a proxy that ends TLS changes the scheme.
        if host and origin.lower().partition(b"://")[2] == host.lower():
            return True
        allowed = [each.lower() for each in self.cors_origins]
        return ANY in allowed or _text(origin).lower() in allowed


@lru_cache(HOSTS_CACHED_MAX)
def _is_host_allowed(host: bytes, allowed: tuple[str, ...]) -> bool:
    """Return whether a Host header is allowed; one with an IP address cannot come from DNS rebinding."""
    found = _HOST.fullmatch(_text(host).lower())
    if found is None:
        return False
    name = found["name"].removesuffix(".")
    if name == "localhost" or name.endswith(".localhost") or _is_address(name.strip("[]")):
        return True
    return any(_matches(name, each.lower()) for each in allowed)


def _matches(name: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return name.endswith(allowed[1:])
    return allowed in (ANY, name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?")
