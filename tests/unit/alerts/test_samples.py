"""Rules over exposed metrics: values, rates over restarts of a process, quantiles as Prometheus's, and shares."""

from __future__ import annotations

import pytest

from refold.alerts.rules import read_rules
from refold.alerts.samples import POINTS_MAX, Samples, Target
from refold.telemetry.metrics.samples import Sample, parse, quantile_of

GATEWAY = Target("gateway", "http://a:1")
OTHER = Target("gateway", "http://b:1")


def watching(*lines):
    """One rule of these lines, and its samples."""
    text = "\n".join(['[[alert]]\nname = "A"\nseverity = "page"\nsummary = "s"\nabove = 0', *lines])
    (rule,) = read_rules(text, "alerts.toml").alert
    return rule, Samples([rule])


def values_of(samples, rule, now):
    return {
        tuple(value for _, value in labels): value for labels, value in samples.evaluate(rule, now).items()
    }


@pytest.mark.parametrize("text", ['refold_ready{a="1", ="y"} 3\n', "refold_ready\n", "refold_ready x\n"])
def test_a_line_that_is_no_sample_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse(text)


def test_the_worst_series_of_each_group_counts():
    rule, samples = watching('metric = "refold_lag_seconds"', 'by = ["instance"]')
    samples.add(0, GATEWAY, parse('refold_lag_seconds{shard="1"} 3\nrefold_lag_seconds{shard="2"} 7\n'))
    samples.add(0, OTHER, parse('refold_lag_seconds{shard="1"} 4\n'))
    assert values_of(samples, rule, 0) == {("a:1",): 7, ("b:1",): 4}
    samples.add(5, GATEWAY, None)
    samples.add(5, OTHER, parse('refold_lag_seconds{shard="1"} NaN\n'))
    assert values_of(samples, rule, 5) == {}


def test_a_target_that_does_not_answer_is_not_up_unless_it_is_starting():
    rule, samples = watching('metric = "up"', 'by = ["service"]')
    for now in (0, 29):
        samples.add(now, OTHER, None)
        assert values_of(samples, rule, now) == {}
    samples.add(30, OTHER, None)
    assert values_of(samples, rule, 30) == {("gateway",): 0}
    rule, samples = watching('metric = "up"', 'by = ["service"]')
    samples.add(0, GATEWAY, [])
    assert values_of(samples, rule, 0) == {("gateway",): 1}
    samples.add(5, GATEWAY, None)
    assert values_of(samples, rule, 5) == {("gateway",): 0}


def test_a_rate_counts_on_when_the_process_begins_anew():
    rule, samples = watching('metric = "refold_live_frames_total"', 'take = "rate"', "window_seconds = 10")
    for now, count in ((0, 1_000), (5, 1_010), (10, 20)):
        samples.add(now, GATEWAY, parse(f"refold_live_frames_total {count}\n"))
    assert values_of(samples, rule, 10) == {("a:1",): 3}
    samples.add(15, GATEWAY, parse("refold_live_frames_total 20\n"))
    samples.forget(15)
    assert values_of(samples, rule, 15) == {("a:1",): 2}


def points_of(samples):
    return [len(one.points) for series in samples._series.values() for one in series.values()]


@pytest.mark.parametrize("interval", [0.1, 5, 60])
def test_a_window_has_a_bounded_number_of_points_and_a_short_one_stays_exact(interval):
    rate = 'name = "A"\nmetric = "refold_live_frames_total"\ntake = "rate"\nabove = 0\nseverity = "page"\nsummary = "s"'
    texts = [f"[[alert]]\n{rate}\nwindow_seconds = {seconds}" for seconds in (3_600, 60)]
    long, short = read_rules("\n".join(texts).replace("A", "B", 1), "alerts.toml").alert
    samples = Samples([long, short])
    rounds, counted = int(4_000 / interval), 0
    for number in range(rounds):
        counted += 1 if number < rounds / 2 else 3
        samples.add(number * interval, GATEWAY, [Sample("refold_live_frames_total", {}, counted)])
        samples.forget(number * interval)
    assert max(points_of(samples)) <= POINTS_MAX + 2
    now = (rounds - 1) * interval
    assert values_of(samples, short, now)["a:1",] == pytest.approx(3 / interval, rel=1e-6)
    over = 3 * 2_000 + 1 * 1_600
    assert values_of(samples, long, now)["a:1",] == pytest.approx(over / 3_600 / interval, rel=0.02)


def test_of_a_gauge_only_the_last_value_is_kept():
    rule, samples = watching('metric = "refold_lag_seconds"', "window_seconds = 3600")
    for now in range(0, 100, 5):
        samples.add(now, GATEWAY, parse('refold_lag_seconds{shard="1"} 3\n'))
        samples.forget(now)
    assert points_of(samples) == [1]
    assert values_of(samples, rule, 95) == {("a:1",): 3}


