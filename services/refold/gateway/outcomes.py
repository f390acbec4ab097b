"""Outcomes on their way from the projector to the requests that wait for them.

One subject for the whole process: outcomes are told apart by their sequence, and may come before the append's
own acknowledgement. At most once, so whoever waits in vain looks into the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import orjson

from refold.core.canonical import Json
from refold.core.errors import StoreError
from refold.core.limits import NOTICE_WAIT_SECONDS, OUTCOMES_EARLY_MAX
from refold.gateway.progress import Progress
from refold.telemetry.logging import get_logger

View = dict[str, Json]
WhenLate = Callable[[str, str, int], None]
LookUp = Callable[[str, str, int], Awaitable[View | None]]


class Outcomes:
    """Who waits for which sequence, and what came before anyone did."""

    def __init__(self, look_up: LookUp, progress: Progress) -> None:
        """Look lost outcomes up through `look_up(namespace, document, sequence)`."""
        self._look_up = look_up
        self._progress = progress
        self._awaited: dict[int, asyncio.Future[View | None]] = {}
        self._early: dict[int, View] = {}
        self._lost_sequence = 0

    def hear(self, _: str, body: bytes) -> None:
        """Take an outcome's notice."""
        view = _view_in(body)
        if view is None:
            return
        sequence = view["sequence"]
        awaited = self._awaited.pop(sequence, None)
        if awaited is None:
            self._early[sequence] = view
            if len(self._early) > OUTCOMES_EARLY_MAX:
                del self._early[next(iter(self._early))]
        elif not awaited.done():
            awaited.set_result(view)

    def tell(self, view: View) -> None:
        """Give an outcome, found by another way than its notice, to who waits for it."""
        awaited = self._awaited.get(cast("int", view["sequence"]))
        if awaited is not None and not awaited.done():
            awaited.set_result(view)

    def arrived(self, sequence: int) -> View | None:
        """Take an outcome that has already come."""
        return self._early.pop(sequence, None)

    async def wait(
        self,
        namespace: str,
        document: str,
        sequence: int,
        deadline: float,
        *,
        when_late: WhenLate | None = None,
    ) -> View | None:
        """Wait for an event's outcome; None where the deadline (the loop's clock) passes first.

        `when_late` is called again and again while neither its notice has come nor the store has it.
        """
        early = self.arrived(sequence)
        if early is not None:
            return early
        awaited = self._awaited[sequence] = asyncio.get_running_loop().create_future()
        try:
            return await self._heard_or_found(awaited, (namespace, document, sequence), deadline, when_late)
        finally:
            self._awaited.pop(sequence, None)

    def release(self) -> None:
        """Let every waiter go without an outcome, for the gateway is ending."""
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_result(None)

    async def _heard_or_found(
        self,
        awaited: asyncio.Future[View | None],
        event: tuple[str, str, int],
        deadline: float,
        when_late: WhenLate | None,
    ) -> View | None:
        loop = asyncio.get_running_loop()
        while not awaited.done():
            left_seconds = deadline - loop.time()
            is_lost = event[2] <= self._lost_sequence
            if not is_lost and left_seconds > 0:
                await asyncio.wait({awaited}, timeout=min(NOTICE_WAIT_SECONDS, left_seconds))
            if awaited.done():
                break
            found = await self._found(event)
            if found is not None:
                if not is_lost:
                    await self._note_loss()
                return found
            if left_seconds <= 0 or self._progress.released.is_set():
                return None
            if is_lost:
                self._lost_sequence = 0
            if when_late is not None:
                when_late(*event)
        return awaited.result()

    async def _note_loss(self) -> None:
        """Notices come in order: with one lost, all that are folded by now have come or are lost too."""
        try:
            await self._progress.refresh()
        except StoreError:
            return
        self._lost_sequence = self._progress.sequence

    async def _found(self, event: tuple[str, str, int]) -> View | None:
        try:
            return await self._look_up(*event)
        except StoreError as error:
            # The log has the event: a store that does not answer makes it pending, not failed.
            get_logger().warning("outcome_unknown", sequence=event[2], code=error.code, error=str(error))
            return None


def _view_in(body: bytes) -> View | None:
    """Read a notice; None for a body that is none: the broker's acknowledgements can be sent to any subject."""
    try:
        view = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return view if isinstance(view, dict) and view.keys() >= {"sequence", "status"} else None
