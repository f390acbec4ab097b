"""Fold 2: an event with a stale base does at the head what its author meant, by the strategy that it names.

The rules are in `schemas/conflicts.md`. Where there is nothing to resolve, an event folds as under fold 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from refold.core.document import ABSENT, Document, Kind, Status
from refold.core.errors import Refused
from refold.core.event import Event
from refold.core.extensions import EXTENDED
from refold.core.fold import v1
from refold.core.fold.apply import apply_change
from refold.core.fold.decide import decode
from refold.core.fold.identity import Author, Stamp
from refold.core.fold.optimistic import Optimistic
from refold.core.fold.resolution import LAST, MERGE, Resolution
from refold.core.fold.resolve import apply_stale
from refold.core.fold.rules import Changed, Decoded, Rules, Window
from refold.core.fold.usual import fold_usual
from refold.core.fold.view import DEPENDS_ON_REJECTED, View
from refold.core.fold.window import (
    STEPS,
    WINDOW_BYTES_MAX,
    WINDOW_VERSIONS_MAX,
    Change,
    Recent,
    recent_of,
)
from refold.core.json_text import Json, identical
from refold.core.stream import Record
from refold.core.undo_log import UndoLog

REJECT: Final = "reject"
CUSTOM: Final = "custom:"

LIMITS: Final = replace(v1.LIMITS, window_versions=WINDOW_VERSIONS_MAX, window_bytes=WINDOW_BYTES_MAX)


class Intent(NamedTuple):
    """A stale event: what it asks for, and by which rules. A merge patch's operations depend on its author's view."""

    operations: list[Json]
    strategy: str
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
    if recent.bytes_since(base) > WINDOW_BYTES_MAX:
        # Without the count: what is kept may begin after the base, where it has too much already.
        rule = f"at most {WINDOW_BYTES_MAX} bytes of changes since the base"
        raise Refused("base_too_old", rule, field="base")
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
    others = _others(changes, session)
    if others is None and not any(it.has_steps and it.session == session for it in changes):
        return _apply(document, event, rules)
    intent = _intent(event, rules.settings.on_conflict)
    author = Author(base, session, record.sequence)
    try:
        _check_strategy(intent.strategy, others)
        return _resolve(document, author, event, intent, recent, rules)
    except Refused as refused:
        refused.conflict = _rejection(document, author, event, intent, recent)
        raise


def _apply(document: Document, event: Event, rules: Rules) -> Changed:
    """Apply an event whose author sees the head."""
    effect = apply_change(document, event.kind, event.value, event.operations, event.size, rules)
    return Changed(effect)


def _intent(event: Event, default: str) -> Intent:
    if event.kind is Kind.patch:
        operations = event.value
    elif event.kind is Kind.merge:
        operations = []
    else:
        # A delete counts as one write of the root too.
        value = {} if event.kind is Kind.delete else event.value
        operations = [{"op": "replace", "path": "", "value": value}]
    is_whole = event.fields.get("all_or_nothing", False) or any(it["op"] == "test" for it in operations)
    return Intent(operations, event.on_conflict or default, is_whole)


def _check_strategy(strategy: str, others: int | None) -> None:
    """Reject by a strategy that leaves nothing to the fold, where `others` is the first version that others made."""
    if others is None:
        return
    if strategy == REJECT:
        raise Refused("conflict", f"version {others} came after it", field="base")
    if strategy.startswith(CUSTOM):
        name = strategy.removeprefix(CUSTOM)
        raise Refused("needs_resolution", f"a resolver named {name} decides", field="on_conflict")


def _others(changes: list[Change], session: str | None) -> int | None:
    """Return the first version that others made; None where there is none."""
    others = (it.version for it in changes if it.is_effective and (session is None or it.session != session))
    return next(others, None)


def _resolve(
    document: Document, author: Author, event: Event, intent: Intent, recent: Recent, rules: Rules
) -> Changed:
    is_absent = document.state is ABSENT
    if is_absent and event.kind is Kind.delete:
        raise Refused("document_absent", "there is nothing to delete", field="delete")
    model = recent.catch_up()
    edit = UndoLog({} if is_absent else document.state, 2 if is_absent else document.size, rules.limits)
    model.state = lambda: edit.root
    model.begin(author.sequence)
    # A delete is not merged with anything.
    strategy = LAST if event.kind is Kind.delete and intent.strategy == MERGE else intent.strategy
    resolution = Resolution(model, edit, author, document.version + 1, strategy=strategy, limits=rules.limits)
    operations = intent.operations
    try:
        if event.kind is Kind.merge:
            operations = View(model, author).merge_operations(event.value)
        apply_stale(resolution, operations, is_whole=intent.is_whole)
        if is_absent and not resolution.effect:
            raise Refused("target_gone", "the document was deleted since", field="base")
        if rules.settings.check is not None and event.kind is not Kind.delete:
            rules.settings.check(edit.root)
    except Refused:
        edit.undo()
        model.undo((resolution.stamp, resolution.optimistic_stamp))
        raise
    recent.resolved(author.sequence)
    document.state, document.size = (ABSENT, 0) if event.kind is Kind.delete else (edit.root, edit.size)
    return _changed(resolution, intent, event)


def _changed(resolution: Resolution, intent: Intent, event: Event) -> Changed:
    conflict: dict[str, Json] = {"strategy": intent.strategy}
    if resolution.overwrote:
        conflict["overwrote"] = sorted(resolution.overwrote)
    if resolution.merged:
        conflict["merged"] = sorted(resolution.merged)
    if resolution.dropped:
        conflict["dropped"] = resolution.dropped
    if resolution.steps:
        conflict[STEPS] = resolution.steps
    is_same = event.kind is not Kind.merge and identical(resolution.effect, intent.operations)
    if len(conflict) == 1 and (is_same or event.kind is Kind.merge):
        return Changed(None if is_same else resolution.effect)
    # A state that was put as it is, and a delete, are their own effects.
    is_own = is_same and event.kind is not Kind.patch
    return Changed(None if is_own else resolution.effect, conflict, Status.merged)


def _rejection(
    document: Document, author: Author, event: Event, intent: Intent, recent: Recent
) -> dict[str, Json]:
    """Return what is kept of a rejected event: its later events in flight may count on it."""
    conflict: dict[str, Json] = {"strategy": intent.strategy}
    if author.session is None:
        return conflict
    model, head = recent.catch_up(), document.state
    steps: list[Json] = []
    model.state = lambda: {} if head is ABSENT else head
    model.begin(author.sequence)
    stamp = Stamp(author.sequence, document.version, author.session, DEPENDS_ON_REJECTED)
    optimistic = Optimistic(model, author, stamp, steps, int)
    operations = intent.operations
    if event.kind is Kind.merge:
        operations = View(model, author).merge_operations(event.value)
    elif event.kind is Kind.delete and head is ABSENT and model.root.view(author) is model.root.head:
        # The author knows that there is nothing.
        operations = []
    for item in operations:
        optimistic.follow(item)
    recent.resolved(author.sequence)
    if steps:
        conflict[STEPS] = steps
    return conflict


RULES: Final = Rules(
    number=2,
    limits=LIMITS,
    operations=EXTENDED,
    decode=decode,
    needs=needs,
    change=_change,
    fold_usual=fold_usual,
    fields=frozenset({"session", "all_or_nothing", "reverts", "resolves", "txn"}),
)