def test_a_share_counts_a_series_that_appears_later_from_zero_and_the_first_scrape_as_nothing():
    rule, samples = watching(
        'metric = "refold_events_folded_total"',
        'labels = { outcome = "rejected" }',
        'among = { outcome = "!duplicate" }',
        'take = "ratio"',
        "by = []",
    )
    before = 'refold_events_folded_total{outcome="applied"} 500\n'
    samples.add(0, GATEWAY, parse(before))
    assert values_of(samples, rule, 0) == {}
    after = before.replace("500", "515") + 'refold_events_folded_total{outcome="duplicate"} 80\n'
    after += 'refold_events_folded_total{outcome="rejected"} 5\n'
    samples.add(5, GATEWAY, parse(after))
    assert values_of(samples, rule, 5) == {(): 0.25}


def test_counters_that_are_forgotten_while_a_target_is_silent_begin_anew():
    rule, samples = watching('metric = "refold_live_frames_total"', 'take = "rate"', "window_seconds = 10")
    samples.add(0, GATEWAY, parse("refold_live_frames_total 1000\n"))
    samples.add(5, GATEWAY, None)
    samples.forget(30)
    samples.add(30, GATEWAY, parse("refold_live_frames_total 2000\n"))
    assert values_of(samples, rule, 30) == {}


def test_a_sum_is_of_all_series_of_a_group():
    rule, samples = watching('metric = "refold_lag_events"', 'take = "sum"', 'by = ["shard"]')
    text = 'refold_lag_events{shard="0-31"} 1\n'
    samples.add(0, GATEWAY, parse(text + 'refold_lag_events{shard="32-63"} 0\n'))
    samples.add(0, OTHER, parse(text))
    assert values_of(samples, rule, 0) == {("0-31",): 2, ("32-63",): 0}
    samples.add(5, GATEWAY, None)
    samples.add(5, OTHER, None)
    assert values_of(samples, rule, 5) == {}


def test_a_share_of_gauges_is_of_other_series():
    rule, samples = watching(
        'metric = "refold_live_subscriptions"',
        'labels = { mode = "patch" }',
        'take = "ratio"',
        'of = "refold_live_connections"',
        'of_labels = { endpoint = "live" }',
    )
    name = "refold_live_connections"
    text = 'refold_live_subscriptions{mode="patch"} 9\nrefold_live_subscriptions{mode="state"} 1\n'
    text += f'{name}{{endpoint="live"}} 12\n{name}{{endpoint="agui"}} 3\n'
    samples.add(0, GATEWAY, parse(text))
    assert values_of(samples, rule, 0) == {("a:1",): 0.75}
    samples.add(5, GATEWAY, parse(text.replace("12", "+Inf")))
    assert values_of(samples, rule, 5) == {}


def test_an_age_is_that_of_the_oldest_time_and_there_is_none_of_time_zero():
    rule, samples = watching('metric = "process_start_time_seconds"', 'take = "age"', "by = []")
    name = "process_start_time_seconds"
    samples.add(1_000, GATEWAY, parse(f"{name} 940\n"))
    samples.add(1_000, OTHER, parse(f"{name} 0\n"))
    assert values_of(samples, rule, 1_000) == {(): 60}


def test_the_value_of_a_counter_is_what_its_process_has_counted():
    rule, samples = watching('metric = "refold_broker_reconnects_total"')
    for now, count in ((0, 1), (5, 2), (10, 0)):
        samples.add(now, GATEWAY, parse(f"refold_broker_reconnects_total {count}\n"))
        assert values_of(samples, rule, now) == {("a:1",): count}


def test_a_quantile_sums_the_buckets_of_a_group():
    rule, samples = watching(
        'metric = "refold_append_seconds"', 'take = "quantile"', "quantile = 0.5", 'by = ["service"]'
    )
    name = "refold_append_seconds_bucket"
    for target in (GATEWAY, OTHER):
        samples.add(0, target, parse(f'{name}{{le="1"}} 0\n{name}{{le="+Inf"}} 0\n'))
    samples.add(5, GATEWAY, parse(f'{name}{{le="1"}} 4\n{name}{{le="+Inf"}} 4\n'))
    samples.add(5, OTHER, parse(f'{name}{{le="1"}} 0\n{name}{{le="+Inf"}} 4\n'))
    assert values_of(samples, rule, 5) == {("gateway",): 1.0}


@pytest.mark.parametrize(
    ("quantile", "buckets", "value"),
    [
        (0.5, {1: 10, 2: 20, float("inf"): 20}, 1.0),
        (0.75, {1: 10, 2: 20, float("inf"): 20}, 1.5),
        (0.99, {1: 10, 2: 20, float("inf"): 40}, 2),
        (0.5, {1: 0, float("inf"): 0}, None),
        (0.5, {}, None),
    ],
)
def test_quantiles_are_interpolated(quantile, buckets, value):
    assert quantile_of(quantile, buckets) == value
