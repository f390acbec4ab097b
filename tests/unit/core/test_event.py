"""The rules of fold 1 for each field of an event."""

from __future__ import annotations

import json

import pytest

from refold.core.document import Kind
from refold.core.errors import Refused
from refold.core.event import FIELDS, LATER_FIELDS, TEXTS
from refold.core.fold import OPERATIONS_MAX
from support.events import JSON_PATCH, SECOND, lines
from support.fold1 import LIMITS, decode


def decoded(event, *headers):
    return decode(lines(*headers), event if isinstance(event, bytes) else json.dumps(event).encode())


def refusal(event, *headers):
    with pytest.raises(Refused) as refused:
        decoded(event, *headers)
    return refused.value.reason, refused.value.field


def nested(levels):
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"patch": []}, Kind.patch),
        ({"merge": {}}, Kind.merge),
        ({"merge": None}, Kind.merge),
        ({"put": None}, Kind.put),
        ({"put": {}}, Kind.put),
        ({"delete": True}, Kind.delete),
    ],
)
def test_each_of_the_four_kinds_of_event_is_decoded(event, kind):
    assert decoded(event).kind is kind
    assert decoded({**event, "actor": "ada"}).kind is kind


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"actor": "ada"},
        {"put": 1, "delete": True},
        {"patch": [], "merge": {}},
        {"put": None, "merge": None},
    ],
)
def test_an_event_of_no_kind_or_several_is_refused(event):
    assert refusal(event) == ("bad_event", "body")


@pytest.mark.parametrize("value", [False, 1, None, "true", {}])
def test_delete_must_be_true(value):
    assert refusal({"delete": value}) == ("bad_field", "delete")


@pytest.mark.parametrize("value", [{}, None, "x", 1])
def test_a_patch_is_an_array(value):
    assert refusal({"patch": value}) == ("bad_patch", "patch")


def test_every_field_of_the_envelope_is_decoded():
    event = decoded(
        {
            "put": [1],
            "v": 1,
            "base": 7,
            "on_conflict": "reject",
            "id": "x",
            "type": "order.paid",
            "actor": "ada",
            "occurred_at": "1970-01-01T00:00:01Z",
            "correlation_id": "c1",
            "causation_id": "c2",
            "meta": {"a": 1},
        }
    )
    assert (event.kind, event.value, event.size, event.operations) == (Kind.put, [1], 3, [])
    assert (event.base, event.on_conflict, event.fields["id"]) == (7, "reject", "x")
    fields = event.fields
    assert (fields["type"], fields["actor"], event.occurred_at) == ("order.paid", "ada", SECOND)
    assert (fields["correlation_id"], fields["causation_id"], fields["meta"]) == ("c1", "c2", {"a": 1})


def test_an_absent_field_is_none():
    event = decoded({"delete": True})
    assert (event.base, event.on_conflict, event.occurred_at) == (None,) * 3
    assert event.fields == {"delete": True}


@pytest.mark.parametrize(
    "name", ["Put", "patches", "", "data", "reply", "traceparent", "occurredAt", "\u0000", "__proto__"]
)
def test_an_undefined_field_is_unknown(name):
    assert refusal({"put": 1, name: None}) == ("unknown_field", repr(name))


def test_the_name_of_an_unknown_field_is_shortened():
    assert refusal({"put": 1, "x" * 1000: None})[1] == repr("x" * 64)


@pytest.mark.parametrize("name", ["all_or_nothing", "session", "principal", "txn", "reverts", "resolves"])
def test_a_field_of_a_later_fold_is_refused_as_such(name):
    assert refusal({"put": 1, name: None}) == ("not_in_this_fold", name)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("All-Or-Nothing", "true"),
        ("Session", "s"),
        ("Principal", "p"),
        ("Txn", "{}"),
        ("Reverts", "1"),
        ("Resolves", "1"),
    ],
)
def test_a_header_of_a_later_fold_is_refused_as_such(header, value):
    assert refusal({"put": 1}, (f"Refold-{header}", value))[0] == "not_in_this_fold"


def test_fields_of_this_fold_and_of_later_ones_are_disjoint():
    assert FIELDS.isdisjoint(LATER_FIELDS)


@pytest.mark.parametrize("op", ["inc", "str_ins", "str_del"])
def test_the_extension_operations_belong_to_a_later_fold(op):
    assert refusal({"patch": [{"op": op, "path": "/a"}]}) == ("not_in_this_fold", "patch/0/op")


@pytest.mark.parametrize("version", [0, 2, -1, True, "1", None, 1.0, 1.5])
def test_the_envelopes_version_is_1(version):
    assert decoded({"put": 1, "v": 1}).kind is Kind.put
    assert refusal({"put": 1, "v": version}) == ("bad_field", "v")


