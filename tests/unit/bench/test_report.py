"""Figures: median, goals and percentiles, as a table and as JSON."""

import pytest

from bench.growth import slopes
from bench.report import COLUMNS, Figure, Goal, Measure, Report, Samples
from refold.bench.figures import number, percentiles

RATE = Measure(unit="events/s", durability="fsync", goal=Goal(value=100), ground="read alone")


def report(samples):
    return Report(
        command="rebuild",
        durability="fsync",
        parameters={"events": 3},
        machine={"cores": 2},
        figures=samples.figures(),
    )


def test_a_round_is_a_sample_and_the_median_is_compared_with_the_goal():
    samples = Samples()
    for value in (90.0, 300.0, 120.0):
        samples.add("rebuild", value, RATE)
    (figure,) = samples.figures()
    assert figure.samples == (90.0, 300.0, 120.0)
    assert figure.median == 120.0
    row = dict(zip(COLUMNS, figure.row(), strict=True))
    assert row == {
        "figure": "rebuild",
        "durability": "fsync",
        "goal": "≥ 100 ✓",
        "min": "90.0",
        "median": "120",
        "max": "300",
        "unit": "events/s",
    }


def test_a_latency_above_its_goal_misses_it_and_percentiles_are_figures():
    samples = Samples()
    waited = Measure(unit="ms", durability="os")
    samples.add_latency("outcome", range(1, 1_001), waited, {"p99": Goal(value=10, is_upper=True)})
    named = {figure.name: figure for figure in samples.figures()}
    assert [named[f"outcome, {rank}"].median for rank in ("p50", "p99", "p99.9", "max")] == [
        501,
        991,
        1_000,
        1_000,
    ]
    assert named["outcome, p99"].row()[2] == "≤ 10.0 ✗"
    assert named["outcome, p50"].goal is None


def test_percentiles_of_one_value_are_that_value():
    assert set(percentiles([7.0]).values()) == {7.0}


def test_the_json_report_has_samples_goal_baseline_and_durability():
    samples = Samples()
    samples.add("rebuild", 120.0, RATE)
    samples.add("read alone", 9.0, Measure(unit="events/s", durability="none", is_ground=True))
    plain = report(samples).plain()
    assert plain["parameters"] == {"events": 3}
    assert plain["machine"] == {"cores": 2}
    ours, ground = plain["figures"]
    assert ours["goal"] == {"at_least": 100, "is_met": True}
    assert ours["ground"] == ground["name"] == "read alone"
    assert (ours["durability"], ground["durability"]) == ("fsync", "none")
    assert ground["is_ground"]


def test_a_figure_measured_at_two_sizes_has_two_values_and_a_slope():
    samples = Samples()
    for at, value in ((10, 50.0), (100, 25.0)):
        samples.add("rebuild", value, RATE, axis="events in the log", at=at)
    figures = samples.figures()
    assert [(figure.at, figure.median) for figure in figures] == [(10, 50.0), (100, 25.0)]
    assert "100 events in the log" in figures[1].row()[0]
    (slope,) = slopes(figures)
    assert slope.median == 0.5


@pytest.mark.parametrize(
    ("value", "written"), [(123_456.7, "123,457"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_numbers_are_written_with_about_three_figures(value, written):
    assert number(value) == written


def test_a_baseline_figure_is_marked_as_one():
    figure = Figure(name="a", unit="s", samples=(1.0,), durability="none", is_ground=True)
    assert figure.row()[0].strip() == "ground: a"
