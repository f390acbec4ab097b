"""Several stores of one log, in the order of preference: how far each is, and which one answers a read.

Used by `refold.store.layers.fallback`; a gateway notes here what the projectors announce and what it has answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import ge
from typing import Final, TypeVar

from refold.core.errors import (
    HistoryElsewhere,
    StoreBehind,
    StoreDamaged,
    StoreDiffers,
    StoreUnavailable,
    TimedOut,
)
from refold.core.stream import PARTITIONS, Checkpoint
from refold.store import Depth
from refold.store.layers.breaker import Breaker
from refold.store.ports import Reader

READ_RETRIES: Final = 1
"""How often a read that failed is tried again at one store, where its address says nothing."""

RETRY_SECONDS: Final = 0.05
RETRY_SECONDS_MAX: Final = 1.0
"""The pause before a store is asked again is drawn below the first, doubled each time up to the second."""

READ_SECONDS: Final = 5.0
"""How long a read may take to find a store where its request says nothing."""

PASSED_ON: Final = (StoreUnavailable, StoreDamaged, StoreDiffers, TimedOut)
"""After these errors, another store may answer."""

ALL_PARTITIONS: Final = range(PARTITIONS)

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True)
class Terms:
    """What a request allows its reads, and, of the last one, which store answered and what it had.

    `deadline` is by the loop's clock. With `allows_older`, a store may answer that lacks what the read needs.
    """

    deadline: float
    allows_older: bool = False
    store: str = ""
    sequence: int = 0


TERMS: Final[ContextVar[Terms | None]] = ContextVar("read terms", default=None)
"""The terms of the request that is being served."""


@dataclass(slots=True, kw_only=True, eq=False)
class Source:
    """One of the stores; `reader` is None until it could be opened.

    `sequences` are what is known to be committed, by partition: they go back where the store has lost commits.
    `problem` is why it could not be opened yet.
    `shards` are the partitions that it commits together with each. `answered` counts its answers, `heard_at` is when
    its projector was heard last, by the loop's clock, and `epochs` are those of its projectors, by first partition.
    With `has_returned`, a projector has started since the store last answered.
    """

    name: str
    breaker: Breaker
    reader: Reader | None = None
    sequences: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    shards: list[range] = field(default_factory=lambda: [range(at, at + 1) for at in ALL_PARTITIONS])
    answered: int = 0
    heard_at: float | None = None
    problem: str | None = None
    retries: int = READ_RETRIES
    epochs: dict[int, object] = field(default_factory=dict)
    has_returned: bool = False

    @property
    def is_full(self) -> bool:
        """Tell whether it keeps every version."""
        return self.reader is not None and self.reader.capabilities.depth is Depth.full

    @property
    def has_where(self) -> bool:
        """Tell whether it can search by `where`."""
        return self.reader is not None and self.reader.capabilities.has_where

    @property
    def is_usable(self) -> bool:
        """Tell whether a read may be tried."""
        return self.reader is not None and self.breaker.admits


@dataclass(slots=True, kw_only=True)
class _Search:
    """One read's search for an answer: what it asks for, and which stores have failed or do not keep it."""

    order: Sequence[Source]
    partitions: range
    is_strict: bool
    terms: Terms
    failures: dict[Source, Exception] = field(default_factory=dict)
    failed: Counter[Source] = field(default_factory=Counter)
    lacking: dict[Source, HistoryElsewhere] = field(default_factory=dict)

    @property
    def left(self) -> list[Source]:
        """Return the stores that may still answer."""
        return [
            source
            for source in self.order
            if source not in self.lacking and self.failed[source] <= source.retries
        ]


