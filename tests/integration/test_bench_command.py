"""`refold bench`, very small: each measurement runs against a temporary or a running system and counts what it did."""

import json

import pytest

from refold.bench import Figures, measure
from support.up import run_refold

SMALL = measure.Options(rounds=1, seconds=0.3, documents=20)


def names(figures):
    assert all(sample >= 0 for samples in figures.samples.values() for sample in samples)
    return {name for name, _ in figures.samples}


@pytest.fixture
def target(system):
    return measure.Target(http=system.url, nats="")


def test_append_starts_a_temporary_system_and_prints_only_json():
    ended = run_refold("bench", "append", "--seconds", "0.1", "--rounds", "1", "--durability", "os", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["parameters"]["durability"] == "os"
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert figures["append by 64 writers"]["median"] > 0
    assert figures["append in batches of 1,000"]["unit"] == "events/s"


async def test_live_reports_folded_events_and_lag(target):
    figures = Figures()
    await measure.live(target, SMALL, figures, rate=200)
    assert figures.samples["live, uploaded and folded", "events/s"][0] > 0
    assert {("live, lag at most", "s"), ("live, events behind at most", "events")} <= figures.samples.keys()
    assert len({name for name, _ in figures.samples}) == len(figures.samples)


async def test_latency_has_an_outcome_for_every_patch(target):
    figures = Figures()
    await measure.latency(target, SMALL, figures, rate=100)
    assert figures.samples["patch → outcome over HTTP, p99", "ms"][0] > 0


async def test_read_measures_each_number_of_requests_in_flight(target):
    figures = Figures()
    await measure.read(target, SMALL, figures)
    assert names(figures) >= {f"latest over HTTP, {in_flight} in flight" for in_flight in (1, 16, 64)}


async def test_travel_reads_the_right_versions_and_times(target):
    figures = Figures()
    await measure.travel(target, SMALL, figures, events=200, reads=50)
    assert names(figures) >= {"version over HTTP, 8 in flight", "time over HTTP, 8 in flight"}
