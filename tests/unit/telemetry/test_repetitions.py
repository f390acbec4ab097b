"""Repeated lines are counted; none is lost without being in a count, and critical lines are always written."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog

from refold.telemetry import instance
from refold.telemetry.logging import configure, get_logger
from refold.telemetry.repetitions import KINDS_MAX, LINES_MAX, WINDOW_SECONDS, Kind, Repetitions

LOST = Kind("warning", "broker_denied", "")


class Clock:
    seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reported():
    return []


@pytest.fixture
def repetitions(clock, reported):
    made = Repetitions(reported.append, clock)
    yield made
    made.close()


def admitted(repetitions, lines, kind=LOST):
    return sum(repetitions.admits(kind) for _ in range(lines))


def test_lines_beyond_the_bound_are_counted_until_their_window_ends(repetitions, clock, reported):
    assert admitted(repetitions, 1_000) == LINES_MAX
    clock.seconds += WINDOW_SECONDS
    assert admitted(repetitions, 2) == 2
    assert reported == [(LOST, 1_000 - LINES_MAX, WINDOW_SECONDS)]


def test_what_is_counted_is_reported_without_a_further_line(clock, reported):
    def ended(repeated):
        reported.append(repeated)

    repetitions = Repetitions(ended, clock)
    admitted(repetitions, LINES_MAX + 1)
    timer = repetitions._timer
    timer.cancel()
    assert (timer.interval, timer.daemon) == (WINDOW_SECONDS, True)
    clock.seconds += WINDOW_SECONDS
    timer.function()
    assert reported == [(LOST, 1, WINDOW_SECONDS)]


def test_the_window_that_ends_first_is_reported_first(repetitions, clock, reported):
    repetitions.admits(LOST)
    clock.seconds += 3
    admitted(repetitions, 30, Kind("error", "failed", ""))
    assert repetitions._timer.interval == WINDOW_SECONDS
    admitted(repetitions, 30)
    assert repetitions._timer.interval == WINDOW_SECONDS - 3
    clock.seconds += WINDOW_SECONDS - 3
    repetitions._timer.function()
    assert reported == [(LOST, 11, WINDOW_SECONDS)]
    assert repetitions._timer.interval == 3


def test_levels_and_codes_are_kinds_of_their_own(repetitions, reported):
    kinds = [LOST, LOST._replace(code="log_full"), LOST._replace(level="error")]
    assert [admitted(repetitions, 21, kind) for kind in kinds] == [LINES_MAX] * 3
    repetitions.close()
    assert [each.kind for each in reported] == kinds


@pytest.mark.parametrize("kind", [Kind("critical", "service_ended", ""), Kind("warning", "alert", "")])
def test_critical_lines_and_notifications_are_always_written(repetitions, kind):
    assert admitted(repetitions, 100, kind) == 100


def test_the_oldest_of_too_many_kinds_is_reported_early(repetitions, clock, reported):
    admitted(repetitions, 30)
    clock.seconds += 1
    for number in range(KINDS_MAX):
        repetitions.admits(Kind("info", str(number), ""))
    assert reported == [(LOST, 10, 1)]
    assert admitted(repetitions, 30) == LINES_MAX


def test_every_line_is_written_or_counted_once(repetitions, clock, reported):
    written = 0
    for number in range(20_000):
        clock.seconds += 0.01 * (number % 7)
        written += repetitions.admits(Kind("info", f"event-{number % 5 or number % 1_000}", ""))
    repetitions.close()
    assert 0 < written < 20_000
    assert written + sum(each.lines for each in reported) == 20_000


def test_nothing_is_counted_any_more_after_the_end(repetitions, reported):
    admitted(repetitions, 30)
    repetitions.close()
    assert admitted(repetitions, 30) == 30
    assert [each.lines for each in reported] == [10]


def test_a_process_reports_at_its_end_what_it_has_counted():
    code = (
        "from refold.telemetry.logging import configure, get_logger\n"
        "import logging, structlog\n"
        "configure('info', service='gateway')\n"
        "structlog.contextvars.bind_contextvars(request_id='r')\n"
        "for n in range(100): get_logger().error('failed', code='log_full', n=n)\n"
        "for n in range(50): logging.getLogger('library').warning('cannot reach %s', 'nats://u:secret@h')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["n"] for line in lines if line["event"] == "failed"] == list(range(LINES_MAX))
    repeated = [line for line in lines if line["event"] == "repeated"]
    assert [(each["level"], each["code"], each["count"]) for each in repeated] == [
        ("error", "log_full", 80),
        ("warning", None, 30),
    ]
    assert "secret" not in ended.stderr
    assert all(each["seconds"] < WINDOW_SECONDS and "request_id" not in each for each in repeated)
    assert {line["instance"] for line in lines} != {instance()}


@pytest.fixture
def stream():
    made = io.StringIO()
    configure("info", service="gateway", stream=made)
    yield made
    structlog.reset_defaults()
    logging.basicConfig(force=True)


def test_the_type_of_an_exception_tells_crashes_apart(stream):
    for _ in range(30):
        for kind in (ValueError, KeyError):
            get_logger().error("request_crashed", exc_info=kind("x"))
    assert len(stream.getvalue().splitlines()) == 2 * LINES_MAX
