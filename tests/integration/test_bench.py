"""Measurements that need the servers alone, very small: they run, count what they did, and name the durability."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import append, fanout, growth, live, memory, rebuild, stall
from bench.__main__ import app
from bench.calibration import UNIT_NAME
from bench.http_load import read_for
from bench.processes import work
from bench.system import Options
from refold.core.errors import ChildFailed, Refused
from support.measured import SMALL, named

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]


def test_the_command_prints_only_json_with_the_baseline_of_the_same_run():
    arguments = ("--events", "400", "--documents", "40", "--rounds", "1", "--json")
    ended = subprocess.run(
        (sys.executable, "-m", "bench", "rebuild", *arguments),
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert (report["command"], report["durability"]) == ("rebuild", "fsync")
    assert report["parameters"]["events"] == 400
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert figures["rebuild"]["durability"] == "fsync"
    assert figures["rebuild"]["ground"] in figures
    groups = ("replay", "nats", "postgres", "all processes")
    for cpu in (figures[f"rebuild, CPU of {group}"] for group in groups):
        assert cpu["unit"] == "µs/event"
        assert len(cpu["in_units"]["samples"]) == len(cpu["samples"]) == 1
    assert "goal" in figures["rebuild, CPU of all processes"]
    assert figures[UNIT_NAME]["median"] > 0
    assert figures["rebuild, memory of all its processes at most"]["median"] > 10
    assert {name for name, figure in figures.items() if figure["is_ground"]} >= {
        "bulk read alone",
        "fold alone",
        "nats-py consume",
        "COPY of journal rows",
        "COPY + UPDATE of documents",
        "one fsync, p50",
    }


async def test_append_counts_acknowledged_events_singly_and_in_batches():
    plan = append.Plan(seconds=0.1, writers=(8,), sizes=(100,))
    figures = named(await append.run(SMALL, plan))
    assert figures["append by 8 writers"].median > 0
    assert figures["append by 8 writers, p99.9"].unit == "ms"
    assert figures["append in batches of 100"].median > 0
    assert figures["nats-py publish by 8 writers"].is_ground
    assert figures["batches of 100 through nats-py"].is_ground
    assert figures["batches of 100 on the bare wire"].is_ground


@pytest.mark.parametrize("measurement", [rebuild, live, fanout, stall, memory, growth])
async def test_a_measurement_with_its_own_system_accepts_no_address(measurement):
    with pytest.raises(Refused) as refused:
        await measurement.run(Options(url="http://127.0.0.1:1"), measurement.Plan())
    assert refused.value.field == "--url"


async def test_a_failing_task_reports_its_error():
    with pytest.raises(ChildFailed, match="service_unavailable: no connection"):
        await work(read_for, url="http://127.0.0.1:1", paths=["/"], in_flight=1, seconds=0.1)


@pytest.mark.parametrize(
    "arguments", [["travel", "--sizes", "5,3"], ["travel", "--sizes", "x"], ["growth", "--of", "read"]]
)
def test_invalid_sizes_and_names_are_wrong_usage(arguments):
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2
    assert arguments[1] in ended.stderr
