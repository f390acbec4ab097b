"""Patches and merges against oracles: jsonpatch, a reference from the RFC, and their own undo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonpatch
import jsonpointer
from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core import json_text, patch
from refold.core.errors import Refused
from refold.core.pointer import render
from support.fold1 import LIMITS, RULES, apply_merge, apply_patch, compile_patch
from support.json_values import containers, copied, edited, json_values, operations, patches, places

STATES = containers()


def ours(state: Any, raw: list[Any]) -> Any:
    """Return the result in a list, or None if refused; check the invariants of both cases."""
    before = json_text.dumps(state)
    try:
        root, size = apply_patch(state, compile_patch(copied(raw)), size=len(before))
    except Refused:
        assert json_text.dumps(state) == before
        return None
    assert size == len(json_text.dumps(root))
    return [root]


def theirs(state: Any, raw: list[Any]) -> Any:
    try:
        return [jsonpatch.JsonPatch(copied(raw)).apply(copied(state))]
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError):
        return None


@given(st.data())
def test_a_patch_agrees_with_the_jsonpatch_library(data):
    state = data.draw(STATES)
    raw = data.draw(patches(state))
    expected = theirs(state, raw)
    got = ours(copied(state), raw)
    event("accepted" if got else "refused")
    assert json_text.identical(got, expected)


@given(st.data())
def test_a_refused_patch_does_not_change_the_bytes(data):
    state = data.draw(STATES)
    raw = data.draw(patches(state))
    assert ours(state, [*raw, {"op": "test", "path": "", "value": "never"}]) is None


@given(st.data())
def test_the_tracked_size_is_exact_after_any_sequence_of_patches(data):
    state = data.draw(STATES)
    size = json_text.size(state)
    for _ in range(data.draw(st.integers(1, 6))):
        raw = data.draw(st.lists(operations(state), min_size=1, max_size=2))
        try:
            state, size = apply_patch(state, compile_patch(copied(raw)), size=size)
        except Refused:
            continue
    assert size == len(json_text.dumps(state))
    assert json_text.identical(json_text.loads(json_text.dumps(state)), state)


PLAIN_VALUES = st.sampled_from([1, "", "é", [], [0], [0, [1]], {}, {"a": 1}, {"a": [{}], "m~n": 2}, "x" * 20])
PLAIN_STATES = st.fixed_dictionaries(
    {"a": PLAIN_VALUES, "b": st.lists(PLAIN_VALUES, max_size=3), "m~n": st.just(1)}
)
PLAIN_KINDS = st.sampled_from(["add", "add", "replace", "replace", "remove", "remove", "test"])


@st.composite
def plain_operations(draw: st.DrawFn, state: Any) -> dict[str, Any]:
    """Return an operation on a place in the state, or on one beside it."""
    *parents, last = draw(st.sampled_from(places(state)[1:]))
    token = draw(st.sampled_from([last, last, last, "0", "-", "new", "00"]))
    return {"op": draw(PLAIN_KINDS), "path": render((*parents, token)), "value": draw(PLAIN_VALUES)}


@settings(max_examples=500)
@given(st.data())
def test_a_plain_operation_has_the_result_that_a_patch_of_it_has(data):
    before = json_text.dumps(data.draw(PLAIN_STATES))
    state, expected = json_text.loads(before), json_text.loads(before)
    operation = data.draw(plain_operations(state))
    limits = replace(
        LIMITS,
        depth=data.draw(st.sampled_from([2, 3, 4, LIMITS.depth, LIMITS.depth])),
        state_bytes=len(before) + data.draw(st.integers(0, 30)),
        shifts=data.draw(st.sampled_from([0, 2, LIMITS.shifts, LIMITS.shifts])),
    )
    try:
        size = patch.apply_plain(state, copied(operation), size=len(before), limits=limits)
    except Refused:
        size = None
    if size is None:
        assert json_text.dumps(state) == before
        return
    event(operation["op"])
    compiled = patch.compile_patch([operation], limits, RULES.operations)
    root, patched_size = patch.apply_patch(expected, compiled, size=len(before), limits=limits)
    assert (json_text.dumps(state), size) == (json_text.dumps(root), patched_size)


@given(st.data())
def test_no_container_is_shared_within_a_state(data):
    state = data.draw(STATES)
    raw = data.draw(patches(state))
    got = ours(copied(state), raw)
    if got:
        seen: set[int] = set()
        pending = list(got)
        while pending:
            value = pending.pop()
            if isinstance(value, dict | list):
                assert id(value) not in seen
                seen.add(id(value))
                pending.extend(value.values() if isinstance(value, dict) else value)


def reference_merge(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = reference_merge(result.get(name), value)
    return result


@given(st.data())
def test_a_merge_follows_the_rfc_and_its_effect_reproduces_it(data):
    state = data.draw(containers() | json_values())
    merge = data.draw(edited(state) | json_values())
    expected = json_text.dumps(reference_merge(state, merge))
    before = json_text.dumps(state)
    root, size, effect = apply_merge(state, merge, size=len(before))
    assert json_text.dumps(root) == expected
    assert size == len(expected)
    replayed = json_text.loads(before)
    replayed, _ = apply_patch(replayed, compile_patch(copied(effect)), size=len(before))
    assert json_text.dumps(replayed) == expected
