"""All forms of a published event decode to one set of fields."""

from __future__ import annotations

import json
from itertools import product

import pytest

from refold.core.envelope import REPLY_CHARS_MAX, content_of, reply_subject
from refold.core.errors import Refused
from refold.core.fold import EVENT_BYTES_MAX, HEADERS_BYTES_MAX
from support.events import CLOUD_EVENT, JSON_PATCH, MERGE_PATCH, lines
from support.fold1 import open_envelope

CE = {"specversion": "1.0", "id": "7", "source": "/till/3", "type": "order.paid"}
CE_HEADERS = tuple((f"ce-{name}", value) for name, value in CE.items())


def opened(body, *headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return open_envelope(lines(*headers), raw)


def fields(body, *headers):
    return opened(body, *headers).fields


def refusal(body, *headers):
    with pytest.raises(Refused) as refused:
        opened(body, *headers)
    return refused.value.reason, refused.value.field


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "text/plain", "application/json-patch", "nonsense", ""]
)
def test_without_a_known_content_type_the_body_is_a_native_event(content_type):
    headers = () if content_type is None else (("Content-Type", content_type),)
    assert fields({"put": [1], "actor": "ada"}, *headers) == {"put": [1], "actor": "ada"}


@pytest.mark.parametrize("body", [[], "x", 1, None, True])
def test_a_native_event_is_an_object(body):
    assert refusal(body) == ("bad_event", "body")


@pytest.mark.parametrize(
    "content_type", ["application/json-patch+json", "Application/JSON-Patch+JSON; charset=utf-8"]
)
def test_a_bare_json_patch_is_the_patch(content_type):
    patch = [{"op": "remove", "path": "/a"}]
    assert fields(patch, ("content-type", content_type)) == {"patch": patch}


def test_a_bare_merge_patch_may_be_any_value():
    for merge in ({"a": None}, [], None, {"put": 1}):
        assert fields(merge, MERGE_PATCH) == {"merge": merge}


def test_the_metadata_of_a_bare_patch_is_in_refold_headers():
    headers = (
        JSON_PATCH,
        ("Refold-Id", "x"),
        ("Refold-Base", "3"),
        ("Refold-Meta", '{"a":1}'),
        ("Refold-Actor", "ada"),
    )
    assert fields([], *headers) == {"patch": [], "id": "x", "base": 3, "meta": {"a": 1}, "actor": "ada"}


def test_refold_headers_add_fields_that_a_native_event_lacks():
    assert fields({"put": 1, "actor": "ada"}, ("Refold-Type", "t")) == {"put": 1, "actor": "ada", "type": "t"}


@pytest.mark.parametrize(
    ("name", "field", "header", "body"),
    [
        ("Refold-Actor", "actor", "ada", "ada"),
        ("Refold-Base", "base", "3", 3),
        ("Refold-Meta", "meta", '{"b":[1.0],"a":1}', {"a": 1, "b": [1]}),
    ],
)
def test_a_field_in_both_body_and_header_must_agree(name, field, header, body):
    assert fields({"put": 1, field: body}, (name, header)) == {"put": 1, field: body}
    assert refusal({"put": 1, field: "other"}, (name, header)) == ("contradictory", field)


def test_where_header_and_body_agree_the_value_of_the_body_is_used():
    agreed = fields({"put": 1, "base": 1.0}, ("Refold-Base", "1"))
    assert type(agreed["base"]) is float


def test_true_and_1_do_not_agree():
    assert refusal({"put": 1, "base": True}, ("Refold-Base", "1")) == ("contradictory", "base")


@pytest.mark.parametrize("data", [{"put": 1}, {"put": 1, "id": "/till/3|7", "type": "order.paid"}])
def test_a_structured_cloud_event_has_the_native_event_as_its_data(data):
    event = {**CE, "data": data, "time": "2024-01-01T00:00:00Z", "subject": "free", "extension": 1}
    expected = {"put": 1, "id": "/till/3|7", "type": "order.paid", "occurred_at": "2024-01-01T00:00:00Z"}
    assert fields(event, CLOUD_EVENT) == expected


def test_a_binary_cloud_event_has_its_attributes_in_headers():
    headers = (*CE_HEADERS, ("ce-time", "2024-01-01T00:00:00Z"), ("ce-subject", "free"))
    expected = {"put": 1, "id": "/till/3|7", "type": "order.paid", "occurred_at": "2024-01-01T00:00:00Z"}
    assert fields({"put": 1}, *headers) == expected


