"""An import validates each line and reports what is wrong."""

import json

import pytest

from refold.core.document import ABSENT
from refold.core.errors import Refused
from refold.transfer import parse_line


def line(**fields):
    return parse_line(7, json.dumps({"doc": "d", "state": {"a": 1}, "ts": 0, **fields}).encode())


def test_a_line_holds_document_state_and_time():
    read = line(actor="ada")
    assert (read.number, read.document, read.state, read.actor) == (7, "d", {"a": 1}, "ada")
    assert read.occurred_at == "1970-01-01T00:00:00.000000000Z"


@pytest.mark.parametrize(
    ("ts", "occurred_at"),
    [
        (1648454921, "2022-03-28T08:08:41.000000000Z"),
        (1648454921.25, "2022-03-28T08:08:41.250000000Z"),
        (1e-7, "1970-01-01T00:00:00.000000100Z"),
        (-1, "1969-12-31T23:59:59.000000000Z"),
        ("2022-03-28T10:08:41+02:00", "2022-03-28T08:08:41.000000000Z"),
        ("2022-03-28", "2022-03-28T00:00:00.000000000Z"),
    ],
)
def test_a_time_is_unix_seconds_or_rfc_3339(ts, occurred_at):
    assert line(ts=ts).occurred_at == occurred_at


def test_null_means_deleted_unless_present_is_true():
    assert line(state=None).state is ABSENT
    assert line(state=None, present=True).state is None


def test_other_keys_go_into_meta():
    assert line(commit="abc", meta={"a": 1}).meta == {"commit": "abc", "a": 1}


def test_a_line_with_a_version_comes_from_an_export():
    assert (line(version=3).version, line().version) == (3, None)
    assert "version" not in line(version=3).meta


def test_type_is_the_event_type_in_an_export_and_meta_in_any_other_line():
    exported, other = line(version=3, type="order.paid"), line(type="order.paid")
    assert (exported.type, exported.meta) == ("order.paid", {})
    assert (other.type, other.meta) == (None, {"type": "order.paid"})


@pytest.mark.parametrize(
    ("text", "reason", "named"),
    [
        (b"{", "bad_json", ""),
        (b"[]", "bad_line", ""),
        (b'{"doc":"d","doc":"e","state":1,"ts":0}', "duplicate_key", "doc"),
        (b'{"state":1,"ts":0}', "bad_line", "doc"),
        (b'{"doc":"d","ts":0}', "bad_line", "state"),
        (b'{"doc":"d","state":1}', "bad_line", "ts"),
        (b'{"doc":7,"state":1,"ts":0}', "bad_line", "doc"),
        (b'{"doc":"..","state":1,"ts":0}', "bad_name", "doc"),
        (b'{"doc":"d","state":1,"ts":true}', "bad_time", "ts"),
        (b'{"doc":"d","state":1,"ts":"yesterday"}', "bad_time", "ts"),
        (b'{"doc":"d","state":1,"ts":0,"actor":7}', "bad_line", "actor"),
        (b'{"doc":"d","state":1,"ts":0,"meta":[]}', "bad_line", "meta"),
        (b'{"doc":"d","state":1,"ts":0,"version":0}', "bad_line", "version"),
        (b'{"doc":"d","state":1,"ts":0,"version":null}', "bad_line", "version"),
        (b'{"doc":"d","state":1,"ts":0,"version":1.0}', "bad_line", "version"),
        (b'{"doc":"d","state":1,"ts":0,"version":1,"type":7}', "bad_line", "type"),
        (b'{"doc":"d","state":1,"ts":0,"meta":{"commit":1},"commit":2}', "contradictory", "commit"),
    ],
)
def test_a_malformed_line_is_refused_by_its_field_and_rule(text, reason, named):
    with pytest.raises(Refused) as refused:
        parse_line(1, text)
    assert refused.value.reason == reason
    assert named in str(refused.value)
