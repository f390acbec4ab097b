"""Times: int64 nanoseconds inside, RFC 3339 at the edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from refold.core.errors import Refused
from refold.core.timestamp import (
    TIME_MAX_NANOSECONDS,
    TIME_MIN_NANOSECONDS,
    format_time,
    parse_retry_after,
    parse_rfc3339,
    parse_time,
)

FIRST = "1677-09-21T00:12:43.145224192Z"
LAST = "2262-04-11T23:47:16.854775807Z"


def is_refused(text, parse=parse_rfc3339):
    with pytest.raises(Refused) as refused:
        parse(text)
    return refused.value.reason == "bad_time"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1970-01-01T00:00:00.5Z", 500_000_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T23:59:00+23:59", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("2000-02-29T12:34:56.789Z", 951_827_696_789_000_000),
        (FIRST, TIME_MIN_NANOSECONDS),
        (LAST, TIME_MAX_NANOSECONDS),
    ],
)
def test_rfc_3339_is_parsed_to_the_nanosecond(text, nanoseconds):
    assert parse_rfc3339(text) == nanoseconds


@pytest.mark.parametrize("days", [0, 1, 59, 60, 365, 11_016, 20_000, -1, -40_000, 100_000])
def test_days_follow_the_gregorian_calendar(days):
    moment = datetime(1970, 1, 1, 13, 14, 15, tzinfo=UTC) + timedelta(days=days)
    nanoseconds = (days * 86_400 + 13 * 3600 + 14 * 60 + 15) * 1_000_000_000
    assert parse_rfc3339(moment.isoformat()) == nanoseconds
    assert format_time(nanoseconds) == f"{moment:%Y-%m-%dT%H:%M:%S}.000000000Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1970-01-01",
        "1970-01-01T00:00:00",
        "1970-01-01 00:00:00Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00.0000000000Z",
        "1970-01-01T00:00:00,5Z",
        "1970-01-01T00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "1970-01-01T23:59:60Z",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+00:60",
        "1970-01-01T00:00:00+0000",
        "1970-02-29T00:00:00Z",
        "1970-00-01T00:00:00Z",
        "1970-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "+1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z\n",
        " 1970-01-01T00:00:00Z",
        "\u0661970-01-01T00:00:00Z",
        "1677-09-21T00:12:43.145224191Z",
        "2262-04-11T23:47:16.854775808Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_anything_else_is_a_bad_time(text):
    assert is_refused(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-02", 86_400_000_000_000),
        ("0", 0),
        ("-1", -1_000_000_000),
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("0.1", 100_000_000),
        ("-0.000000001", -1),
        ("9223372036.854775807", TIME_MAX_NANOSECONDS),
        ("-9223372036.854775808", TIME_MIN_NANOSECONDS),
        ("1970-01-01T00:00:01Z", 1_000_000_000),
    ],
)
def test_parameters_also_accept_a_date_and_unix_seconds(text, nanoseconds):
    assert parse_time(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    ["", "now", "1e9", ".5", "1.", "1.0000000001", "9223372036.854775808", "1" * 17, "1970-1-1", "+1", "NaN"],
)
def test_an_invalid_time_in_a_parameter_is_refused(text):
    assert is_refused(text, parse_time)


def test_a_refused_time_names_its_field_and_the_rule():
    with pytest.raises(Refused, match="since: a time must be within int64 nanoseconds") as refused:
        parse_time("9999-01-01", "since")
    assert refused.value.shape == "'9999-01-01'"


@pytest.mark.parametrize("nanoseconds", [0, 1, -1, TIME_MIN_NANOSECONDS, TIME_MAX_NANOSECONDS, 10**18 + 7])
def test_a_time_is_printed_in_utc_with_nine_digits_and_read_back(nanoseconds):
    text = format_time(nanoseconds)
    assert len(text) == len("1970-01-01T00:00:00.000000000Z")
    assert parse_rfc3339(text) == nanoseconds


NOW = 1_000_000 * 1_000_000_000
MINUTE = 60 * 1_000_000_000


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("now", NOW),
        ("-5m", NOW - 5 * MINUTE),
        ("5m ago", NOW - 5 * MINUTE),
        ("90s ago", NOW - 90 * 1_000_000_000),
        ("-2h", NOW - 120 * MINUTE),
        ("-1d", NOW - 1_440 * MINUTE),
        ("1w ago", NOW - 7 * 1_440 * MINUTE),
        ("1970-01-02 10:00Z", 34 * 60 * MINUTE),
        ("1970-01-02 10:00:30.5+02:00", 32 * 60 * MINUTE + 30_500_000_000),
        ("1970-01-02T10:00Z", 34 * 60 * MINUTE),
        ("1764410400000", 1_764_410_400 * 1_000_000_000),
        ("1764410400123.5", 1_764_410_400_123_500_000),
        ("1764410400", 1_764_410_400 * 1_000_000_000),
    ],
)
def test_a_time_is_also_relative_spaced_or_in_milliseconds(text, nanoseconds):
    assert parse_time(text, now=NOW) == nanoseconds


@pytest.mark.parametrize("text", ["now", "-5m", "5m ago"])
def test_a_relative_time_needs_a_now(text):
    assert is_refused(text, parse_time)


@pytest.mark.parametrize(
    "text", ["5m", "--5m", "5 minutes ago", "- 5m", "-999999999w", "1970-01-02 10:00", "Now"]
)
def test_an_unknown_form_of_a_time_is_refused(text):
    assert is_refused(text, lambda text: parse_time(text, now=NOW))


@pytest.mark.parametrize("text", ["2026-13-01", "2026-02-30 10:00Z", "2026-02-30T10:00:00Z"])
def test_a_nonexistent_day_is_reported_as_written(text):
    with pytest.raises(Refused) as refused:
        parse_time(text)
    assert str(refused.value) == f"at: a time must be on a day that the calendar has (got {text!r})"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:17:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:16:00 GMT", 0.0),
        ("Thu, 31 Feb 1970 00:17:00 GMT", 0.0),
        ("Thu, 01 Foo 1970 00:17:00 GMT", 0.0),
        ("1" * 5_000, 111_111_111.0),
        *((text, 0.0) for text in ("", "soon", "-1", "1.5", "٣")),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
    assert parse_retry_after(text, now=1_000.0) == seconds