def test_the_four_forms_of_an_event_have_the_same_content():
    native = opened({"patch": [], "id": "/till/3|7", "type": "order.paid"})
    bare = opened([], JSON_PATCH, ("Refold-Id", "/till/3|7"), ("Refold-Type", "order.paid"))
    structured = opened({**CE, "data": {"patch": []}}, CLOUD_EVENT)
    binary = opened([], *CE_HEADERS, JSON_PATCH)
    assert native == bare == structured == binary
    assert len({content_of(form.fields) for form in (native, bare, structured, binary)}) == 1


@pytest.mark.parametrize(
    ("media", "field"), [("application/json-patch+json", "patch"), ("application/merge-patch+json", "merge")]
)
def test_datacontenttype_makes_the_data_of_a_cloud_event_a_patch(media, field):
    structured = {**CE, "datacontenttype": f"{media}; charset=utf-8", "data": []}
    assert fields(structured, CLOUD_EVENT)[field] == []
    assert fields([], *CE_HEADERS, ("ce-datacontenttype", media))[field] == []
    assert fields([], *CE_HEADERS, ("Content-Type", media))[field] == []
    both = (("Content-Type", media.upper()), ("ce-datacontenttype", f"{media};x=y"))
    assert fields([], *CE_HEADERS, *both)[field] == []


def test_a_binary_cloud_events_two_media_types_must_agree():
    headers = (
        *CE_HEADERS,
        ("Content-Type", "application/json"),
        ("ce-datacontenttype", "application/json-patch+json"),
    )
    assert refusal([], *headers) == ("contradictory", "datacontenttype")


@pytest.mark.parametrize(
    ("data", "headers", "field"),
    [
        ({"put": 1, "id": "other"}, (), "id"),
        ({"put": 1, "type": "other"}, (), "type"),
        ({"put": 1, "occurred_at": "2024-01-01T00:00:01Z"}, (), "occurred_at"),
        ({"put": 1}, (("Refold-Id", "7"),), "id"),
        ({"put": 1}, (("Refold-Type", "order"),), "type"),
        ({"put": 1}, (("Refold-Occurred-At", "2024-01-01T00:00:01Z"),), "occurred_at"),
    ],
)
def test_body_refold_headers_and_cloud_attributes_must_agree(data, headers, field):
    time = "2024-01-01T00:00:00Z"
    assert refusal({**CE, "time": time, "data": data}, CLOUD_EVENT, *headers) == ("contradictory", field)
    assert refusal(data, *CE_HEADERS, ("ce-time", time), *headers) == ("contradictory", field)


def test_headers_of_a_structured_cloud_event_must_agree_with_its_body():
    event = {**CE, "data": {"put": 1}}
    assert fields(event, CLOUD_EVENT, *CE_HEADERS)["id"] == "/till/3|7"
    assert refusal(event, CLOUD_EVENT, ("ce-id", "8")) == ("contradictory", "id")


@pytest.mark.parametrize(("missing", "is_structured"), list(product(CE, [True, False])))
def test_a_cloud_event_without_a_required_attribute_is_refused(missing, is_structured):
    rest = {name: value for name, value in CE.items() if name != missing}
    for value in (None, ""):
        said = rest if value is None else {**rest, missing: value}
        if is_structured:
            assert refusal({**said, "data": {"put": 1}}, CLOUD_EVENT) == ("bad_event", missing)
        else:
            headers = ((f"ce-{name}", text) for name, text in said.items())
            assert refusal({"put": 1}, *headers) == ("bad_event", missing)


@pytest.mark.parametrize("name", list(CE))
def test_a_cloud_events_attributes_are_strings(name):
    assert refusal({**CE, name: 1, "data": {"put": 1}}, CLOUD_EVENT) == ("bad_event", name)


def test_only_cloud_events_1_0_are_accepted():
    assert refusal({**CE, "specversion": "0.3", "data": {"put": 1}}, CLOUD_EVENT) == (
        "bad_event",
        "specversion",
    )


def test_a_structured_cloud_event_needs_json_data():
    assert refusal(CE, CLOUD_EVENT) == ("bad_event", "data")
    assert refusal({**CE, "data_base64": "e30="}, CLOUD_EVENT) == ("bad_event", "data")
    assert refusal({**CE, "data": "text"}, CLOUD_EVENT) == ("bad_event", "body")
    assert refusal([], CLOUD_EVENT) == ("bad_event", "body")


def test_an_optional_cloud_attribute_of_null_counts_as_absent():
    event = {**CE, "time": None, "datacontenttype": None, "data": {"put": 1}}
    assert fields(event, CLOUD_EVENT) == {"put": 1, "id": "/till/3|7", "type": "order.paid"}


