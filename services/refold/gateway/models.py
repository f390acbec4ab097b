"""The shapes of what the gateway answers and takes, for the OpenAPI document.

The answers themselves are made as bytes; a test holds them against these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from refold.core.limits import ANSWER_ITEMS_MAX, TIME_MAX_NANOSECONDS

Version = Annotated[int, Field(ge=0, le=TIME_MAX_NANOSECONDS)]
Sequence = Annotated[int, Field(ge=0, le=TIME_MAX_NANOSECONDS)]
Time = Annotated[str, Field(description="RFC 3339 in UTC with nine digits.")]
Limit = Annotated[int, Field(ge=1, le=ANSWER_ITEMS_MAX)]
Status = Literal["applied", "merged", "rejected", "duplicate"]
Operation = dict[str, Any]


class First(BaseModel):
    """The outcome that a duplicate's id had when it was first seen."""

    status: Literal["applied", "merged", "rejected"]
    version: Version
    sequence: Sequence
    recorded_at: Time
    created: bool
    reason: str | None = None


class Outcome(BaseModel):
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


class Pending(BaseModel):
    """The event is durable in the log, and not folded yet."""

    status: Literal["pending"]
    sequence: Sequence
    id: str | None = None


class Problem(BaseModel):
    """RFC 9457. `code` is stable, as is the end of `type`; further members say more."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    reason: str | None = None
    outcome: Outcome | None = None


class Change(BaseModel):
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


class Changes(BaseModel):
    """A part of a history; `next` is the `after` that continues it."""

    items: list[Change]
    next: Version | None


class Rejection(BaseModel):
    """An event that the fold refused, and what its author said of it."""

    sequence: Sequence
    recorded_at: Time
    reason: str
    detail: str
    id: str | None
    actor: str | None
    type: str | None


class Rejections(BaseModel):
    """Rejections, newest first; `next` is the `after` that continues them."""

    items: list[Rejection]
    next: Sequence | None


class Document(BaseModel):
    """A present document at its head; no `state` with `fields=id`."""

    id: str
    version: Version
    recorded_at: Time
    state: JsonValue = None


class Documents(BaseModel):
    """Documents by id; `next` is the `cursor` that continues them."""

    items: list[Document]
    next: str | None


class Namespace(BaseModel):
    """A namespace with its present documents and its events of any outcome."""

    namespace: str
    documents: int
    events: int


class Namespaces(BaseModel):
    """All namespaces."""

    items: list[Namespace]


class Partition(BaseModel):
    """How far a partition has been folded. `last_sequence` is the log's."""

    partition: int
    last_sequence: Sequence
    folded_sequence: Sequence
    lag_events: int
    lag_seconds: float


class SystemStatus(BaseModel):
    """What the system says of itself."""

    log_id: str
    fold: int
    versions: dict[str, str | None]
    last_sequence: Sequence
    folded_sequence: Sequence
    lag_events: int
    lag_seconds: float
    partitions: list[Partition]


class Health(BaseModel):
    """The process is alive, or the system is ready."""

    status: str
