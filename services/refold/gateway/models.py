"""The shapes of what the gateway answers and takes, for the OpenAPI document.

The answers themselves are made as bytes; a test holds them against these.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from refold.core.limits import ANSWER_ITEMS_MAX, TIME_MAX_NANOSECONDS, WAIT_SECONDS_MAX
from refold.gateway.patterns import PRINTED_TIME


def _plain_integer(given: object) -> object:
    """Refuse a text that Pydantic would read as an integer and that is none in JSON: `1.0`, ` 1`, `+1`, `01`, `1_0`."""
    if isinstance(given, str) and not _INTEGER.fullmatch(given):
        raise PydanticCustomError("integer", "a whole number in plain digits, such as 12")
    return given


def _plain_seconds(given: object) -> object:
    """Refuse a text that no language prints for a number: ` 1`, `+1`, `1_0`, `nan`."""
    if isinstance(given, str) and not SECONDS.fullmatch(given):
        raise PydanticCustomError("seconds", "seconds, such as 2.5")
    return given


_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,39}")
SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,40})?([eE][+-]?\d{1,3})?", re.ASCII)
"""As any language prints a number."""

_PLAIN: Final = BeforeValidator(_plain_integer)

Version = Annotated[int, Field(ge=0, le=TIME_MAX_NANOSECONDS), _PLAIN]
Sequence = Annotated[int, Field(ge=0, le=TIME_MAX_NANOSECONDS), _PLAIN]
Timeout = Annotated[float, Field(ge=0, le=WAIT_SECONDS_MAX), BeforeValidator(_plain_seconds)]
Time = Annotated[
    str,
    Field(
        description="RFC 3339 in UTC with nine digits.",
        pattern=PRINTED_TIME,
    ),
]
Limit = Annotated[int, Field(ge=1, le=ANSWER_ITEMS_MAX), _PLAIN]
Status = Literal["applied", "merged", "rejected", "duplicate"]
Operation = dict[str, Any]


class _Answer(BaseModel):
    """What is answered holds nothing that is not named here."""

    model_config = ConfigDict(extra="forbid")


class First(_Answer):
    """The outcome that a duplicate's id had when it was first seen."""

    status: Literal["applied", "merged", "rejected"]
    version: Version
    sequence: Sequence
    recorded_at: Time
    created: bool
    reason: str | None = None


class Outcome(_Answer):
    """What the fold made of an event. `created`: the document was absent before."""

    namespace: str
    document: str
    sequence: Sequence
    status: Status
    version: Version
    recorded_at: Time
    occurred_at: Time | None = None
    created: bool
    id: str | None
    reason: str | None = None
    detail: str | None = None
    first: First | None = None


class Pending(_Answer):
    """The event is durable in the log, and not folded yet."""

    status: Literal["pending"]
    sequence: Sequence
    id: str | None = None


class Problem(_Answer):
    """RFC 9457. `code` is stable, as is the end of `type`; further members say more."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    reason: str | None = None
    outcome: Outcome | None = None


class Change(_Answer):
    """One version and the RFC 6902 patch that made it out of the one before."""

    version: Version
    sequence: Sequence
    recorded_at: Time
    occurred_at: Time
    actor: str | None
    id: str | None
    type: str | None
    meta: dict[str, Any] | None
    patch: list[Operation]
    status: Literal["applied", "merged"]


class Changes(_Answer):
    """A part of a history; `next` is the `after` that continues it."""

    items: list[Change]
    next: Version | None


class Rejection(_Answer):
    """An event that the fold refused, and what its author said of it."""

    sequence: Sequence
    recorded_at: Time
    reason: str
    detail: str
    id: str | None
    actor: str | None
    type: str | None


class Rejections(_Answer):
    """Rejections, newest first; `next` is the `after` that continues them."""

    items: list[Rejection]
    next: Sequence | None


class Document(_Answer):
    """A document at its head or as it was; no `state` with `fields=id`.

    With `absent=true` no `occurred_at`; `absent` stands only where it is true.
    """

    id: str
    version: Version
    recorded_at: Time
    occurred_at: Time | None = None
    state: JsonValue = None
    absent: Literal[True] | None = None


class Documents(_Answer):
    """Documents by id; `next` is the `cursor` that continues them."""

    items: list[Document]
    next: str | None


class Namespace(_Answer):
    """A namespace with its present documents and its events of any outcome."""

    namespace: str
    documents: int
    events: int


class Namespaces(_Answer):
    """All namespaces."""

    items: list[Namespace]


class Partition(_Answer):
    """How far a partition has been folded. `last_sequence` is the log's."""

    partition: int
    last_sequence: Sequence
    folded_sequence: Sequence
    lag_events: int
    lag_seconds: float


class SystemStatus(_Answer):
    """What the system says of itself."""

    log_id: str
    fold: int
    versions: dict[str, str | None]
    last_sequence: Sequence
    folded_sequence: Sequence
    lag_events: int
    lag_seconds: float
    partitions: list[Partition]


class Health(_Answer):
    """The process is alive, or the system is ready."""

    status: str
