"""Several stores of one log, each as far as it is, failing, hanging and losing commits: no answer is ever older.

Schedules by seed (`SEED`), under simulated time. The stores' answers are made of their positions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, suppress
from random import Random
from typing import Any

import pytest

from refold.core.errors import HistoryElsewhere, Refused, StoreBehind, StoreUnavailable, TimedOut
from refold.core.history import NEVER, Segment
from refold.core.stream import PARTITIONS, Checkpoint
from refold.store import Capabilities, Depth, Head, Key, Page, partition_of_key
from refold.store.layers import sources as sources_module
from refold.store.layers.breaker import FAILURES_IN_A_ROW, OPEN_SECONDS, Breaker
from refold.store.layers.fallback import ANSWER_SECONDS, FallbackReader
from refold.store.layers.sources import TERMS, Source, Sources, Terms
from support.simulated import run_simulated

SEED = 20261130
SCHEDULES = 300
STEPS = 200
ALL = range(PARTITIONS)
KEYS = [("n", f"d{number}") for number in range(8)]


class Log:
    """Events by sequence: each is of one of the documents."""

    def __init__(self) -> None:
        self.keys: list[Key] = []


class CheckedBreaker(Breaker):
    """A breaker that refuses a call that it does not admit."""

    def call(self) -> AbstractContextManager[None]:
        assert self.admits
        return super().call()


SLOW_SECONDS = 30


class Store:
    """A store that has the log up to `sequence`; `state` is `up`, `down`, `hung` or `slow`, to list documents."""

    def __init__(self, log: Log, depth: Depth) -> None:
        self.log, self.sequence, self.state = log, 0, "up"
        self.capabilities = Capabilities(depth=depth, has_where=False)
        self.required: Sequence[int] = ()

    async def _answer(self) -> None:
        await asyncio.sleep(0.001)
        if self.state == "down":
            raise StoreUnavailable
        if self.state == "hung":
            await asyncio.sleep(60)
            raise TimedOut
        if self.sequence < max(self.required, default=0):
            raise StoreUnavailable("it has lost commits")

    def last(self, key: Key) -> int:
        return max(
            (at for at, each in enumerate(self.log.keys[: self.sequence], 1) if each == key), default=0
        )

    async def checkpoints(self) -> list[Checkpoint]:
        await self._answer()
        about: dict[str, Any] = {"chain": b"", "chain_before": b"", "fold": 1, "recorded_at": 0}
        return [Checkpoint(partition=number, read_sequence=self.sequence, **about) for number in ALL]

    async def head(self, namespace: str, document: str, **_: Any) -> Head | None:
        await self._answer()
        last = self.last((namespace, document))
        return Head(namespace, document, NEVER._replace(version=last), last) if last else None

    async def ping(self) -> None:
        await self._answer()

    async def list_documents(self, *_: Any, **__: Any) -> Page:
        await self._answer()
        if self.state == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        heads = [Head(*key, NEVER._replace(version=self.last(key)), self.last(key)) for key in KEYS]
        return Page([head for head in heads if head.last_sequence], None)

    async def segments(self, namespace: str, document: str, **_: Any) -> AsyncGenerator[Segment, None]:
        await self._answer()
        if self.capabilities.depth is Depth.recent:
            raise HistoryElsewhere
        yield Segment(NEVER, self.last((namespace, document)), [])


class System:
    """Stores, their projectors' notices and a reader, driven by a random schedule."""

    def __init__(self, random: Random) -> None:
        self.random, self.log = random, Log()
        loop = asyncio.get_running_loop()
        depths = [Depth.recent, Depth.full, Depth.full]
        self.stores = [Store(self.log, depth) for depth in depths]
        self.made = [
            Source(
                name=f"s{number}", breaker=CheckedBreaker(timer=loop.time, random=random.random), reader=store
            )
            for number, store in enumerate(self.stores)
        ]
        self.sources = Sources(self.made, random=random.random)
        self.reader = FallbackReader(self.sources)
        for store, source in zip(self.stores, self.made, strict=True):
            store.required = source.sequences
        self.shown: dict[Key, int] = {}
        self.answers = self.refusals = 0

    def step(self) -> None:
        kind, store = self.random.randrange(10), self.random.choice(self.stores)
        if kind < 4:
            self.log.keys.append(self.random.choice(KEYS))
        elif kind < 8 and store.state == "up":
            store.sequence = self.random.randint(store.sequence, len(self.log.keys))
            if self.random.random() < 0.7:
                self.notify(store)
        elif kind == 8:
            store.state = self.random.choice(["up", "up", "down", "hung"])
        elif self.random.random() < 0.1:
            # It crashed, or was wiped, and begins again further back; its projector says so only later.
            store.sequence = self.random.choice([0, store.sequence // 2])
            if self.random.random() < 0.5:
                self.notify(store)

    def notify(self, store: Store) -> None:
        name = f"s{self.stores.index(store)}"
        self.sources.note_committed(name, store.sequence, ALL, asyncio.get_running_loop().time())

    async def read(self) -> None:
        key, kind = self.random.choice(KEYS), self.random.randrange(4)
        before = dict(self.shown)
        TERMS.set(Terms(deadline=asyncio.get_running_loop().time() + 2))
        try:
            if kind == 0:
                found = {
                    (head.namespace, head.document): head.last_sequence
                    for head in (
                        await self.reader.list_documents("n", prefix="", where=None, limit=9, cursor=None)
                    ).heads
                }
                wanted = before
            elif kind == 1:
                segments = self.reader.segments(*key, after_version=None, is_descending=True)
                found = {key: 0}
                async for segment in segments:
                    found[key] = segment.base_sequence
                wanted = {key: before.get(key, 0)}
            else:
                head = await self.reader.head(*key)
                found = {key: head.last_sequence if head else 0}
                wanted = {key: before.get(key, 0)}
        except (StoreUnavailable, StoreBehind, TimedOut):
            self.refusals += 1
            return
        self.answers += 1
        for each, sequence in wanted.items():
            assert found.get(each, 0) >= sequence, (each, found, wanted)
        for each, sequence in found.items():
            self.shown[each] = max(sequence, self.shown.get(each, 0))

    async def run(self) -> None:
        for _ in range(STEPS):
            self.step()
            if self.random.random() < 0.5:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(self.random.randrange(1, 4)):
                        tasks.create_task(self.read())
            await asyncio.sleep(self.random.random())


@pytest.mark.parametrize("part", range(4))
def test_no_answer_is_older_than_an_earlier_one(part):
    answers = refusals = 0
    for number in range(part, SCHEDULES, 4):

        async def schedule(seed: int) -> System:
            system = System(Random(seed))
            await system.run()
            return system

        seed = SEED + number
        try:
            system = run_simulated(schedule(seed))
        except BaseException:
            print(f"SEED + {number}")
            raise
        answers, refusals = answers + system.answers, refusals + system.refusals
    # The schedules are neither all quiet nor all broken.
    assert answers > 5 * SCHEDULES
    assert refusals > SCHEDULES // 4


async def _pair(*, first: int, second: int) -> tuple[Sources, Store, Store]:
    loop, log = asyncio.get_running_loop(), Log()
    log.keys = [KEYS[0]] * 100
    stores = Store(log, Depth.recent), Store(log, Depth.full)
    sources = Sources(
        [
            Source(name=name, breaker=CheckedBreaker(timer=loop.time, random=lambda: 1.0), reader=store)
            for name, store in zip("ab", stores, strict=True)
        ],
        random=lambda: 1.0,
    )
    for name, store, sequence in zip("ab", stores, (first, second), strict=True):
        store.sequence = sequence
        sources.note_committed(name, sequence, ALL, 0.0)
    return sources, *stores


def test_reads_wait_for_a_store_that_is_behind_and_go_on_when_it_moves():
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=40)
        reader, loop = FallbackReader(sources), asyncio.get_running_loop()
        assert (await reader.head(*KEYS[0])).last_sequence == 50
        first.state = "down"
        reading = asyncio.create_task(reader.head(*KEYS[0]))
        await asyncio.sleep(1)
        assert not reading.done()
        second.sequence = 60
        sources.note_committed("b", 60, ALL, 0.0)
        assert (await reading).last_sequence == 60
        assert loop.time() < 1.1

    run_simulated(check())


def test_a_store_whose_projector_began_anew_is_tried_as_soon_as_it_has_caught_up():
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=50)
        reader, breaker = FallbackReader(sources), sources.stores[0].breaker
        _open(sources.stores[0])
        second.sequence = 60
        sources.note_committed("b", 60, ALL, 0.0)
        assert (await reader.head(*KEYS[0])).last_sequence == 60
        assert not breaker.admits
        sources.note_committed("a", 55, ALL, 0.0, "another projector")
        assert not breaker.admits
        first.sequence = 60
        sources.note_committed("a", 60, ALL, 0.0, "another projector")
        assert breaker.admits
        await reader.head(*KEYS[0])
        assert (breaker.state, breaker.closings) == ("closed", 1)

    run_simulated(check())


