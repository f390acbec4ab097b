"""Authors who write at the same time: the fold does what each meant, as a naive model with identities says."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from refold.core import json_text
from support.authors import STRATEGIES, Folded, Garbage, Simulation

KINDS = {"patch": 8, "put": 1, "merge": 2, "delete": 1}


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), operations=st.integers(1, 4), turns=st.integers(4, 30))
def test_each_operation_does_what_its_author_meant(seed, operations, turns):
    random = Random(seed)
    strategies = [*STRATEGIES, "merge", "merge"]
    authors = random.randint(2, 4)
    simulation = Simulation(
        random, authors=authors, operations=operations, strategies=strategies, kinds=KINDS
    )
    simulation.play(turns)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), operations=st.integers(1, 4))
def test_what_one_author_does_is_what_rfc_6902_says(seed, operations):
    simulation = Simulation(Random(seed), authors=1, operations=operations)
    simulation.play(12)
    assert simulation.authors[0].screen == simulation.folded.document.state


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), turns=st.integers(4, 30))
def test_no_patch_stops_the_fold_and_what_is_kept_makes_no_difference(seed, turns):
    random = Random(seed)
    garbage = Garbage(random)
    kept, loaded = Folded(garbage.first), Folded(garbage.first)
    for _ in range(turns):
        event = garbage.event(kept.document.version)
        assert kept.publish(event) == loaded.publish(event, is_kept=False)
        assert kept.entries[-1] == loaded.entries[-1]
        assert kept.document.state == loaded.document.state


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), turns=st.integers(10, 40))
def test_what_is_kept_makes_no_difference_to_authors_whose_base_runs_ahead(seed, turns):
    random = Random(seed)
    simulation = Simulation(random, operations=2, strategies=[*STRATEGIES, "merge", "reject"], kinds=KINDS)
    simulation.play(turns)
    (_, state), *history = simulation.history
    kept, loaded = Folded(state), Folded(state)
    for event in (each for each in history if isinstance(each, dict)):
        base = event["base"]
        if random.random() < 0.5 and base < kept.document.version:
            base = random.randint(base, kept.document.version)
        written = json_text.dumps(event | {"base": base})
        kept.publish(json_text.loads(written))
        loaded.publish(json_text.loads(written), is_kept=False)
        assert kept.entries[-1] == loaded.entries[-1]
