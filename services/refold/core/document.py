"""A document in memory, as the fold changes it in place.

Made by the fold's caller from a store's row; `ABSENT` is what a document is before its first event and
after a delete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from refold.core.canonical import Json


class Absent:
    """The state of a document that is not there; JSON null is a state, this is not."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show the constant's name."""
        return "ABSENT"


ABSENT: Final = Absent()


@dataclass(slots=True, kw_only=True)
class Document:
    """One document at its head.

    `size` counts the state's canonical bytes. `occurred_max` is the running maximum of the effective events'
    occurred times. `events` counts the document's events of any outcome. `identities` is the id window,
    oldest first (`refold.core.identity`). `unpaged_events` and `unpaged_bytes` say what has come since the
    last page was cut, `page_bytes` how large that page's closing snapshot was.
    """

    namespace: str
    document: str
    partition: int
    state: Json = ABSENT
    size: int = 0
    version: int = 0
    version_sequence: int = 0
    last_sequence: int = 0
    recorded_at: int = 0
    occurred_at: int = 0
    occurred_max: int = 0
    last_recorded_at: int = 0
    events: int = 0
    unpaged_events: int = 0
    unpaged_bytes: int = 0
    page_bytes: int = 0
    identities: dict[bytes, bytes] = field(default_factory=dict)
