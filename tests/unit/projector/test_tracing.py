"""The spans of the loop: bounded for each commit, only for sampled events, never for old ones."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from refold.log.memory import MemoryLog
from refold.projector.loop import REPLY_AGE_NANOSECONDS
from refold.projector.tracing import EVENT_SPANS, SECOND, TRACED_EVENTS_MAX, TRACED_PER_SECOND_MAX
from refold.store.memory import MemoryStore
from refold.telemetry.tracing import Span
from support.projection import ROOMY, append, ports, projecting

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")


class Kept:
    """A `Spans` that keeps them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.over = 0

    def record(self, span: Span) -> None:
        self.spans.append(span)

    def count_over_limit(self, spans: int) -> None:
        self.over += spans

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def kept() -> Kept:
    return Kept()


async def fold(log: MemoryLog, kept: Kept, later: int = 0) -> None:
    given = ports(log, MemoryStore(), broker_now=lambda: time.time_ns() + later)
    async with projecting(replace(given, spans=kept), replace(ROOMY, commit_interval_seconds=0)) as running:
        await running.committed((await log.info()).last_sequence)


async def test_a_commit_traces_so_many_events_and_counts_the_spans_of_the_others(kept: Kept) -> None:
    log = MemoryLog("log")
    for number in range(TRACED_EVENTS_MAX + 10):
        await append(log, "d", {"put": number}, CONTEXT)
    await fold(log, kept)
    processes = kept.named("process STATE")
    assert len(processes) == len(kept.named("notify")) == TRACED_EVENTS_MAX
    assert kept.over == 10 * EVENT_SPANS
    *commits, root = kept.named("commit")
    assert [commit.parent for commit in commits] == list(root.links) == [span.context for span in processes]
    assert root.parent is None
    assert root.attributes["refold.commit.events"] == len(processes) + 11


async def test_a_second_traces_so_many_events_of_all_commits(kept: Kept) -> None:
    log, now, store = MemoryLog("log"), time.time_ns(), MemoryStore()
    given = replace(ports(log, store, broker_now=lambda: now), spans=kept)
    async with projecting(given, replace(ROOMY, commit_interval_seconds=0)) as running:
        for events in (60, 60, 60):
            for number in range(events):
                await append(log, "d", {"put": number}, CONTEXT)
            await running.committed((await log.info()).last_sequence)
        assert len(kept.named("process STATE")) == TRACED_PER_SECOND_MAX
        assert kept.over == (180 - TRACED_PER_SECOND_MAX) * EVENT_SPANS
        now += 2 * SECOND
        await append(log, "d", {"put": 1}, CONTEXT)
        await running.committed((await log.info()).last_sequence)
    assert len(kept.named("process STATE")) == TRACED_PER_SECOND_MAX + 1


async def test_a_replay_of_old_events_makes_no_spans(kept: Kept) -> None:
    log = MemoryLog("log")
    await append(log, "d", {"put": 1}, CONTEXT)
    await fold(log, kept, later=REPLY_AGE_NANOSECONDS + 1)
    assert (kept.spans, kept.over) == ([], 0)


async def test_an_invalid_context_is_none_and_its_event_is_folded_as_usual(kept: Kept) -> None:
    log = MemoryLog("log")
    await append(log, "d", {"put": 1}, CONTEXT, ("tracestate", "a=" + "x" * 31_000))
    await append(log, "d", {"put": 2}, (CONTEXT[0], CONTEXT[1].upper()))
    await append(log, "d", {"patch": [{"op": "remove", "path": "/none"}]}, CONTEXT)
    await fold(log, kept)
    (process,) = kept.named("process STATE")
    assert (process.attributes["refold.outcome"], process.attributes["refold.version"]) == ("rejected", 2)
    assert process.attributes["refold.reason"]
    assert [span.name for span in kept.spans] == ["process STATE", "notify", "commit"]