def test_a_read_ends_at_its_deadline_and_names_what_is_missing_unless_it_accepts_an_older_store():
    async def check() -> None:
        sources, first, _ = await _pair(first=50, second=40)
        reader, loop = FallbackReader(sources), asyncio.get_running_loop()
        await reader.head(*KEYS[0])
        first.state = "down"
        TERMS.set(Terms(deadline=loop.time() + 3))
        with pytest.raises(StoreBehind) as caught:
            await reader.head(*KEYS[0])
        assert caught.value.facts == {"sequence": 50, "folded_sequence": 40}
        assert loop.time() == pytest.approx(3, abs=0.1)
        terms = Terms(deadline=loop.time() + 3, allows_older=True)
        TERMS.set(terms)
        assert (await reader.head(*KEYS[0])).last_sequence == 40
        assert (terms.store, terms.sequence) == ("b", 40)

    run_simulated(check())


@pytest.mark.parametrize(
    ("retries", "pauses"), [((1, 1), 2 + 4), ((0, 0), 0), ((0, 2), 2 + 4), ((2, 0), 2 + 4)]
)
def test_a_failing_read_is_tried_again_at_each_store_as_often_as_that_allows_with_growing_pauses(
    retries, pauses
):
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=50)
        for source, times in zip(sources.stores, retries, strict=True):
            source.retries = times
        first.state = second.state = "down"
        with pytest.raises(StoreUnavailable):
            await FallbackReader(sources).head(*KEYS[0])
        seconds = asyncio.get_running_loop().time()
        assert seconds == pytest.approx(sources_module.RETRY_SECONDS * pauses, abs=0.02)

    run_simulated(check())


