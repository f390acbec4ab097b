"""Outcomes of this gateway's own writes while the projection is far behind, folded from the log by the gateway itself.

An outcome is a function of its document's own events and of the log's monotone clock. Reading the log is several times
quicker than folding and committing all of it, so a write need not wait for a flood of events to other documents.
`run` goes on as long as the gateway does, one pass over the log at a time: a write is answered after two passes at
most, each as long as reading what the projection lacks (measured on two cores beside a busy projector: about 90,000
events/s). Bulk requests are not served so. Reads of a document that was answered so wait: see `caught_up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from refold.core.canonical import Json
from refold.core.checkpoint import Checkpoint
from refold.core.document import Document
from refold.core.errors import FenceLost, LogError, StoreError, TimedOut
from refold.core.fold import Folded
from refold.core.limits import PARTITIONS, RECORDS_FOLDED_MAX
from refold.core.outcome import Entry
from refold.core.record import SYSTEM_NAMESPACE, Record, partition_of
from refold.core.shard import Shard
from refold.gateway.outcomes import Outcomes
from refold.gateway.progress import Progress
from refold.log import EventLog
from refold.store import Key
from refold.store.ports import SnapshotStore
from refold.telemetry.logging import get_logger

EARLY_LAG_EVENTS_MIN: Final = 10_000
"""With fewer events behind, the projection is as quick."""
EARLY_LAG_EVENTS_MAX: Final = 2_000_000
"""With more behind, a pass takes longer than most requests wait: they are answered as pending."""
EARLY_DOCUMENTS_MAX: Final = 64
"""Documents that one pass folds; …"""
EARLY_STATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""… whose states have no more bytes in all, the last one aside."""
EARLY_ANSWERED_MAX: Final = 10_000
"""Documents that were answered and that the projection has not reached; no pass begins with more."""
EARLY_PASS_SECONDS: Final = 60.0

ViewOf = Callable[[str, str, Entry, Folded], dict[str, Json]]
"""How an outcome is shown: as the projector's notice shows it."""


class EarlyOutcomes:
    """The writes that wait for a late outcome, and the documents whose projection is behind their answers."""

    def __init__(
        self, log: EventLog, store: SnapshotStore, progress: Progress, outcomes: Outcomes, view_of: ViewOf
    ) -> None:
        """Nothing is read before `run`."""
        self._log = log
        self._store = store
        self._progress = progress
        self._outcomes = outcomes
        self._view_of = view_of
        self._wanted: dict[int, Key] = {}
        self._has_wanted = asyncio.Event()
        self._answered: dict[Key, int] = {}

    def want(self, namespace: str, document: str, sequence: int) -> None:
        """Ask for the outcome of a write that waits; it is told to `Outcomes`. Ask again while it has not come."""
        behind = sequence - self._progress.sequence
        if EARLY_LAG_EVENTS_MIN <= behind <= EARLY_LAG_EVENTS_MAX:
            self._wanted[sequence] = (namespace, document)
            self._has_wanted.set()

    async def caught_up(self, namespace: str, document: str | None, deadline: float) -> None:
        """Wait until the projection has what this gateway answered early; without a document, in all the namespace.

        Raises `TimedOut`.
        """
        if not self._answered:
            return
        keys = self._answered if document is None else [(namespace, document)]
        sequence = max((self._answered.get(key, 0) for key in keys if key[0] == namespace), default=0)
        if not await self._progress.reach(sequence, deadline):
            detail = "the projection has not reached the document's last answered write in time"
            raise TimedOut(detail, sequence=sequence, folded_sequence=self._progress.sequence)

    async def run(self) -> None:
        """Make one pass after another while writes wait."""
        while True:
            await self._has_wanted.wait()
            self._has_wanted.clear()
            # Whoever still waits asks again.
            wanted, self._wanted = self._wanted, {}
            self._forget_reached()
            if len(self._answered) >= EARLY_ANSWERED_MAX:
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
        shard = _shard_at(min(await self._store.checkpoints(), key=lambda each: each.read_sequence))
        documents = await self._load(wanted)
        left = {sequence for sequence, key in wanted.items() if key in documents}
        async with aclosing(self._log.read(shard.read_sequence)) as runs:
            async for records in runs:
                for start in range(0, len(records), RECORDS_FOLDED_MAX):
                    part = records[start : start + RECORDS_FOLDED_MAX]
                    if not self._fold(shard, part, documents, left):
                        return
                    await asyncio.sleep(0)
                    if not left or self._progress.sequence >= max(left):
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
            partition = partition_of(key[0].encode(), key[1].encode())
            new = Document(namespace=key[0], document=key[1], partition=partition)
            documents[key] = found[0] if found else new
            size += documents[key].size
        return documents

    def _fold(
        self, shard: Shard, records: list[Record], documents: dict[Key, Document], left: set[int]
    ) -> bool:
        """Fold a part; False where a system event may change the rules, or where these need more than heads."""
        for record in records:
            where = shard.place(record.subject)
            if where.namespace == SYSTEM_NAMESPACE or shard.rules.needs is not None:
                return False
            document = None if where.reason else documents.get((where.namespace, where.document))
            if document is None or record.sequence <= document.last_sequence:
                shard.skip(record, where)
                continue
            step = shard.fold(record, where, document)
            if record.sequence in left:
                left.remove(record.sequence)
                key = (where.namespace, where.document)
                self._answered[key] = max(record.sequence, self._answered.get(key, 0))
                self._outcomes.tell(self._view_of(*key, step.entry, step.folded))
        return True

    def _forget_reached(self) -> None:
        reached = self._progress.sequence
        self._answered = {key: last for key, last in self._answered.items() if last > reached}


def _shard_at(checkpoint: Checkpoint) -> Shard:
    """Make a fold over the whole log from there; its chains are not used."""
    return Shard(
        [
            Checkpoint(
                partition=partition,
                chain=b"",
                chain_before=b"",
                fold=checkpoint.fold,
                read_sequence=checkpoint.read_sequence,
                recorded_at=checkpoint.recorded_at,
            )
            for partition in range(PARTITIONS)
        ]
    )
