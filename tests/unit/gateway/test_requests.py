"""Event fields in request headers, parsed by the code that parses them from the log."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from refold.core.errors import Refused
from refold.gateway.documents import ReadQuery
from refold.gateway.requests import (
    carried_headers,
    check_media_type,
    event_fields,
    read_query,
    read_time,
    read_wait,
)
from refold.gateway.responses import Problem


def request(*headers: tuple[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "method": "PUT", "path": "/", "headers": raw, "query_string": b""})


def test_refold_headers_set_fields_of_the_event() -> None:
    fields = event_fields(
        request(
            ("Refold-Type", "order.paid"),
            ("Refold-Actor", "Zoë"),
            ("Refold-Base", "3"),
            ("Refold-Meta", '{"a":1}'),
            ("Refold-Occurred-At", "2024-01-01T00:00:00Z"),
            ("Refold-Wait", "2"),
            ("Idempotency-Key", "k-1"),
        )
    )
    assert fields == {
        "type": "order.paid",
        "actor": "Zoë",
        "base": 3,
        "meta": {"a": 1},
        "occurred_at": "2024-01-01T00:00:00Z",
        "id": "k-1",
    }


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("Refold-Meta", "{")], "bad_json"),
        ([("Refold-Meta", '{"a":1,"a":2}')], "duplicate_key"),
        ([("Refold-Base", "three")], "bad_field"),
        ([("Refold-Colour", "red")], "unknown_field"),
        ([("Refold-Reply", "_INBOX.x")], "unknown_field"),
        ([("ce-id", "x")], "unknown_field"),
        ([("Refold-Actor", "a"), ("Refold-Actor", "b")], "repeated_header"),
        ([("Idempotency-Key", "a"), ("Idempotency-Key", "a")], "repeated_header"),
        ([("Idempotency-Key", "a"), ("Refold-Id", "b")], "contradictory"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(headers: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(Refused) as raised:
        event_fields(request(*headers))
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("2.5", 2.5), ("300", 300.0), ("1e-3", 0.001), ("0.30000000000000004", 0.30000000000000004)],
)
def test_refold_wait_is_seconds(text: str, seconds: float) -> None:
    assert read_wait(request(("Refold-Wait", text)), 5.0) == (seconds, False)


def test_without_refold_wait_the_setting_decides() -> None:
    assert read_wait(request(), 1.5) == (1.5, False)


@pytest.mark.parametrize(
    ("text", "seconds"), [("committed", 5.0), ("2.5; committed", 2.5), ("0;committed", 0.0)]
)
def test_refold_wait_may_be_for_the_commit(text: str, seconds: float) -> None:
    assert read_wait(request(("Refold-Wait", text)), 5.0) == (seconds, True)


INVALID_WAITS = [
    "",
    "-1",
    "soon",
    "1e3",
    "inf",
    "nan",
    "301",
    "٣",
    "5;",
    "5; folded",
    "committed; 5",
    "; committed",
]


@pytest.mark.parametrize("text", INVALID_WAITS)
def test_another_wait_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        read_wait(request(("Refold-Wait", text)), 5.0)
    assert (raised.value.status, raised.value.code) == (422, "bad_parameter")


def test_a_valid_traceparent_is_forwarded_and_an_invalid_one_dropped() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert carried_headers(request(("traceparent", trace))) == (("traceparent", trace),)
    assert carried_headers(request(("traceparent", "00-xyz"))) == ()
    assert carried_headers(request(("traceparent", trace), ("traceparent", trace))) == ()
    assert carried_headers(request(("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01"))) == ()
    carried = (("traceparent", trace), ("tracestate", "vendor=1"))
    assert carried_headers(request(*carried)) == carried


def test_a_body_of_another_encoding_is_refused() -> None:
    typed = ("Content-Type", "application/json")
    with pytest.raises(Refused) as raised:
        check_media_type(request(typed, ("Content-Encoding", "br")), ("application/json",))
    assert raised.value.reason == "unsupported_media_type"
    check_media_type(request(typed, ("Content-Encoding", "identity")), ("application/json",))


def asked(query: str) -> Request:
    return Request(
        {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query.encode()}
    )


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("version=-1", "version: a whole number from 0 in plain digits, such as 12"),
        ("version=9223372036854775808", "version: a whole number from 0 in plain digits, such as 12"),
        ("version=x", "version: a whole number from 0 in plain digits, such as 12"),
        ("min_version=1e0", "min_version: a whole number from 0 in plain digits, such as 12"),
        ("timeout=301", "timeout: seconds from 0 to 300, such as 2.5"),
        ("timeout=soon", "timeout: seconds from 0 to 300, such as 2.5"),
        ("clock=mine", "clock: must be 'recorded' or 'occurred'"),
    ],
)
def test_an_invalid_query_parameter_is_refused_with_the_rule(query: str, rule: str) -> None:
    with pytest.raises(Problem) as raised:
        read_query(asked(query), ReadQuery)
    assert (raised.value.code, raised.value.detail) == ("bad_parameter", rule)


def test_the_largest_version_is_read() -> None:
    assert read_query(asked("version=9223372036854775807"), ReadQuery).version == 2**63 - 1


def test_an_unescaped_plus_in_a_time_gets_a_hint() -> None:
    with pytest.raises(Refused, match="written %2B in a URL") as raised:
        read_time("2026-11-29T10:00:00 01:00")
    assert raised.value.reason == "bad_time"
    with pytest.raises(Refused) as raised:
        read_time("2026-11-29 10:00")
    assert "%2B" not in str(raised.value)
