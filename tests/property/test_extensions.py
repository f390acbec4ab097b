"""The extension operations in random patches, against plain JSON Patches and simple models of each."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from refold.core import extensions, json_text
from refold.core.errors import Refused
from refold.core.extensions import EXTENSIONS, plain_operations
from refold.core.json_text import INTEGER_MAX, INTEGER_MIN
from refold.core.replay import apply_accepted
from support.extended import POSITIONS, apply, extended_patches
from support.fold1 import apply_patch as apply_plain_patch
from support.fold1 import compile_patch as compile_plain
from support.json_values import (
    FLOATS,
    INTEGERS,
    TEXTS,
    containers,
    copied,
)


def plainly(state: Any, raw: list[Any]) -> tuple[Any, list[Any]]:
    """Apply each operation as plain ones; return them too."""
    plain: list[Any] = []
    for operation in raw:
        now = plain_operations(state, operation) if operation["op"] in EXTENSIONS else [operation]
        plain += copied(now)
        state, _ = apply_plain_patch(state, compile_plain(copied(now)), size=json_text.size(state))
    return state, plain


@given(st.data())
def test_a_patch_does_what_its_plain_operations_do(data):
    state = data.draw(containers())
    raw = data.draw(extended_patches(state))
    before = copied(state)
    try:
        root, size, effect = apply(state, copied(raw))
    except Refused as refused:
        event(f"refused: {refused.reason}")
        assert json_text.identical(state, before)
        return
    event("applied")
    assert size == json_text.size(root)
    expected, plain = plainly(copied(before), raw)
    assert json_text.identical(root, expected)
    again, _ = apply_plain_patch(before, compile_plain(plain), size=json_text.size(before))
    assert json_text.identical(again, expected)
    assert (effect is not None) == any(operation["op"] == "push" for operation in raw)


@given(st.data())
def test_an_effective_patch_makes_the_same_state_of_the_version_before_it(data):
    state = data.draw(containers())
    raw = data.draw(extended_patches(state))
    before = copied(state)
    try:
        root, _, effect = apply(state, copied(raw))
    except Refused:
        return
    kept = raw if effect is None else effect
    assert all(operation["op"] != "push" for operation in kept)
    assert json_text.identical(apply_accepted(copied(before), copied(kept)), root)
    again, _, none = apply(copied(before), copied(kept))
    assert json_text.identical(again, root)
    assert none is None


@given(st.one_of(INTEGERS, FLOATS), st.one_of(INTEGERS, FLOATS))
def test_a_sum_is_exact_for_integers_and_a_double_else(old, amount):
    expected: int | float | None
    if type(old) is int and type(amount) is int:
        expected = old + amount if INTEGER_MIN <= old + amount <= INTEGER_MAX else None
    else:
        try:
            expected = float(Fraction(float(old)) + Fraction(float(amount)))
        except OverflowError:
            expected = None
    if expected is None:
        with pytest.raises(Refused, match="outside"):
            extensions.added(old, amount)
        return
    total = extensions.added(old, amount)
    assert json_text.identical(total, expected)
    assert json_text.dumps(json_text.loads(json_text.dumps(total))) == json_text.dumps(total)


@given(TEXTS, POSITIONS, TEXTS)
def test_what_str_ins_inserts_str_del_deletes_again(old, position, text):
    position = min(position, len(old))
    insertion = {"op": "str_ins", "path": "", "pos": position, "str": text}
    deletion = {"op": "str_del", "path": "", "pos": position, "str": text}
    longer, _, _ = apply(old, [insertion])
    assert list(longer) == [*list(old)[:position], *text, *list(old)[position:]]
    assert apply(old, [insertion, deletion])[0] == old
