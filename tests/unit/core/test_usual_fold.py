"""The usual event is folded in one pass, and any other by the general way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refold.core import json_text
from refold.core.document import Document, Status
from refold.core.fold import RULES
from refold.core.fold_state import HEADERS_CACHED_MAX, FoldState, first_checkpoints
from support.events import record

REPLY = ("Refold-Reply", "refold.reply.one")
BATCH = (("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "1"))
STRICT = ("Nats-Expected-Last-Subject-Sequence", "1")


class _GeneralWay(Exception):
    """The general way was taken."""


def _decode(*_):
    raise _GeneralWay


class Log:
    """Folds events of one document, which is at version 1 by then."""

    def __init__(self):
        self.state = FoldState(first_checkpoints("log-1"))
        self.document = None
        self.publish({"put": {"a": {"b": [1]}, "n": 1}})

    def publish(self, event, *headers):
        """Fold an event; raise where it is not folded in one pass."""
        published = record(event, *headers, sequence=self.state.read_sequence + 1)
        where = self.state.route(published.subject)
        self.document = self.document or Document.new(where)
        return self.state.fold(published, where, self.document)


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setitem(RULES, 1, replace(RULES[1], decode=_decode))
    return Log()


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"patch": [{"op": "replace", "path": "/n", "value": 2}]}, {"a": {"b": [1]}, "n": 2}),
        ({"patch": [{"op": "add", "path": "/a/b/-", "value": {}}]}, {"a": {"b": [1, {}]}, "n": 1}),
        ({"patch": [{"op": "remove", "path": "/a/b/0"}]}, {"a": {"b": []}, "n": 1}),
        (
            {"patch": [{"op": "test", "path": "/n", "value": 1}, {"op": "remove", "path": "/n"}]},
            {"a": {"b": [1]}},
        ),
        ({"merge": {"n": None, "a": {"c": 1}}}, {"a": {"b": [1], "c": 1}}),
        ({"put": [1]}, [1]),
    ],
)
@pytest.mark.parametrize(
    "about",
    [
        {},
        {"type": "t", "actor": "ada", "correlation_id": "c", "causation_id": "d"},
        {"id": "x"},
        {"id": "x", "base": 1, "on_conflict": "reject"},
        {"occurred_at": "2020-01-01T00:00:00Z", "meta": {"a": 1}},
    ],
)
@pytest.mark.parametrize("headers", [(), (REPLY,), BATCH, (REPLY, *BATCH), (REPLY, STRICT)])
def test_a_usual_event_is_folded_in_one_pass(log, change, state, about, headers):
    step = log.publish({**change, **about}, *headers)
    assert (step.entry.status, step.entry.version) == (Status.applied, 2)
    assert (step.event_id, step.fields) == (about.get("id"), {**change, **about})
    assert step.reply == ("refold.reply.one" if REPLY in headers else None)
    assert (log.document.state, log.document.size) == (state, json_text.size(state))


@pytest.mark.parametrize(
    ("event", "headers"),
    [
        ({"patch": [], "v": 1}, ()),
        ({"patch": [], "session": "s"}, ()),
        ({"patch": [], "put": 1}, ()),
        ({"patch": [], "base": 0}, ()),
        ({"patch": [], "base": True}, ()),
        ({"patch": [], "on_conflict": "merge"}, ()),
        ({"patch": [], "id": ""}, ()),
        ({"patch": [], "meta": []}, ()),
        ({"patch": [{"op": "remove", "path": "/x"}]}, ()),
        ({"put": "text"}, ()),
        ({"delete": True}, ()),
        ([], ()),
        ({"patch": []}, (("Refold-Type", "t"),)),
        ({"patch": []}, (("Content-Type", "application/json-patch+json"),)),
        ({"patch": []}, (REPLY, REPLY)),
    ],
)
def test_any_other_event_is_left_to_the_general_way(log, event, headers):
    with pytest.raises(_GeneralWay):
        log.publish(event, *headers)
    assert (log.document.version, log.document.events) == (1, 1)


def test_a_known_id_is_left_to_the_general_way(log):
    log.publish({"patch": [], "id": "x"})
    with pytest.raises(_GeneralWay):
        log.publish({"patch": [], "id": "x"})


def test_replies_are_told_apart_when_more_are_used_than_are_remembered(log):
    for number in (*range(HEADERS_CACHED_MAX + 1), 0, HEADERS_CACHED_MAX):
        step = log.publish({"patch": []}, ("Refold-Reply", f"_INBOX.{number}"))
        assert step.reply == f"_INBOX.{number}"
