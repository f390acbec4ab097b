"""Patches applied again: what does not fit the state is damage, and is found."""

from __future__ import annotations

import pytest

from refold.core.replay import apply_accepted
from refold.store import DAMAGES


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "remove", "path": "/missing"},
        {"op": "add", "path": "/a/x", "value": 1},
        {"op": "add", "path": "/none/x", "value": 1},
        {"op": "add", "path": "/b/c/4", "value": 1},
        {"op": "add", "path": "/b/c/-1", "value": 1},
        {"op": "replace", "path": "/b/c/2", "value": 1},
        {"op": "remove", "path": "/b/c/-"},
        {"op": "unknown", "path": "/a"},
        {"op": "unknown", "path": "/b/c/0"},
        {"op": "add", "path": "/a"},
        {"op": "copy", "path": "/a", "from": "/missing"},
        {"op": "move", "path": "/a", "from": "/missing"},
        {"path": "/a"},
        {"op": "add"},
        {"op": "add", "path": 1, "value": 1},
        {"op": ["add"], "path": "/a", "value": 1},
        "add",
        None,
    ],
)
def test_a_patch_that_does_not_fit_raises_what_damage_raises(operation):
    with pytest.raises(DAMAGES):
        apply_accepted({"a": 1, "b": {"c": [1, 2]}}, [operation])


def test_a_copy_shares_nothing_with_its_source():
    state = apply_accepted({"a": {"n": [1]}}, [{"op": "copy", "from": "/a", "path": "/b"}])
    state = apply_accepted(state, [{"op": "add", "path": "/b/n/-", "value": 2}])
    assert state == {"a": {"n": [1]}, "b": {"n": [1, 2]}}


def test_operations_on_the_root_return_the_new_root():
    assert apply_accepted({"a": 1}, [{"op": "move", "from": "/a", "path": ""}]) == 1
    assert apply_accepted({"a": 1}, [{"op": "move", "from": "", "path": ""}]) == {"a": 1}
    assert apply_accepted({"a": 1}, [{"op": "copy", "from": "", "path": "/b"}]) == {"a": 1, "b": {"a": 1}}
    assert apply_accepted({"a": 1}, [{"op": "replace", "path": "", "value": []}]) == []
