"""Waiting for the projection: notices wake whoever waits, and lost ones are made up for by the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from refold.core import canonical
from refold.core.checkpoint import Checkpoint
from refold.core.errors import StoreUnavailable
from refold.gateway import outcomes as outcomes_module
from refold.gateway import progress as progress_module
from refold.gateway.outcomes import Outcomes
from refold.gateway.progress import Progress


class Store:
    """What the store would answer."""

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
    monkeypatch.setattr(progress_module, "NOTICE_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(outcomes_module, "NOTICE_WAIT_SECONDS", 0.01)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def progress(store: Store) -> AsyncIterator[Progress]:
    made = Progress(store.checkpoints)
    watching = asyncio.create_task(made.watch())
    yield made
    watching.cancel()


@pytest.fixture
def outcomes(store: Store, progress: Progress) -> Outcomes:
    return Outcomes(store.look_up, progress)


def later(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def told(outcomes: Outcomes, sequence: int) -> None:
    outcomes.hear("refold.reply.x", canonical.dumps({"sequence": sequence, "status": "applied"}))


async def test_a_notice_of_progress_wakes_whoever_waits_for_it(progress: Progress) -> None:
    waiting = asyncio.create_task(progress.reach(5, later()))
    await asyncio.sleep(0)
    progress.hear("", b'{"sequence":4}')
    await asyncio.sleep(0)
    assert not waiting.done()
    progress.hear("", b'{"sequence":7}')
    assert await waiting
    assert progress.sequence == 7


async def test_progress_never_goes_back(progress: Progress) -> None:
    progress.hear("", b'{"sequence":7}')
    progress.hear("", b'{"sequence":3}')
    assert progress.sequence == 7


async def test_the_store_is_asked_for_the_folded_clock_once_more_is_folded_and_not_before(
    store: Store, progress: Progress
) -> None:
    store.recorded_at = 500
    assert not await progress.is_past(400)
    store.read_sequence = 1
    progress.hear("", b'{"sequence":1}')
    assert await progress.is_past(400)
    store.is_down = True
    assert await progress.is_past(499)
    assert not await progress.is_past(500)
    progress.hear("", b'{"sequence":2}')
    with pytest.raises(StoreUnavailable):
        await progress.is_past(500)


async def test_progress_whose_notice_is_lost_is_read_from_the_checkpoints(
    progress: Progress, store: Store
) -> None:
    store.read_sequence, store.recorded_at = 9, 1_000
    assert await progress.reach(9, later())
    assert progress.clock == 1_000


async def test_a_store_that_is_down_for_a_while_delays_only(progress: Progress, store: Store) -> None:
    store.is_down = True
    waiting = asyncio.create_task(progress.reach(2, later()))
    await asyncio.sleep(0.03)
    store.is_down, store.read_sequence = False, 2
    assert await waiting


async def test_waiting_for_progress_ends_at_the_deadline(progress: Progress) -> None:
    assert not await progress.reach(1, later(0.02))
    assert not await progress.reach(1, later(-1))
    assert await progress.reach(0, later(-1)), "what is there is there"


async def test_an_ending_gateway_lets_everyone_go(progress: Progress, outcomes: Outcomes) -> None:
    waiting = asyncio.create_task(progress.reach(1, later()))
    outcome = asyncio.create_task(outcomes.wait("n", "d", 1, later()))
    await asyncio.sleep(0)
    progress.release()
    outcomes.release()
    assert not await waiting
    assert await outcome is None
    assert not await progress.reach(1, later())
    assert await outcomes.wait("n", "d", 1, later()) is None


async def test_an_outcome_comes_to_whoever_waits_for_its_sequence(outcomes: Outcomes) -> None:
    waiting = asyncio.create_task(outcomes.wait("n", "d", 2, later()))
    await asyncio.sleep(0)
    told(outcomes, 1)
    told(outcomes, 2)
    found = await waiting
    assert found is not None
    assert found["sequence"] == 2


async def test_an_outcome_may_come_before_the_acknowledgement(outcomes: Outcomes, store: Store) -> None:
    told(outcomes, 3)
    assert await outcomes.wait("n", "d", 3, later()) == {"sequence": 3, "status": "applied"}
    assert outcomes.arrived(3) is None
    assert store.looks == 0


async def test_outcomes_that_nobody_waits_for_are_kept_within_bounds(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes_module, "OUTCOMES_EARLY_MAX", 2)
    for sequence in (1, 2, 3):
        told(outcomes, sequence)
    assert outcomes.arrived(1) is None
    assert outcomes.arrived(2) is not None


async def test_an_outcome_whose_notice_is_lost_is_looked_up(outcomes: Outcomes, store: Store) -> None:
    store.views[4] = {"sequence": 4, "status": "rejected"}
    assert await outcomes.wait("n", "d", 4, later()) == store.views[4]


async def test_with_one_notice_lost_those_folded_with_it_are_looked_up_at_once(
    outcomes: Outcomes, progress: Progress, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.views |= {sequence: {"sequence": sequence} for sequence in (1, 2)}
    store.read_sequence = 2
    assert await outcomes.wait("n", "d", 1, later()) is not None
    monkeypatch.setattr(outcomes_module, "NOTICE_WAIT_SECONDS", 3_600.0)
    assert await outcomes.wait("n", "d", 2, later()) is not None


async def test_no_outcome_by_the_deadline_is_none_even_with_the_store_down(
    outcomes: Outcomes, store: Store
) -> None:
    assert await outcomes.wait("n", "d", 5, later(0.02)) is None
    store.is_down = True
    assert await outcomes.wait("n", "d", 5, later(0.02)) is None


async def test_a_notice_that_comes_while_the_store_is_asked_is_taken(
    outcomes: Outcomes, store: Store
) -> None:
    waiting = asyncio.create_task(outcomes.wait("n", "d", 6, later()))
    await store.looked.wait()
    told(outcomes, 6)
    assert await waiting is not None
