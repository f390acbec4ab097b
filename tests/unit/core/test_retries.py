"""A retry has the same id and content in any form; anything else under the id is reuse."""

from __future__ import annotations

import itertools

import pytest

from refold.core import json_text
from refold.core.document import Status
from support.events import CLOUD_EVENT, JSON_PATCH, History

TIME = "2020-01-02T03:04:05Z"
OPERATIONS = [{"op": "add", "path": "/é", "value": {"b": 1, "a": [1.5, None]}}]
ABOUT = {"type": "order.paid", "occurred_at": TIME}
NATIVE = {"patch": OPERATIONS, **ABOUT}
ID = "shop/1|e-1"
HEADERS = (("Refold-Type", "order.paid"), ("Refold-Occurred-At", TIME))
CLOUD = {"specversion": "1.0", "id": "e-1", "source": "shop/1", "type": "order.paid", "time": TIME}
BINARY = tuple((f"ce-{name}", value) for name, value in CLOUD.items())
TRANSPORT = (
    ("Refold-Reply", "_INBOX.me.7"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("Nats-Msg-Id", "n/d/e-1"),
    ("X-Attempt", "2"),
)
SPACED = (
    b'{ "type" : "order.paid", "id":"shop\\/1|e-1", "occurred_at":"2020-01-02T03:04:05Z",\n'
    b' "patch": [ {"path":"/\\u00e9","value":{"a":[15e-1,null],"b":1},"op":"add"} ] }'
)

FORMS = {
    "id in the body": [{**NATIVE, "id": ID}],
    "other spelling of the same JSON": [SPACED],
    "id in a header": [NATIVE, ("Refold-Id", ID)],
    "id in both": [{**NATIVE, "id": ID}, ("refold-id", ID)],
    "all in headers": [{"patch": OPERATIONS}, ("REFOLD-ID", ID), *HEADERS],
    "envelope version said": [{**NATIVE, "id": ID, "v": 1}],
    "envelope version in a header": [{**NATIVE, "id": ID}, ("Refold-V", "1")],
    "transport headers": [{**NATIVE, "id": ID}, *TRANSPORT],
    "bare patch": [OPERATIONS, JSON_PATCH, ("Refold-Id", ID), *HEADERS],
    "bare patch, parameter": [
        OPERATIONS,
        ("content-type", "Application/JSON-Patch+json; charset=utf-8"),
        ("Refold-Id", ID),
        *HEADERS,
    ],
    "structured CloudEvent": [{**CLOUD, "data": {"patch": OPERATIONS}}, CLOUD_EVENT],
    "structured CloudEvent of a patch": [
        {**CLOUD, "datacontenttype": "application/json-patch+json", "data": OPERATIONS},
        CLOUD_EVENT,
        *TRANSPORT,
    ],
    "structured CloudEvent, extensions": [
        {**CLOUD, "subject": "x", "traceparent": "00-1", "data": {**NATIVE, "id": ID}},
        CLOUD_EVENT,
    ],
    "binary CloudEvent": [{"patch": OPERATIONS}, *BINARY],
    "binary CloudEvent of a patch": [OPERATIONS, JSON_PATCH, *BINARY, ("ce-traceparent", "00-2"), *TRANSPORT],
}

OTHERS = {
    "other change": {**NATIVE, "patch": [{**OPERATIONS[0], "value": 2}]},
    "other kind": {**ABOUT, "put": {}},
    "other type": {**NATIVE, "type": "order.sent"},
    "other time": {**NATIVE, "occurred_at": "2020-01-02T03:04:06Z"},
    "no type": {"patch": OPERATIONS, "occurred_at": TIME},
    "an actor": {**NATIVE, "actor": "ada"},
    "a meta": {**NATIVE, "meta": {}},
    "a base": {**NATIVE, "base": 0},
    "a strategy": {**NATIVE, "on_conflict": "reject"},
    "an integer for a float": {
        **NATIVE,
        "patch": [{**OPERATIONS[0], "value": {"b": 1.0, "a": [1.5, None]}}],
    },
    "an unknown field": {**NATIVE, "colour": "red"},
    "a session": {**NATIVE, "session": "s"},
}


@pytest.mark.parametrize("first", FORMS, ids=FORMS)
def test_a_retry_in_any_form_of_an_event_in_any_form_is_its_duplicate(first):
    history = History()
    applied = history.publish(*FORMS[first])
    assert (applied.status, applied.version) == (Status.applied, 1), applied
    history.publish({"put": "moved on"})
    for form, again in FORMS.items():
        outcome = history.publish(*again)
        assert (outcome.status, outcome.version, outcome.is_creation) == (Status.duplicate, 1, True), form
        assert (outcome.first.sequence, outcome.first.status) == (1, Status.applied)
    assert (history.state_bytes, history.row.version) == (b'"moved on"', 2)
    assert [folded.event_id for folded in history.folded] == [ID, None, *[ID] * len(FORMS)]
    assert [folded.identity is None for folded in history.folded] == [False, *[True] * (len(FORMS) + 1)]


@pytest.mark.parametrize("name", FORMS, ids=FORMS)
def test_other_content_under_a_used_id_is_refused_in_any_form(name):
    history = History()
    history.publish(*FORMS[name])
    state = history.state_bytes
    for other in OTHERS.values():
        outcome = history.publish({**other, "id": ID})
        assert (outcome.status, outcome.reason, outcome.version) == (Status.rejected, "id_reused", 1), other
    assert history.publish(*FORMS[name]).status is Status.duplicate
    assert history.state_bytes == state


@pytest.mark.parametrize("name", OTHERS, ids=OTHERS)
def test_a_retry_receives_the_first_outcome_of_any_kind(name):
    history = History()
    history.publish({"put": {}})
    first = history.publish({**OTHERS[name], "id": ID})
    history.publish({"delete": True})
    again = history.publish(json_text.dumps({**OTHERS[name], "id": ID}), *TRANSPORT)
    assert (again.status, again.version) == (Status.duplicate, first.version)
    assert (again.first.status, again.first.reason) == (first.status, first.reason)
    assert history.publish({**NATIVE, "id": ID}).reason == "id_reused"


def test_an_id_is_scoped_to_its_source_and_document():
    history, other = History(), History(document="other")
    for source, event_id in itertools.product(("a", "b"), ("1", "2")):
        event = {**CLOUD, "source": source, "id": event_id, "data": {"patch": OPERATIONS}}
        assert history.publish(event, CLOUD_EVENT).status is Status.applied
        assert other.publish(event, CLOUD_EVENT).status is Status.applied


def test_an_event_that_cannot_be_decoded_does_not_use_its_id():
    history = History()
    unopened = [
        [b'{"put":1,"id":"x","id":"x"}'],
        [{"put": 1, "id": "x"}, ("Refold-Id", "y")],
        [{"put": 1, "id": "x"}, ("Refold-Actor", "a"), ("refold-actor", "a")],
        [{"put": 1, "id": "x"}, ("Refold-Colour", "red")],
        [{"put": 1, "id": "x" * 129}],
        [{"put": 1, "id": ""}],
        [{"put": 1, "id": 7}],
    ]
    for first in [*unopened, [{"put": 1, "id": "x"}], *unopened]:
        outcome = history.publish(*first)
        is_good = len(history.folded) == len(unopened) + 1
        assert outcome.status is (Status.applied if is_good else Status.rejected), first
        assert outcome.reason != "id_reused"
    assert history.publish({"put": 1, "id": "x"}).status is Status.duplicate
