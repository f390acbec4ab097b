"""Which operations touch a pattern, and what a pattern may be."""

from __future__ import annotations

from typing import Any

import pytest

from refold.core.errors import Refused
from refold.live.pattern import Pattern, Touch


@pytest.mark.parametrize(
    ("pattern", "operation", "touch"),
    [
        ("", {"op": "replace", "path": "/a/b", "value": 1}, Touch.inside),
        ("/a", {"op": "replace", "path": "/a/b", "value": 1}, Touch.inside),
        ("/a/b", {"op": "replace", "path": "/a", "value": 1}, Touch.whole),
        ("/a/b", {"op": "replace", "path": "", "value": 1}, Touch.whole),
        ("/a", {"op": "replace", "path": "/b", "value": 1}, Touch.none),
        ("/a", {"op": "test", "path": "/a", "value": 1}, Touch.none),
        ("/n", {"op": "inc", "path": "/n", "inc": 1}, Touch.inside),
        ("/t", {"op": "str_ins", "path": "/t", "pos": 0, "str": "x"}, Touch.whole),
        ("/lines/3", {"op": "remove", "path": "/lines/1"}, Touch.whole),
        ("/lines/3", {"op": "remove", "path": "/lines/4"}, Touch.none),
        ("/lines/3/text", {"op": "add", "path": "/lines/0", "value": {}}, Touch.whole),
        ("/lines/3", {"op": "add", "path": "/lines/-", "value": {}}, Touch.whole),
        ("/lines/3", {"op": "replace", "path": "/lines/1", "value": {}}, Touch.none),
        ("/users/*/at", {"op": "replace", "path": "/users/7/at", "value": 1}, Touch.whole),
        ("/users/*/at", {"op": "replace", "path": "/users/7/name", "value": 1}, Touch.none),
        ("/users/~2/at", {"op": "replace", "path": "/users/7/at", "value": 1}, Touch.none),
        ("/users/~2/at", {"op": "replace", "path": "/users/*/at", "value": 1}, Touch.whole),
        ("/a", {"op": "move", "from": "/a/x", "path": "/a/y"}, Touch.inside),
        ("/a", {"op": "move", "from": "/b", "path": "/a/y"}, Touch.whole),
        ("/a", {"op": "move", "from": "/a/y", "path": "/b"}, Touch.whole),
        ("/a", {"op": "copy", "from": "/a/y", "path": "/b"}, Touch.none),
    ],
)
def test_an_operation_at_below_or_above_a_pattern_touches_it(
    pattern: str, operation: dict[str, Any], touch: Touch
) -> None:
    assert Pattern.parse(pattern).touch(operation) is touch


@pytest.mark.parametrize(
    ("depth", "path", "touch"),
    [
        (0, "/a/b", Touch.deeper),
        (1, "/a/b", Touch.inside),
        (1, "/a/b/c", Touch.deeper),
        (0, "/a", Touch.whole),
    ],
)
def test_what_is_deeper_than_the_depth_does_not_count(depth: int, path: str, touch: Touch) -> None:
    assert Pattern.parse("/a", depth).touch({"op": "replace", "path": path, "value": 1}) is touch


@pytest.mark.parametrize("pattern", ["a", "/a~", "/a~3", "/a" * 33, "/" + "a" * 1_024])
def test_a_bad_pattern_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(Refused) as caught:
        Pattern.parse(pattern)
    assert (caught.value.reason, caught.value.field) == ("bad_pattern", "path")


def test_matches_are_all_members_and_elements() -> None:
    state = {"users": {"7": {"at": 1}, "a/b": {"at": 2}, "x": 3}, "lines": [{"at": 4}]}
    assert dict(Pattern.parse("/users/*/at").matches(state)) == {"/users/7/at": 1, "/users/a~1b/at": 2}
    assert dict(Pattern.parse("/*/0/at").matches(state)) == {"/lines/0/at": 4}
