"""Commits, reads and appends that are slow are logged with their sequences or document; quick ones are not."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from refold.log.memory import MemoryLog
from refold.store.layers.measured import measured
from refold.store.memory import MemoryStore
from refold.telemetry import slow
from refold.telemetry.metrics.store import StoreMetrics
from support.gateway import twin
from support.projection import append, ports, projecting

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BOUNDS = (slow.SLOW_APPEND_SECONDS, slow.SLOW_COMMIT_SECONDS, slow.SLOW_READ_SECONDS)


class Dropped:
    """A `Spans` that keeps nothing."""

    def record(self, span):
        pass

    def count_over_limit(self, spans):
        pass


class Clock:
    """A timer that is later by so much each time it is read."""

    def __init__(self, step_seconds):
        self.seconds, self.step_seconds = 0.0, step_seconds

    def __call__(self):
        self.seconds += self.step_seconds
        return self.seconds


@pytest.mark.parametrize("seconds", [1.0, 1.5])
async def test_an_append_is_logged_with_its_sequences(seconds):
    async with twin() as gateway:
        gateway.app.context = replace(gateway.app.context, timer=Clock(seconds))
        with capture_logs() as lines:
            written = await gateway.put("/v1/n/d", 1)
            gateway.log.faults = ["dropped"]
            await gateway.put("/v1/n/e", 1)
        known = {"event": "append_slow", "log_level": "warning", "seconds": 1.5, "namespace": "n"}
        first = {**known, "document": "d", "first_sequence": 2, "last_sequence": 2}
        lost = {**known, "document": "e", "first_sequence": None, "last_sequence": None}
        again = {**known, "document": "e", "first_sequence": 3, "last_sequence": 3}
        assert written.json()["sequence"] == 2
        assert lines == ([first, lost, again] if seconds > BOUNDS[0] else [])


@pytest.mark.parametrize("seconds", [1.0, 1.5])
async def test_a_commit_is_logged_with_its_sequences(seconds):
    log = MemoryLog("log-1")
    for number in range(3):
        await append(log, "d", {"put": number})
    with capture_logs() as lines:
        async with projecting(
            replace(ports(log, MemoryStore(), timer=Clock(seconds)), spans=Dropped())
        ) as running:
            await running.committed(4)
            await append(log, "d", {"put": 3}, ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"))
            await running.committed(5)
    found = [line for line in lines if line["event"] == "commit_slow"]
    covered = [at for each in found for at in range(each["first_sequence"], each["last_sequence"] + 1)]
    assert covered == ([1, 2, 3, 4, 5] if seconds > BOUNDS[1] else [])
    assert [each.get("trace_id") for each in found if each["last_sequence"] == 5] == [TRACE] * bool(found)
    assert sum(each["events"] for each in found) == len(covered)


async def test_a_read_is_logged_with_its_document(monkeypatch):
    metrics = StoreMetrics(CollectorRegistry(), are_several=False)
    store = measured(MemoryStore(), *metrics.watch("files", lambda: (0, 0, 1)))
    with capture_logs() as lines:
        await store.head("n", "d")
        monkeypatch.setattr(slow, "SLOW_READ_SECONDS", -1)
        await store.head("n", "d")
        await store.list_names("n", prefix="", limit=1, cursor=None)
        await store.load([("n", "d")])
        async for _ in store.segments("n", "d", after_version=None, is_descending=False):
            pass
    assert {(line["event"], line["log_level"], line["store"]) for line in lines} == {
        ("read_slow", "warning", "files")
    }
    assert [(line["method"], line["namespace"], line["document"]) for line in lines] == [
        ("head", "n", "d"),
        ("list_names", "n", None),
        ("load", None, None),
        ("segments", "n", "d"),
    ]
