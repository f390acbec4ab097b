"""The client's results: frozen values, read from the gateway's answers. For users of the client.

Times are RFC 3339 in UTC with nine fractional digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self, TypeAlias, TypeVar

from refold.client.requests import did_you_mean, json_bytes
from refold.core import json_text
from refold.core.errors import RefoldError, Refused, ServiceUnavailable
from refold.core.json_text import Json

T = TypeVar(
    "T",
    "Change",
    "Document",
    "DocumentUpdate",
    "Leaf",
    "Namespace",
    "NamespaceUpdate",
    "RecordedConflict",
    "Rejection",
)

Patch: TypeAlias = list[Json]
"""A list of operations: those of RFC 6902, and `inc`, `str_ins`, `str_del` and `push`."""

CONFLICT: Final = "conflict"
FAILED: Final = "failed"
PENDING: Final = "pending"
REFUSED: Final = "refused"
EFFECTIVE: Final = frozenset({"applied", "merged", "duplicate"})

_DELETION: Final[Patch] = [{"op": "remove", "path": ""}]
"""The patch of a change that deletes the document; no author's patch has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a write.

    `status`: `applied`, `merged`, `duplicate` (of an event with the same id), `rejected` (by the fold),
    `conflict` (the document is not at the version that the write asked for; nothing was published) or
    `pending` (durable in the log, not folded in time); for a line of `append` also `refused` (it breaks a
    rule; nothing was published) or `failed` (the log did not take it: send it again). `reason` is a stable
    code, `detail` for people. Where the document had changed since the event's base: the versions that it
    `overwrote` or was `merged` with, and the operations `dropped`, `{"operation": index, "reason"}` each.
    """

    status: str
    version: int | None = None
    sequence: int | None = None
    recorded_at: str | None = None
    reason: str = ""
    detail: str = ""
    overwrote: tuple[int, ...] = ()
    merged: tuple[int, ...] = ()
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
        super().__init__(message)
        self.outcome = outcome

    @property
    def version(self) -> int | None:
        """The document's version."""
        return self.outcome.version


class Conflict(OutcomeError):
    """The document is not at the version that the write asked for; nothing was published."""

    code = "conflict"


class Rejected(OutcomeError):
    """The fold rejected the event."""

    code = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What became of a transaction: its events have the sequences from the first to the last.

    `status` is `applied`, `duplicate` (of a transaction with the same id) or `pending` (durable in the log, not
    folded in time: then there are no outcomes). `outcomes` are in the order of the changes.
    """

    status: str
    id: str
    first_sequence: int
    last_sequence: int
    outcomes: tuple[Outcome, ...] = ()


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
    """One version's effective change: `patch` turns the version before into it.

    `reverts`: the version that it undoes, or goes back to.
    """

    version: int
    sequence: int
    recorded_at: str
    occurred_at: str
    patch: Patch = field(default_factory=list)
    status: str = "applied"
    id: str | None = None
    type: str | None = None
    actor: str | None = None
    meta: Json = None
    reverts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentUpdate:
    """What `watch` yields of a document, or of a part of it: the `state` there at a version, and what led to it.

    `patch` turns the state of the update before into this one, for a `path` relative to it; the first update of a watch
    without `after` has none. `merged` counts the changes in it; those of one change have its author. Of a path with
    `*`, `state` has all values that match, by their pointers, and `values` and `gone` those of them that changed or
    ended; there is no patch. `state` is None where `is_absent`. States share what did not change: copy one to change
    it. `watch(after=update.cursor)` continues after this update.
    """

    namespace: str
    document: str
    version: int
    state: Json = None
    is_absent: bool = False
    patch: Patch = field(default_factory=list)
    values: dict[str, Json] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    merged: int = 1
    sequence: int = 0
    recorded_at: str | None = None
    occurred_at: str | None = None
    id: str | None = None
    type: str | None = None
    actor: str | None = None
    meta: Json = None
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceUpdate:
    """What `watch` yields of a namespace: that a document is at a new version, and with `mode="changes"` its patch.

    `patch` is None where it was not asked for. `watch(after=update.cursor)` continues after this update.
    """

    namespace: str
    document: str
    version: int
    sequence: int
    recorded_at: str | None = None
    occurred_at: str | None = None
    id: str | None = None
    type: str | None = None
    actor: str | None = None
    meta: Json = None
    patch: Patch | None = None
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A scalar or an empty container in a document, at `path` (a JSON Pointer), with who last wrote it.

    `version` is None where that was earlier than the service looks back.
    """

    path: str
    version: int | None = None
    recorded_at: str | None = None
    actor: str | None = None
    value: Json = None


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
class RecordedConflict:
    """What came of an event whose document had changed since its `base`.

    `version` is None where it was rejected. `event` has its change (`patch`, `merge`, `put` or `delete`), `others` the
    versions that it was in conflict with, `{"version", "actor"}` each. `is_open`: it waits for a resolver's decision.
    Of a single conflict, `head` is the document's version, and `states` has those at the `base`, at the `head`, and
    what its author saw after the event (`incoming`), but for those of an absent document; None where the event does
    not apply to its base.
    """

    namespace: str
    document: str
    sequence: int
    recorded_at: str
    strategy: str
    status: str = "rejected"
    version: int | None = None
    reason: str = ""
    detail: str = ""
    base: int = 0
    actor: str | None = None
    id: str | None = None
    type: str | None = None
    event: dict[str, Json] = field(default_factory=dict)
    overwrote: list[int] = field(default_factory=list)
    merged: list[int] = field(default_factory=list)
    dropped: list[Json] = field(default_factory=list)
    others: list[Json] = field(default_factory=list)
    is_open: bool = False
    head: int | None = None
    states: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace with its present documents and its events of any outcome."""

    name: str
    documents: int
    events: int


def as_json(
    value: Outcome
    | Transaction
    | Change
    | Document
    | DocumentUpdate
    | Leaf
    | Namespace
    | NamespaceUpdate
    | RecordedConflict
    | Rejection,
) -> dict[str, Json]:
    """Return a value's members for JSON; an outcome and an update without their empty ones."""
    members = {member.name: getattr(value, member.name) for member in fields(value)}
    if isinstance(value, Transaction):
        members["outcomes"] = [as_json(outcome) for outcome in value.outcomes]
    if isinstance(value, Outcome):
        return {name: member for name, member in members.items() if member not in (None, "", ())}
    if isinstance(value, DocumentUpdate | NamespaceUpdate):
        empty: tuple[Json, ...] = (None, (), {}, False)
        return {name: it for name, it in members.items() if name == "state" or it not in empty}
    return members


