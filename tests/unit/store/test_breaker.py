"""The circuit breaker, by a clock of its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from refold.core.errors import HistoryElsewhere, StoreDamaged, StoreUnavailable
from refold.store.layers.breaker import (
    FAILURES_IN_A_ROW,
    OPEN_SECONDS_MAX,
    WINDOW_CALLS_MIN,
    WINDOW_SECONDS,
    Breaker,
)


class Store:
    """A store behind a breaker, by a clock that only the test moves."""

    def __init__(self) -> None:
        self.now, self.drawn = 100.0, 1.0
        self.breaker = Breaker(timer=lambda: self.now, random=lambda: self.drawn)

    def call(self, error: Exception | None = None) -> None:
        assert self.breaker.admits
        with suppress(StoreUnavailable, StoreDamaged, HistoryElsewhere), self.breaker.call():
            if error is not None:
                raise error

    def fail(self, times: int = FAILURES_IN_A_ROW) -> None:
        for _ in range(times):
            self.call(StoreUnavailable())


@pytest.fixture
def store() -> Store:
    return Store()


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(store):
    store.fail(FAILURES_IN_A_ROW - 1)
    store.call()
    store.fail(FAILURES_IN_A_ROW - 1)
    assert store.breaker.state == "closed"
    store.fail(1)
    assert (store.breaker.state, store.breaker.openings, store.breaker.admits) == ("open", 1, False)


def test_half_of_the_calls_of_the_window_open_it_and_older_ones_do_not_count(store):
    for _ in range(WINDOW_CALLS_MIN // 2):
        store.call(), store.fail(1)
    assert store.breaker.openings == 1
    other = Store()
    for _ in range(WINDOW_CALLS_MIN // 2 - 1):
        other.call(), other.fail(1)
    other.now += WINDOW_SECONDS
    other.call(), other.fail(1)
    assert other.breaker.state == "closed"


def test_a_store_that_answers_with_another_error_has_not_failed(store):
    for _ in range(3 * WINDOW_CALLS_MIN):
        store.call(StoreDamaged())
        store.call(HistoryElsewhere())
    assert store.breaker.state == "closed"


def test_one_probe_at_a_time_closes_it_or_doubles_the_pause_up_to_the_bound(store):
    store.fail()
    for seconds in (1.0, 2.0, 4.0, 8.0, 16.0, OPEN_SECONDS_MAX, OPEN_SECONDS_MAX):
        store.now += seconds - 0.01
        assert not store.breaker.admits
        store.now += 0.01
        assert store.breaker.state == "half_open"
        store.fail(1)
    store.now += OPEN_SECONDS_MAX
    with store.breaker.call():
        assert not store.breaker.admits
    assert (store.breaker.state, store.breaker.openings, store.breaker.closings) == ("closed", 1, 1)


def test_the_pause_is_drawn_from_nothing_to_its_whole_length(store):
    store.drawn = 0.0
    store.fail()
    assert store.breaker.admits
    store.fail(1)
    assert store.breaker.admits


def test_a_cancelled_probe_lets_another_one_through(store):
    store.fail()
    store.now += 1
    with pytest.raises(asyncio.CancelledError), store.breaker.call():
        raise asyncio.CancelledError
    assert store.breaker.admits
    store.call()
    assert store.breaker.state == "closed"


def test_a_call_from_before_the_opening_neither_closes_nor_extends_it(store):
    early = [store.breaker.call() for _ in range(2)]
    for call in early:
        call.__enter__()
    store.fail()
    early[0].__exit__(None, None, None)
    assert store.breaker.state == "open"
    retry_at = store.breaker.retry_at
    error = StoreUnavailable()
    with suppress(StoreUnavailable):
        early[1].__exit__(StoreUnavailable, error, None)
    assert (store.breaker.retry_at, store.breaker.closings) == (retry_at, 0)


def test_a_sign_that_the_store_is_back_ends_the_pause_and_the_doubling(store):
    store.fail()
    for seconds in (1, 2, 4):
        store.now += seconds
        store.fail(1)
    assert not store.breaker.admits
    store.breaker.retry_now()
    assert store.breaker.admits
    store.fail(1)
    store.now += 2
    assert store.breaker.admits
