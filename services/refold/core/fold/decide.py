"""Decode an event and decide its outcome: what all fold numbers have in common.

A number's own rule is how an event changes its document (`Rules.change`).
"""

from __future__ import annotations

from typing import Final

from refold.core import json_text
from refold.core.dedup import content_digest, id_digest, recall, remember
from refold.core.document import ABSENT, Document, First, Kind, Outcome, Status
from refold.core.envelope import content_of, open_envelope
from refold.core.errors import Refused
from refold.core.event import Event, check_event
from refold.core.fold.apply import advance, checked_occurred_at
from refold.core.fold.rules import FOLD_MAX, Decoded, Folded, Rules, Window
from refold.core.json_text import Json
from refold.core.settings import SETTINGS_PREFIX, read_settings
from refold.core.stream import FOLD_DOCUMENT, GENESIS_DOCUMENT, SYSTEM_NAMESPACE, Record, author_headers

DETAIL_CHARS_MAX: Final = 500
"""A rejection's detail, for people."""


def decode(record: Record, rules: Rules) -> Decoded:
    """Decode a record without its document."""
    headers = record.headers
    try:
        envelope = open_envelope(author_headers(headers) if headers else headers, record.body, rules.limits)
    except Refused as refused:
        return Decoded(None, None, refused)
    try:
        event = check_event(envelope, rules.limits, rules.operations, rules.fields)
    except Refused as refused:
        return Decoded(envelope, None, refused)
    return Decoded(envelope, event, None)


def decide(
    document: Document,
    record: Record,
    decoded: Decoded,
    recorded_at: int,
    rules: Rules,
    window: Window,
) -> Folded:
    """Fold a decoded event into its document, at most once for each id."""
    envelope, event, refused = decoded
    if envelope is None:
        assert refused is not None
        return Folded(_rejected(document, Kind.unknown, refused), recorded_at)
    event_id = envelope.id
    if event_id is None:
        return _decide(document, record, decoded, recorded_at, rules, window)
    limits = rules.limits
    digest, content = id_digest(event_id), content_digest(content_of(envelope.fields))
    known = recall(document.identities, digest, document.events - limits.id_window_events)
    if known is not None:
        return Folded(_repeated(document, content, *known), recorded_at, event_id=event_id)
    outcome, occurred_at, _, _, _ = _decide(document, record, decoded, recorded_at, rules, window)
    status, version, _, is_creation, reason, *_ = outcome
    first = First(document.events, record.sequence, recorded_at, version, status, is_creation, reason)
    identity = remember(document.identities, digest, content, first, limits.id_window_ids)
    return Folded(outcome, occurred_at, event, event_id, identity)


def _repeated(document: Document, content: bytes, first_content: bytes, first: First) -> Outcome:
    if content == first_content:
        return Outcome(Status.duplicate, first.version, Kind.unknown, first.is_creation, first=first)
    detail = f"id: the event at sequence {first.sequence} carries it with other content"
    return Outcome(Status.rejected, document.version, Kind.unknown, reason="id_reused", detail=detail)


def _decide(
    document: Document,
    record: Record,
    decoded: Decoded,
    recorded_at: int,
    rules: Rules,
    window: Window,
) -> Folded:
    _, event, refused = decoded
    try:
        if event is None:
            assert refused is not None
            raise refused
        occurred_at = event.occurred_at
        if occurred_at is None:
            occurred_at = recorded_at
        else:
            checked_occurred_at(occurred_at, recorded_at, rules.limits)
        if document.namespace == SYSTEM_NAMESPACE:
            _check_system_event(document.document, event, record.sequence, rules)
        is_creation = document.state is ABSENT
        effect, conflict, status = rules.change(document, record, event, rules, window)
    except Refused as broken:
        kind = event.kind if event is not None else Kind.unknown
        return Folded(_rejected(document, kind, broken), recorded_at, event)
    advance(document, record.sequence, recorded_at, occurred_at)
    outcome = Outcome(status, document.version, event.kind, is_creation, effect=effect, conflict=conflict)
    return Folded(outcome, occurred_at, event)


def _check_system_event(document: str, event: Event, sequence: int, rules: Rules) -> None:
    if event.kind is not Kind.put:
        raise _bad_system("system documents are put whole")
    if document == GENESIS_DOCUMENT:
        _check_genesis(event.value, sequence, rules)
    elif document == FOLD_DOCUMENT:
        _check_fold_number(event.value, rules.number)
    elif document.startswith(SETTINGS_PREFIX) and rules.number > 1:
        read_settings(document, event.value, rules.limits)
    else:
        raise _bad_system("there is no such system document")


def _check_genesis(state: Json, sequence: int, rules: Rules) -> None:
    if sequence != 1:
        raise _bad_system("a genesis stands at sequence 1")
    if not isinstance(state, dict) or not isinstance(state.get("log_id"), str) or not state["log_id"]:
        raise _bad_system("a genesis names its log_id")
    expected = rules.genesis_state(state["log_id"])
    # Canonical bytes, as `==` takes true for 1.
    found, wanted = ({name: json_text.dumps(each[name]) for name in each} for each in (state, expected))
    differing = {name for name, _ in found.items() ^ wanted.items()}
    if differing:
        raise _bad_system(f"a genesis of fold {rules.number} differs in {', '.join(sorted(differing))}")


def _check_fold_number(state: Json, current: int) -> None:
    number = state.get("fold") if isinstance(state, dict) and len(state) == 1 else None
    if type(number) is not int or not current < number <= FOLD_MAX:
        raise _bad_system(f"a fold's number is an integer above {current}, at most {FOLD_MAX}")


def _bad_system(rule: str) -> Refused:
    return Refused("bad_system_event", rule, field="_refold")


def _rejected(document: Document, kind: Kind, refused: Refused) -> Outcome:
    detail = str(refused)
    if not detail.isprintable():
        detail = detail.translate(_CONTROLS)
    detail = detail[:DETAIL_CHARS_MAX]
    return Outcome(
        Status.rejected,
        document.version,
        kind,
        reason=refused.reason,
        detail=detail,
        conflict=refused.conflict,
    )


# A NUL is legal in JSON but not in the store's text; a terminal would obey the others.
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
