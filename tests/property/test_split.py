"""A split write, folded event by event, yields exactly the state; no event or intermediate state is too large."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refold.core import json_text, split
from refold.core.document import Status
from refold.core.errors import Refused
from refold.core.fold import EVENT_BYTES_MAX, OPERATIONS_MAX, STATE_BYTES_MAX
from refold.core.split import PARTS_BYTES_MAX, split_write
from support.events import History
from support.fold1 import decode
from support.json_values import copied, json_values

SAID = {"id": "write-1", "type": "made", "actor": "ann", "meta": {"note": "x" * 60}}
SMALL = 420
"""The event size in tests with states by Hypothesis."""


def fold_all(texts: split.SplitWrite, history: History) -> list[Any]:
    """Fold the events; each must be applied, and be no larger than an event may be."""
    outcomes = []
    sizes = []
    for body in texts.bodies(history.row.version):
        assert len(body) <= split.EVENT_BYTES_MAX
        # They pass the fold's fast path.
        assert json_text.dumps(json_text.loads(body)) == json_text.dumps(decode(b"", body).fields)
        outcomes.append(history.publish(body))
        sizes.append(history.row.size)
        assert outcomes[-1].status is Status.applied, outcomes[-1]
    assert sizes == sorted(sizes)
    return outcomes


def check(state: Any, said: dict[str, Any] = SAID) -> split.SplitWrite:
    written = json_text.dumps(state)
    made = split_write(state, said)
    assert json_text.dumps(state) == written
    history = History(document="a")
    history.publish({"put": ["what", "was", "there"]})
    outcomes = fold_all(made, history)
    assert json_text.dumps(history.row.state) == written
    assert history.row.version == outcomes[-1].version == 1 + len(made)
    events = [json_text.loads(body) for body in made.bodies(1)]
    assert [event.get("id") for event in events] == [None] * (len(made) - 1) + ["write-1"]
    assert all(event["actor"] == "ann" for event in events)
    return made


@given(st.data())
def test_any_state_is_rebuilt_from_small_events(data):
    state = data.draw(json_values(max_leaves=60))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(split, "EVENT_BYTES_MAX", SMALL)
        patched.setattr(split, "PART_BYTES", data.draw(st.integers(40, 250)))
        try:
            check(state)
        except Refused as refused:
            # A long path leaves no space for a value.
            assume(refused.reason != "event_too_large")
            raise


@given(st.data())
def test_after_a_rejected_event_all_following_ones_are_rejected(data):
    state = data.draw(json_values(max_leaves=30))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(split, "PART_BYTES", 60)
        made = split_write(state, {"id": "write-1"})
    history = History(document="a")
    for number in range(data.draw(st.integers(0, 3))):
        history.publish({"put": number})
    before = history.state
    for body in made.bodies(history.row.version)[1:]:
        assert history.publish(body).status is Status.rejected
    assert history.state is before


LARGE = {
    "records": lambda: {"rows": [{"id": n, "text": "x" * 200} for n in range(20_000)]},
    "numbers": lambda: [n / 7 for n in range(150_000)],
    "bits": lambda: [n % 2 for n in range(600_000)],
    "members": lambda: {f"key-{n}": n for n in range(200_000)},
    "texts": lambda: {
        "a": "é" * 400_000,
        "b": ["\u0000" * 150_000, "y" * 1_000_000],
        "c": {"d": "z" * 1_000_000},
    },
    "escaped keys": lambda: {"~/" * 50: {"/" * 100 + str(n): [None, True] * 100 for n in range(2_000)}},
    "deep": lambda: [[["x" * 700_000, {"k": ["y" * 700_000, {"k": ["z" * 900_000, None]}]}]]],
    "one key": lambda: {"a": {"b": {"c": ["x" * 524_288 for _ in range(15)]}}},
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_state_of_any_shape_is_rebuilt(name):
    state = LARGE[name]()
    assert EVENT_BYTES_MAX < json_text.size(state) <= STATE_BYTES_MAX
    made = check(copied(state))
    assert sum(map(len, made.texts)) <= PARTS_BYTES_MAX
    assert max(len(json_text.loads(text)) for text in made.texts[1:]) <= OPERATIONS_MAX


def test_the_largest_state_is_accepted_and_one_byte_more_is_refused():
    state = {"rows": ["x" * 1000] * 8_000}
    missing = STATE_BYTES_MAX - json_text.size({**state, "rest": ""})
    check({**state, "rest": "x" * missing})
    with pytest.raises(
        Refused, match=f"at most {STATE_BYTES_MAX} bytes .got {STATE_BYTES_MAX + 1} bytes"
    ) as caught:
        split_write({**state, "rest": "x" * (missing + 1)}, SAID)
    assert caught.value.reason == "state_too_large"


def test_a_string_that_nearly_fills_an_event_is_accepted():
    for length in (EVENT_BYTES_MAX - 1_000, EVENT_BYTES_MAX - 400):
        check({"a": "x" * length, "b": "y" * length})


def test_a_string_too_large_for_an_event_is_refused_with_its_pointer():
    with pytest.raises(Refused, match="/a/1: a string and its path fit into one event") as caught:
        split_write({"a": ["x", "y" * EVENT_BYTES_MAX]}, SAID)
    assert caught.value.reason == "event_too_large"


def test_too_many_small_elements_are_refused():
    with pytest.raises(Refused, match=f"more than {PARTS_BYTES_MAX} bytes") as caught:
        split_write([0] * 2_000_000, SAID)
    assert caught.value.reason == "event_too_large"


def test_large_metadata_may_need_an_event_of_its_own():
    said = {"id": "write-1", "actor": "ann", "meta": {"note": "x" * 1_000_000}}
    assert check(["x" * 700_000], said).texts[-1] == b"[]"
    with pytest.raises(Refused) as caught:
        split_write(["x" * 700_000], {**said, "meta": {"note": "x" * EVENT_BYTES_MAX}})
    assert (caught.value.reason, caught.value.field) == ("event_too_large", "meta")
