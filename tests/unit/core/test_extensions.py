"""The extension operations: by the vectors, their bounds, and what each costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from refold.core import extensions, json_text, patch
from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.replay import apply_accepted
from support.fold1 import LIMITS, RULES
from support.json_values import copied, refusal
from support.vectors import vectors


def applied(doc: Any, raw: Any, limits: Limits = LIMITS) -> tuple[Any, Any]:
    operations = patch.compile_patch(raw, limits, extensions.EXTENDED)
    root, size, effect = extensions.apply_extended(
        doc, raw, operations, size=json_text.size(doc), limits=limits
    )
    assert size == json_text.size(root)
    return root, effect


def refused(doc: Any, raw: Any, limits: Limits = LIMITS) -> Refused:
    return refusal(doc, lambda: applied(doc, raw, limits))


@pytest.mark.parametrize("vector", vectors("fold2/extensions.json"))
def test_every_vector_has_its_expected_result(vector):
    doc, raw = copied(vector["doc"]), copied(vector["patch"])
    if "error" in vector:
        assert refused(doc, raw).reason == vector["error"]
        return
    root, effect = applied(doc, raw)
    assert json_text.identical(root, vector["expected"])
    has_push = any(operation["op"] == "push" for operation in vector["patch"])
    assert (effect is not None) == has_push
    if "effect" in vector:
        assert json_text.identical(effect, vector["effect"])
    kept = vector["patch"] if effect is None else effect
    assert json_text.identical(apply_accepted(copied(vector["doc"]), copied(kept)), vector["expected"])
    if "plain" in vector:
        plain = extensions.plain_operations(copied(vector["doc"]), *copied(vector["patch"]))
        assert json_text.identical(plain, vector["plain"])


@pytest.mark.parametrize("name", ["inc", "str_ins", "str_del", "push"])
def test_fold_1_has_none_of_them(name):
    with pytest.raises(Refused) as caught:
        patch.compile_patch([{"op": name, "path": "/a"}], LIMITS, RULES.operations)
    assert caught.value.reason == ("bad_patch" if name == "push" else "not_in_this_fold")


@pytest.mark.parametrize(
    ("operation", "field", "shape"),
    [
        ({"op": "inc", "path": "/n"}, "patch/0/inc", "nothing"),
        ({"op": "inc", "path": "/n", "inc": "1"}, "patch/0/inc", "string of 1 character"),
        ({"op": "inc", "path": "n", "inc": 1}, "patch/0/path", "string of 1 character"),
        ({"op": "inc", "path": "/t", "inc": 1}, "patch/0/path", "string of 1 character"),
        ({"op": "inc", "path": "/n", "inc": json_text.INTEGER_MAX}, "patch/0/inc", "integer"),
        ({"op": "str_ins", "path": "/t", "str": "a", "pos": None}, "patch/0/pos", "null"),
        ({"op": "str_ins", "path": "/n", "str": "a", "pos": 0}, "patch/0/path", "integer"),
        ({"op": "str_del", "path": "/t", "pos": 0}, "patch/0/len", "nothing"),
        ({"op": "push", "path": "/n", "value": 1, "max": 1}, "patch/0/path", "integer"),
        ({"op": "push", "path": "/x", "value": 1, "max": 10_001}, "patch/0/max", "integer"),
    ],
)
def test_a_refusal_names_the_member_and_what_was_found(operation, field, shape):
    refusal = refused({"n": 1, "t": "a"}, [operation])
    assert (refusal.field, refusal.shape) == (field, shape)


def test_the_state_may_not_grow_too_large_by_them():
    limits = replace(LIMITS, state_bytes=30)
    text = {"op": "str_ins", "path": "/t", "pos": 0, "str": "x" * 20}
    assert refused({"t": "x" * 20}, [text], limits).reason == "state_too_large"
    assert refused({"a": []}, [{"op": "push", "path": "/a", "value": "x" * 30, "max": 1}], limits).reason == (
        "state_too_large"
    )
    assert refused({"n": 0}, [{"op": "inc", "path": "/n", "inc": 10**9}] * 2, replace(limits, state_bytes=8))


def test_the_size_is_checked_after_every_operation():
    shorter = {"op": "str_del", "path": "/t", "pos": 0, "len": 20}
    longer = {"op": "str_ins", "path": "/t", "pos": 0, "str": "x" * 20}
    limits = replace(LIMITS, state_bytes=30)
    assert applied({"t": "x" * 20}, [shorter, longer], limits)[0] == {"t": "x" * 20}
    assert refused({"t": "x" * 20}, [longer, shorter], limits).field == "patch/0/path"


def test_a_pushed_value_may_not_be_too_deep():
    limits = replace(LIMITS, depth=3)
    push = {"op": "push", "path": "/a", "value": [], "max": 3}
    assert applied({}, [copied(push)], limits)[0] == {"a": [[]]}
    assert refused({}, [{**push, "value": [[]]}], limits).reason == "too_deep"
    assert refused({"a": []}, [{**push, "value": [[]]}], limits).reason == "too_deep"


def test_changes_of_a_long_text_are_bounded_by_its_length_in_all():
    limits = replace(LIMITS, shifts=35)
    change = {"op": "str_ins", "path": "/t", "pos": 0, "str": "x"}
    assert applied({"t": "x" * 10}, [change] * 3, limits)[0] == {"t": "x" * 13}
    assert refused({"t": "x" * 10}, [change] * 4, limits).reason == "too_many_shifts"
    delete = {"op": "str_del", "path": "/t", "pos": 0, "len": 1}
    assert refused({"t": "x" * 20}, [delete] * 2, limits).reason == "too_many_shifts"


def test_a_push_shifts_only_what_it_keeps():
    long = {"a": [0] * 100_000}
    root, effect = applied(
        long, [{"op": "push", "path": "/a", "value": 1, "max": 5}], replace(LIMITS, shifts=5)
    )
    assert root == {"a": [0, 0, 0, 0, 1]}
    assert effect == [{"op": "replace", "path": "", "value": {"a": [0, 0, 0, 0, 1]}}]
    refusal = refused(
        {"a": [0] * 9}, [{"op": "push", "path": "/a", "value": 1, "max": 9}], replace(LIMITS, shifts=5)
    )
    assert refusal.reason == "too_many_shifts"


def test_an_effect_that_would_be_too_long_replaces_the_root():
    push = {"op": "push", "path": "/a", "value": {}, "max": 1}
    within, beyond = replace(LIMITS, operations=4), replace(LIMITS, operations=3)
    assert len(applied({"a": [1, 2, 3]}, [copied(push)], within)[1]) == 4
    root, effect = applied({"a": [1, 2, 3]}, [copied(push)], beyond)
    assert effect == [{"op": "replace", "path": "", "value": root}]
    # The effect shares nothing with the state, which later events change.
    root["a"][0]["x"] = 1
    assert effect[0]["value"] == {"a": [{}]}
    narrow = replace(LIMITS, event_bytes=5)
    assert applied({"a": [1]}, [copied(push)], narrow)[1][0]["path"] == "/a/-"
    assert applied({"a": [1, 2]}, [copied(push)], narrow)[1][0]["path"] == ""


def test_what_a_push_adds_is_kept_as_the_author_sent_it():
    raw = [
        {"op": "push", "path": "/a", "value": {"n": 1}, "max": 2},
        {"op": "inc", "path": "/a/0/n", "inc": 1},
    ]
    root, effect = applied({}, raw)
    assert root == {"a": [{"n": 2}]}
    assert effect == [{"op": "add", "path": "/a", "value": [{"n": 1}]}, raw[1]]
