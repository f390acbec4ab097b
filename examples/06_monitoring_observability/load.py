"""Load with known counts: what clients know of it must be what the metrics say."""

import asyncio
from collections import Counter
from typing import Any

from show import say
from system import metrics_of, service_urls

from refold.client import Refold
from refold.wiring.system import System

NAMESPACE = "shop"
ACTORS = ("ann", "ben", "carla")
ORDERS, ROUNDS = 40, 12
COMMIT_SECONDS = 30.0
LAG = 'refold_lag_events{shard="0-63"}'

MEANING = {
    "applied": "events that made a version",
    "merged": "events made at an older version, and fitted in",
    "rejected": "events that broke a rule, here a `test` of a value",
    "duplicate": "events that were sent again under the same id",
}


async def send(system: System) -> None:
    """Write orders, with stale, wrong and repeated events among them; compare the counts with the metrics."""
    counts = Counter[str]()
    async with Refold(system.http) as refold:
        await asyncio.gather(*(_write_order(refold, number, counts) for number in range(ORDERS)))
    say(
        f"Metrics: {counts.total():,} events by {len(ACTORS)} actors; the first five are what clients have counted"
    )
    urls = service_urls(system)
    projector = await _once_committed(urls["projector"])
    gateway = await metrics_of(urls["gateway"])
    for outcome, meaning in MEANING.items():
        name = f'refold_events_folded_total{{namespace="{NAMESPACE}",outcome="{outcome}"}}'
        _show(name, projector[name], meaning)
        assert projector[name] == counts[outcome], (name, counts)
    name = f'refold_events_rejected_total{{namespace="{NAMESPACE}",reason="test_failed"}}'
    _show(name, projector[name], "the same events, by reason")
    assert projector[name] == counts["rejected"]
    for values, name, meaning in (
        (projector, LAG, "events that are in the log and in no store yet"),
        (projector, "refold_commit_events_count", "commits; the fewer, the larger each was"),
        (projector, 'refold_shard_owned{shard="0-63"}', "1: this projector folds the shard"),
        (gateway, "refold_append_seconds_count", "appends to the log, each durable when it ends"),
        (gateway, "refold_broker_connected", "1: the connection to NATS is open"),
    ):
        _show(name, values[name], meaning)


async def _once_committed(projector: str) -> dict[str, float]:
    """Return the projector's metrics once all is committed; it measures its lag every second."""
    async with asyncio.timeout(COMMIT_SECONDS):
        while (found := await metrics_of(projector)).get(LAG) != 0:
            pass
    return found


async def _write_order(refold: Refold, number: int, counts: Counter[str]) -> None:
    """Take an order through its steps, each by another actor."""
    order, actor = f"order-{number}", ACTORS[number % len(ACTORS)]

    async def patch(*operations: dict[str, Any], **options: Any) -> None:
        outcome = await refold.patch(
            NAMESPACE, order, list(operations), actor=actor, type="order.changed", **options
        )
        counts[outcome.status] += 1

    state = {"total": 10, "lines": ["tea"], "status": "placed"}
    outcome = await refold.put(NAMESPACE, order, state, actor=actor, type="order.placed")
    counts[outcome.status] += 1
    for step in range(ROUNDS):
        await patch({"op": "inc", "path": "/total", "inc": step})
    wrong = {"op": "test", "path": "/total", "value": -1}
    await patch(wrong, {"op": "replace", "path": "/status", "value": "free"})
    await patch({"op": "add", "path": "/lines/0", "value": "mug"}, id=f"{order}-mug")
    await patch({"op": "add", "path": "/lines/0", "value": "mug"}, id=f"{order}-mug")
    # Made at version 1, when the first line was the tea.
    await patch({"op": "replace", "path": "/lines/0", "value": "green tea"}, base=1, session=f"{actor}-phone")


def _show(name: str, value: float, meaning: str) -> None:
    say("", f"{name:69} {value:5,.0f}  {meaning}")
