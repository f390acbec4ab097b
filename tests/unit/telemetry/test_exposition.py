"""The exposition is shared by those who ask at the same time, and has exemplars where the caller accepts them."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from refold.telemetry.metrics import NAMESPACES_MAX, exemplar_of
from refold.telemetry.metrics.exposition import Exposition
from refold.telemetry.metrics.gateway import GatewayMetrics
from refold.telemetry.metrics.projector import ProjectorMetrics

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TRACE_ID = 0xABC


class Collections(Collector):
    """Counts how often it is collected."""

    def __init__(self) -> None:
        self.count = 0

    def collect(self) -> Iterator[Metric]:
        self.count += 1
        yield CounterMetricFamily("collections", "", value=self.count)


async def test_those_who_ask_at_once_share_one_exposition() -> None:
    registry, collections = CollectorRegistry(), Collections()
    registry.register(collections)
    exposition = Exposition(registry)
    found = await asyncio.gather(*(exposition.read("text/plain") for _ in range(100)))
    assert collections.count == 1
    assert len(set(found)) == 1
    assert b"\ncollections_total 1.0\n" in found[0][0]
    # Another format is made once, too.
    found = await asyncio.gather(*(exposition.read(OPENMETRICS) for _ in range(100)))
    assert collections.count == 2
    assert found[0][0].endswith(b"collections_total 2.0\n# EOF\n")


async def test_other_tasks_run_while_an_exposition_is_made() -> None:
    registry = CollectorRegistry()
    for _ in range(3):
        registry.register(Collections())
    making = asyncio.create_task(Exposition(registry).read(""))
    turns = 0
    while not making.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3


async def test_openmetrics_has_exemplars_and_the_text_format_has_none() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("refold_append_seconds", "", registry=registry)
    seconds.observe(0.3, exemplar_of(TRACE_ID))
    exposition = Exposition(registry)
    body, media_type = await exposition.read(OPENMETRICS)
    assert media_type.startswith("application/openmetrics-text")
    (family,) = text_string_to_metric_families(body.decode())
    exemplars = [sample.exemplar.labels for sample in family.samples if sample.exemplar]
    assert exemplars == [{"trace_id": f"{TRACE_ID:032x}"}]
    body, media_type = await exposition.read("*/*")
    assert media_type.startswith("text/plain")
    assert b"trace_id" not in body


async def test_a_commit_with_a_sampled_event_has_its_trace() -> None:
    registry = CollectorRegistry()
    metrics = ProjectorMetrics(registry)
    metrics.count_commit("single", 0.02, (1, 1, 100), 0, None)
    metrics.count_commit("sync", 0.2, (1, 1, 100), 2, TRACE_ID)
    body, _ = await Exposition(registry).read(OPENMETRICS)
    (line,) = [line for line in body.splitlines() if b"trace_id" in line]
    assert line.startswith(b'refold_commit_seconds_bucket{le="0.25"} 2.0 # {trace_id="%032x"} 0.2' % TRACE_ID)
    assert registry.get_sample_value("refold_pages_cut_total") == 2


async def test_the_series_of_namespaces_are_bounded() -> None:
    registry = CollectorRegistry()
    projector, gateway = ProjectorMetrics(registry), GatewayMetrics(registry)
    namespaces = [f"n{number}" for number in range(500)]
    for sequence, namespace in enumerate(namespaces, 1):
        projector.folded.begin(sequence)
        for status in range(4):
            projector.folded.of(namespace)[status] += 1
        projector.count_rejections(
            SimpleNamespace(sequence=sequence, namespace=namespace, reason=f"reason_{number}")
            for number in range(20)
        )
        projector.folded.end(sequence)
        projector.count_conflict(sequence + 1, namespace, "diff3", "merged")
        gateway.count_lines(namespace, {"applied": 1, "rejected": 1})
    body, _ = await Exposition(registry).read("")
    labelled = {line for line in body.splitlines() if b"namespace=" in line}
    assert len(labelled) == (NAMESPACES_MAX + 1) * (4 + 20 + 1 + 2)
    others = [line for line in labelled if b'namespace="_other"' in line and b"folded" in line]
    assert {line.split()[-1] for line in others} == {b"%d.0" % (len(namespaces) - NAMESPACES_MAX)}
