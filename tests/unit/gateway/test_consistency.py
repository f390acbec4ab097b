"""Waiting for the projection: notices end waits, and the store replaces lost ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from refold.core import json_text
from refold.core.errors import StoreUnavailable
from refold.core.stream import Checkpoint, partition_of
from refold.gateway import consistency as consistency_module
from refold.gateway import outcomes as outcomes_module
from refold.gateway.consistency import Consistency
from refold.gateway.outcomes import Outcomes
from refold.log.memory import MemoryLog, MemoryNotices
from refold.telemetry.metrics.gateway import GatewayMetrics


class Store:
    """A store with set answers."""

    def __init__(self) -> None:
        self.read_sequence = 0
        self.recorded_at = 0
        self.is_down = False
        self.views: dict[int, dict[str, Any]] = {}
        self.looks = 0
        self.looked = asyncio.Event()

    async def checkpoints(self) -> list[Checkpoint]:
        if self.is_down:
            raise StoreUnavailable
        numbers = {"read_sequence": self.read_sequence, "recorded_at": self.recorded_at}
        return [Checkpoint(partition=0, chain=b"", chain_before=b"", fold=1, **numbers)]

    async def look_up(self, namespace: str, document: str, sequence: int) -> dict[str, Any] | None:
        assert (namespace, document) == ("n", "d")
        self.looks += 1
        self.looked.set()
        if self.is_down:
            raise StoreUnavailable
        return self.views.get(sequence)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency_module, "NOTICE_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(outcomes_module, "NOTICE_WAIT_SECONDS", 0.01)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def consistency(store: Store) -> AsyncIterator[Consistency]:
    made = Consistency(MemoryLog("log-1"), store, MemoryNotices())
    watching = asyncio.create_task(made.watch())
    yield made
    watching.cancel()


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics(CollectorRegistry())


@pytest.fixture
def outcomes(store: Store, consistency: Consistency, metrics: GatewayMetrics) -> Outcomes:
    return Outcomes(store.look_up, consistency, metrics.outcome_wait_seconds)


def later(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def send_outcome(outcomes: Outcomes, sequence: int) -> None:
    outcomes.hear("refold.reply.x", json_text.dumps({"sequence": sequence, "status": "applied"}))


async def test_a_progress_notice_wakes_its_waiters(consistency: Consistency) -> None:
    waiting = asyncio.create_task(consistency.reach(5, later()))
    await asyncio.sleep(0)
    consistency.hear("", b'{"sequence":4}')
    await asyncio.sleep(0)
    assert not waiting.done()
    consistency.hear("", b'{"sequence":7}')
    assert await waiting
    assert consistency.sequence == 7


async def test_a_progress_notice_counts_only_for_partitions_of_its_shard(consistency: Consistency) -> None:
    keys = {partition_of(b"n", str(number).encode()): ("n", str(number)) for number in range(1_000)}
    first, second = keys[3], keys[40]
    consistency.hear("", b'{"sequence":9,"shard":"0-31"}')
    assert await consistency.reach(9, later(-1), first)
    assert not await consistency.reach(9, later(-1), second)
    assert not await consistency.reach(9, later(-1))
    both = asyncio.create_task(consistency.reach(7, later()))
    other = asyncio.create_task(consistency.reach(7, later(), second))
    await asyncio.sleep(0)
    consistency.hear("", b'{"sequence":7,"shard":"32-63"}')
    assert await both
    assert await other
    assert consistency.sequence == 7


async def test_a_notice_of_an_unknown_shard_is_ignored(consistency: Consistency) -> None:
    for shard in ('"64-70"', '"a-b"', '"5-3"', "7", "{}"):
        consistency.hear("", b'{"sequence":9,"shard":%b}' % shard.encode())
    assert consistency.sequence == 0


async def test_progress_never_decreases(consistency: Consistency) -> None:
    consistency.hear("", b'{"sequence":7}')
    consistency.hear("", b'{"sequence":3}')
    assert consistency.sequence == 7


async def test_the_folded_clock_is_read_only_after_progress(store: Store, consistency: Consistency) -> None:
    store.recorded_at = 500
    assert not await consistency.is_past(400)
    store.read_sequence = 1
    consistency.hear("", b'{"sequence":1}')
    assert await consistency.is_past(400)
    store.is_down = True
    assert await consistency.is_past(499)
    assert not await consistency.is_past(500)
    consistency.hear("", b'{"sequence":2}')
    with pytest.raises(StoreUnavailable):
        await consistency.is_past(500)


async def test_progress_whose_notice_is_lost_is_read_from_the_checkpoints(
    consistency: Consistency, store: Store
) -> None:
    store.read_sequence, store.recorded_at = 9, 1_000
    assert await consistency.reach(9, later())
    assert consistency.clock == 1_000


async def test_a_temporarily_unavailable_store_only_delays_a_wait(
    consistency: Consistency, store: Store
) -> None:
    store.is_down = True
    waiting = asyncio.create_task(consistency.reach(2, later()))
    await asyncio.sleep(0.03)
    store.is_down, store.read_sequence = False, 2
    assert await waiting


async def test_waiting_for_progress_ends_at_the_deadline(consistency: Consistency) -> None:
    assert not await consistency.reach(1, later(0.02))
    assert not await consistency.reach(1, later(-1))
    assert await consistency.reach(0, later(-1)), "what is there is there"


async def test_a_stopping_gateway_ends_every_wait(consistency: Consistency, outcomes: Outcomes) -> None:
    waiting = asyncio.create_task(consistency.reach(1, later()))
    outcome = asyncio.create_task(outcomes.wait("n", "d", 1, later()))
    await asyncio.sleep(0)
    consistency.release()
    assert not await waiting
    assert await outcome is None
    assert not await consistency.reach(1, later())
    assert await outcomes.wait("n", "d", 1, later()) is None


async def test_an_outcome_is_delivered_to_the_request_that_waits_for_its_sequence(outcomes: Outcomes) -> None:
    waiting = asyncio.create_task(outcomes.wait("n", "d", 2, later()))
    await asyncio.sleep(0)
    send_outcome(outcomes, 1)
    send_outcome(outcomes, 2)
    found = await waiting
    assert found is not None
    assert found["sequence"] == 2


async def test_an_outcome_is_delivered_to_every_request_that_waits_for_it(
    outcomes: Outcomes, store: Store
) -> None:
    waiting = [asyncio.create_task(outcomes.wait("n", "d", 2, later())) for _ in range(3)]
    await asyncio.sleep(0)
    send_outcome(outcomes, 2)
    assert [await each for each in waiting] == [{"sequence": 2, "status": "applied"}] * 3
    assert store.looks == 0


async def test_a_message_carries_one_outcome_a_line(outcomes: Outcomes, consistency: Consistency) -> None:
    lines = [
        json_text.dumps({"sequence": number, "status": "applied", "namespace": "n", "document": f"d{number}"})
        for number in (7, 8)
    ]
    outcomes.hear("refold.reply.x", b"\n".join([lines[0], b"{", lines[1]]))
    for number in (7, 8):
        assert (outcomes.arrived(number) or {}).get("document") == f"d{number}"
        assert consistency.awaited_sequence(("n", f"d{number}")) == number
    assert consistency.known_sequence == 8


async def test_an_outcome_may_arrive_before_the_acknowledgement(outcomes: Outcomes, store: Store) -> None:
    send_outcome(outcomes, 3)
    assert await outcomes.wait("n", "d", 3, later()) == {"sequence": 3, "status": "applied"}
    assert outcomes.arrived(3) is None
    assert store.looks == 0


async def test_outcomes_without_a_waiter_are_bounded(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes_module, "OUTCOMES_EARLY_MAX", 2)
    for sequence in (1, 2, 3):
        send_outcome(outcomes, sequence)
    assert outcomes.arrived(1) is None
    assert outcomes.arrived(2) is not None


async def test_an_outcome_whose_notice_is_lost_is_looked_up(outcomes: Outcomes, store: Store) -> None:
    store.views[4] = {"sequence": 4, "status": "rejected"}
    assert await outcomes.wait("n", "d", 4, later()) == store.views[4]


async def test_waits_are_observed_by_how_they_ended(
    outcomes: Outcomes, store: Store, metrics: GatewayMetrics
) -> None:
    outcomes.hear("", b'{"sequence": 1, "status": "applied"}')
    store.views[2] = {"sequence": 2, "status": "applied"}
    for sequence in (1, 2, 3):
        await outcomes.wait("n", "d", sequence, later(0.02))
    samples = next(iter(metrics.outcome_wait_seconds.collect())).samples
    counts = {each.labels["how"]: each.value for each in samples if each.name.endswith("_count")}
    assert counts == {"notice": 1, "looked_up": 1, "202": 1}


async def test_after_a_lost_notice_outcomes_of_the_same_commit_are_looked_up(
    outcomes: Outcomes, consistency: Consistency, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.views |= {sequence: {"sequence": sequence} for sequence in (1, 2)}
    store.read_sequence = 2
    assert await outcomes.wait("n", "d", 1, later()) is not None
    monkeypatch.setattr(outcomes_module, "NOTICE_WAIT_SECONDS", 3_600.0)
    assert await outcomes.wait("n", "d", 2, later()) is not None


async def test_no_outcome_by_the_deadline_returns_none_even_with_the_store_down(
    outcomes: Outcomes, store: Store
) -> None:
    assert await outcomes.wait("n", "d", 5, later(0.02)) is None
    store.is_down, store.looks = True, 0
    with capture_logs() as logged:
        assert await outcomes.wait("n", "d", 5, later(0.05)) is None
    # Each look failed, and the request is one line.
    assert store.looks > 1
    assert [line["event"] for line in logged] == ["outcome_unknown"]


async def test_a_notice_that_arrives_during_a_lookup_is_used(outcomes: Outcomes, store: Store) -> None:
    waiting = asyncio.create_task(outcomes.wait("n", "d", 6, later()))
    await store.looked.wait()
    send_outcome(outcomes, 6)
    assert await waiting is not None
