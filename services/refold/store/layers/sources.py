"""Several stores of one log, in the order of preference: how far each is, and which one answers a read.

Used by `refold.store.layers.fallback`; a gateway notes here what the projectors announce and what it has answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from operator import ge
from typing import Final, NamedTuple, TypeVar

from refold.core.errors import (
    HistoryElsewhere,
    StoreBehind,
    StoreDamaged,
    StoreDiffers,
    StoreUnavailable,
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

PASSED_ON: Final = (StoreUnavailable, StoreDamaged, StoreDiffers)
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
    its projector was heard last, by the loop's clock, and `epochs` are those of its projectors, by first partition;
    `epoch` is that of its projection, read last.
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
    epoch: str = ""
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


class _Need(NamedTuple):
    """What a read waits for: that one of these stores has what it needs, or, with `allows_older`, can be asked."""

    stores: tuple[Source, ...]
    partitions: range
    is_strict: bool
    allows_older: bool


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

    @property
    def need(self) -> _Need:
        """Return what it needs now."""
        return _Need(tuple(self.left), self.partitions, self.is_strict, self.terms.allows_older)


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
        # By need: reads of one partition wait together. An event without waiters stays until it is met.
        self._waits: dict[_Need, asyncio.Event] = {}
        for source in self.stores:
            source.breaker.on_change = partial(self._wake_by_breaker, source.breaker)

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
            self.wake()

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
            self.wake()

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
        self.wake()

    def _move(self, source: Source, sequence: int, partitions: Iterable[int]) -> None:
        for partition in partitions:
            source.sequences[partition] = sequence
            self.reached[partition] = max(sequence, self.reached[partition])
        if source.has_returned and all(map(ge, source.sequences, self.marks)):
            source.has_returned = False
            source.breaker.retry_now()

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

    async def _choose(self, search: _Search) -> Source:
        """Return the store to ask next: one that has not failed yet if there is any, else after a pause."""
        has_paused = False
        while True:
            able = self._able(search.need)
            fresh = [source for source in able if source not in search.failures]
            if fresh:
                return fresh[0]
            if able:
                if has_paused:
                    return able[0]
                # Meanwhile its breaker may open, or another read probe it: look again.
                await self._pause(search)
                has_paused = True
                continue
            if len(search.lacking) == len(search.order):
                raise next(iter(search.lacking.values()))
            if _now() >= search.terms.deadline:
                raise self._missing(search)
            await self._wait(search)

    def _able(self, need: _Need) -> list[Source]:
        """Return the stores that may answer now, the first one to be asked first."""
        needed = self._needed(is_strict=need.is_strict)
        usable = [source for source in need.stores if source.is_usable]
        current = [
            source for source in usable if all(source.sequences[at] >= needed[at] for at in need.partitions)
        ]
        if current or not need.allows_older:
            return current
        return sorted(usable, key=lambda source: -min(source.sequences))

    def _needed(self, *, is_strict: bool) -> list[int]:
        return self.reached if is_strict else self.marks

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
        needed = self._needed(is_strict=search.is_strict)
        return StoreBehind(
            "no store has folded yet what this read needs",
            sequence=max(needed[partition] for partition in search.partitions),
            folded_sequence=max(min(it.sequences[at] for at in search.partitions) for it in behind),
        )

    # --- Waits -------------------------------------------------------------------------------------------

    async def _wait(self, search: _Search) -> None:
        """Wait until a store may answer, or the deadline."""
        need = search.need
        async with self._waiting():
            if self._able(need):
                return
            met = self._waits.setdefault(need, asyncio.Event())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(search.terms.deadline):
                    await met.wait()

    def wake(self) -> None:
        """End the waits for a store that may answer now."""
        for need in [need for need in self._waits if self._able(need)]:
            self._waits.pop(need).set()

    def _wake_by_breaker(self, breaker: Breaker) -> None:
        """End the waits that may go on now, and, where it is open, after its pause. Its clock is the loop's."""
        self.wake()
        if breaker.is_open and breaker.retry_at > _now():
            # The loop's timers may be early by a part of a millisecond: then this waits again.
            asyncio.get_running_loop().call_at(breaker.retry_at, self._wake_by_breaker, breaker)


def _now() -> float:
    return asyncio.get_running_loop().time()
