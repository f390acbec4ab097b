"""An author's header lines, read into the fields of an event."""

from __future__ import annotations

import pytest

from refold.core.envelope import cloud_attributes, fields_of, media_type, read_headers
from refold.core.errors import Refused
from support.events import lines
from support.fold1 import LIMITS


def fields(*headers):
    return fields_of(read_headers(lines(*headers)), LIMITS)


def reason_of(call, *arguments):
    with pytest.raises(Refused) as refused:
        call(*arguments)
    return refused.value.reason


def test_header_names_are_case_insensitive():
    assert fields(("REFOLD-Actor", "ada"), ("refold-TYPE", "x")) == {"actor": "ada", "type": "x"}
    assert read_headers(lines(("CE-Id", "1"), ("content-TYPE", "a/b"))) == {
        "ce-id": "1",
        "content-type": "a/b",
    }


@pytest.mark.parametrize(
    "name", ["Refold-Actor", "refold-unheard-of", "ce-id", "ce-anything", "Content-Type", "Refold-Reply"]
)
def test_a_repeated_refold_header_is_refused_even_if_equal(name):
    assert reason_of(read_headers, lines((name, "x"), (name.upper(), "x"))) == "repeated_header"


@pytest.mark.parametrize(
    "name", ["traceparent", "X-Refold-Actor", "Content-Type-Hint", "Content-Length", "Nats-Msg-Id"]
)
def test_other_headers_may_repeat(name):
    assert read_headers(lines((name, "x"), (name, "y"))) == {}


def test_spaces_and_tabs_around_a_value_are_not_part_of_it():
    assert read_headers(b"Refold-Actor: \t ada lovelace \t\r\nRefold-Type:x\r\n") == {
        "refold-actor": "ada lovelace",
        "refold-type": "x",
    }


def test_a_value_may_hold_colons_and_be_empty():
    assert fields(("Refold-Actor", "urn:a:b"), ("Refold-Type", "")) == {"actor": "urn:a:b", "type": ""}


def test_every_text_field_has_its_header():
    said = {
        "Refold-Id": "id",
        "Refold-Type": "type",
        "Refold-Actor": "actor",
        "Refold-Occurred-At": "occurred_at",
        "Refold-Correlation-Id": "correlation_id",
        "Refold-Causation-Id": "causation_id",
        "Refold-On-Conflict": "on_conflict",
        "Refold-Session": "session",
        "Refold-Principal": "principal",
    }
    assert fields(*((name, "said") for name in said)) == dict.fromkeys(said.values(), "said")


@pytest.mark.parametrize(
    ("name", "field"), [("V", "v"), ("Base", "base"), ("Reverts", "reverts"), ("Resolves", "resolves")]
)
def test_a_numeric_header_is_parsed_as_a_number(name, field):
    assert fields((f"Refold-{name}", "12")) == {field: 12}


@pytest.mark.parametrize(
    "value", ["", "x", "1.0", "01", "+1", "0x1", "1 2", "\u0661", "9" * 20, "1e3", "--1"]
)
def test_a_numeric_header_must_be_digits(value):
    assert reason_of(fields, ("Refold-Base", value)) == "bad_field"


def test_meta_is_json():
    assert fields(("Refold-Meta", '{"a": [1, 1.0]}'), ("Refold-All-Or-Nothing", "true")) == {
        "meta": {"a": [1, 1.0]},
        "all_or_nothing": True,
    }
    assert reason_of(fields, ("Refold-Meta", "{a}")) == "bad_json"
    assert reason_of(fields, ("Refold-Meta", '{"a":1,"a":2}')) == "duplicate_key"


@pytest.mark.parametrize(
    "name", ["Refold-Patch", "Refold-Put", "Refold-", "Refold-Occurred_At", "Refold-Wait"]
)
def test_an_undefined_refold_header_is_an_unknown_field(name):
    assert reason_of(fields, (name, "x")) == "unknown_field"


def test_the_reply_subject_is_no_field_of_the_event():
    assert fields(("Refold-Reply", "_INBOX.x")) == {}


@pytest.mark.parametrize(
    "block", [b"Refold-Actor: \xff\r\n", b"Refold-\xff: x\r\n", b"no colon\r\n", b"\xff\r\n"]
)
def test_malformed_headers_and_invalid_utf_8_are_refused(block):
    assert reason_of(read_headers, block) == "bad_header"


def test_other_headers_may_hold_any_bytes():
    assert read_headers(b"X-Trace: \xff\x00\r\n\xfe: 1\r\n") == {}


def test_only_crlf_ends_a_line():
    assert read_headers(b"X: a\nRefold-Actor: ada\r\n") == {}
    assert read_headers(b"\nRefold-Actor: ada\r\n") == {}


@pytest.mark.parametrize(
    ("content_type", "media"),
    [("", ""), ("A/B", "a/b"), ("a/b; charset=utf-8", "a/b"), (" a/b ;x", "a/b"), (";a/b", "")],
)
def test_a_media_type_is_compared_case_insensitively_without_parameters(content_type, media):
    assert media_type(content_type) == media


def test_cloud_attributes_are_percent_decoded():
    ours = read_headers(lines(("ce-source", "/a%20b%E2%82%AC%2fc"), ("ce-id", "100%"), ("Refold-Id", "%20")))
    assert cloud_attributes(ours) == {"source": "/a b€/c", "id": "100%"}


@pytest.mark.parametrize("value", ["%FF", "%ED%A0%80", "a%C3"])
def test_percent_encoded_bytes_that_are_not_utf_8_are_refused(value):
    assert reason_of(cloud_attributes, {"ce-id": value}) == "bad_header"
