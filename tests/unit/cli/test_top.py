"""The numbers and the screen of `refold top`."""

from __future__ import annotations

import pytest

from refold.cli.top_numbers import Answer, History, Scraped, numbers
from refold.cli.top_screen import screen, sparkline
from refold.telemetry.metrics.samples import Sample

FOLDED, CPU, APPEND = (
    "refold_events_folded_total",
    "process_cpu_seconds_total",
    "refold_append_seconds_bucket",
)

REPLICAS = {"current": 2, "lagging": 0, "offline": 1}


def scraped(time, *samples, stage="working", started=1.0):
    exposed = tuple(Sample(*sample) for sample in samples)
    return Scraped(time=time, stage=stage, samples=exposed, started=started, pid=7)


def appended(fast, slow):
    return ((APPEND, {"le": "0.001"}, fast), (APPEND, {"le": "0.01"}, slow), (APPEND, {"le": "+Inf"}, slow))


@pytest.fixture
def history():
    """Two services in three rounds, two seconds apart; the projector began anew before the last."""
    history = History()
    for time, folded, cpu in ((0.0, 100.0, 5.0), (2.0, 300.0, 6.0), (4.0, 50.0, 0.5)):
        rejected = (FOLDED, {"outcome": "rejected"}, folded / 2)
        applied = (FOLDED, {"outcome": "applied"}, folded / 2)
        history.add(time, "projector", "http://p", scraped(time, applied, rejected, (CPU, {}, cpu)))
        counts = {"last_sequence": int(time * 10), "folded_sequence": int(time * 5)}
        lag = {"lag_events": int(time * 5), "lag_seconds": time}
        history.add_status(time, {**counts, **lag, "log_id": "a", "fold": 2})
    for time, counted in ((0.0, (0, 100)), (2.0, (90, 200)), (4.0, (180, 300))):
        history.add(time, "gateway", "http://g", scraped(time, *appended(*counted), stage="ready"))
    for time, events in ((2.0, 10), (4.0, 16)):
        row = {"namespace": "acme", "documents": 3, "events": events}
        history.namespaces.append(Answer(time, {"acme": row}))
    return history


def test_rates_are_those_between_the_last_two_looks_and_survive_a_new_process(history):
    found = numbers(history, 4.0)
    assert found["rates"] == {"in": 10.0, "folded": 25.0, "committed": 5.0, "out": None, "requests": None}
    assert found["totals"]["folded"] == 50
    (projector, gateway) = found["services"]
    assert (projector["cpu"], projector["stage"], gateway["stage"]) == (0.25, "working", "ready")
    assert found["namespaces"][0]["rate"] == 3.0


def test_quantiles_are_of_what_was_counted_since_the_first_look_that_is_kept(history):
    latency = numbers(history, 4.0)["latencies"]["append"]
    # Since the first look: 180 of 200 within 1 ms, the others within 10 ms.
    assert latency == {"p50": pytest.approx(0.001 * 100 / 180), "p99": pytest.approx(0.0091), "count": 200}


def test_a_minute_is_kept_however_often_it_is_looked():
    for interval in (0.1, 1.0, 5.0):
        history = History()
        for look in range(int(100 / interval) + 1):
            time = look * interval
            lag = {"lag_events": 0, "lag_seconds": time, "last_sequence": look, "folded_sequence": look}
            history.add_status(time, lag)
            history.add(time, "gateway", "http://g", scraped(time, *appended(look, look)))
        found = numbers(history, time)
        assert found["latencies"]["append"]["count"] == pytest.approx(60 / interval, rel=0.02)
        assert found["rates"]["in"] == pytest.approx(1 / interval)
        lags = found["lag"]["last_minute_seconds"]
        assert (lags[0], lags[-1]) == (pytest.approx(time - 60, abs=1), time)
        assert len(lags) <= 62


def test_conflicts_and_rejections_are_those_of_the_last_minute_or_of_a_younger_process():
    history = History()
    history.namespaces.append(Answer(0.0, {"acme": {"namespace": "acme", "documents": 1, "events": 9}}))
    names = ("refold_conflicts_total", "refold_events_rejected_total")
    for time, started, count in ((0.0, 1, 40), (1.0, 1, 42), (2.0, 2, 50)):
        samples = ((name, {"namespace": "acme", "reason": "schema"}, count) for name in names)
        history.add(time, "projector", "http://p", scraped(time, *samples, started=started))
        (row,) = numbers(history, time)["namespaces"]
        found = row["conflicts_last_minute"], row["rejected_last_minute"]
        assert found == {0.0: (0, 0), 1.0: (2, 2), 2.0: (50, 50)}[time]
    # Those of a namespace beyond the first 50 are not told apart from others'.
    others = ((name, {"namespace": "_other"}, 7) for name in names)
    history.add(3.0, "projector-2", "http://p", scraped(3.0))
    history.add(4.0, "projector-2", "http://p", scraped(4.0, *others))
    history.namespaces.append(Answer(4.0, {"late": {"namespace": "late", "documents": 1, "events": 9}}))
    (row,) = numbers(history, 4.0)["namespaces"]
    assert (row["conflicts_last_minute"], row["rejected_last_minute"]) == (None, None)


