"""The client's results: frozen values made from the gateway's answers. For users of the client.

Times are RFC 3339 in UTC with nine fractional digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Self, TypeAlias

from refold.core.errors import RefoldError, Refused, ServiceUnavailable
from refold.core.json_text import Json

Patch: TypeAlias = list[Json]
"""An RFC 6902 patch: a list of operations."""

CONFLICT: Final = "conflict"
FAILED: Final = "failed"
PENDING: Final = "pending"
REFUSED: Final = "refused"
EFFECTIVE: Final = frozenset({"applied", "merged", "duplicate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a write.

    `status`: `applied`, `merged`, `duplicate` (of an event with the same id), `rejected` (by the fold),
    `conflict` (the document is not at the version that the write asked for; nothing was published) or
    `pending` (durable in the log, not folded in time); for a line of `append` also `refused` (it breaks a
    rule; nothing was published) or `failed` (the log did not take it: send it again). `reason` is a stable
    code, `detail` for people.
    """

    status: str
    version: int | None = None
    sequence: int | None = None
    recorded_at: str | None = None
    reason: str = ""
    detail: str = ""
    dropped: tuple[Json, ...] = ()
    first_status: str = ""

    @property
    def is_effective(self) -> bool:
        """Whether the document has the change."""
        return (self.first_status or self.status) in EFFECTIVE

    def raise_for_status(self) -> Self:
        """Return the outcome if the document has the change or it is pending; otherwise raise its error.

        Raises `Conflict`, `Rejected` (also for the duplicate of a rejected event), `Refused` for a line that breaks a
        rule, `ServiceUnavailable` for one that was not appended.
        """
        if self.is_effective or self.status == PENDING:
            return self
        text = ": ".join(filter(None, (self.reason, self.detail))) or self.status
        if self.status == CONFLICT:
            raise Conflict(text, outcome=self)
        if self.status == FAILED:
            raise ServiceUnavailable(text)
        if self.status == REFUSED:
            raise Refused(self.reason or REFUSED, self.detail)
        raise Rejected(text, outcome=self)


class OutcomeError(RefoldError):
    """A write has no effect; `outcome` says why."""

    def __init__(self, message: str, *, outcome: Outcome) -> None:
        """Keep the outcome."""
        super().__init__(message)
        self.outcome = outcome


class Conflict(OutcomeError):
    """The document is not at the version that the write asked for; nothing was published."""

    code = "conflict"


class Rejected(OutcomeError):
    """The fold rejected the event."""

    code = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document as it was at one version. `state` is None where only ids were asked for, or JSON null."""

    namespace: str
    id: str
    version: int
    state: Json = None
    sequence: int | None = None
    recorded_at: str | None = None
    occurred_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One version's effective change: `patch` (RFC 6902) turns the version before into it."""

    version: int
    sequence: int
    recorded_at: str
    occurred_at: str
    patch: Patch
    status: str = "applied"
    id: str | None = None
    type: str | None = None
    actor: str | None = None
    meta: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One event that the fold rejected. `about` holds the event's other fields, as far as it could be read.

    The names are empty if the event's subject names no document.
    """

    namespace: str = ""
    document: str = ""
    sequence: int
    recorded_at: str
    reason: str
    detail: str = ""
    about: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace with its present documents and its events of any outcome."""

    name: str
    documents: int
    events: int


def as_json(value: Outcome | Change | Document | Rejection | Namespace) -> dict[str, Json]:
    """Return a value's members for JSON, an outcome without its empty ones."""
    members = {member.name: getattr(value, member.name) for member in fields(value)}
    if isinstance(value, Outcome):
        return {name: member for name, member in members.items() if member not in (None, "", ())}
    return members


def outcome_of(answer: dict[str, Any]) -> Outcome:
    """Read an outcome; members that this client does not know are ignored."""
    first = answer.get("first") or {}
    return Outcome(
        status=FAILED if _is_failed(answer.get("error")) else str(answer.get("status", "")),
        version=answer.get("version"),
        sequence=answer.get("sequence"),
        recorded_at=answer.get("recorded_at"),
        reason=str(answer.get("reason") or first.get("reason") or ""),
        detail=str(answer.get("detail") or ""),
        dropped=tuple(answer.get("dropped") or ()),
        first_status=str(first.get("status") or ""),
    )


def _is_failed(error: Any) -> bool:
    """Tell whether a line failed because of the service."""
    return isinstance(error, dict) and int(error.get("status", 0)) >= 500


def change_of(item: dict[str, Any]) -> Change:
    """Read one item of a history."""
    return Change(
        version=item["version"],
        sequence=item["sequence"],
        recorded_at=item["recorded_at"],
        occurred_at=item["occurred_at"],
        patch=item.get("patch") or [],
        status=item.get("status", "applied"),
        id=item.get("id"),
        type=item.get("type"),
        actor=item.get("actor"),
        meta=item.get("meta"),
    )


def rejection_of(item: dict[str, Any]) -> Rejection:
    """Read one item of a document's rejections."""
    named = ("namespace", "document", "sequence", "recorded_at", "reason", "detail")
    return Rejection(
        namespace=str(item.get("namespace") or ""),
        document=str(item.get("document") or ""),
        sequence=item["sequence"],
        recorded_at=item["recorded_at"],
        reason=item["reason"],
        detail=str(item.get("detail") or ""),
        about={name: value for name, value in item.items() if name not in named and value is not None},
    )


def namespace_of(item: dict[str, Any]) -> Namespace:
    """Read one item of the list of namespaces."""
    return Namespace(name=item["namespace"], documents=item["documents"], events=item["events"])


def find_namespace(namespaces: Iterable[Namespace], name: str) -> Namespace:
    """Return the namespace of this name. Raises `Refused` where there is none, with the most similar name."""
    known = {namespace.name: namespace for namespace in namespaces}
    if name in known:
        return known[name]
    similar = get_close_matches(name, known, n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise Refused("namespace_unknown", f"there is no namespace {name}{hint}")


def listed(namespace: str, item: dict[str, Any]) -> Document:
    """Read one item of a list of documents."""
    return Document(
        namespace=namespace,
        id=item["id"],
        version=item["version"],
        state=item.get("state"),
        sequence=item.get("sequence"),
        recorded_at=item.get("recorded_at"),
        occurred_at=item.get("occurred_at"),
    )
