"""Events with extension operations, and events of a namespace that has a schema, through both ways of the fold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from refold.core import json_text
from refold.core.document import Document
from refold.core.extensions import EXTENDED
from refold.core.fold import v1
from refold.core.fold.rules import Rules
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import NEVER, Clock, Entry, Point, operations_of
from refold.core.replay import state_at
from refold.core.settings import read_settings
from support.events import record

WITH_EXTENSIONS = replace(v1.RULES, operations=EXTENDED)
NUMBERS = {"schema": {"additionalProperties": {"type": "number"}}}
WITH_SCHEMA = WITH_EXTENSIONS.under(read_settings("settings:n", NUMBERS, v1.LIMITS))


def folded(rules: Rules, *events: dict[str, Any]) -> tuple[list[Entry], Document]:
    """Fold a document's events; return their entries and the document."""
    shard = FoldState(first_checkpoints("log-1"))
    shard._rules = rules
    entries, document = [], None
    for sequence, event in enumerate(events, 1):
        taken = record(event, sequence=sequence)
        where = shard.route(taken.subject)
        document = document or Document.new(where)
        entries.append(shard.fold(taken, where, document).entry)
    assert document is not None
    return entries, document


EVENTS: list[dict[str, Any]] = [
    {"put": {"n": 1, "t": "ac"}},
    {"patch": [{"op": "inc", "path": "/n", "inc": 2}]},
    {
        "patch": [
            {"op": "str_ins", "path": "/t", "pos": 1, "str": "b"},
            {"op": "inc", "path": "/n", "inc": 0.5},
        ]
    },
    {"patch": [{"op": "push", "path": "/a", "value": {"x": []}, "max": 2}], "id": "1"},
    {"patch": [{"op": "push", "path": "/a/0/x", "value": 1, "max": 2}]},
    {
        "patch": [
            {"op": "push", "path": "/a", "value": 2, "max": 2},
            {"op": "push", "path": "/a", "value": 3, "max": 2},
        ]
    },
    {"patch": [{"op": "inc", "path": "/t", "inc": 1}]},
    {"patch": [{"op": "str_del", "path": "/t", "pos": 0, "str": "ab"}]},
    {"patch": [{"op": "push", "path": "/a", "value": 2, "max": 2}], "id": "1"},
]
STATE = b'{"a":[2,3],"n":3.5,"t":"c"}'


@pytest.mark.parametrize("fold_usual", [None, v1.RULES.fold_usual], ids=["general", "usual"])
def test_a_history_of_extension_operations_folds_and_replays_to_one_state(fold_usual):
    entries, document = folded(replace(WITH_EXTENSIONS, fold_usual=fold_usual), *EVENTS)
    assert [entry.reason for entry in entries] == ["", "", "", "", "", "", "not_a_number", "", "id_reused"]
    assert json_text.dumps(document.state) == STATE
    assert document.size == len(STATE)
    for version in range(1, document.version + 1):
        _, partial = folded(WITH_EXTENSIONS, *EVENTS[: [it.version for it in entries].index(version) + 1])
        found = state_at(NEVER, entries, Point(Clock.version, version))
        assert found.state == json_text.dumps(partial.state), version


def test_only_a_push_has_an_effective_patch_of_its_own():
    entries, _ = folded(WITH_EXTENSIONS, *EVENTS)
    effects = [None if entry.effect is None else json_text.loads(entry.effect) for entry in entries]
    assert effects == [
        None,
        None,
        None,
        [{"op": "add", "path": "/a", "value": [{"x": []}]}],
        [{"op": "add", "path": "/a/0/x/-", "value": 1}],
        [
            {"op": "add", "path": "/a/-", "value": 2},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
        ],
        None,
        None,
        None,
    ]
    assert operations_of(entries[1]) == EVENTS[1]["patch"]


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        ({"put": {"a": "x"}}, "state/a"),
        ({"merge": {"b": {}}}, "state/b"),
        (
            {
                "patch": [
                    {"op": "add", "path": "/b", "value": 1},
                    {"op": "replace", "path": "/a", "value": None},
                ]
            },
            "state/a",
        ),
        ({"patch": [{"op": "push", "path": "/b", "value": 1, "max": 1}]}, "state/b"),
        ({"patch": [{"op": "add", "path": "/~1", "value": "x"}]}, "state/~1"),
    ],
)
def test_an_event_whose_result_the_schema_does_not_allow_is_rejected_and_changes_nothing(event, pointer):
    entries, document = folded(WITH_SCHEMA, {"put": {"a": 1}}, event, {"merge": {"a": 2.5}}, {"delete": True})
    assert [entry.reason for entry in entries] == ["", "schema", "", ""]
    assert entries[1].detail.startswith(f"{pointer}: ")
    assert document.version == 3


def test_an_absent_document_is_held_to_the_schema_when_it_is_made():
    required = read_settings("settings:n", {"schema": {"required": ["a"]}}, v1.LIMITS)
    entries, document = folded(WITH_EXTENSIONS.under(required), {"merge": {"b": 1}}, {"merge": {"a": 1}})
    assert [entry.reason for entry in entries] == ["schema", ""]
    assert document.state == {"a": 1}
