"""Merged patches have the effect of the patches that they are made of."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.squash import squash
from support.streams import ABSENT, folded, random_patch, random_state


@given(st.integers(0, 2**32))
def test_a_merged_patch_has_the_effect_of_all(seed: int) -> None:
    random = Random(seed)
    before = state = random_state(random)
    operations: list[Any] = []
    for _ in range(random.choice([2, 5, 20])):
        patch = random_patch(random, state, is_native=True)
        state = folded(state, patch)
        operations += patch
    if state is not ABSENT:
        assert json_text.dumps(folded(before, squash(operations))) == json_text.dumps(state)


def test_writes_of_the_same_places_become_one_each() -> None:
    writes = [{"op": "replace", "path": f"/gauges/{number % 20}", "value": number} for number in range(2_000)]
    assert squash(writes) == [
        {"op": "replace", "path": f"/gauges/{n}", "value": 1_980 + n} for n in range(20)
    ]


@pytest.mark.parametrize(
    ("operations", "merged"),
    [
        pytest.param(
            [{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/a"}],
            [{"op": "remove", "path": "/a"}],
            id="a test is left out",
        ),
        pytest.param(
            [{"op": "add", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 2}],
            [{"op": "add", "path": "/a", "value": 2}],
            id="a write takes the place of the one before",
        ),
        pytest.param(
            [{"op": "add", "path": "/a/b", "value": 1}, {"op": "replace", "path": "/a", "value": {}}],
            [{"op": "replace", "path": "/a", "value": {}}],
            id="what is below a write is left out",
        ),
        pytest.param(
            [{"op": "inc", "path": "/n", "inc": 1}, {"op": "replace", "path": "/n", "value": 7}],
            [{"op": "replace", "path": "/n", "value": 7}],
            id="what a write overwrites is left out",
        ),
        pytest.param(
            [
                {"op": "replace", "path": "/a/1", "value": 1},
                {"op": "remove", "path": "/a/0"},
                {"op": "replace", "path": "/a/1", "value": 2},
            ],
            None,
            id="an element that may have moved is another",
        ),
    ],
)
def test_what_is_merged(operations: list[Any], merged: list[Any] | None) -> None:
    assert squash(operations) == (operations if merged is None else merged)