class Sources:
    """The stores, and two high-water marks by partition.

    A read needs what earlier answers have shown (`marks`), whichever store gave them; strict reads all that any store
    has ever committed (`reached`).
    """

    def __init__(
        self,
        stores: Sequence[Source],
        *,
        random: Callable[[], float],
        waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> None:
        """`random` returns a number from 0 to 1, `waiting` makes the context of a wait."""
        self.stores = tuple(stores)
        self.marks = [0] * PARTITIONS
        self.reached = [0] * PARTITIONS
        self._by_name = {source.name: source for source in stores}
        self._random = random
        self._waiting = waiting
        self._waits: dict[asyncio.Future[None], Callable[[], bool]] = {}

    # --- What is known -----------------------------------------------------------------------------------

    def require(self, sequence: int, partitions: Iterable[int]) -> None:
        """Make every later read of these partitions need a sequence."""
        for partition in partitions:
            self.marks[partition] = max(sequence, self.marks[partition])

    def note_answer(self, source: Source, partition: int, sequence: int) -> None:
        """Note that a store has shown an event, and so has all up to it of the partitions that it commits together."""
        shard = source.shards[partition]
        if sequence > self.marks[partition]:
            self.require(sequence, shard)
        if sequence > source.sequences[partition]:
            self._move(source, sequence, shard)

    def note_committed(
        self, name: object, sequence: int, partitions: range, now: float, epoch: object = None
    ) -> None:
        """Note how far a projector says that its store is: forwards or, after a loss, back.

        A projector that begins anew has reached its store: a breaker that is open lets the store be tried at once, as
        soon as the store has what reads need.
        """
        source = self._by_name.get(name) if isinstance(name, str) else None
        if source is not None:
            source.heard_at = now
            if source.epochs.get(partitions.start) != epoch:
                source.epochs[partitions.start] = epoch
                source.has_returned = True
            for partition in partitions:
                source.shards[partition] = partitions
            self._move(source, sequence, partitions)

    def note_checkpoints(
        self, source: Source, checkpoints: Sequence[Checkpoint], known: Sequence[int]
    ) -> None:
        """Note a store's own checkpoints; `known` is what was known of it before they were read."""
        found = {each.partition: each.read_sequence for each in checkpoints}
        for partition, former in enumerate(known):
            sequence = found.get(partition, 0)
            # A notice that came meanwhile is newer, unless the store has lost commits.
            if sequence < former or sequence > source.sequences[partition]:
                self._move(source, sequence, (partition,))

    def _move(self, source: Source, sequence: int, partitions: Iterable[int]) -> None:
        for partition in partitions:
            source.sequences[partition] = sequence
            self.reached[partition] = max(sequence, self.reached[partition])
        if source.has_returned and all(map(ge, source.sequences, self.marks)):
            source.has_returned = False
            source.breaker.retry_now()
        self.wake()

    # --- Reads -------------------------------------------------------------------------------------------

    async def read(
        self,
        call: Callable[[Reader], Awaitable[Result]],
        partitions: range,
        order: Iterable[Source] = (),
        *,
        is_strict: bool = False,
    ) -> tuple[Source, Result]:
        """Try stores until one answers, within their retries and the deadline of the request."""
        terms = TERMS.get() or Terms(deadline=_now() + READ_SECONDS)
        search = _Search(
            order=tuple(order) or self.stores, partitions=partitions, is_strict=is_strict, terms=terms
        )
        while True:
            source = await self._choose(search)
            assert source.reader is not None
            sequence = min(source.sequences[partition] for partition in partitions)
            try:
                with source.breaker.call():
                    result = await call(source.reader)
            except HistoryElsewhere as error:
                search.lacking[source] = error
            except PASSED_ON as error:
                search.failures[source] = error
                search.failed[source] += 1
                if not search.left:
                    raise
            else:
                source.answered += 1
                terms.store, terms.sequence = source.name, sequence
                return source, result
            finally:
                # Where this was a probe, others may go on now.
                self.wake()

    async def _choose(self, search: _Search) -> Source:
        """Return the store to ask next: one that has not failed yet if there is any, else after a pause."""
        while True:
            current = [source for source in search.left if self._may_answer(source, search)]
            if not current and search.terms.allows_older:
                usable = [source for source in search.left if source.is_usable]
                current = sorted(usable, key=lambda source: -min(source.sequences))
            fresh = [source for source in current if source not in search.failures]
            if fresh:
                return fresh[0]
            if current:
                await self._pause(search)
                return current[0]
            if len(search.lacking) == len(search.order):
                raise next(iter(search.lacking.values()))
            if _now() >= search.terms.deadline:
                raise self._missing(search)
            await self._wait(search)

    def _may_answer(self, source: Source, search: _Search) -> bool:
        if not source.is_usable:
            return False
        needed, known = self._needed(search), source.sequences
        return all(known[partition] >= needed[partition] for partition in search.partitions)

    def _needed(self, search: _Search) -> list[int]:
        return self.reached if search.is_strict else self.marks

    async def _pause(self, search: _Search) -> None:
        failures = search.failed.total()
        seconds = min(RETRY_SECONDS * 2.0 ** (failures - 1), RETRY_SECONDS_MAX) * self._random()
        if _now() + seconds >= search.terms.deadline:
            raise list(search.failures.values())[-1]
        await asyncio.sleep(seconds)

    def _missing(self, search: _Search) -> Exception:
        behind = [source for source in search.left if source.is_usable]
        if not behind:
            failed = list(search.failures.values())
            return failed[-1] if failed else StoreUnavailable("no store can be reached")
        needed = self._needed(search)
        return StoreBehind(
            "no store has folded yet what this read needs",
            sequence=max(needed[partition] for partition in search.partitions),
            folded_sequence=max(min(it.sequences[at] for at in search.partitions) for it in behind),
        )

    # --- Waits -------------------------------------------------------------------------------------------

    async def _wait(self, search: _Search) -> None:
        """Wait until a store may answer: it moves, or may be asked again."""

        def is_met() -> bool:
            return any(self._may_answer(source, search) for source in search.left)

        # The breakers' clock is the loop's. A probe that is under way ends with `wake`.
        now, deadline = _now(), search.terms.deadline
        retries = [it.breaker.retry_at for it in search.left if it.breaker.is_open]
        probe_at = min((at for at in retries if at > now), default=deadline)
        async with self._waiting():
            if is_met():
                return
            waiting = asyncio.get_running_loop().create_future()
            self._waits[waiting] = is_met
            try:
                async with asyncio.timeout_at(min(probe_at, deadline)):
                    await waiting
            except TimeoutError:
                pass
            finally:
                del self._waits[waiting]

    def wake(self) -> None:
        """End the waits for a store that may answer now."""
        for waiting, is_met in self._waits.items():
            if not waiting.done() and is_met():
                waiting.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