def test_the_largest_body_is_accepted_and_one_byte_more_is_refused():
    frame = len(b'{"put":""}')
    assert fields(b'{"put":"%s"}' % (b"x" * (EVENT_BYTES_MAX - frame)))
    assert refusal(b'{"put":"%s"}' % (b"x" * (EVENT_BYTES_MAX - frame + 1))) == ("event_too_large", "body")


def test_the_largest_headers_are_accepted_and_one_byte_more_is_refused():
    space = HEADERS_BYTES_MAX - len(lines(("X", "")))
    assert fields({"put": 1}, ("X", "x" * space)) == {"put": 1}
    assert refusal({"put": 1}, ("X", "x" * (space + 1))) == ("headers_too_large", "headers")


@pytest.mark.parametrize("event_id", ["x", "x" * 128, "𝄞" * 128, "\u0000"])
def test_a_valid_id_is_returned_even_if_another_field_is_invalid(event_id):
    assert opened({"id": event_id, "nonsense": 1}).id == event_id


@pytest.mark.parametrize("event_id", ["", "x" * 129, 1, None, ["x"]])
def test_an_invalid_id_is_none(event_id):
    assert opened({"put": 1, "id": event_id}).id is None


def content(event, *headers):
    return content_of(opened({"id": "x", **event}, *headers).fields)


@pytest.mark.parametrize(
    ("event", "headers"),
    [
        ({"id": "y"}, ()),
        ({"v": 1}, ()),
        ({}, (("Refold-Reply", "_INBOX.a"), ("traceparent", "00"), ("X", "y"))),
        ({}, (("Refold-V", "1"), ("Content-Type", "application/json"))),
    ],
)
def test_id_reply_tracing_and_transport_headers_are_not_content(event, headers):
    assert content({"put": 1, **event}, *headers) == content({"put": 1})


@pytest.mark.parametrize(
    "event",
    [{"put": 2}, {"put": 1.0}, {"put": True}, {"merge": 1}, {"put": 1, "actor": "ada"}, {"put": 1, "base": 0}]
    + [{"put": 1, "v": v} for v in (True, 2, 1.0)],
)
def test_everything_else_is_content(event):
    assert content(event) != content({"put": 1})


def test_the_order_of_members_and_white_space_are_not_content():
    a = open_envelope(b"", b'{"id":"x","put":{"a":1,"b":2}}')
    b = open_envelope(b"", b'{ "put": {"b":2, "a":1}, "id":"x" }')
    assert content_of(a.fields) == content_of(b.fields)


@pytest.mark.parametrize("subject", ["_INBOX.a", "_INBOX.a.b-c_1", "refold.reply.x", "_INBOX.\u007e!$"])
def test_an_outcome_may_be_sent_to_an_inbox(subject):
    assert reply_subject(lines(("X", "y"), ("Refold-Reply", subject))) == subject


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "_INBOX",
        "_INBOX.",
        "_INBOX..a",
        "_INBOX.*",
        "_INBOX.a.>",
        "_INBOX.a b",
        "_inbox.a",
        "x._INBOX.a",
        "_INBOXES.a",
        "refold.reply",
        "refold.replies.x",
        "refoldXreply.a",
        "state.n.d",
        "$JS.API.STREAM.DELETE.STATE",
        "_INBOX.é",
        "_INBOX." + "x" * REPLY_CHARS_MAX,
    ],
)
def test_an_outcome_is_sent_to_no_other_subject(subject):
    assert reply_subject(lines(("Refold-Reply", subject))) is None


def test_the_reply_header_is_case_insensitive_and_must_not_repeat():
    assert reply_subject(b"rEFOLD-rEPLY:_INBOX.a\r\n") == "_INBOX.a"
    assert reply_subject(lines(("Refold-Reply", "_INBOX.a"), ("refold-reply", "_INBOX.a"))) is None
    assert reply_subject(b"") is None
    assert reply_subject(lines(("X-Refold-Reply", "_INBOX.a"))) is None


def test_the_author_of_refused_headers_receives_an_outcome():
    assert (
        reply_subject(lines(("Refold-Nonsense", "\x00"), ("Refold-Reply", "_INBOX.a"), ("no-end", "")))
        == "_INBOX.a"
    )
    assert reply_subject(b"no colon\r\nRefold-Reply: _INBOX.a\r\nce-id: 1\r\nce-id: 2\r\n") == "_INBOX.a"
