"""Measurements of the whole system, very small: they run, count what they did, and check what they read."""

import json

import pytest
from typer.testing import CliRunner

from bench import fanout, history, latency, live, memory, read, sdk, stall, telemetry, travel
from bench.__main__ import app
from bench.load import get_request, send_at_rate
from bench.system import Options
from refold.core.errors import ServiceUnavailable
from support.measured import SMALL, has_cpu_of, named

pytestmark = pytest.mark.slow


async def test_live_folds_all_published_events():
    report = await live.run(SMALL, live.Plan(rate=2_000, seconds=0.5, documents=30, prefilled=60))
    figures = named(report)
    assert figures["live at 2,000/s, published"].median > 0
    assert figures["live at 2,000/s, folded and committed"].durability == "os"
    assert figures["live at 2,000/s, lag p99"].unit == "s"
    assert figures["live at 2,000/s, lag max"].goal.is_each
    assert figures["live at 2,000/s, events behind at most"].unit == "events"
    has_cpu_of(figures, "live at 2,000/s", "projector", "gateway", "nats", "postgres", "publisher")


async def test_latency_has_an_outcome_for_every_event_over_nats_and_http():
    report = await latency.run(SMALL, latency.Plan(rate=200, seconds=0.5, documents=20))
    figures = named(report)
    for protocol in ("NATS", "HTTP"):
        assert figures[f"publish → outcome over {protocol}, p99"].median > 0
        groups = ("projector", "gateway", "nats", "postgres", "load client")
        has_cpu_of(figures, f"publish → outcome over {protocol}", *groups)


async def test_fanout_brings_every_change_to_all_beside_a_bare_loop():
    plan = fanout.Plan(
        subscribers=20,
        changes=3,
        interval_seconds=0.1,
        idle_seconds=0.1,
        near=4,
        hot=10,
        rate=100,
        seconds=0.5,
    )
    figures = named(await fanout.run(SMALL, plan))
    wide = "one change to 20 subscribers"
    assert figures[f"{wide}, p99"].ground == f"{wide}: bare uvloop, p99"
    assert figures[f"{wide}, messages of 3 changes"].median >= 1
    assert figures["4 subscribers of a document each, 100 changes/s, p99"].median > 0
    assert figures[
        "10 subscribers of a document with 100 changes/s, all at the head after the last change"
    ].median
    assert 0 < figures[next(name for name in figures if name.startswith("20 gauges, "))].median < 100


async def test_stall_measures_others_beside_clients_that_cost_much():
    of = ("slow", "connects", "patterns", "replays")
    plan = stall.Plan(measurements=of, others=4, seconds=0.5, value_bytes=1_000, stopped=5, callers=2, wide=1)
    figures = named(await stall.run(SMALL, plan))
    for name in of:
        assert (
            figures[f"{name}: 4 others' delay, beside them, p99"].ground
            == f"{name}: 4 others' delay, alone, p99"
        )
    assert figures["connects: streams whose first event is snapshot"].median == 100
    assert figures["replays: streams whose first event is change"].median == 100


async def test_travel_reads_the_right_versions_while_the_log_grows():
    report = await travel.run(SMALL, travel.Plan(sizes=(200, 900), reads=60, documents=15))
    assert {figure.at for figure in report.figures if figure.axis} == {200, 900}
    figures = named(report)
    for kind in ("version", "time"):
        assert figures[f"{kind} over HTTP, 8 in flight"].median > 0
    assert figures["version straight from the store, p99"].median > 0
    has_cpu_of(figures, "version over HTTP, 8 in flight", "gateway", "postgres", "load client")


async def test_read_also_measures_the_bare_server_and_database():
    plan = read.Plan(documents=20, seconds=0.2, documents_kind="compressible")
    figures = {
        name.removesuffix(", compressible documents"): figure
        for name, figure in named(await read.run(SMALL, plan)).items()
    }
    for in_flight in (1, 16, 64):
        assert figures[f"latest over HTTP, {in_flight} in flight"].median > 0
        assert figures[f"static answer, {in_flight} in flight"].is_ground
        has_cpu_of(figures, f"latest over HTTP, {in_flight} in flight", "gateway", "postgres", "load client")
    assert figures["latest by SQL view by 8 connections"].median > 0


async def test_sdk_measures_writers_that_wait_bulks_and_loads_of_a_version():
    figures = named(await sdk.run(SMALL, sdk.Plan(seconds=0.3)))
    groups = ("projector", "gateway", "nats", "postgres", "client")
    for writers in ("1 writer", "8 writers", "64 writers"):
        name = f"write by {writers}, waits for the fold"
        assert figures[name].median > 0
        assert figures[figures[name].ground].is_ground
        has_cpu_of(figures, name, *groups)
    for name in ("bulk POST of 1,000, outcomes waited for", "middle version by one client"):
        assert figures[name].goal is not None
        has_cpu_of(figures, name, *groups)


