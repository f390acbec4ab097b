"""The states that a gateway knows before their commit: exact, or not known."""

from __future__ import annotations

from typing import Any

import pytest

from refold.gateway.announced import CHANGE_BYTES_MAX, CHANGES_MAX, KNOWN_STATES_MAX, KnownState, KnownStates

KEY = ("n", "d")


def outcome(version: int) -> dict[str, Any]:
    """Return the outcome of an applied event; its sequence is ten times its version."""
    return {"version": version, "sequence": version * 10, "recorded_at": "r", "occurred_at": "o"}


@pytest.fixture
def known() -> KnownStates:
    """Know the first version."""
    states = KnownStates()
    states.put(KEY, KnownState.of(outcome(1), b'{"n":1}'))
    return states


def state(known: KnownStates, version: int) -> bytes | None:
    """Return the state of a version, where it is the head that is known."""
    head = known.head(KEY, version * 10)
    assert head is None or head.version == version
    return None if head is None else head.state


def test_a_change_of_the_version_that_is_known_gives_the_next_one(known: KnownStates) -> None:
    known.note(KEY, outcome(2), {"patch": [{"op": "add", "path": "/a", "value": {}}]}, None)
    known.note(KEY, outcome(3), {"patch": [{"op": "add", "path": "/a/b", "value": 1}]}, None)
    assert state(known, 2) is None
    for _ in range(2):
        assert state(known, 3) == b'{"a":{"b":1},"n":1}'
    known.note(KEY, outcome(4), {"merge": {"a": None}}, None)
    assert state(known, 4) == b'{"n":1}'
    counted, text = (
        {"op": "inc", "path": "/n", "inc": 2},
        {"op": "str_ins", "path": "/t", "pos": 0, "str": "é"},
    )
    pushed = {"op": "push", "path": "/l", "value": 1, "max": 1}
    known.note(KEY, outcome(5), {"patch": [counted, text, pushed, pushed]}, None)
    assert state(known, 5) == '{"l":[1],"n":3,"t":"é"}'.encode()


@pytest.mark.parametrize(
    ("version", "change"),
    [
        (3, {"merge": {"n": 2}}),
        (1, {"merge": {"n": 2}}),
        (2, {"patch": [{"op": "later", "path": "/n", "value": 1}]}),
        (2, {"merge": {"n": "x" * CHANGE_BYTES_MAX}}),
        (2, {"merge": {"n": 2}, "base": 0}),
        (2, {"delete": True}),
    ],
    ids=["after another", "repeated", "an unknown operation", "large", "of another base", "a delete"],
)
def test_after_any_other_change_no_state_is_known(
    known: KnownStates, version: int, change: dict[str, Any]
) -> None:
    known.note(KEY, outcome(version), change, None)
    assert known == {}


def test_an_older_version_that_is_read_late_replaces_none(known: KnownStates) -> None:
    known.note(KEY, outcome(2), {"merge": {"n": 2}}, None)
    known.put(KEY, KnownState.of(outcome(1), b'{"n":1}'))
    assert state(known, 2) == b'{"n":2}'


def test_documents_and_changes_are_bounded(known: KnownStates) -> None:
    for version in range(2, CHANGES_MAX + 2):
        known.note(KEY, outcome(version), {"merge": {"n": version}}, None)
    assert len(known[KEY].changes) == CHANGES_MAX
    known.note(KEY, outcome(CHANGES_MAX + 2), {"merge": {"n": 0}}, None)
    assert known == {}
    for number in range(KNOWN_STATES_MAX + 5):
        known.put(("n", str(number)), KnownState.of(outcome(1), b"1"))
    assert len(known) == KNOWN_STATES_MAX
    assert ("n", "4") not in known
