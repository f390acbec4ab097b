"""Load what the fold needs in addition to the documents: changes that rules need, and the system's fold number.

Used by the projector's loop, before it folds a part of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from refold.core.document import Document
from refold.core.errors import LogHole
from refold.core.fold import fold, genesis_rules, rules_of
from refold.core.fold.rules import Decoded, Rules, Step
from refold.core.fold_state import FoldState
from refold.core.history import Entry
from refold.core.stream import FOLD_DOCUMENT, SYSTEM_NAMESPACE, Record, Route
from refold.history import record_of
from refold.log import EventLog, read_until
from refold.store import Key
from refold.store.ports import HistoryReader, SnapshotStore

_SYSTEM: Final = SYSTEM_NAMESPACE.encode()


@dataclass(slots=True, kw_only=True)
class Windows:
    """A part of the log decoded, with the changes that its events need."""

    decoded: dict[int, Decoded] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)
    """By sequence: the version after which an event needs its document's changes."""
    changes: dict[Key, list[Entry]] = field(default_factory=dict)

    def fold(self, fold_state: FoldState, record: Record, where: Route, document: Document) -> Step:
        """Fold a record of the part, and keep its change for those that follow."""
        changes = self.changes.get(where[1:3], [])
        version = self.since.get(record.sequence)
        window = [] if version is None else [entry for entry in changes if entry.version > version]
        step = fold_state.fold(record, where, document, self.decoded[record.sequence], window)
        if step.entry.status.is_effective:
            changes.append(step.entry)
        return step


async def load_windows(
    store: HistoryReader,
    rules: Rules,
    events: Iterable[tuple[Record, Document]],
    uncommitted: Callable[[Key], Iterable[Entry]],
) -> Windows:
    """Decode a part of the log, and load the changes that its events need: from memory, else from the store."""
    windows = Windows()
    oldest: dict[Key, int] = {}
    for record, document in events:
        decoded = windows.decoded[record.sequence] = rules.decode(record, rules)
        version = rules.needs(decoded, document) if rules.needs is not None else None
        if version is not None:
            windows.since[record.sequence] = version
            key = (document.namespace, document.document)
            oldest[key] = min(version, oldest.get(key, version))
    # First from memory: what is committed meanwhile is in the store when that is read.
    recent = {key: [entry for entry in uncommitted(key) if entry.status.is_effective] for key in oldest}
    loaded = await asyncio.gather(*(_changes_since(store, key, version) for key, version in oldest.items()))
    for (key, version), stored in zip(oldest.items(), loaded, strict=True):
        by_version = {entry.version: entry for entry in (*stored, *recent[key]) if entry.version > version}
        windows.changes[key] = [by_version[at] for at in sorted(by_version)]
    return windows


async def _changes_since(store: HistoryReader, key: Key, version: int) -> list[Entry]:
    async with aclosing(store.segments(*key, after_version=version, is_descending=False)) as segments:
        return [entry async for segment in segments for entry in segment.entries if entry.status.is_effective]


def split_by_rules(records: list[Record], route_of: Callable[[bytes], Route]) -> Iterator[list[Record]]:
    """Divide records so that a system event, which may advance the fold number, is the last of its part."""
    begin = 0
    for at, (_, _, subject, _, _) in enumerate(records, 1):
        # The first test is for speed: it takes a fifth of the second.
        if _SYSTEM in subject and route_of(subject).namespace == SYSTEM_NAMESPACE:
            yield records[begin:at]
            begin = at
    if begin < len(records):
        yield records[begin:]


async def resume_system(fold_state: FoldState, log: EventLog, store: SnapshotStore) -> None:
    """Give a shard the foreign document that advances the fold number, as of the shard's checkpoint.

    The shard of that document may have committed more or less of the log: its stored events are folded again up to the
    checkpoint, and where they end before it, the log is read on from there.
    """
    where = Route.of(SYSTEM_NAMESPACE, FOLD_DOCUMENT)
    if not fold_state.read_sequence or fold_state.has(where.partition):
        return
    genesis = await log.get(1)
    if genesis is None:
        raise LogHole("the log lacks its genesis", sequence=1)
    document = Document.new(where)
    stored = next(it for it in await store.checkpoints() if it.partition == where.partition)
    rules = genesis_rules(genesis)
    async with aclosing(store.segments(*where[1:3], after_version=None, is_descending=False)) as segments:
        async for entry in (entry async for segment in segments for entry in segment.entries):
            if entry.sequence <= min(stored.read_sequence, fold_state.read_sequence):
                fold(document, record_of(entry, where), rules, recorded_at=entry.recorded_at)
                rules = rules_of(document.state["fold"]) if entry.status.is_effective else rules
    fold_state.resume_system(document)
    if stored.read_sequence < fold_state.read_sequence:
        ahead = FoldState([stored])
        ahead.resume_system(document)
        async with aclosing(read_until(log, stored.read_sequence, fold_state.read_sequence)) as parts:
            async for record in (record async for records in parts for record in records):
                ahead.skip(record, ahead.route(record.subject))
