"""Metrics have the labels of their description, base units and bounded labels."""

import asyncio
import math
import time
from functools import partial
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from refold.core.document import Status
from refold.telemetry.metrics import NAMESPACES_MAX, described_metrics
from refold.telemetry.metrics.gateway import CacheMetrics, GatewayMetrics, LiveMetrics
from refold.telemetry.metrics.process import ServiceMetrics, SpanMetrics, memory_limit_bytes
from refold.telemetry.metrics.projector import ProjectorMetrics
from refold.telemetry.metrics.store import StoreMetrics

DESCRIBED = {each["name"]: each for each in described_metrics()}
VERSIONED = partial(ServiceMetrics, version="1.2.3", migration=7)
SEVERAL = partial(StoreMetrics, are_several=True)


@pytest.mark.parametrize(
    "metrics", [VERSIONED, ProjectorMetrics, GatewayMetrics, LiveMetrics, SpanMetrics, SEVERAL]
)
def test_every_metric_has_the_labels_of_its_description(metrics):
    made = [it for it in vars(metrics(CollectorRegistry())).values() if hasattr(it, "_labelnames")]
    assert made
    for metric in made:
        name = metric._name + ("_total" if metric._type == "counter" else "")
        assert list(metric._labelnames) == DESCRIBED[name]["labels"], name


@pytest.mark.parametrize("name", DESCRIBED)
def test_names_follow_the_conventions_of_prometheus(name):
    described = DESCRIBED[name]
    assert name.endswith("_total") == (described["type"] == "counter")
    assert not name.endswith(("_count", "_sum", "_bucket", "_created"))
    parts = name.removesuffix("_total").split("_")
    assert described["unit"] == (parts[-1] if parts[-1] in {"seconds", "bytes"} else "")


def test_the_build_is_exposed_as_labels():
    registry = CollectorRegistry()
    VERSIONED(registry)
    labels = {"version": "1.2.3", "fold_newest": "2", "migration": "7"}
    assert registry.get_sample_value("refold_build_info", labels) == 1


async def test_a_blocked_event_loop_is_measured():
    registry = CollectorRegistry()
    measuring = asyncio.create_task(VERSIONED(registry).measure_loop_delay())
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - it blocks the loop.
    for _ in range(3):
        await asyncio.sleep(0)
    measuring.cancel()
    # The timer was due 0.1 s after the block began.
    assert registry.get_sample_value("refold_loop_delay_seconds_sum") > 0.15


def test_the_labels_of_conflicts_are_bounded():
    registry = CollectorRegistry()
    metrics = ProjectorMetrics(registry)
    for number in range(2 * NAMESPACES_MAX):
        metrics.count_conflict(1, f"n{number}", f"custom:{number}", "rejected")
    counted = generate_latest(registry)
    assert counted.count(b"refold_conflicts_total{") == NAMESPACES_MAX + 1
    labels = b'{namespace="_other",status="rejected",strategy="custom"}'
    assert b"refold_conflicts_total%b 50.0" % labels in counted


def test_what_is_folded_again_is_not_counted_again():
    registry = CollectorRegistry()
    metrics = ProjectorMetrics(registry)
    for sequence in (2, 2, 3):
        metrics.folded.begin(sequence)
        metrics.folded.of("n")[Status.applied] += 1
        metrics.folded.of("")[Status.rejected] += 1
        metrics.count_conflict(sequence, "n", "diff3", "merged")
        metrics.count_rejections([SimpleNamespace(sequence=sequence, namespace="", reason="bad_name")])
        assert metrics.folded.end(sequence) == 1
    value = registry.get_sample_value
    assert value("refold_events_folded_total", {"namespace": "n", "outcome": "applied"}) == 2
    assert value("refold_events_folded_total", {"namespace": "_other", "outcome": "rejected"}) == 2
    assert value("refold_events_rejected_total", {"namespace": "_other", "reason": "bad_name"}) == 2
    assert value("refold_conflicts_total", {"namespace": "n", "strategy": "diff3", "status": "merged"}) == 2


def test_caches_are_counted_under_the_documented_names():
    registry = CollectorRegistry()
    CacheMetrics(registry, {"states": lambda: (3, 2, 1_000)})
    shown = generate_latest(registry)
    for line in (b"hits_total{%b} 3.0", b"misses_total{%b} 2.0", b"bytes{%b} 1000.0"):
        assert b"refold_cache_" + line % b'cache="states"' in shown


def test_the_size_of_the_log_has_no_sample_before_it_is_measured():
    registry = CollectorRegistry()
    metrics = ProjectorMetrics(registry)
    assert registry.get_sample_value("refold_log_bytes") is None
    metrics.log_bytes.set(0)
    assert registry.get_sample_value("refold_log_bytes") == 0


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "1048576", "a/b/memory.max": "max"}, 1_048_576),
        ("0::/a/b\n", {"a/memory.max": "2097152", "a/b/memory.max": "1048576\n"}, 1_048_576),
        # In a container, the own cgroup is the root of what is mounted.
        ("0::/outside\n", {"memory.max": "1048576"}, 1_048_576),
        ("3:cpu,cpuacct:/a\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "4096"}, 4_096),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, math.inf),
        ("0::/\n", {}, math.inf),
    ],
)
def test_the_memory_limit_is_the_least_of_the_cgroups(tmp_path, own, files, limit):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "own").write_text(own)
    assert memory_limit_bytes(tmp_path, tmp_path / "own") == limit