@pytest.mark.parametrize("name", [*TEXTS, "occurred_at", "on_conflict"])
@pytest.mark.parametrize("value", [None, 1, True, ["x"], {}])
def test_a_text_field_is_a_string(name, value):
    assert refusal({"put": 1, name: value}) == ("bad_field", name)


@pytest.mark.parametrize("name", ["type", "actor", "correlation_id", "causation_id"])
@pytest.mark.parametrize("value", ["", "\u0000", "𝄞" * 500])
def test_a_text_field_may_hold_any_text(name, value):
    assert decoded({"put": 1, name: value}).fields[name] == value


@pytest.mark.parametrize("event_id", ["x", "x" * 128, "𝄞" * 128])
def test_an_id_has_1_to_128_characters(event_id):
    assert decoded({"put": 1, "id": event_id}).fields["id"] == event_id
    for bad in ("", "x" * 129):
        assert refusal({"put": 1, "id": bad}) == ("bad_field", "id")


@pytest.mark.parametrize("base", [0, 1, 2**63 - 1])
def test_a_base_is_a_version(base):
    assert decoded({"put": 1, "base": base}).base == base


@pytest.mark.parametrize("base", [-1, 1.0, "1", None, True, False, 2**63])
def test_an_invalid_base_is_refused(base):
    assert refusal({"put": 1, "base": base}) == ("bad_field", "base")


@pytest.mark.parametrize(
    "strategy", ["reject", "first_write_wins", "last_write_wins", "merge", "custom:cart"]
)
def test_every_strategy_is_accepted_by_name(strategy):
    assert decoded({"put": 1, "on_conflict": strategy}).on_conflict == strategy


@pytest.mark.parametrize("strategy", ["", "Reject", "custom", "custom:", "retry", "merge "])
def test_an_unknown_strategy_is_refused(strategy):
    assert refusal({"put": 1, "on_conflict": strategy}) == ("bad_field", "on_conflict")


@pytest.mark.parametrize("text", ["", "today", "2024-01-01", "2024-01-01T00:00:00", "1700000000"])
def test_an_invalid_occurred_time_is_a_bad_time(text):
    assert refusal({"put": 1, "occurred_at": text}) == ("bad_time", "occurred_at")


@pytest.mark.parametrize("text", ["1677-09-21T00:12:43.145224191Z", "2262-04-11T23:47:16.854775808Z"])
def test_an_occurred_time_beyond_int64_nanoseconds_is_a_bad_time(text):
    assert refusal({"put": 1, "occurred_at": text}) == ("bad_time", "occurred_at")


@pytest.mark.parametrize("meta", [None, [], "x", 1])
def test_meta_is_an_object(meta):
    assert refusal({"put": 1, "meta": meta}) == ("bad_field", "meta")


def test_a_put_state_may_nest_up_to_the_bound():
    assert decoded(b'{"put":%s}' % nested(LIMITS.depth)).kind is Kind.put
    assert refusal(b'{"put":%s}' % nested(LIMITS.depth + 1))[0] == "too_deep"


def test_a_patch_may_have_operations_up_to_the_bound():
    operation = {"op": "test", "path": "", "value": {}}
    assert len(decoded({"patch": [operation] * OPERATIONS_MAX}).operations) == OPERATIONS_MAX
    assert refusal({"patch": [operation] * (OPERATIONS_MAX + 1)}) == ("too_many_operations", "patch")
    assert refusal([operation] * (OPERATIONS_MAX + 1), JSON_PATCH) == ("too_many_operations", "patch")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b'{"put":1}x', "bad_json"),
        (b'\xef\xbb\xbf{"put":1}', "bad_json"),
        (b'{"put":NaN}', "bad_json"),
        (b'{"put":"\xff"}', "bad_json"),
        (b'{"put":1,"put":1}', "duplicate_key"),
        (b'{"put":{"a":1,"\\u0061":1}}', "duplicate_key"),
        (b'{"put":"\\ud800"}', "lone_surrogate"),
        (b'{"put":18446744073709551616}', "number_out_of_range"),
        (b'{"put":-9223372036854775809}', "number_out_of_range"),
        (b'{"put":1e400}', "number_out_of_range"),
    ],
)
def test_ambiguous_json_is_refused(body, reason):
    assert refusal(body)[0] == reason


def test_of_several_errors_the_first_field_by_name_is_reported():
    assert refusal({"put": 1, "zzz": 1, "aaa": 1, "session": 1}) == ("unknown_field", "'aaa'")


@pytest.mark.parametrize(("field", "hint"), [("state", "base, causation_id, "), ("if_version", "is `base`")])
def test_an_unknown_field_is_refused_with_the_list_of_fields(field, hint):
    with pytest.raises(Refused) as refused:
        decoded({"put": 1, field: 7})
    assert (refused.value.reason, refused.value.field) == ("unknown_field", repr(field))
    assert hint in str(refused.value)
