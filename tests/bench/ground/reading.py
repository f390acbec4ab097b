"""The log read and folded with nothing else to do: with nats-py, with the projector's reader, and in memory alone.

Tasks for `bench.worker`; used where a log is replayed.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bench.internals import collect_seldom, fold_records
from bench.signals import Signals
from refold.core.errors import LogHole
from refold.core.stream import Record
from refold.log import EventLog
from refold.wiring.servers import inbox_of, open_log

STREAM: Final = "STATE"
FETCH_EVENTS: Final = 1_000
FETCH_SECONDS: Final = 30


async def consume_with_nats_py(signals: Signals, *, url: str, until_sequence: int) -> dict[str, Any]:
    """Read the log as any user of nats-py would: a pull consumer, a thousand messages a request."""
    client = await nats.connect(url, inbox_prefix=inbox_of(url))
    try:
        wanted = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL)
        pulling = await client.jetstream().pull_subscribe("", stream=STREAM, config=wanted)
        await signals.until_go()
        started_at, count = time.perf_counter(), 0
        while count < until_sequence:
            asked = min(FETCH_EVENTS, until_sequence - count)
            count += len(await pulling.fetch(asked, timeout=FETCH_SECONDS))
        return {"events": count, "seconds": time.perf_counter() - started_at}
    finally:
        await client.close()


async def read_in_bulk(signals: Signals, *, url: str, until_sequence: int) -> dict[str, Any]:
    """Read the log by the projector's reader and discard it."""
    log = await open_log(url, "refold-bench-read")
    try:
        await signals.until_go()
        started_at, count = time.perf_counter(), 0
        async with aclosing(log.read(0)) as runs:
            async for records in runs:
                count += len(records)
                if count >= until_sequence:
                    break
        return {"events": count, "seconds": time.perf_counter() - started_at}
    finally:
        await log.close()


async def fold_in_memory(signals: Signals, *, url: str, until_sequence: int) -> dict[str, Any]:
    """Fold records that are in memory already, into documents that stay there."""
    collect_seldom()
    log = await open_log(url, "refold-bench-fold")
    try:
        records = await _records(log, until_sequence)
        log_id = (await log.info()).log_id
    finally:
        await log.close()
    await signals.until_go()
    seconds, effective = fold_records(log_id, records)
    return {"events": len(records), "effective": effective, "seconds": seconds}


async def get_by_sequence(signals: Signals, *, url: str, sequences: list[int]) -> dict[str, Any]:
    """Request single events from the broker, one after another."""
    log = await open_log(url, "refold-bench-get")
    taken = []
    try:
        await signals.until_go()
        for sequence in sequences:
            started_at = time.perf_counter()
            if await log.get(sequence) is None:
                raise LogHole(expected=sequence, found=None)
            taken.append((time.perf_counter() - started_at) * 1_000)
        return {"milliseconds": taken}
    finally:
        await log.close()


async def _records(log: EventLog, until_sequence: int) -> list[Record]:
    read: list[Record] = []
    async with aclosing(log.read(0)) as runs:
        async for records in runs:
            read += islice(records, until_sequence - len(read))
            if len(read) == until_sequence:
                break
    return read
