"""What the fold made of an event, as a value; and the entry that keeps both for ever.

Journal, pages, notices and answers are made from these.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from refold.core.canonical import Json


class Status(IntEnum):
    """An outcome's status; only the first two are effective."""

    applied = 0
    merged = 1
    rejected = 2
    duplicate = 3

    @property
    def is_effective(self) -> bool:
        """Tell whether the event took a version."""
        return self <= Status.merged


class Kind(IntEnum):
    """Which of the four an event was; `unknown` where it could not be decoded."""

    unknown = 0
    patch = 1
    merge = 2
    put = 3
    delete = 4


STATUSES: Final = tuple(Status)
KINDS: Final = tuple(Kind)
"""By number, as journal and pages hold them: a look-up costs a tenth of the enumeration's own."""


class First(NamedTuple):
    """The outcome that an event's id had when it was first seen.

    `ordinal` counts the document's events from 1.
    """

    ordinal: int
    sequence: int
    recorded_at: int
    version: int
    status: Status
    is_creation: bool
    reason: str


class Outcome(NamedTuple):
    """What the fold made of one event.

    `version` is the document's after it (for a duplicate: its first outcome's). `effect` is the effective
    RFC 6902 patch where it is not the event's own. `is_creation`: the document was absent before.
    """

    status: Status
    version: int
    kind: Kind
    is_creation: bool = False
    reason: str = ""
    detail: str = ""
    effect: list[Json] | None = None
    first: First | None = None


class Entry(NamedTuple):
    """One event of a document with its outcome: what journal and pages keep, exactly once.

    Times are nanoseconds since 1970; `time` is the broker's clock, `recorded_at` the same made monotone,
    `occurred_at` the author's, else `recorded_at`. `subject` is None where it is the document's usual one;
    `headers` are the author's; `effect` the effective patch in canonical bytes where the fold changed it;
    `identity` what the id window keeps (`refold.core.identity`), None for an event that takes no place there.
    """

    sequence: int
    time: int
    recorded_at: int
    occurred_at: int
    version: int
    status: Status
    kind: Kind
    is_creation: bool
    subject: bytes | None
    headers: bytes
    body: bytes
    effect: bytes | None
    reason: str
    detail: str
    identity: bytes | None
    first_sequence: int
    """For a duplicate: the sequence of the event it repeats; else 0."""

    @property
    def size(self) -> int:
        """Count the bytes that make a page full."""
        return len(self.body) + len(self.headers) + len(self.effect or b"")
