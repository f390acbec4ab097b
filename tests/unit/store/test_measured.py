"""A measured store answers as before; its reads are timed, and its errors are counted by their codes."""

from collections import Counter
from contextlib import aclosing
from types import SimpleNamespace

import pytest

from refold.core.errors import FenceLost, HistoryElsewhere, StoreUnavailable
from refold.store.layers import measured as layer
from refold.store.layers.measured import measured
from refold.store.memory import MemoryStore


class Observed:
    """A measured store of which reads of heads fail as `error` says."""

    def __init__(self) -> None:
        self.reads: dict[str, float] = {}
        self.errors: Counter[tuple[str, str]] = Counter()
        self.error: Exception | None = None
        observed = self

        class Failing(MemoryStore):
            async def head(self, *_, **__):
                if observed.error is not None:
                    raise observed.error

            async def segments(self, *_, **__):
                yield 1
                yield 2
                if observed.error is not None:
                    raise observed.error

        self.store = measured(Failing(), self._read, lambda *failed: self.errors.update([failed]))

    def _read(self, method, seconds, _):
        self.reads[method] = seconds


@pytest.fixture
def observed():
    return Observed()


async def test_reads_are_timed_and_errors_counted(observed):
    assert await observed.store.head("n", "d") is None
    await observed.store.ping()
    assert observed.reads.keys() == {"head", "ping"}
    assert not observed.errors
    observed.error = StoreUnavailable()
    with pytest.raises(StoreUnavailable):
        await observed.store.head("n", "d")
    assert observed.errors == {("head", "store_unavailable"): 1}


async def test_what_a_store_does_not_keep_is_no_error_of_it(observed):
    observed.error = HistoryElsewhere()
    with pytest.raises(HistoryElsewhere):
        await observed.store.head("n", "d")
    assert not observed.errors


async def test_a_stream_is_timed_without_its_reader(observed, monkeypatch):
    now = 0.0
    monkeypatch.setattr(layer, "time", SimpleNamespace(perf_counter=lambda: now))
    async with aclosing(observed.store.segments("n", "d")) as segments:
        async for _ in segments:
            now += 60
    assert observed.reads == {"segments": 0}
    observed.error = StoreUnavailable()
    with pytest.raises(StoreUnavailable):
        [part async for part in observed.store.segments("n", "d")]
    assert observed.errors == {("segments", "store_unavailable"): 1}


async def test_a_stream_that_is_left_early_is_timed_and_closed(observed):
    async with aclosing(observed.store.segments("n", "d")) as segments:
        assert await anext(segments) == 1
        assert not observed.reads
    assert observed.reads.keys() == {"segments"}


async def test_the_errors_of_writes_are_counted(observed):
    # The lease is not held.
    with pytest.raises(FenceLost):
        await observed.store.commit(None)
    assert observed.errors == {("commit", "fence_lost"): 1}
