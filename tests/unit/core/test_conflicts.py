"""The fold passes the vectors of conflicts in `schemas/vectors/conflicts`, and each rule has one."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.fold.window import WINDOW_VERSIONS_MAX
from support.authors import Folded

SCHEMAS = Path(__file__).parents[3] / "schemas"
CASES = [
    pytest.param(case, id=f"{path.stem}: {case['comment']}")
    for path in sorted((SCHEMAS / "vectors" / "conflicts").glob("*.json"))
    for case in json.loads(path.read_text())
]
RULES = set(re.findall(r"^- `([a-z-]+)`:", (SCHEMAS / "conflicts.md").read_text(), re.MULTILINE))
LIST = {"l": ["e0", "e1", "e2"]}


def found(outcome, state):
    """Return an outcome in the format of the vectors."""
    said = {
        "status": outcome.status.name,
        "version": outcome.version,
        "state": None if state is ABSENT else state,
    }
    if outcome.reason:
        said["reason"] = outcome.reason
    if outcome.effect is not None:
        said["effect"] = outcome.effect
    conflict = outcome.conflict or {}
    return said | {name: conflict[name] for name in ("overwrote", "merged", "dropped") if name in conflict}


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "loaded"])
@pytest.mark.parametrize("case", CASES)
def test_every_outcome_equals_its_vector(case, is_kept):
    folded = Folded()
    for event, expected in zip(case["events"], case["expected"], strict=True):
        outcome = folded.publish(event, is_kept=is_kept)
        assert found(outcome, folded.document.state) == expected


@pytest.mark.parametrize("case", CASES)
def test_what_is_recorded_does_not_depend_on_where_the_window_begins(case):
    kept, loaded = Folded(), Folded()
    for event in case["events"]:
        kept.publish(copy.deepcopy(event))
        loaded.publish(copy.deepcopy(event), is_kept=False)
    assert kept.entries == loaded.entries


def test_each_rule_has_a_vector_and_each_vector_names_rules():
    named = {rule for case in CASES for rule in case.values[0]["rules"]}
    transactions = json.loads((SCHEMAS / "vectors" / "fold2" / "transactions.json").read_text())
    named |= {rule for case in transactions for rule in case["rules"]}
    assert named | {"base-old", "effect"} == RULES


def test_a_base_may_be_a_thousand_versions_behind():
    folded = Folded({"n": 0})
    for _ in range(WINDOW_VERSIONS_MAX):
        folded.publish({"patch": [{"op": "inc", "path": "/n", "inc": 1}]})
    assert folded.publish({"patch": [{"op": "inc", "path": "/n", "inc": 1}], "base": 1}).status.is_effective
    outcome = folded.publish({"patch": [{"op": "inc", "path": "/n", "inc": 1}], "base": 1})
    assert (outcome.reason, folded.document.state) == ("base_too_old", {"n": WINDOW_VERSIONS_MAX + 1})


def test_a_window_is_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr("refold.core.fold.v2.WINDOW_BYTES_MAX", 100)
    folded = Folded({"n": 0})
    event = {"patch": [{"op": "add", "path": "/t", "value": "x" * 40}]}
    assert len(json_text.dumps(event)) > 50
    folded.publish(event)
    assert folded.publish({"patch": [{"op": "add", "path": "/a", "value": 1}], "base": 1}).status.is_effective
    folded.publish(event)
    assert (
        folded.publish({"patch": [{"op": "add", "path": "/a", "value": 2}], "base": 1}).reason
        == "base_too_old"
    )


def test_a_stale_event_needs_its_window_only_where_it_is_not_kept():
    folded = Folded(LIST)
    event = {"patch": [{"op": "remove", "path": "/l/0"}]}
    assert folded.needs(event) is None
    assert folded.needs(event | {"base": 1}) is None
    folded.publish(event)
    assert folded.needs(event | {"base": 1}) == 1
    folded.publish(event | {"base": 1})
    assert folded.needs(event | {"base": 1}) is None
    assert folded.needs(event | {"base": 0}) is None
    folded.document.recent = None
    assert folded.needs(event | {"base": 1}) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"patch": [], "session": ""},
        {"patch": [], "session": 1},
        {"patch": [], "all_or_nothing": 1},
        {"patch": [], "reverts": 0},
        {"patch": [], "resolves": "1"},
    ],
)
def test_the_fields_of_fold_2_are_checked(event):
    outcome = Folded(LIST).publish(event)
    assert (outcome.status.name, outcome.reason) == ("rejected", "bad_field")


def test_principals_belong_to_a_later_fold():
    assert Folded(LIST).publish({"patch": [], "principal": {}}).reason == "not_in_this_fold"


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "move", "from": "/l/0", "path": "/l/x"},
        {"op": "move", "from": "/l/0", "path": "/l/²"},
        {"op": "move", "from": "/l/0", "path": "/s/0"},
        {"op": "replace", "path": "/l/x", "value": 1},
        {"op": "remove", "path": "/l/99999999999999999999"},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "copy", "from": "/l/9", "path": "/l/0"},
        {"op": "str_ins", "path": "/l", "pos": 0, "str": "x"},
        {"op": "push", "path": "/s", "value": 1, "max": 1},
        {"op": "push", "path": "", "value": 1, "max": 1},
        {"op": "inc", "path": "", "inc": 1},
        {"op": "replace", "path": "/s/0", "value": 1},
    ],
    ids=str,
)
def test_what_means_nothing_to_its_author_is_rejected(operation):
    folded = Folded({**LIST, "s": "text"})
    folded.publish(
        {
            "patch": [
                {"op": "add", "path": "/l/0", "value": "n"},
                {"op": "str_ins", "path": "/s", "pos": 0, "str": "a"},
            ]
        }
    )
    before = json_text.dumps(folded.document.state)
    outcome = folded.publish({"patch": [operation], "base": 1, "session": "a"})
    assert outcome.status.name == "rejected"
    assert json_text.dumps(folded.document.state) == before


def test_a_value_may_move_to_the_root():
    folded = Folded({"a": {"b": 1}, "l": []})
    folded.publish({"patch": [{"op": "add", "path": "/a/c", "value": 2}]})
    outcome = folded.publish({"patch": [{"op": "move", "from": "/a", "path": ""}], "base": 1})
    assert (outcome.status.name, folded.document.state) == ("merged", {"b": 1, "c": 2})


def test_an_own_patch_that_moved_a_value_to_the_root_is_a_write_of_it():
    folded = Folded({"a": {"b": [1]}, "l": []})
    folded.publish(
        {"patch": [{"op": "move", "from": "/a", "path": ""}, {"op": "add", "path": "/b/0", "value": 0}]}
    )
    outcome = folded.publish({"patch": [{"op": "add", "path": "/l/0", "value": 2}], "base": 1})
    assert outcome.conflict["dropped"] == [{"operation": 0, "reason": "target_gone"}]


@pytest.mark.parametrize("position", [2, 4, 9])
def test_a_deletion_beyond_the_end_counts_what_there_was(position):
    folded = Folded({"t": "abcd"})
    folded.publish({"patch": [{"op": "str_del", "path": "/t", "pos": position, "len": 99}]})
    outcome = folded.publish({"patch": [{"op": "str_ins", "path": "/t", "pos": 4, "str": "x"}], "base": 1})
    assert (outcome.status.is_effective, folded.document.state) == (True, {"t": "abcd"[:position] + "x"})


def test_the_root_moved_to_its_own_place_is_the_same_root():
    folded = Folded([2.5, True])
    folded.publish({"patch": [{"op": "move", "from": "", "path": ""}]})
    folded.publish({"patch": [{"op": "add", "path": "/1", "value": [1]}]})
    outcome = folded.publish({"patch": [{"op": "replace", "path": "/1", "value": False}], "base": 1})
    assert (outcome.status.name, folded.document.state) == ("merged", [2.5, [1], False])