def test_requests_of_machines_and_live_streams_are_not_counted():
    history = History()
    for time, count in ((0.0, 0), (1.0, 10)):
        routes = ("/v1/{namespace}/{document}", "/metrics", "/live/v1/{namespace}", "/v1")
        samples = [("refold_http_request_seconds_count", {"route": route}, count) for route in routes]
        history.add(time, "gateway", "http://g", scraped(time, *samples))
    assert numbers(history, 1.0)["rates"]["requests"] == 10


def test_a_service_that_does_not_answer_stays_with_its_age(history):
    history.add(9.5, "projector", "http://p", None)
    projector = numbers(history, 9.5)["services"][0]
    assert (projector["is_silent"], projector["silent_seconds"], projector["cpu"]) == (True, 5.5, None)
    (line,) = [line for line in shown(history, 9.5) if line.text.startswith("projector")]
    assert line.style == "red"
    assert line.text.endswith("no answer for 6 s")


def test_replicas_are_those_of_any_projector_and_alerts_those_that_fire(history):
    assert (numbers(history, 4.0)["replicas"], numbers(history, 4.0)["alerts"]) == ({}, None)
    states = [("refold_log_replicas", {"state": state}, count) for state, count in REPLICAS.items()]
    for name in ("projector", "projector-2"):
        history.add(5.0, name, "http://p", scraped(5.0, *states))
    fired = (("LagSeconds", "ticket", 2), ("NoOwner", "page", 2), ("Memory", "ticket", 1))
    alerts = [("refold_alert_state", {"alert": name, "severity": how}, state) for name, how, state in fired]
    history.add(5.0, "alerts", "http://a", scraped(5.0, *alerts))
    found = numbers(history, 5.0)
    assert found["replicas"] == REPLICAS
    assert [each["alert"] for each in found["alerts"]] == ["NoOwner", "LagSeconds"]
    shown_lines = {line.text.partition("  ")[0]: line for line in shown(history, 5.0)}
    assert shown_lines["log replicas"].text.endswith("2 current, 1 offline")
    assert shown_lines["alerts firing"].text.endswith("NoOwner (page), LagSeconds (ticket)")
    assert shown_lines["alerts firing"].style == "red"
    history.add(6.0, "alerts", "http://a", scraped(6.0, *((*each[:2], 0) for each in alerts)))
    assert numbers(history, 6.0)["alerts"] == []


def test_everything_fits_on_80_by_24(history):
    for place in range(9):
        history.add(4.0, f"projector-{place}", "http://q", scraped(4.0, stage="standby"))
    store = {"breaker": "open", "lag_events": 12, "problem": "x" * 200}
    history.add_status(5.0, {**history.status[-1].view, "stores": [{"store": "redis", **store}] * 5})
    rows = {f"n{place}": {"documents": 1, "events": place} for place in range(50)}
    history.namespaces.append(Answer(5.0, {name: {"namespace": name, **row} for name, row in rows.items()}))
    lines = shown(history, 5.0)
    assert len(lines) == 24
    assert max(len(line.text) for line in lines) == 80
    text = "\n".join(line.text for line in lines)
    for part in (
        "and 6 more",
        "per second",
        "lag, last 60 s",
        "request",
        "n49",
        "store redis",
        "log replicas",
        "alerts firing",
        "subscribers",
    ):
        assert part in text


def test_a_system_of_which_nothing_is_known_has_a_screen_too():
    history = History()
    history.add(0.0, "gateway", "http://g", None)
    assert any("unknown" in line.text for line in shown(history, 1.0))


def test_namespaces_have_the_order_that_is_chosen(history):
    rows = {"b": {"documents": 1, "events": 1}, "a": {"documents": 1, "events": 5}}
    history.namespaces.append(Answer(6.0, {name: {"namespace": name, **row} for name, row in rows.items()}))
    for sort, order in (("name", ["a", "b"]), ("events", ["a", "b"]), ("rate", ["a", "b"])):
        lines = shown(history, 6.0, sort=sort)
        assert [line.text[0] for line in lines if line.text[:2] in {"a ", "b "}] == order


def test_a_sparkline_is_as_high_as_its_values():
    assert sparkline([0, 1, 7]) == "▁▂█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def shown(history, now, *, sort="rate"):
    return screen(numbers(history, now), url="http://g", columns=80, rows=24, sort=sort)
