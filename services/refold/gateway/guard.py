"""Decide who a client is and what it may do. The first guard admits everyone; access control replaces it.

Called by the routes of `refold.gateway.live`: at each connect, and for each subscription.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.requests import Request


class Action(StrEnum):
    """What a client wants to do with a path of a document, a document, or a namespace."""

    watch = "watch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a client is; everyone is the same one until there is access control."""

    name: str = "anyone"


class Guard(Protocol):
    """Who may do what."""

    def admit(self, request: Request) -> Principal:
        """Return who sends a request. Raises `Problem` (401) for one that is refused."""

    def may(
        self, principal: Principal, action: Action, namespace: str, document: str | None, path: str
    ) -> bool:
        """Tell whether a client may do something; without a document, with the whole namespace."""


class OpenGuard:
    """Admit everyone to everything."""

    def admit(self, request: Request) -> Principal:  # noqa: ARG002 - a guard of another kind reads it
        """Return the principal that everyone is."""
        return Principal()

    def may(self, *_: object) -> bool:
        """Allow it."""
        return True
