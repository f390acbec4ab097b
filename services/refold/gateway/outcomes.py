"""Bring outcomes to the requests that wait for them: from the projector's notices, from the store, or from the log.

`Outcomes`: one subject for the whole process; outcomes are distinguished by sequence and may arrive before the
append's own acknowledgement. They are sent at most once, so a request that waits too long looks into the store.

`EarlyOutcomes`: while the projection is far behind, the gateway folds the outcomes of its own writes itself. An outcome
is a function of its document's own events and of the log's monotone clock, and reading the log is several times faster
than folding and committing all of it. A write is answered after two passes over the log at most, each as long as
reading what the projection lacks (measured on two cores beside a busy projector: about 90,000 events/s). Reads of a
document that was answered this way wait (`Consistency.wait_for_answers`). Bulk requests are not served this way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from refold.core import json_text
from refold.core.document import Document
from refold.core.errors import FenceLost, LogError, StoreError
from refold.core.fold_state import FoldState
from refold.core.json_text import Json
from refold.core.stream import PARTITIONS, SYSTEM_NAMESPACE, Record, Route
from refold.core.views import step_view
from refold.gateway.consistency import NOTICE_WAIT_SECONDS, Consistency
from refold.gateway.inflight import deadline_in
from refold.log import EventLog
from refold.store import Key
from refold.store.ports import SnapshotStore
from refold.telemetry.logging import get_logger

OUTCOMES_EARLY_MAX: Final = 20_000
"""Outcomes kept that arrived before the append's acknowledgement, or that no request waits for."""

EARLY_LAG_EVENTS_MIN: Final = 10_000
"""With fewer events behind, the projection is as quick."""
EARLY_LAG_EVENTS_MAX: Final = 2_000_000
"""With more behind, a pass takes longer than most requests wait: they are answered as pending."""
EARLY_DOCUMENTS_MAX: Final = 64
"""Documents that one pass folds."""
EARLY_STATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of the states that one pass folds, the last state aside."""
EARLY_ANSWERED_MAX: Final = 10_000
"""Documents that were answered and that the projection has not reached; no pass starts with more."""
EARLY_RECORDS_MAX: Final = 500
"""Records that one pass folds before other tasks run (about ten milliseconds)."""
EARLY_PASS_SECONDS: Final = 60.0

View = dict[str, Json]
WhenLate = Callable[[str, str, int], None]
LookUp = Callable[[str, str, int], Awaitable[View | None]]


class Outcomes:
    """Which request waits for which sequence, and the outcomes that arrived before their request waited."""

    def __init__(self, look_up: LookUp, consistency: Consistency) -> None:
        """Look lost outcomes up through `look_up(namespace, document, sequence)`."""
        self._look_up = look_up
        self._consistency = consistency
        self._awaited: dict[int, asyncio.Future[View]] = {}
        self._early: dict[int, View] = {}
        self._lost_sequence = 0

    def hear(self, _: str, body: bytes) -> None:
        """Take an outcome's notice."""
        # The broker's acknowledgements, and others' messages, can be sent to any subject.
        view = json_text.object_in(body)
        if view.keys() >= {"sequence", "status"} and not self.resolve(view):
            self._early[view["sequence"]] = view
            if len(self._early) > OUTCOMES_EARLY_MAX:
                del self._early[next(iter(self._early))]

    def resolve(self, view: View) -> bool:
        """Pass an outcome to the request that waits for it; False where none does."""
        awaited = self._awaited.get(view["sequence"])
        if awaited is not None and not awaited.done():
            awaited.set_result(view)
        return awaited is not None

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
        """Wait for an event's outcome; None where the deadline (the loop's clock) passes first, or the gateway stops.

        `when_late` is called again and again while neither its notice has come nor the store has it.
        """
        early = self.arrived(sequence)
        if early is not None:
            return early
        awaited: asyncio.Future[View] = asyncio.get_running_loop().create_future()
        self._awaited[sequence] = awaited
        try:
            while True:
                left_seconds = deadline - deadline_in(0)
                is_lost = sequence <= self._lost_sequence
                if not is_lost and left_seconds > 0:
                    await asyncio.wait({awaited}, timeout=min(NOTICE_WAIT_SECONDS, left_seconds))
                if awaited.done():
                    return awaited.result()
                found = await self._found(namespace, document, sequence)
                if found is not None:
                    if not is_lost:
                        await self._note_loss()
                    return found
                if left_seconds <= 0 or self._consistency.released.is_set():
                    return None
                if is_lost:
                    self._lost_sequence = 0
                if when_late is not None:
                    when_late(namespace, document, sequence)
        finally:
            del self._awaited[sequence]

    async def _note_loss(self) -> None:
        """Notices are ordered: after a lost one, look up all that are folded by now instead of waiting for each."""
        try:
            await self._consistency.refresh()
        except StoreError:
            return
        self._lost_sequence = self._consistency.sequence

    async def _found(self, namespace: str, document: str, sequence: int) -> View | None:
        try:
            return await self._look_up(namespace, document, sequence)
        except StoreError as error:
            # The log has the event: a store that does not answer makes it pending, not failed.
            get_logger().warning("outcome_unknown", sequence=sequence, code=error.code, error=str(error))
            return None


