"""Why an operation of a stale event cannot do what its author meant. Raised by the model and by the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refold.core.errors import Refused

if TYPE_CHECKING:
    from refold.core.fold.acts import Act
    from refold.core.fold.model import Found


class Gone(Exception):
    """What an operation means is not at the head any more; `version` removed it, 0 where it never was there."""

    def __init__(self, reason: str, version: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.version = version
        self.found: Found | None = None
        """The last value on the way that is not at the head, where it is one that was there."""


def ghost(act: Act) -> Gone:
    """Say why a value that only the author sees is not at the head."""
    if act.event.is_effective:
        return Gone("target_gone")
    return Gone("depends_on_rejected")


def conflict(versions: set[int]) -> Refused:
    """Say which version was written first."""
    return Refused("conflict", f"version {min(versions)} wrote it first", field="path")
