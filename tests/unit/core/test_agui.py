"""AG-UI's shared state: what a posted state edits, and which changes are sent as a delta."""

from __future__ import annotations

import pytest

from refold.client import apply_patch
from refold.core import json_text
from refold.core.agui import (
    NOTHING,
    Posted,
    StampTaken,
    add_stamp,
    find_edits,
    make_delta,
    read_posted,
    whole_state,
)
from refold.core.document import ABSENT

LARGE = 2**53 + 1


@pytest.mark.parametrize(
    ("base", "posted", "edits"),
    [
        ({"n": LARGE, "f": 1.0, "m": 2**64 - 1}, {"n": 2**53, "f": 1, "m": 18446744073709552000.0}, []),
        ({"n": LARGE}, {"n": 2**53 + 2}, [{"op": "replace", "path": "/n", "value": 2**53 + 2}]),
        ({"t": True}, {"t": 1}, [{"op": "replace", "path": "/t", "value": 1}]),
        ({"n": 0}, {"n": -0.0}, []),
        ([1.0, LARGE], ["new", 1, 2**53], [{"op": "add", "path": "/0", "value": "new"}]),
        ([[1.0], "a", [LARGE]], [[2**53], [1]], None),
        ({}, {"a": {}}, [{"op": "add", "path": "/a", "value": {}}]),
    ],
)
def test_what_a_client_could_not_keep_is_not_edited(base, posted, edits):
    found = find_edits(base, posted)
    assert edits is None or found == edits
    made = apply_patch(base, found)
    assert json_text.equal(_doubles(made), _doubles(posted))


def test_a_value_that_is_written_as_a_whole_keeps_the_numbers_that_nobody_touched():
    base = {"a": {"n": LARGE, "x": "0123456789"}, "list": [[LARGE, "abcdefgh"], 1]}
    posted = {"a": {"n": 2**53, "y": 1}, "list": ["z", [2**53, "abcdefgi"]]}
    made = apply_patch(base, find_edits(base, posted))
    assert made == {"a": {"n": LARGE, "y": 1}, "list": ["z", [LARGE, "abcdefgi"]]}


def test_the_stamp_is_the_base_and_no_part_of_the_state():
    assert read_posted({"a": 1, "v": 7}, base=3, stamp="v") == Posted({"a": 1}, 7)
    assert read_posted({"a": 1}, base=3, stamp="v") == Posted({"a": 1}, 3)
    assert read_posted({"v": "seven"}, base=None, stamp="v") == Posted({}, None)
    assert read_posted({"v": True}, base=None, stamp="v") == Posted({}, None)
    assert read_posted({"v": 7}, base=3, stamp=None) == Posted({"v": 7}, 3)
    assert read_posted([1], base=3, stamp="v") == Posted([1], 3)


def test_only_an_object_without_such_a_member_has_a_stamp():
    assert add_stamp({"a": 1}, "v", 7) == {"a": 1, "v": 7}
    assert add_stamp([1], "v", 7) == [1]
    assert add_stamp({"v": 1}, None, 7) == {"v": 1}
    with pytest.raises(StampTaken):
        add_stamp({"v": 1}, "v", 7)


@pytest.mark.parametrize(
    ("operation", "is_delta"),
    [
        ({"op": "add", "path": "/a", "value": 1}, True),
        ({"op": "replace", "path": "/constructor/x", "value": 1}, True),
        ({"op": "move", "from": "/a/1", "path": "/a/0"}, True),
        ({"op": "move", "from": "/a/1", "path": "/a/-"}, True),
        ({"op": "move", "from": "/a/x", "path": "/a/y/z"}, True),
        ({"op": "copy", "from": "/a/0", "path": "/a/1/x"}, True),
        ({"op": "move", "from": "/a/0", "path": "/a/1/x"}, False),
        ({"op": "add", "path": "", "value": 1}, False),
        ({"op": "remove", "path": ""}, False),
        ({"op": "copy", "from": "", "path": "/a"}, False),
        ({"op": "add", "path": "/a/__proto__", "value": 1}, False),
        ({"op": "move", "from": "/__proto__/a", "path": "/a"}, False),
        ({"op": "add", "path": "/a/constructor/prototype/b", "value": 1}, False),
        ({"op": "inc", "path": "/a", "inc": 1}, False),
    ],
)
def test_a_delta_has_only_what_clients_fold_as_the_rfc_says(operation, is_delta):
    assert make_delta([operation]) == ([operation] if is_delta else None)


def test_a_delta_has_no_test_and_does_not_touch_the_stamp():
    test = {"op": "test", "path": "", "value": 1}
    assert make_delta([test, {"op": "remove", "path": "/a"}], "v") == [{"op": "remove", "path": "/a"}]
    for operation in ({"op": "remove", "path": "/v/x"}, {"op": "move", "from": "/v", "path": "/a"}):
        with pytest.raises(StampTaken):
            make_delta([operation], "v")


@pytest.mark.parametrize(
    ("patch", "state"),
    [
        ([{"op": "replace", "path": "", "value": {"a": [1]}}], {"a": [1]}),
        ([{"op": "remove", "path": "/a"}, {"op": "remove", "path": ""}], ABSENT),
        ([{"op": "remove", "path": ""}, {"op": "add", "path": "/a", "value": 1}], {"a": 1}),
        (
            [{"op": "add", "path": "", "value": {"a": [1]}}, {"op": "inc", "path": "/a/0", "inc": 2}],
            {"a": [3]},
        ),
        ([{"op": "copy", "from": "/a", "path": ""}], NOTHING),
        ([{"op": "add", "path": "/__proto__", "value": 1}], NOTHING),
    ],
)
def test_a_change_of_the_whole_state_says_what_it_is(patch, state):
    assert whole_state(patch) == state


def _doubles(value):
    if isinstance(value, dict):
        return {name: _doubles(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_doubles(element) for element in value]
    return float(value) if type(value) in (int, float) else value
