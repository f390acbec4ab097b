"""A document in memory, changed in place by the fold, and the outcome of each event.

Used by all code that folds or stores documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple, Self

from refold.core import json_text
from refold.core.json_text import Json
from refold.core.stream import Route


class Absent:
    """The type of `ABSENT`, the state of an absent document; JSON null is a state."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


@dataclass(slots=True, kw_only=True)
class Document:
    """One document at its head.

    `size` counts the state's canonical bytes. `occurred_max` is the running maximum of the effective events'
    occurred times. `events` counts the document's events of any outcome. `identities` is the id window,
    oldest first (`refold.core.dedup`). `unpaged_events` and `unpaged_bytes` count what came after the
    last page was closed, `page_bytes` how large that page's closing snapshot was.
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
    recent: Any = field(default=None, compare=False, repr=False)
    """What fold 2 keeps of the last changes (`refold.core.fold.window`); never stored."""

    @classmethod
    def new(cls, where: Route) -> Self:
        """Return a document before its first event."""
        return cls(namespace=where.namespace, document=where.document, partition=where.partition)

    def without_state(self) -> Self:
        """Return a copy without the state and the id window. `dataclasses.replace` takes four times as long."""
        return type(self)(
            namespace=self.namespace,
            document=self.document,
            partition=self.partition,
            state=None,
            size=self.size,
            version=self.version,
            version_sequence=self.version_sequence,
            last_sequence=self.last_sequence,
            recorded_at=self.recorded_at,
            occurred_at=self.occurred_at,
            occurred_max=self.occurred_max,
            last_recorded_at=self.last_recorded_at,
            events=self.events,
            unpaged_events=self.unpaged_events,
            unpaged_bytes=self.unpaged_bytes,
            page_bytes=self.page_bytes,
        )


DOCUMENT_NUMBERS: Final = (
    "partition",
    "version",
    "version_sequence",
    "last_sequence",
    "last_recorded_at",
    "recorded_at",
    "occurred_at",
    "occurred_max",
    "events",
    "unpaged_events",
    "unpaged_bytes",
    "page_bytes",
    "size",
)
"""A document's numbers, in the order in which every store keeps them."""


def to_canonical(state: Json) -> bytes | None:
    """Return a state's canonical bytes; None where it is `ABSENT`."""
    return None if state is ABSENT else json_text.dumps(state)


def from_canonical(text: bytes | None) -> Json:
    """Parse a stored state; `ABSENT` where there is none. Raises `Refused`."""
    return ABSENT if text is None else json_text.loads(text)


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
    RFC 6902 patch where it is not the event's own. `is_creation`: the document was absent before. `conflict` is what
    came of resolving a stale event (`refold.core.fold.v2`).
    """

    status: Status
    version: int
    kind: Kind
    is_creation: bool = False
    reason: str = ""
    detail: str = ""
    effect: list[Json] | None = None
    first: First | None = None
    conflict: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound that can alter an outcome. A fold number names them, and a genesis states them by these names."""

    depth: int
    """Nesting of a state: a scalar is 0, `[]` is 1, `[[]]` is 2."""
    operations: int
    """Operations of one patch."""
    state_bytes: int
    """Canonical bytes of a state, checked after every operation."""
    copy_bytes: int
    """Canonical bytes that one event's `copy` and `move` operations may carry in all."""
    shifts: int
    """Array elements that the insertions and removals of one event may push aside in all."""
    event_bytes: int
    """Body of one event."""
    headers_bytes: int
    """An author's headers: all whose names do not begin with `Nats-`."""
    text_depth: int
    """Nesting of an event's JSON text: more than a state may have, less than orjson can write (254)."""
    name_chars: int
    """A namespace or a document id."""
    id_chars: int
    """An event's own id."""
    id_window_ids: int
    """An id is looked up among so many of its document's last events that carried one."""
    id_window_events: int
    """An id is looked up within so many of its document's last events of any kind."""
    occurred_ahead_nanoseconds: int
    """`occurred_at` may be this far after recorded time."""
    window_versions: int | None = None
    """A base may be so many versions behind the head; fold 1 has no such limit."""
    window_bytes: int | None = None
    """So many bytes of effective patches may lie between a base and the head; fold 1 has no such limit."""


UNBOUNDED: Final = Limits(**dict.fromkeys(Limits.__dataclass_fields__, 2**62))
"""For events that were accepted once, whatever the rules were: their changes apply again."""
