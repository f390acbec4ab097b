"""Load whose outcomes the clients count: the metrics must say the same."""

import asyncio
import re
from collections import Counter
from typing import Any
from urllib.request import urlopen

from refold import System
from refold.client import Refold

NAMESPACE = "shop"
ACTORS = ("ann", "ben", "carla")
ORDERS, ROUNDS = 40, 12
COMMIT_SECONDS = 120.0
LAG = 'refold_lag_events{shard="0-63"}'

MEANING = {
    "applied": "events that made a version",
    "merged": "events that were made at an older version, and fitted in",
    "rejected": "events whose `test` of a value failed",
    "duplicate": "events that were sent again under the same id",
}


async def send(system: System) -> None:
    """Write orders, with stale, wrong and repeated events among them; compare the clients' counts with the metrics."""
    counts = Counter[str]()
    async with Refold(system.http) as refold:
        await asyncio.gather(*(_write_order(refold, number, counts) for number in range(ORDERS)))
    print(
        f"\n▸ Metrics: {counts.total():,} events by {len(ACTORS)} actors; the clients have counted the first five too"
    )
    projector = await _once_committed(system.services["projector"])
    gateway = await metrics_of(system.services["gateway"])
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
        (gateway, "refold_append_seconds_count", "events that were appended to the log"),
        (gateway, "refold_broker_connected", "1: the connection to NATS is open"),
    ):
        _show(name, values[name], meaning)


async def _once_committed(projector: str) -> dict[str, float]:
    """Return the projector's metrics once all is committed; it measures its lag every second."""
    async with asyncio.timeout(COMMIT_SECONDS):
        while (found := await metrics_of(projector)).get(LAG) != 0:
            pass
    return found


async def metrics_of(url: str) -> dict[str, float]:
    """Return a service's metrics as they are now, by name and labels."""
    await asyncio.sleep(1.1)  # What it answers is up to a second old.
    with await asyncio.to_thread(urlopen, f"{url}/metrics") as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w.*) (\S+)$", text, re.MULTILINE)}


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
    print(f"  {name:69} {value:5,.0f}  {meaning}")
