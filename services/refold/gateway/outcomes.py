"""Bring outcomes to the requests that wait for them: from the projector's notices, or from the store.

One subject for the whole process; outcomes are distinguished by sequence and may arrive before the append's own
acknowledgement. They are sent after the fold and before the commit, so a write is answered while the database is slow;
reads of its document then wait for the commit (`Consistency.wait_for_announced`). A notice may be lost: a request that
waits too long looks into the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal, get_args

from prometheus_client import Histogram

from refold.core import json_text
from refold.core.errors import LogError, StoreError
from refold.core.json_text import Json
from refold.gateway.consistency import NOTICE_WAIT_SECONDS, Consistency
from refold.gateway.inflight import deadline_in
from refold.gateway.tracing import TRACE, exemplar_in
from refold.telemetry.logging import get_logger

OUTCOMES_EARLY_MAX: Final = 20_000
"""Outcomes kept that arrived before the append's acknowledgement, or that no request waits for."""

View = dict[str, Json]
How = Literal["notice", "looked_up", "202"]
"""How a request's outcome came: by the projector's notice, from the store, or not in time."""
HOWS: Final[tuple[How, ...]] = get_args(How)

LookUp = Callable[[str, str, int], Awaitable[View | None]]


class Outcomes:
    """Which request waits for which sequence, and the outcomes that arrived before their request waited."""

    def __init__(self, look_up: LookUp, consistency: Consistency, wait_seconds: Histogram) -> None:
        """Look lost outcomes up through `look_up(namespace, document, sequence)`; observe waits by how they ended."""
        self._wait_seconds = {how: wait_seconds.labels(how=how) for how in HOWS}
        self._look_up = look_up
        self._consistency = consistency
        # Several, where an author sends an event again while the first request still waits.
        self._awaited: dict[int, list[asyncio.Future[View | None]]] = {}
        self._early: dict[int, View] = {}
        self._lost_sequence = 0

    def hear(self, _: str, body: bytes) -> None:
        """Take a notice: outcomes, one a line."""
        for line in body.split(b"\n"):
            self._take(line)

    def _take(self, body: bytes) -> None:
        # The broker's acknowledgements, and others' messages, can be sent to any subject.
        view = json_text.object_in(body)
        if not view.keys() >= {"sequence", "status"}:
            return
        sequence, namespace, document = view["sequence"], view.get("namespace"), view.get("document")
        if namespace and document:
            self._consistency.note_announced((namespace, document), sequence)
        if sequence not in self._awaited:
            self._early[sequence] = view
            if len(self._early) > OUTCOMES_EARLY_MAX:
                del self._early[next(iter(self._early))]
            return
        for awaited in self._awaited[sequence]:
            if not awaited.done():
                awaited.set_result(view)

    def arrived(self, sequence: int) -> View | None:
        """Take an outcome that has already come."""
        return self._early.pop(sequence, None)

    async def wait(self, namespace: str, document: str, sequence: int, deadline: float) -> View | None:
        """Wait for an event's outcome; None where the deadline (the loop's clock) passes or the gateway stops."""
        trace, began = TRACE.get(), deadline_in(0)
        if trace is not None:
            trace.begin_wait()
        outcome, how = await self._wait(namespace, document, sequence, deadline)
        self._wait_seconds[how].observe(deadline_in(0) - began, exemplar_in(trace))
        if trace is not None:
            trace.end_wait(how, "pending" if outcome is None else str(outcome["status"]))
        return outcome

    async def _wait(
        self, namespace: str, document: str, sequence: int, deadline: float
    ) -> tuple[View | None, How]:
        while True:
            outcome = self.arrived(sequence)
            left_seconds = deadline - deadline_in(0)
            is_lost = sequence <= self._lost_sequence
            if outcome is None and not is_lost and left_seconds > 0:
                outcome = await self._notice(sequence, min(NOTICE_WAIT_SECONDS, left_seconds))
            if outcome is not None:
                return outcome, "notice"
            failure: LogError | StoreError | None = None
            try:
                found = await self._look_up(namespace, document, sequence)
            except (LogError, StoreError) as error:
                # The log has the event: what cannot be read now makes it pending, not failed.
                found, failure = None, error
            if found is not None:
                if not is_lost:
                    await self._note_loss()
                return found, "looked_up"
            if left_seconds <= 0 or self._consistency.released.is_set():
                if failure is not None:
                    get_logger().warning(
                        "outcome_unknown", sequence=sequence, code=failure.code, error=str(failure)
                    )
                return None, "202"
            if is_lost:
                self._lost_sequence = 0

    async def _notice(self, sequence: int, seconds: float) -> View | None:
        """Wait so long for a notice. `asyncio.wait` and `asyncio.timeout` take three times as long as a timer."""
        loop = asyncio.get_running_loop()
        awaited: asyncio.Future[View | None] = loop.create_future()
        self._awaited.setdefault(sequence, []).append(awaited)
        timer = loop.call_later(seconds, _give_up, awaited)
        try:
            return await awaited
        finally:
            timer.cancel()
            self._awaited[sequence].remove(awaited)
            if not self._awaited[sequence]:
                del self._awaited[sequence]

    async def _note_loss(self) -> None:
        """Notices are ordered: after a lost one, look up all that are folded by now instead of waiting for each."""
        try:
            await self._consistency.refresh()
        except StoreError:
            return
        self._lost_sequence = self._consistency.sequence


def _give_up(awaited: asyncio.Future[View | None]) -> None:
    if not awaited.done():
        awaited.set_result(None)
