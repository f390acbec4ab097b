"""Fold 2: an event with a stale base does at the head what its author meant, by the strategy that it names.

The rules are in `schemas/conflicts.md`. Where there is nothing to resolve, an event folds as under fold 1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from refold.core.document import ABSENT, Document, Kind, Status
from refold.core.errors import Refused
from refold.core.event import Event
from refold.core.extensions import EXTENDED
from refold.core.fold import decide as shared
from refold.core.fold import v1
from refold.core.fold.acts import Change
from refold.core.fold.apply import apply_change
from refold.core.fold.decide import Changed, decode
from refold.core.fold.resolve import LAST, MERGE, Resolver
from refold.core.fold.rules import Decoded, Rules, Window
from refold.core.fold.steps import Steps
from refold.core.fold.usual import fold_usual
from refold.core.fold.view import View, merge_operations
from refold.core.fold.window import STEPS, WINDOW_BYTES_MAX, WINDOW_VERSIONS_MAX, Recent, recent_of
from refold.core.json_text import Json, identical
from refold.core.stream import Record
from refold.core.undo_log import UndoLog

LIMITS: Final = replace(v1.LIMITS, window_versions=WINDOW_VERSIONS_MAX, window_bytes=WINDOW_BYTES_MAX)


class Intent(NamedTuple):
    """A stale event: what it asks for, and by which rules."""

    operations: list[Json]
    base: int
    strategy: str
    session: str | None
    is_whole: bool


def needs(decoded: Decoded, document: Document) -> int | None:
    """Return the base of a stale event whose window is not kept with the document."""
    event = decoded.event
    if event is None or event.base is None or not 0 < document.version - event.base <= WINDOW_VERSIONS_MAX:
        return None
    recent = recent_of(document)
    return None if recent is not None and recent.covers(event.base) else event.base


def _change(document: Document, record: Record, event: Event, rules: Rules, window: Window) -> Changed:
    base = event.base
    if base is None or base == document.version:
        return _apply(document, event, rules)
    if base > document.version:
        raise Refused("base_in_future", f"the document is at version {document.version}", field="base")
    behind = document.version - base
    if behind > WINDOW_VERSIONS_MAX:
        rule = f"a base is at most {WINDOW_VERSIONS_MAX} versions behind"
        raise Refused("base_too_old", rule, field="base", shape=f"{behind} versions")
    recent = _recent(document, base, window)
    bytes_count = recent.bytes_since(base)
    if bytes_count > WINDOW_BYTES_MAX:
        rule = f"at most {WINDOW_BYTES_MAX} bytes of changes since the base"
        raise Refused("base_too_old", rule, field="base", shape=f"{bytes_count} bytes")
    return _change_stale(document, record, event, rules, recent)


def _recent(document: Document, base: int, window: Window) -> Recent:
    """Return what is kept of the document, made from the window where that is needed."""
    # The event itself is counted already.
    before = document.events - 1
    recent: Recent | None = document.recent
    if recent is None or recent.events != before or not recent.covers(base):
        assert window is not None, "a stale event is folded with its window"
        recent = document.recent = Recent(window, before)
    return recent


def _change_stale(document: Document, record: Record, event: Event, rules: Rules, recent: Recent) -> Changed:
    base, session = event.base or 0, event.fields.get("session")
    changes = recent.changes(base)
    others = [it.version for it in changes if it.is_effective and (session is None or it.session != session)]
    if not others and not any(it.steps for it in changes if it.session == session):
        return _apply(document, event, rules)
    intent = _intent(event, base, rules.settings.on_conflict)
    try:
        if others:
            _check_strategy(intent, others)
        return _resolve(document, record, event, intent, recent, rules)
    except Refused as refused:
        refused.conflict = _rejection(document, record, intent, recent)
        raise


def _apply(document: Document, event: Event, rules: Rules) -> Changed:
    """Apply an event whose author sees the head."""
    effect = apply_change(document, event.kind, event.value, event.operations, event.size, rules)
    return Changed(effect)


def _intent(event: Event, base: int, default: str) -> Intent:
    if event.kind is Kind.patch:
        operations = event.value
    elif event.kind is Kind.merge:
        # What it does depends on the view; as a whole it can only be in the way of what comes after a rejection.
        operations = [{"op": "replace", "path": "", "value": None}]
    else:
        # A delete counts as one write of the root too.
        value = {} if event.kind is Kind.delete else event.value
        operations = [{"op": "replace", "path": "", "value": value}]
    is_whole = event.fields.get("all_or_nothing", False) or any(it["op"] == "test" for it in operations)
    return Intent(operations, base, event.on_conflict or default, event.fields.get("session"), is_whole)


def _check_strategy(intent: Intent, others: list[int]) -> None:
    strategy = intent.strategy
    if strategy == "reject":
        rule = f"version {others[0]} came after it"
        raise Refused("conflict", rule, field="base")
    if strategy.startswith("custom:"):
        raise Refused("needs_resolution", f"a resolver named {strategy[7:]} decides", field="on_conflict")


def _resolve(
    document: Document, record: Record, event: Event, intent: Intent, recent: Recent, rules: Rules
) -> Changed:
    is_absent = document.state is ABSENT
    edit = UndoLog({} if is_absent else document.state, 2 if is_absent else document.size, rules.limits)
    base, session = intent.base, intent.session
    model = recent.model(base, session, lambda: edit.root)
    own = Change(document.version + 1, record.sequence, session, True, [], [])
    view = View(model, recent, base)
    # A delete is not merged with anything.
    strategy = LAST if event.kind is Kind.delete and intent.strategy == MERGE else intent.strategy
    resolver = Resolver(model, edit, own, strategy=strategy, limits=rules.limits, view=view)
    operations = intent.operations
    try:
        if event.kind is Kind.merge:
            operations = merge_operations(model, view, event.value)
        resolver.apply(operations, is_whole=intent.is_whole)
        if is_absent and not resolver.effect:
            raise Refused("target_gone", "the document was deleted since", field="base")
        if rules.settings.check is not None and event.kind is not Kind.delete:
            rules.settings.check(edit.root)
    except Refused:
        edit.undo()
        raise
    recent.keep_model(base, session, model, record.sequence)
    document.state, document.size = (ABSENT, 0) if event.kind is Kind.delete else (edit.root, edit.size)
    return _changed(resolver, own, intent, event)


def _changed(resolver: Resolver, own: Change, intent: Intent, event: Event) -> Changed:
    conflict: dict[str, Json] = {"strategy": intent.strategy}
    if resolver.overwrote:
        conflict["overwrote"] = sorted(resolver.overwrote)
    if resolver.merged:
        conflict["merged"] = sorted(resolver.merged)
    if resolver.dropped:
        conflict["dropped"] = resolver.dropped
    if own.steps and intent.session is not None:
        conflict[STEPS] = own.steps
    is_same = event.kind is not Kind.merge and identical(resolver.effect, intent.operations)
    if len(conflict) == 1 and (is_same or event.kind is Kind.merge):
        return Changed(None if is_same else resolver.effect)
    # A state that was put as it is, and a delete, are their own effects.
    is_own = is_same and event.kind is not Kind.patch
    return Changed(None if is_own else resolver.effect, conflict, Status.merged)


def _rejection(document: Document, record: Record, intent: Intent, recent: Recent) -> dict[str, Json]:
    """Return what is kept of a rejected event: its later events in flight may count on it."""
    conflict: dict[str, Json] = {"strategy": intent.strategy}
    base, session = intent.base, intent.session
    if session is None:
        return conflict
    head = {} if document.state is ABSENT else document.state
    model = recent.model(base, session, lambda: head)
    own = Change(document.version, record.sequence, session, False, [], [])
    steps = Steps(model, own)
    for item in intent.operations:
        steps.follow(item)
    recent.keep_model(base, session, model, record.sequence)
    if own.steps:
        conflict[STEPS] = own.steps
    return conflict


RULES: Final = Rules(
    number=2,
    limits=LIMITS,
    operations=EXTENDED,
    decode=decode,
    needs=needs,
    decide=partial(shared.decide, change=_change),
    fold_usual=fold_usual,
    fields=frozenset({"session", "all_or_nothing", "reverts", "resolves", "txn"}),
)
