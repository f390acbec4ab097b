"""The inverse of an effect: applied or folded right after it, it makes the state before it again, to the byte."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.document import to_canonical
from refold.core.errors import Refused
from refold.core.fold.v2 import LIMITS
from refold.core.history import operations_of
from refold.core.inverse import inverse
from support.authors import Folded, Garbage
from support.extended import accepted_patches, apply
from support.json_values import FLOATS, INTEGERS, SMALL_CONTAINERS, containers, copied


def undone(before: Any, effect: list[Any]) -> tuple[Any, list[Any]]:
    """Apply an effect and its inverse; return the state then, and the inverse."""
    after, _, _ = apply(copied(before), copied(effect))
    written = json_text.dumps(before), json_text.dumps(after)
    change = json_text.loads(json_text.dumps(inverse(*written, copied(effect), LIMITS)))
    state, _, _ = apply(after, copied(change["patch"]))
    return state, change["patch"]


@settings(max_examples=200)
@given(st.data())
def test_an_effect_and_then_its_inverse_is_identity_and_so_is_the_inverse_of_that(data):
    before = data.draw(st.one_of(containers(), SMALL_CONTAINERS, SMALL_CONTAINERS))
    raw = data.draw(accepted_patches(before))
    after, _, effect = apply(copied(before), copied(raw))
    effect = raw if effect is None else effect
    for operation in effect:
        event(operation["op"])
    state, patch = undone(before, effect)
    assert json_text.dumps(state) == json_text.dumps(before)
    again, _ = undone(after, patch)
    assert json_text.dumps(again) == json_text.dumps(after)


@given(st.one_of(INTEGERS, FLOATS), st.one_of(INTEGERS, FLOATS))
def test_a_sum_is_undone_to_the_byte(old, amount):
    effect = [{"op": "inc", "path": "/n", "inc": amount}]
    try:
        state, patch = undone({"n": old}, effect)
    except Refused:
        return
    assert json_text.dumps(state) == json_text.dumps({"n": old})
    if type(old) is float:
        assert all(operation["op"] == "inc" for operation in patch)


@pytest.mark.parametrize(
    ("before", "effect", "expected"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], [{"op": "remove", "path": "/b"}]),
        ({"a": 1}, [{"op": "add", "path": "/a", "value": 2}], [{"op": "replace", "path": "/a", "value": 1}]),
        ([0, 1], [{"op": "add", "path": "/-", "value": 2}], [{"op": "remove", "path": "/2"}]),
        ([0, 1], [{"op": "remove", "path": "/0"}], [{"op": "add", "path": "/0", "value": 0}]),
        ({"n": 1}, [{"op": "inc", "path": "/n", "inc": 5}], [{"op": "inc", "path": "/n", "inc": -5}]),
        ({"n": 0}, [{"op": "inc", "path": "/n", "inc": 0.5}], [{"op": "replace", "path": "/n", "value": 0}]),
        (
            {"t": "ad"},
            [{"op": "str_ins", "path": "/t", "pos": 1, "str": "bc"}],
            [{"op": "str_del", "path": "/t", "pos": 1, "len": 2}],
        ),
        (
            {"t": "abcd"},
            [{"op": "str_del", "path": "/t", "pos": 3, "len": 9}],
            [{"op": "str_ins", "path": "/t", "pos": 3, "str": "d"}],
        ),
        (
            [0, 1, 2],
            [{"op": "move", "from": "/2", "path": "/0"}],
            [{"op": "move", "from": "/0", "path": "/2"}],
        ),
        (
            [1, 0, {"k": 2}],
            [{"op": "move", "from": "/0", "path": "/1/k"}],
            [{"op": "move", "from": "/1/k", "path": "/0"}, {"op": "add", "path": "/2/k", "value": 2}],
        ),
        (
            {"a": {"b": 1, "c": 2}},
            [{"op": "move", "from": "/a/b", "path": "/a"}],
            [{"op": "replace", "path": "/a", "value": {"c": 2}}, {"op": "add", "path": "/a/b", "value": 1}],
        ),
        (
            {"a": 1, "b": 2},
            [{"op": "replace", "path": "", "value": {"a": 1, "b": 3}}],
            [{"op": "replace", "path": "/b", "value": 2}],
        ),
    ],
)
def test_an_inverse_names_the_same_values_as_the_effect(before, effect, expected):
    written = json_text.dumps(before)
    assert inverse(written, written, copied(effect), LIMITS) == {"patch": expected}


def test_a_creation_is_undone_by_a_delete_and_a_delete_by_the_state_before():
    effect = [{"op": "add", "path": "/a", "value": 1}]
    assert inverse(None, b'{"a":1}', effect, LIMITS) == {"delete": True}
    assert inverse(b'{"a":1}', None, [{"op": "remove", "path": ""}], LIMITS) == {"put": {"a": 1}}


def test_an_inverse_of_more_operations_than_a_patch_may_have_is_a_diff():
    before = {"a": 0, "b": 1}
    there_and_back = [{"op": "move", "from": "/a", "path": "/b"}, {"op": "add", "path": "/a", "value": 0}]
    effect = there_and_back * (LIMITS.operations // 2)
    written = json_text.dumps(before), json_text.dumps({"a": 0, "b": 0})
    assert inverse(*written, effect, LIMITS) == {"patch": [{"op": "replace", "path": "/b", "value": 1}]}


class Undone(Folded):
    """A document whose versions can be undone; `written` has the state of each in canonical bytes."""

    def __init__(self, state: Any) -> None:
        self.written: list[bytes | None] = [None]
        super().__init__(state)

    def publish(self, event: dict[str, Any], *, is_kept: bool = True) -> Any:
        """Fold an event."""
        outcome = super().publish(event, is_kept=is_kept)
        if outcome.status.is_effective:
            self.written.append(to_canonical(self.document.state))
        return outcome

    def undo(self, version: int, **fields: Any) -> Any:
        """Publish what undoes a version."""
        [entry] = [it for it in self.entries if it.status.is_effective and it.version == version]
        change = inverse(self.written[version - 1], self.written[version], operations_of(entry), LIMITS)
        return self.publish({**change, "base": version, "reverts": version, **fields})


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**32), turns=st.integers(4, 20))
def test_undo_and_redo_are_identity_and_an_undo_overwrites_nothing_where_the_first_write_wins(seed, turns):
    random = Random(seed)
    garbage = Garbage(random)
    folded = Undone(garbage.first)
    for _ in range(turns):
        folded.publish(garbage.event(folded.document.version))
        version = folded.document.version
        if not version:
            continue
        assert folded.undo(version).version == version + 1
        assert folded.written[version + 1] == folded.written[version - 1]
        folded.undo(version + 1)
        assert folded.written[version + 2] == folded.written[version]
        late = random.randint(1, version)
        if folded.written[late] is not None:
            outcome = folded.undo(late, on_conflict="first_write_wins")
            assert not (outcome.conflict or {}).get("overwrote")