@pytest.mark.parametrize(
    ("state", "name", "seconds"), [("slow", "a", SLOW_SECONDS), ("hung", "b", 2 * ANSWER_SECONDS)]
)
def test_a_long_read_may_take_its_time_at_a_store_that_answers_and_not_at_one_that_hangs(
    state, name, seconds
):
    async def check() -> None:
        sources, first, _ = await _pair(first=50, second=50)
        loop = asyncio.get_running_loop()
        terms = Terms(deadline=loop.time() + 5)
        TERMS.set(terms)
        first.state = state
        page = await FallbackReader(sources).list_documents("n", prefix="", where=None, limit=9, cursor=None)
        assert [head.last_sequence for head in page.heads] == [50]
        assert (terms.store, loop.time()) == (name, pytest.approx(seconds, abs=0.1))

    run_simulated(check())


def _open(*sources: Source) -> None:
    for source in sources:
        for _ in range(FAILURES_IN_A_ROW):
            if source.breaker.admits:
                with suppress(StoreUnavailable), source.breaker.call():
                    raise StoreUnavailable
        assert source.breaker.state == "open"


def test_a_breaker_that_opens_while_reads_pause_is_probed_by_one_of_them_after_its_pause():
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=50)
        reader, loop = FallbackReader(sources), asyncio.get_running_loop()
        first.state = second.state = "down"
        readings = [asyncio.create_task(reader.head(*KEYS[0])) for _ in range(FAILURES_IN_A_ROW - 1)]
        await asyncio.sleep(0.01)
        _open(*sources.stores)
        first.state = second.state = "up"
        for head in await asyncio.gather(*readings):
            assert head.last_sequence == 50
        assert loop.time() == pytest.approx(OPEN_SECONDS, abs=0.05)
        assert sources.stores[0].breaker.closings == 1

    run_simulated(check())


def test_a_read_waits_for_a_breaker_that_opens_and_a_store_that_moves_during_its_wait():
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=40)
        reader, loop = FallbackReader(sources), asyncio.get_running_loop()
        await reader.head(*KEYS[0])
        first.state = "down"
        reading = asyncio.create_task(reader.head(*KEYS[0]))
        # The store that lags fails while the read waits for it.
        await asyncio.sleep(1)
        _open(sources.stores[1])
        second.sequence = 60
        sources.note_committed("b", 60, ALL, 0.0)
        assert (await reading).last_sequence == 60
        assert loop.time() == pytest.approx(1 + OPEN_SECONDS, abs=0.1)

    run_simulated(check())


def test_history_goes_to_the_store_of_full_depth_and_its_absence_is_not_an_answer():
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=50)
        reader = FallbackReader(sources)
        segments = [part async for part in reader.segments(*KEYS[0], after_version=None, is_descending=True)]
        assert [segment.base_sequence for segment in segments] == [50]
        second.state = "down"
        with pytest.raises(StoreUnavailable):
            _ = [part async for part in reader.segments(*KEYS[0], after_version=None, is_descending=True)]
        assert first.capabilities.depth is Depth.recent

    run_simulated(check())


def test_a_search_that_no_store_can_do_is_refused_at_once_and_not_while_one_could_not_be_opened():
    async def check() -> None:
        sources, first, second = await _pair(first=50, second=50)
        asked = {"prefix": "", "where": "$.n > 1", "limit": 9, "cursor": None}
        first.state = second.state = "down"
        with pytest.raises(Refused) as refused:
            await FallbackReader(sources).list_documents("n", **asked)
        assert refused.value.reason == "where_needs_postgres"
        sources.stores[1].reader = None
        with pytest.raises(StoreUnavailable, match="one cannot be reached"):
            await FallbackReader(sources).list_documents("n", **asked)
        assert asyncio.get_running_loop().time() == 0

    run_simulated(check())


def test_strict_reads_need_all_that_any_store_has_committed():
    async def check() -> None:
        sources, _, second = await _pair(first=40, second=50)
        assert (await FallbackReader(sources).head(*KEYS[0])).last_sequence == 40
        assert (await FallbackReader(sources).strict().head(*KEYS[0])).last_sequence == 50
        assert second.sequence == 50
        assert partition_of_key(KEYS[0]) in ALL

    run_simulated(check())
