"""Compare the log with the checkpoints of what was folded from it. Run by projectors, at start and periodically."""

from __future__ import annotations

import asyncio

from refold.core.errors import FenceLost, LogHole
from refold.core.fold import rules_of
from refold.core.stream import Checkpoint, chain_link, route
from refold.log import EventLog
from refold.store import damaged
from refold.store.ports import LatestReader


async def check_log(log: EventLog, checkpoints: list[Checkpoint]) -> None:
    """Raise `LogHole`, naming the sequences, where the log lacks or changed what was folded; `FoldUnknown`."""
    newest = max(checkpoints, key=lambda checkpoint: checkpoint.read_sequence)
    rules_of(newest.fold)
    info = await log.info()
    if info.first_sequence != 1:
        raise LogHole("the log does not begin at sequence 1", first_sequence=info.first_sequence)
    if info.last_sequence < newest.read_sequence:
        message = "the log ends before what has been folded from it"
        raise LogHole(message, last_sequence=info.last_sequence, folded_sequence=newest.read_sequence)
    for checkpoint in checkpoints:
        if checkpoint.last_sequence:
            await _check_last(log, checkpoint)


async def check_documents(log: EventLog, store: LatestReader, checkpoints: list[Checkpoint]) -> None:
    """Raise `StoreDamaged` where the document of a partition's last event is older or newer than its checkpoint.

    One of the tables is then an older copy. Raises `FenceLost` where the checkpoints advance meanwhile.
    """
    last = {checkpoint.last_sequence for checkpoint in checkpoints if checkpoint.last_sequence}
    records = await asyncio.gather(*(log.get(sequence) for sequence in last))
    routes = {record.sequence: route(record.subject) for record in records if record is not None}
    expected = {where[1:3]: sequence for sequence, where in routes.items() if not where.reason}
    heads = await asyncio.gather(*(store.head(*key) for key in expected))
    for (key, sequence), head in zip(expected.items(), heads, strict=True):
        found = 0 if head is None else head.last_sequence
        if found != sequence:
            partitions = {checkpoint.partition for checkpoint in checkpoints}
            if [each for each in await store.checkpoints() if each.partition in partitions] != checkpoints:
                raise FenceLost("another projector writes to these documents", document="/".join(key))
            what = "its row and the checkpoints are of different commits"
            raise damaged(*key, what, expected_sequence=sequence, last_sequence=found)


async def _check_last(log: EventLog, checkpoint: Checkpoint) -> None:
    record = await log.get(checkpoint.last_sequence)
    if record is None:
        raise LogHole("the log lacks an event that was folded", sequence=checkpoint.last_sequence)
    if chain_link(checkpoint.chain_before, record) != checkpoint.chain:
        message = "another event has the sequence of one that was folded"
        raise LogHole(message, sequence=checkpoint.last_sequence, partition=checkpoint.partition)
