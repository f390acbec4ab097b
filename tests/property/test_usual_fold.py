"""The fold in one pass and the general fold: any log has the same entries, documents and chains by both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.document import ABSENT, Document, Limits
from refold.core.fold import RULES
from refold.core.fold.rules import Rules, Step
from refold.core.fold.window import Recent
from refold.core.fold_state import FoldState, WindowNeeded, first_checkpoints
from refold.core.history import NEVER, Entry, Segment
from refold.core.stream import Record
from support.events import LOGS, USUAL_LOGS

WIDE = replace(RULES[1].limits, id_window_ids=2, id_window_events=4)
NARROW = replace(
    WIDE,
    depth=3,
    text_depth=6,
    operations=2,
    state_bytes=40,
    event_bytes=100,
    headers_bytes=60,
    copy_bytes=8,
    shifts=1,
    id_chars=3,
)
"""Bounds that short logs reach."""

LIMITS = st.sampled_from([WIDE, WIDE, NARROW])


@contextmanager
def folding_by(rules: Rules) -> Iterator[FoldState]:
    """Fold a log that is under a number by other rules of it."""
    checkpoints = first_checkpoints("log-1")
    for checkpoint in checkpoints:
        checkpoint.fold = rules.number
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(RULES, rules.number, rules)
        yield FoldState(checkpoints)


def shown(document: Document) -> dict[str, Any]:
    """Return all of a document; its state in canonical bytes, its ids in order."""
    state = None if document.state is ABSENT else json_text.dumps(document.state)
    plain = asdict(replace(document, recent=None))
    return plain | {"state": state, "identities": list(document.identities.items())}


def folded(log: list[Record], rules: Rules) -> list[Any]:
    """Fold a log; return every step with the document after it, and the checkpoints."""
    with folding_by(rules) as shard:
        documents: dict[tuple[str, str], Document] = {}
        entries: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        found: list[Any] = []
        for record in log:
            where = shard.route(record.subject)
            if where.reason:
                found.append(shard.reject(record, where))
                continue
            key = where.namespace, where.document
            document = documents.setdefault(key, Document.new(where))
            try:
                step = shard.fold(record, where, document)
            except WindowNeeded:
                document.recent = Recent(Segment(NEVER, 0, list(entries[key])), document.events)
                step = shard.fold(record, where, document)
            entries[key].append(step.entry)
            found.append((step._replace(fields=json_text.dumps(step.fields)), shown(document)))
        return [*found, shard.checkpoints()]


def watched(number: int, limits: Limits) -> tuple[Rules, list[bool]]:
    """Return a number's rules that check what the one pass leaves undone, and whether it folded each event."""
    rules = replace(RULES[number], limits=limits)
    assert rules.fold_usual is not None
    fold_usual = rules.fold_usual
    done: list[bool] = []

    def watch(document: Document, *arguments: Any) -> Step | None:
        before = shown(document)
        step = fold_usual(document, *arguments)
        done.append(step is not None)
        assert step is not None or shown(document) == before
        assert document.size == (0 if document.state is ABSENT else json_text.size(document.state))
        return step

    return replace(rules, fold_usual=watch), done


@settings(max_examples=300)
@given(LOGS | USUAL_LOGS | USUAL_LOGS, LIMITS, st.sampled_from(sorted(RULES)))
def test_any_log_has_the_same_steps_documents_and_checkpoints_by_both_ways(log, limits, number):
    rules, done = watched(number, limits)
    assert folded(log, rules) == folded(log, replace(rules, fold_usual=None))
    event(f"{10 * sum(done) // len(log) * 10} % of the events in one pass")
