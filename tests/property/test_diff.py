"""A diff always transforms one state into the other, and is never larger than the other."""

from __future__ import annotations

from typing import Any

import jsonpatch
from hypothesis import given
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.diff import diff
from support.fold1 import apply_patch, compile_patch
from support.json_values import RECORDS, containers, copied, edited, json_values


def check(a: Any, b: Any) -> None:
    before, after = json_text.dumps(a), json_text.dumps(b)
    patch = diff(a, b)
    assert (json_text.dumps(a), json_text.dumps(b)) == (before, after)
    assert (not patch) == (before == after)
    root, size = apply_patch(json_text.loads(before), compile_patch(copied(patch)), size=len(before))
    assert json_text.dumps(root) == after
    assert size == len(after)
    whole = [{"op": "replace", "path": "", "value": b}]
    assert json_text.size(patch) <= json_text.size(whole)
    if patch:
        assert json_text.identical(jsonpatch.JsonPatch(copied(patch)).apply(json_text.loads(before)), b)


@given(st.data())
def test_a_diff_transforms_a_state_into_its_edited_copy(data):
    a = data.draw(containers())
    check(a, data.draw(edited(a)))


@given(st.data())
def test_a_diff_transforms_an_edited_copy_back(data):
    b = data.draw(containers())
    check(data.draw(edited(b)), b)


@given(json_values(20), json_values(20))
def test_a_diff_transforms_any_state_into_any_other(a, b):
    check(a, b)


@given(RECORDS, RECORDS, st.text(max_size=5))
def test_a_diff_transforms_any_array_of_records_into_any_other(a, b, filler):
    check({"rows": a, "filler": filler}, {"rows": b, "filler": filler})


@given(st.lists(st.integers(0, 4).map(lambda kind: f"a word of kind {kind} " * 3), max_size=12), st.data())
def test_a_diff_transforms_any_order_into_any_other(a, data):
    check(a, data.draw(st.permutations(a)))


@given(st.data())
def test_a_diff_depends_on_values_and_not_on_the_order_of_members(data):
    a, b = data.draw(containers()), data.draw(containers())
    assert json_text.dumps(diff(a, b)) == json_text.dumps(diff(copied(a), copied(b)))
