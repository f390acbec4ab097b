"""CPU profiles: what is sampled, the two formats, and requests that are refused."""

from __future__ import annotations

import asyncio
import json
import selectors
import sys

import pytest
import uvloop

from refold.core.errors import Refused
from refold.telemetry import profiling
from refold.telemetry.profiling import Profiling, as_speedscope, as_text


def busy(sampler, samples):
    while sampler.samples < samples:
        pass


def inner():
    """Never called: its code is part of a stack."""


def outer():
    """The same."""


STACKS = {
    (inner.__code__, outer.__code__): 0.75,
    (outer.__code__,): 0.248,
    (busy.__code__, outer.__code__): 0.002,
}


def test_the_calling_thread_is_sampled_within_the_block_only():
    before = sys.getswitchinterval()
    with profiling._sampled() as sampler:
        busy(sampler, 20)
    assert sys.getswitchinterval() == before
    seconds = sum(time for codes, time in sampler.stacks.items() if busy.__code__ in codes)
    assert sum(sampler.stacks.values()) == pytest.approx(sampler.seconds)
    assert seconds > sampler.seconds / 2


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_samples_in_which_the_loop_waits_are_left_out_and_counted(run):
    async def work():
        with profiling._sampled() as sampler:
            busy(sampler, 20)
            while not sampler.waits:  # noqa: ASYNC110 - the loop must wait, and a thread counts it.
                await asyncio.sleep(0.01)
        return sampler

    sampler = run(work())
    innermost = {codes[0] for codes in sampler.stacks}
    assert busy.__code__ in innermost
    assert not innermost & {asyncio.Runner.run.__code__, selectors.EpollSelector.select.__code__}
    assert sampler.samples > sampler.waits


def test_the_text_has_functions_by_their_own_time_and_the_tree_of_calls():
    top, tree = as_text(STACKS).split("\n\n")
    assert [line.split()[:2] for line in top.splitlines()[1:]] == [
        ["75.0%", "inner"],
        ["24.8%", "outer"],
        ["0.2%", "busy"],
    ]
    assert [line.split()[:2] for line in tree.splitlines()[1:]] == [["100.0%", "outer"], ["75.0%", "inner"]]
    assert as_text({}).endswith("calls")


def test_speedscope_has_the_stacks_from_their_outermost_function():
    view = json.loads(as_speedscope(STACKS))
    names = [frame["name"] for frame in view["shared"]["frames"]]
    (profile,) = view["profiles"]
    stacks = [[names[place] for place in sample] for sample in profile["samples"]]
    assert stacks == [["outer", "inner"], ["outer"], ["outer", "busy"]]
    assert profile["weights"] == [0.75, 0.248, 0.002]


def test_a_profile_of_memory_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "memray", None)
    with pytest.raises(Refused, match=r"refold\[profile\]"):
        asyncio.run(Profiling(is_on=True).run(1, "memray"))


@pytest.mark.parametrize(
    ("is_on", "seconds", "shape", "reason"),
    [
        (False, 1, "text", "profiling_off"),
        (True, 10_000, "text", "bad_seconds"),
        (True, float("nan"), "text", "bad_seconds"),
        (True, True, "text", "bad_seconds"),
        (True, None, "text", "bad_seconds"),
        (True, 1, "pdf", "bad_format"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(is_on, seconds, shape, reason):
    with pytest.raises(Refused) as refused:
        asyncio.run(Profiling(is_on=is_on).run(seconds, shape))
    assert refused.value.reason == reason
