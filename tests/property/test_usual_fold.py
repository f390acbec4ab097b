"""The fold in one pass and the general fold: any log has the same entries, documents and chains by both."""

from __future__ import annotations

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
from refold.core.fold_state import FoldState, first_checkpoints
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
def rules_of_fold_1(rules: Rules) -> Iterator[None]:
    """Fold by other rules meanwhile."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(RULES, 1, rules)
        yield


def shown(document: Document) -> dict[str, Any]:
    """Return all of a document; its state in canonical bytes, its ids in order."""
    state = None if document.state is ABSENT else json_text.dumps(document.state)
    return asdict(document) | {"state": state, "identities": list(document.identities.items())}


def folded(log: list[Record], rules: Rules) -> list[Any]:
    """Fold a log; return every step with the document after it, and the checkpoints."""
    with rules_of_fold_1(rules):
        shard = FoldState(first_checkpoints("log-1"))
        documents: dict[tuple[str, str], Document] = {}
        found: list[Any] = []
        for record in log:
            where = shard.route(record.subject)
            if where.reason:
                found.append(shard.reject(record, where))
                continue
            document = documents.setdefault((where.namespace, where.document), Document.new(where))
            step = shard.fold(record, where, document)
            found.append((step._replace(fields=json_text.dumps(step.fields)), shown(document)))
        return [*found, shard.checkpoints()]


def watched(limits: Limits) -> tuple[Rules, list[bool]]:
    """Return rules that check what the one pass leaves undone, and a list of whether it folded each event."""
    rules = replace(RULES[1], limits=limits)
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
@given(LOGS | USUAL_LOGS | USUAL_LOGS, LIMITS)
def test_any_log_has_the_same_steps_documents_and_checkpoints_by_both_ways(log, limits):
    rules, done = watched(limits)
    assert folded(log, rules) == folded(log, replace(rules, fold_usual=None))
    event(f"{10 * sum(done) // len(log) * 10} % of the events in one pass")
