"""The fold: (document, event) -> (document, outcome). Pure, and the same for ever under one fold number.

Called by the shard, which feeds it the log in order, and by whoever holds a foreign fold to the vectors.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from refold.core import canonical
from refold.core.document import ABSENT, Document
from refold.core.envelope import Envelope, content_of, open_envelope
from refold.core.errors import Refused
from refold.core.event import Event, check_event
from refold.core.identity import content_digest, id_digest, recall, remember
from refold.core.limits import DETAIL_CHARS_MAX, OCCURRED_AHEAD_NANOSECONDS, STATE_BYTES_MAX
from refold.core.merge import apply_merge
from refold.core.outcome import First, Kind, Outcome, Status
from refold.core.patch import apply_patch
from refold.core.record import SYSTEM_NAMESPACE, Record, author_headers
from refold.core.system import check_system_event


class Folded(NamedTuple):
    """An outcome with what is known of the event behind it.

    `event` is None where it was not decoded, `identity` where it takes no place in the id window; `occurred_at`
    is the author's time, else the recorded one.
    """

    outcome: Outcome
    occurred_at: int
    event: Event | None = None
    event_id: str | None = None
    identity: bytes | None = None


def fold(document: Document, record: Record, *, recorded_at: int, fold_number: int = 1) -> Folded:
    """Fold one event into its document, in place, under fold 1.

    `recorded_at` is the broker's time of the record made monotone over the log. An event that breaks any rule
    is an outcome `rejected` and leaves the state as it was.
    """
    document.events += 1
    document.last_sequence = record.sequence
    document.last_recorded_at = recorded_at
    headers = record.headers
    try:
        envelope = open_envelope(author_headers(headers) if headers else headers, record.body)
    except Refused as refused:
        return Folded(_rejected(document, Kind.unknown, refused), recorded_at)
    if envelope.id is None:
        return _decide(document, envelope, record, recorded_at, fold_number)
    return _decide_once(document, envelope, envelope.id, record, recorded_at, fold_number)


def _decide_once(
    document: Document, envelope: Envelope, event_id: str, record: Record, recorded_at: int, fold_number: int
) -> Folded:
    """Look the id up in the window first: a retry changes nothing, another event under it is refused."""
    digest, content = id_digest(event_id), content_digest(content_of(envelope))
    known = recall(document.identities, digest, document.events)
    if known is not None:
        return Folded(_repeated(document, content, *known), recorded_at, event_id=event_id)
    outcome, occurred_at, event, *_ = _decide(document, envelope, record, recorded_at, fold_number)
    first = First(
        document.events,
        record.sequence,
        recorded_at,
        outcome.version,
        outcome.status,
        outcome.is_creation,
        outcome.reason,
    )
    identity = remember(document.identities, digest, content, first)
    return Folded(outcome, occurred_at, event, event_id, identity)


def _repeated(document: Document, content: bytes, first_content: bytes, first: First) -> Outcome:
    if content == first_content:
        return Outcome(Status.duplicate, first.version, Kind.unknown, first.is_creation, first=first)
    detail = f"id: the event at sequence {first.sequence} carries it with other content"
    return Outcome(Status.rejected, document.version, Kind.unknown, reason="id_reused", detail=detail)


def _decide(
    document: Document, envelope: Envelope, record: Record, recorded_at: int, fold_number: int
) -> Folded:
    event: Event | None = None
    try:
        event = check_event(envelope)
        kind, _, _, _, _, base, _, occurred_at = event
        if occurred_at is None:
            occurred_at = recorded_at
        elif occurred_at > recorded_at + OCCURRED_AHEAD_NANOSECONDS:
            raise Refused(
                "occurred_in_future", "more than five minutes after recorded time", field="occurred_at"
            )
        if document.namespace == SYSTEM_NAMESPACE:
            check_system_event(document.document, event, record.sequence, fold_number)
        if base is not None:
            _check_base(document, event, base)
        is_creation = document.state is ABSENT
        effect = _apply(document, event)
    except Refused as refused:
        kind = event.kind if event is not None else Kind.unknown
        return Folded(_rejected(document, kind, refused), recorded_at, event)
    document.version += 1
    document.version_sequence = record.sequence
    document.recorded_at = recorded_at
    document.occurred_at = occurred_at
    if occurred_at > document.occurred_max or document.version == 1:
        document.occurred_max = occurred_at
    # Past the generated constructors: this runs for every event.
    outcome = tuple.__new__(Outcome, (_APPLIED, document.version, kind, is_creation, "", "", effect, None))
    return tuple.__new__(Folded, (outcome, occurred_at, event, None, None))


def _check_base(document: Document, event: Event, base: int) -> None:
    """Under fold 1 a stale base is a conflict: `reject` is its only strategy, and the default."""
    if base == document.version:
        return
    if base > document.version:
        raise Refused("base_in_future", f"the document is at version {document.version}", field="base")
    if event.on_conflict not in {None, "reject"}:
        raise Refused(
            "strategy_unavailable", "fold 1 knows only reject for a stale base", field="on_conflict"
        )
    raise Refused("conflict", f"version {base + 1} came after it", field="base", shape=str(base))


def _apply(document: Document, event: Event) -> list[canonical.Json] | None:
    """Change the document; return the effective patch where it is not the event's own."""
    kind, value, operations, *_ = event
    state, size = document.state, document.size
    is_absent = state is ABSENT
    if is_absent:
        state, size = {}, 2
    effect: list[canonical.Json] | None = None
    if kind is _PATCH:
        state, size = apply_patch(state, operations, size=size)
    elif kind is Kind.merge:
        state, size, effect = apply_merge(state, value, size=size)
    elif kind is Kind.put:
        state, size = _put(event)
    elif is_absent:
        raise Refused("document_absent", "there is nothing to delete", field="delete")
    else:
        state, size = ABSENT, 0
    document.state, document.size = state, size
    return effect


def _put(event: Event) -> tuple[canonical.Json, int]:
    if event.size > STATE_BYTES_MAX:
        raise Refused(
            "state_too_large", f"at most {STATE_BYTES_MAX} bytes", field="put", shape=f"{event.size} bytes"
        )
    return event.value, event.size


def _rejected(document: Document, kind: Kind, refused: Refused) -> Outcome:
    detail = str(refused)
    if not detail.isprintable():
        detail = detail.translate(_CONTROLS)
    return Outcome(
        Status.rejected, document.version, kind, reason=refused.reason, detail=detail[:DETAIL_CHARS_MAX]
    )


_APPLIED: Final = Status.applied
_PATCH: Final = Kind.patch
"""An enumeration's own look-up costs as much as the rest of a comparison."""

# A NUL is legal in JSON text but not in the store's; the others would play with a terminal.
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
