"""Figures: median, goals and percentiles, as a table and as JSON."""

import pytest

from bench import calibration, live
from bench.growth import slopes
from bench.report import COLUMNS, Figure, Goal, Measure, Report, Samples, suffix_of
from refold.bench import number, percentiles
from refold.core import json_text

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
        "in units": "",
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
    assert ours["goal"] == {"at_least": 100, "is_each": False, "is_met": True}
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


def test_processor_time_is_shown_by_group_in_microseconds_and_in_units_of_its_round():
    units = iter([2.0, 4.0])
    samples = Samples(measure_unit=lambda: next(units))
    measure = Measure(unit="µs/event", durability="fsync", goal=Goal(value=18, is_upper=True))
    for used in ({"replay": 0.1, "postgres": 0.02}, {"replay": 0.3, "postgres": 0.02}):
        samples.calibrate()
        samples.add_cpu("rebuild", used, 10_000, measure, client=("publisher", 1.0))
    unit, *groups = samples.figures()
    assert (unit.name, unit.samples, unit.unit) == (calibration.UNIT_NAME, (2.0, 4.0), "µs")
    named = {figure.name: figure for figure in groups}
    assert named["rebuild, CPU of replay"].samples == pytest.approx((10.0, 30.0))
    assert named["rebuild, CPU of replay"].in_units == pytest.approx((5.0, 7.5))
    assert named["rebuild, CPU of publisher"].samples == pytest.approx((100.0, 100.0))
    whole = named["rebuild, CPU of all but the client"]
    assert whole.samples == pytest.approx((12.0, 32.0))
    assert [figure.name for figure in groups if figure.goal] == [whole.name]
    assert whole.row()[-1] == "7.00"
    assert whole.plain()["in_units"]["samples"] == pytest.approx([6.0, 8.0])


def test_the_calibration_document_is_canonical_and_of_2_kib():
    text = calibration.document()
    assert len(text) == 2_048
    assert json_text.dumps(json_text.loads(text)) == text
    assert calibration.unit_microseconds(seconds=0.0) > 0


def test_a_slower_machine_is_compared_with_its_own_goal():
    measure = Measure(unit="events/s", durability="fsync", goal=Goal(value=100, slow=30))
    for unit, bound in ((2.9, 100), (9.0, 30)):
        samples = Samples(measure_unit=lambda unit=unit: unit)
        samples.calibrate()
        samples.add("rebuild", 50.0, measure)
        goal = samples.figures()[1].goal
        assert goal is not None
        assert (goal.value, goal.is_met([50.0])) == (bound, bound == 30)


def test_a_goal_of_each_round_is_missed_by_one_round():
    goal = Goal(value=1, is_upper=True, is_each=True)
    assert goal.is_met([0.5, 0.9, 0.8])
    assert not goal.is_met([0.5, 1.1, 0.8])
    assert str(goal) == "each ≤ 1.00"


def test_two_figures_with_one_label_are_refused():
    figure = Figure(name="live, lag max", unit="s", samples=(1.0,), durability="os")
    with pytest.raises(ValueError, match="live, lag max"):
        Report(command="live", durability="os", parameters={}, machine={}, figures=(figure, figure))
    samples = Samples()
    samples.add("lag at most", 1.0, Measure(unit="s", durability="os"))
    with pytest.raises(ValueError, match="lag at most"):
        samples.add("lag at most", 1.0, Measure(unit="events", durability="os"))


def test_live_runs_at_different_rates_and_kinds_have_different_names():
    plans = (live.Plan(), live.Plan(finds_rate=True), live.Plan(rate=8_000), live.Plan(rate=25_000))
    assert len({plan.name for plan in plans}) == len(plans)
    samples = Samples(suffix_of("compressible"))
    samples.add("rebuild", 120.0, RATE)
    (figure,) = samples.figures()
    assert (figure.name, figure.ground) == (
        "rebuild, compressible documents",
        "read alone, compressible documents",
    )


@pytest.mark.parametrize(
    ("value", "written"), [(123_456.7, "123,457"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")]
)
def test_numbers_are_written_with_about_three_figures(value, written):
    assert number(value) == written


def test_a_baseline_figure_is_marked_as_one():
    figure = Figure(name="a", unit="s", samples=(1.0,), durability="none", is_ground=True)
    assert figure.row()[0].strip() == "ground: a"