def read_answer(kind: type[T], answer: dict[str, Any], **others: Any) -> T:
    """Make a value of the members of an answer that it has; the rest and what is null are ignored."""
    known = {name: answer[name] for name in kind.__dataclass_fields__ if answer.get(name) is not None}
    return kind(**known | others)


def read_outcome(answer: dict[str, Any]) -> Outcome:
    """Read an outcome, or the error of a line in the answer to a bulk request."""
    first, error = answer.get("first") or {}, answer.get("error")
    # A line without effect failed if the service could not take it; otherwise it was refused.
    is_failed = isinstance(error, dict) and int(error.get("status", 0)) >= 500
    return Outcome(
        status=FAILED if is_failed else answer.get("status", ""),
        version=answer.get("version"),
        sequence=answer.get("sequence"),
        recorded_at=answer.get("recorded_at"),
        reason=answer.get("reason") or first.get("reason", ""),
        detail=answer.get("detail") or "",
        overwrote=tuple(answer.get("overwrote") or ()),
        merged=tuple(answer.get("merged") or ()),
        dropped=tuple(answer.get("dropped") or ()),
        first_status=first.get("status", ""),
    )


def read_transaction(status: int, answer: dict[str, Any]) -> Transaction:
    """Read the answer to a transaction. Raises `Conflict` and `Rejected`, with the facts that name the change."""
    if status in {409, 412}:
        kind, name = (Conflict, CONFLICT) if status == 412 else (Rejected, Rejected.code)
        reason, detail = answer.get("reason", name), answer.get("detail", "")
        outcome = Outcome(status=name, version=answer.get("version"), reason=reason, detail=detail)
        error = kind(detail, outcome=outcome)
        error.facts |= {fact: answer[fact] for fact in ("doc", "index", "reason") if fact in answer}
        raise error
    outcomes = tuple(read_outcome(each) for each in answer.get("outcomes", ()))
    named = {name: answer[name] for name in ("status", "id", "first_sequence", "last_sequence")}
    return Transaction(**named, outcomes=outcomes)


def read_rejection(item: dict[str, Any]) -> Rejection:
    """Read a rejected event; members that describe the event itself go into `about`."""
    about = {
        name: value
        for name, value in item.items()
        if name not in Rejection.__dataclass_fields__ and value is not None
    }
    return read_answer(Rejection, item, about=about)


def apply_patch(state: Json, patch: Patch) -> Json:
    """Return what a patch makes of a state, which stays as it is.

    For the patches of changes, in the order of their versions, and for a copy that shows an edit before it is sent. The
    extension operations are `inc`, `str_ins`, `str_del` and `push`. An absent document is `{}`. Raises `Refused` where
    the patch does not apply; the error names the operation.
    """
    # A program that keeps no copies does without them.
    from refold.core.document import UNBOUNDED  # noqa: PLC0415
    from refold.core.extensions import EXTENDED, apply_extended  # noqa: PLC0415
    from refold.core.patch import compile_patch  # noqa: PLC0415

    if patch == _DELETION:
        return {}
    # The values become part of the state, and later patches change them there.
    copy, raw = (json_text.reread(json_bytes(value)) for value in (state, patch))
    operations = compile_patch(raw, UNBOUNDED, EXTENDED)
    patched, _, _ = apply_extended(copy, raw, operations, size=json_text.size(copy), limits=UNBOUNDED)
    return patched


def find_namespace(namespaces: Iterable[Namespace], name: str) -> Namespace:
    """Return the namespace of this name. Raises `Refused` where there is none, with the most similar name."""
    known = {namespace.name: namespace for namespace in namespaces}
    if name in known:
        return known[name]
    raise Refused("namespace_unknown", f"there is no namespace {name}{did_you_mean(name, known)}")