class EarlyOutcomes:
    """The writes that wait for a late outcome, answered from the log."""

    def __init__(
        self, log: EventLog, store: SnapshotStore, consistency: Consistency, outcomes: Outcomes
    ) -> None:
        self._log = log
        self._store = store
        self._consistency = consistency
        self._outcomes = outcomes
        self._wanted: dict[int, Key] = {}
        self._has_wanted = asyncio.Event()

    def want(self, namespace: str, document: str, sequence: int) -> None:
        """Ask for the outcome of a write that waits; `Outcomes` receives it. Ask again while it has not come."""
        behind = sequence - self._consistency.sequence
        if EARLY_LAG_EVENTS_MIN <= behind <= EARLY_LAG_EVENTS_MAX:
            self._wanted[sequence] = (namespace, document)
            self._has_wanted.set()

    async def run(self) -> None:
        """Make one pass after another while writes wait."""
        while True:
            await self._has_wanted.wait()
            self._has_wanted.clear()
            # A write that still waits asks again.
            wanted, self._wanted = self._wanted, {}
            if self._consistency.answered_count() >= EARLY_ANSWERED_MAX:
                continue
            try:
                async with asyncio.timeout(EARLY_PASS_SECONDS):
                    await self._read(wanted)
            except (LogError, StoreError, TimeoutError) as error:
                # The writes go on waiting for the projection.
                get_logger().warning("early_outcomes_failed", error=repr(error))

    async def _read(self, wanted: dict[int, Key]) -> None:
        """Read from the projection's checkpoint, and fold the wanted documents alone.

        A document's row may be ahead of the checkpoint that was read before it: its events up to there are passed.
        """
        checkpoint = min(await self._store.checkpoints(), key=lambda each: each.read_sequence)
        # The chains of the partitions are not used.
        fold_state = FoldState([replace(checkpoint, partition=number) for number in range(PARTITIONS)])
        documents = await self._load(wanted)
        left = {sequence for sequence, key in wanted.items() if key in documents}
        async with aclosing(self._log.read(fold_state.read_sequence)) as runs:
            async for records in runs:
                for start in range(0, len(records), EARLY_RECORDS_MAX):
                    part = records[start : start + EARLY_RECORDS_MAX]
                    if not self._fold(fold_state, part, documents, left):
                        return
                    await asyncio.sleep(0)
                    if not left or self._consistency.sequence >= max(left):
                        return

    async def _load(self, wanted: dict[int, Key]) -> dict[Key, Document]:
        documents: dict[Key, Document] = {}
        size = 0
        for key in dict.fromkeys(wanted.values()):
            if len(documents) == EARLY_DOCUMENTS_MAX or size > EARLY_STATE_BYTES_MAX:
                break
            try:
                found = await self._store.load([key])
            except FenceLost:
                # It was written while it was loaded: the projection is at this document already.
                continue
            documents[key] = found[0] if found else Document.new(Route.of(*key))
            size += documents[key].size
        return documents

    def _fold(
        self, fold_state: FoldState, records: list[Record], documents: dict[Key, Document], left: set[int]
    ) -> bool:
        """Fold a part; False where a system event may change the rules, or where these need more than heads."""
        for record in records:
            where = fold_state.route(record.subject)
            if where.namespace == SYSTEM_NAMESPACE or fold_state.rules.needs is not None:
                return False
            document = None if where.reason else documents.get((where.namespace, where.document))
            if document is None or record.sequence <= document.last_sequence:
                fold_state.skip(record, where)
                continue
            step = fold_state.fold(record, where, document)
            if record.sequence in left:
                left.remove(record.sequence)
                self._consistency.note_answer((where.namespace, where.document), record.sequence)
                self._outcomes.resolve(step_view(where, step))
        return True