async def test_history_measures_the_storage_of_a_change(tmp_path):
    path = tmp_path / "history.jsonl"
    states = [
        {"doc": f"d{number % 5}", "state": {"a": number}, "ts": 1_700_000_000 + number}
        # Processor time is counted in hundredths of a second: fewer events may take none.
        for number in range(2_000)
    ]
    path.write_text("\n".join(json.dumps(state) for state in states))
    figures = named(await history.run(SMALL, history.Plan(path=str(path))))
    assert figures["import of a history"].median > 0
    assert figures["storage, all tables"].median > figures["storage, table documents"].median > 0
    assert figures["storage, NATS"].unit == "B/change"
    has_cpu_of(figures, "import of a history", "projector", "gateway", "nats", "postgres", "importer")


def test_goals_are_shown_in_one_table_beside_the_figures_of_an_earlier_version(tmp_path):
    before = {"name": "bulk POST of 1,000, outcomes waited for", "samples": [12_345.0]}
    (tmp_path / "sdk.json").write_text(json.dumps({"figures": [before]}))
    arguments = ["goals", "--of", "sdk", "--seconds", "0.2", "--rounds", "1", "--durability", "os"]
    arguments += ["--out", str(tmp_path / "out"), "--before", str(tmp_path)]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sdk.json"]
    for label in ("write by 64 writers, waits for the fold", "middle version by one client"):
        assert ended.stdout.count(f"| {label} |") == 1
    (bulk,) = [line for line in ended.stdout.splitlines() if line.startswith("| bulk POST")]
    assert "| 12,345 |" in bulk


async def test_memory_continues_after_a_restart_of_the_broker():
    report = await memory.run(SMALL, memory.Plan(documents=300, cache_bytes_max=2**20))
    figures = named(report)
    assert figures["NATS, from its start to its first answer"].unit == "s"
    assert figures["projector, memory at most"].median > 10
    assert figures["PostgreSQL, database"].median > 1
    has_cpu_of(figures, "documents made and folded", "projector", "gateway", "nats", "postgres")


async def test_a_running_system_is_measured_over_http(system):
    asked = Options(rounds=1, url=system.url)
    assert named(await read.run(asked, read.Plan(documents=10, seconds=0.1)))
    assert named(await latency.run(asked, latency.Plan(rate=100, seconds=0.2, documents=10)))
    assert named(await travel.run(asked, travel.Plan(sizes=(40,), reads=20, documents=5)))


async def test_a_request_that_fails_ends_the_load_with_its_reason(system):
    requests = [get_request(system.url, "/v1/bench/absent")] * 20
    with pytest.raises(ServiceUnavailable, match="answered 404"):
        await send_at_rate(system.url, requests, rate=100, connections=4)


async def test_a_collector_that_hangs_or_refuses_loses_spans_which_are_counted_and_nothing_else():
    plan = telemetry.Plan(
        measurements=("collectors",), rate=2_000, seconds=8, traced_share=1, documents=30, document_bytes=256
    )
    figures = named(await telemetry.run(SMALL, plan))

    def spans(kind: str, result: str) -> float:
        return figures[f"collector {kind}, 2,000/s, spans {result}"].median

    assert spans("healthy", "sent") > 0
    assert spans("healthy", "failed") == 0
    assert spans("hanging", "dropped") > 0
    assert spans("slow", "dropped") > 0
    assert spans("hanging", "failed") > 0
    assert spans("refusing", "failed") > 0
    assert spans("hanging", "sent") == spans("refusing", "sent") == 0
    assert all(spans("off", result) == 0 for result in ("sent", "failed", "dropped", "over"))
    without = figures["collector off, 2,000/s, projector's memory at most"].median
    for kind in telemetry.COLLECTORS[1:]:
        # OpenTelemetry's modules are 20 MiB, 4,096 spans 4.
        assert figures[f"collector {kind}, 2,000/s, projector's memory at most"].median < without + 48


async def test_telemetry_is_measured_on_and_off_and_with_a_profile():
    plan = telemetry.Plan(
        measurements=("everything", "writes", "profile"), pair_seconds=1, documents=30, document_bytes=256
    )
    figures = named(await telemetry.run(SMALL, plan))
    assert figures["flat out, throughput with telemetry on"].median > 0
    assert figures["64 writers, throughput with telemetry on"].median > 0
    has_cpu_of(figures, "flat out, telemetry on", "projector", "gateway", "alerts", "nats", "postgres")
    assert figures["CPU of projector during a profile"].median > 0
    assert figures["share of FoldState.fold in the profile, with what it calls"].median > 0
