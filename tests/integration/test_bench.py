"""Every measurement once, very small: it runs, counts what it did, and says how durable it was. Never how fast."""

import json
import sys

import pytest

from refold.bench import append, growth, latency, live, memory, read, rebuild, travel
from refold.bench.http_load import read_for
from refold.bench.processes import work
from refold.bench.system import Options
from refold.cli import main
from refold.core.errors import ChildFailed, Refused

SMALL = Options(rounds=1, durability="os")


def named(report, durability="os"):
    """Check what all reports have in common; return the figures by name, the last of each."""
    assert report.machine["cores"] > 0
    for figure in report.figures:
        assert figure.samples
        assert all(sample >= 0 for sample in figure.samples)
        assert figure.durability in {durability, "none", "fsync"}
    figures = {figure.name: figure for figure in report.figures}
    for figure in report.figures:
        assert not figure.ground or figure.ground in figures, f"{figure.name} names no ground of its report"
    return figures


async def test_rebuild_replays_every_event_beside_its_ground():
    figures = named(await rebuild.run(SMALL, rebuild.Plan(events=400, documents=40)))
    assert figures["rebuild"].durability == "os"
    assert figures["rebuild"].median > 0
    assert figures["rebuild, projector's memory at most"].median > 10
    grounds = {name for name, figure in figures.items() if figure.is_ground}
    assert grounds >= {
        "bulk read alone",
        "fold alone",
        "nats-py consume",
        "COPY of journal rows",
        "COPY + UPDATE of documents",
        "one fsync, p50",
    }


async def test_append_counts_what_was_acknowledged_in_every_way():
    figures = named(await append.run(SMALL, append.Plan(seconds=0.1)))
    for name in ("1 writer", "8 writers", "64 writers"):
        assert figures[f"append by {name}"].median > 0
        assert figures[f"append by {name}, p99.9"].unit == "ms"
    for name in ("batches of 100", "batches of 1,000"):
        assert figures[f"append in {name}"].median > 0
        assert figures[f"{name} on the bare wire"].is_ground


@pytest.mark.parametrize("rate", [0.0, 2_000.0])
async def test_live_folds_all_that_it_publishes(rate):
    report = await live.run(SMALL, live.Plan(rate=rate, seconds=0.5, documents=30, prefilled=60))
    figures = named(report)
    assert figures["live, published"].median > 0
    assert figures["live, folded and committed"].durability == "os"
    assert figures["live, lag p99"].unit == "s"
    assert figures["live, lag at most"].unit == "events"


async def test_latency_has_an_outcome_for_every_event_over_nats_and_http():
    report = await latency.run(SMALL, latency.Plan(rate=200, seconds=0.5, documents=20))
    figures = named(report)
    for door in ("NATS", "HTTP"):
        assert figures[f"publish → outcome over {door}, p99"].median > 0


async def test_travel_reads_the_right_versions_while_the_log_grows():
    report = await travel.run(SMALL, travel.Plan(sizes=(200, 900), reads=60, documents=15))
    assert {figure.at for figure in report.figures} == {200, 900}
    figures = named(report)
    for kind in ("version", "time"):
        assert figures[f"{kind} over HTTP, 8 in flight"].median > 0
    assert figures["version straight from the store, p99"].median > 0


async def test_read_measures_the_server_and_the_database_alone_too():
    figures = named(await read.run(SMALL, read.Plan(documents=20, seconds=0.2)))
    for in_flight in (1, 16, 64):
        assert figures[f"latest over HTTP, {in_flight} in flight"].median > 0
        assert figures[f"static answer, {in_flight} in flight"].is_ground
    assert figures["latest by SQL view by 8 connections"].median > 0


async def test_memory_goes_on_after_the_broker_was_started_again():
    report = await memory.run(SMALL, memory.Plan(documents=300, cache_bytes_max=2**20))
    figures = named(report)
    assert figures["NATS, from its start to its first answer"].unit == "s"
    assert figures["projector, memory at most"].median > 10
    assert figures["PostgreSQL, database"].median > 1


async def test_growth_compares_ten_times_the_log_and_ten_times_the_documents():
    plan = growth.Plan(events=60, documents=5, measurements=("rebuild",))
    report = await growth.run(SMALL, plan)
    assert [(figure.axis, figure.at) for figure in report.figures if figure.axis] == [
        ("events in the log", 60),
        ("events in the log", 600),
        ("documents", 5),
        ("documents", 50),
    ]
    assert sum("times the" in figure.name for figure in report.figures) == 2


@pytest.mark.parametrize("measurement", [rebuild, live, memory, growth])
async def test_what_needs_a_system_of_its_own_takes_no_address(measurement):
    with pytest.raises(Refused) as refused:
        await measurement.run(Options(url="http://127.0.0.1:1"), measurement.Plan())
    assert refused.value.field == "--url"


async def test_a_task_that_fails_says_why():
    with pytest.raises(ChildFailed, match="service_unavailable: no connection"):
        await work(read_for, url="http://127.0.0.1:1", paths=["/"], in_flight=1, seconds=0.1)


async def test_a_running_system_is_measured_over_http(system):
    asked = Options(rounds=1, url=system.url)
    assert named(await read.run(asked, read.Plan(documents=10, seconds=0.1)))
    assert named(await latency.run(asked, latency.Plan(rate=100, seconds=0.2, documents=10)))
    assert named(await travel.run(asked, travel.Plan(sizes=(40,), reads=20, documents=5)))


def test_the_command_prints_json_for_machines(monkeypatch, capsys):
    arguments = ["rebuild", "--events", "60", "--documents", "6", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["refold", "bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "rebuild"
    assert told["durability"] == "fsync"
    assert told["parameters"] == {"events": 60, "documents": 6, "document_bytes": 2_048}
    assert {"min", "median", "max", "samples", "durability"} <= told["figures"][0].keys()


@pytest.mark.parametrize(
    "arguments", [["travel", "--sizes", "5,3"], ["travel", "--sizes", "x"], ["growth", "--of", "read"]]
)
def test_sizes_and_names_that_make_no_sense_are_wrong_usage(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["refold", "bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err
