"""Hypothesis strategies for JSON: values, states, patches that often hit, merges, and edited copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.json_text import INTEGER_MAX, INTEGER_MIN
from refold.core.pointer import render

# Few keys and small numbers, so that two values have much in common, and some unusual ones.
KEYS = st.sampled_from(["a", "b", "c", "id", "", "0", "1", "-", "a/b", "m~n", "é", "\U00010000", "\uffff"])
TEXTS = st.one_of(
    st.sampled_from(["", "a", "b", "1", 'say "hi"\n', "\x00", "\x7f"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
INTEGERS = st.one_of(
    st.integers(-2, 3),
    st.integers(INTEGER_MIN, INTEGER_MAX),
    st.sampled_from([2**53, 2**53 + 1, INTEGER_MIN, INTEGER_MAX]),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e16, 1e-5, 1e-6, 5e-324, 2.0**53]),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0),
)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS)


def depth(value: Any) -> int:
    """Count the levels of nesting: a scalar is 0, `[]` is 1."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def json_values(max_leaves: int = 12) -> st.SearchStrategy[Any]:
    """Return any JSON value that `json_text.loads` could make."""
    return st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(KEYS, inner, max_size=5)),
        max_leaves=max_leaves,
    )


def containers() -> st.SearchStrategy[Any]:
    """Return an object or an array."""
    return st.one_of(
        st.dictionaries(KEYS, json_values(), max_size=5), st.lists(json_values(), max_size=6), RECORDS
    )


# Small enough that operations meet: they empty a container, overwrite a member, move around an element.
_SMALL_KEYS = st.sampled_from(["a", "b"])
_SMALL = st.recursive(
    st.sampled_from([0, 1.5, "ab"]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_SMALL_KEYS, inner, max_size=2)),
    max_leaves=5,
)
SMALL_CONTAINERS = st.one_of(
    st.lists(_SMALL, min_size=1, max_size=3), st.dictionaries(_SMALL_KEYS, _SMALL, min_size=1)
)

RECORDS = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 9), "n": st.integers(0, 3)}, optional={"text": st.just("long enough " * 3)}
    ),
    max_size=8,
)


def copied(value: Any) -> Any:
    """Copy a value, sharing nothing."""
    return json_text.loads(json_text.dumps(value))


def refusal(doc: Any, change: Callable[[], object]) -> Refused:
    """Return why a change of a document is refused; the document must be as it was."""
    before = json_text.dumps(doc)
    with pytest.raises(Refused) as caught:
        change()
    assert json_text.dumps(doc) == before
    return caught.value


def places(value: Any) -> list[tuple[str, ...]]:
    """List the tokens of every place in a value, the root first."""
    found: list[tuple[str, ...]] = [()]
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in members:
        found.extend((str(key), *rest) for rest in places(item))
    return found


@st.composite
def pointers(draw: st.DrawFn, state: Any) -> str:
    """Return a pointer that mostly names a place in the state, or one beside it."""
    tokens = draw(st.sampled_from(places(state)))
    if draw(st.booleans()):
        tokens = (*tokens, draw(st.one_of(st.sampled_from(["-", "0", "1", "2", "01", "9"]), KEYS)))
    return render(tokens)


@st.composite
def operations(draw: st.DrawFn, state: Any) -> dict[str, Any]:
    """Return one well-formed operation whose paths mostly exist in the state."""
    kind = draw(st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]))
    operation: dict[str, Any] = {"op": kind, "path": draw(pointers(state))}
    if kind in {"move", "copy"}:
        operation["from"] = draw(pointers(state))
    elif kind != "remove":
        operation["value"] = draw(json_values(4))
    return operation


@st.composite
def patches(draw: st.DrawFn, state: Any) -> list[dict[str, Any]]:
    """Return a patch of a few operations that often applies."""
    return draw(st.lists(operations(state), min_size=1, max_size=5))


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """Return a copy of a value with something added, removed, moved, replaced or reversed here and there."""
    return _edited(draw, value)


_NEW = json_values(3)
_CHANGES = st.lists(st.sampled_from(["insert", "remove", "move", "reverse"]), max_size=3)
_FATES = st.integers(0, 5)


def _edited(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict):
        fates = {key: draw(_FATES) for key in value}
        kept = {key: _edited(draw, item) for key, item in value.items() if fates[key]}
        return {**kept, draw(KEYS): draw(_NEW)} if 1 in fates.values() else kept
    if isinstance(value, list):
        return _rearranged(draw, [_edited(draw, item) for item in value])
    return value if draw(_FATES) else draw(_NEW)


def _rearranged(draw: st.DrawFn, items: list[Any]) -> list[Any]:
    for change in draw(_CHANGES):
        place = draw(st.integers(0, len(items)))
        if change == "insert":
            items.insert(place, draw(_NEW))
        elif change == "reverse":
            items.reverse()
        elif items:
            taken = items.pop(place % len(items))
            if change == "move":
                items.insert(draw(st.integers(0, len(items))), taken)
    return items
