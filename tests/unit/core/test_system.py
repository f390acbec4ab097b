"""The system events of the namespace `_refold`."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from refold.core.document import ABSENT, Status
from refold.core.errors import FoldUnknown, LogDiffers
from refold.core.fold import NEWEST, RULES, genesis, read_genesis
from refold.core.json_text import TEXT_DEPTH_MAX
from refold.core.stream import NAME_CHARS_MAX
from support.events import History, record
from support.fold1 import LIMITS

LIMITS_OF_FOLD_1 = {name: each for name, each in asdict(LIMITS).items() if each is not None}


def changed(**members):
    """Return a genesis with other members; None leaves one out."""
    state = {**genesis("log-1", RULES[1])["put"], **members}
    return {"put": {name: value for name, value in state.items() if value is not None}}


def fold_document():
    return History("_refold", "fold", sequence=1)


NOT_A_GENESIS = [
    changed(log_id=None),
    changed(log_id=""),
    changed(log_id=7),
    changed(partitions=32),
    changed(partitions=64.0),
    changed(partitions=None),
    changed(fold=0),
    changed(fold=True),
    changed(limits=None),
    changed(limits={}),
    changed(limits={**LIMITS_OF_FOLD_1, "depth": 129}),
    changed(limits={**LIMITS_OF_FOLD_1, "depth": 128.0}),
    changed(limits={**LIMITS_OF_FOLD_1, "more": 1}),
    changed(more=1),
    {"put": {**genesis("log-1", RULES[1])["put"], "more": None}},
    {"put": None},
    {"put": []},
    {"merge": genesis("log-1", RULES[1])["put"]},
    {"patch": []},
    {"delete": True},
]


@pytest.mark.parametrize("number", RULES)
def test_a_genesis_names_the_log_its_partitions_its_fold_and_every_limit(number):
    limits = {name: each for name, each in asdict(RULES[number].limits).items() if each is not None}
    state = {"log_id": "log-1", "partitions": 64, "fold": number, "limits": limits}
    assert genesis("log-1", RULES[number])["put"] == state


def test_a_new_log_is_under_the_newest_fold():
    assert genesis("log-1") == genesis("log-1", RULES[max(RULES)])
    assert max(RULES) == NEWEST.number


def test_the_limits_of_fold_1_are_frozen():
    assert LIMITS_OF_FOLD_1 == {
        "depth": 128,
        "operations": 10_000,
        "state_bytes": 8 * 2**20,
        "copy_bytes": 16 * 2**20,
        "shifts": 256 * 2**20,
        "event_bytes": 2**20,
        "headers_bytes": 32 * 2**10,
        "text_depth": 160,
        "name_chars": 128,
        "id_chars": 128,
        "id_window_ids": 1_000,
        "id_window_events": 10_000,
        "occurred_ahead_nanoseconds": 300_000_000_000,
    }
    assert (LIMITS.name_chars, LIMITS.text_depth) == (NAME_CHARS_MAX, TEXT_DEPTH_MAX)


@pytest.mark.parametrize("rules", RULES.values(), ids=lambda rules: str(rules.number))
def test_a_genesis_at_sequence_1_is_applied_and_read_back(rules):
    event = genesis("log-1", rules)
    log = History("_refold", "log", rules=rules)
    assert log.publish(event).status is Status.applied
    first = record(event, ("Nats-Expected-Last-Sequence", "0"), namespace="_refold", document="log")
    assert read_genesis(first) == "log-1"


@pytest.mark.parametrize("event", NOT_A_GENESIS)
def test_an_invalid_genesis_is_refused_by_fold_and_log_check(event):
    log = History("_refold", "log")
    outcome = log.publish(event)
    assert (outcome.status, outcome.reason) == (Status.rejected, "bad_system_event")
    assert log.state is ABSENT
    with pytest.raises(LogDiffers):
        read_genesis(record(event, namespace="_refold", document="log"))


@pytest.mark.parametrize("number", [3, 2**31 - 1])
def test_a_genesis_of_an_unknown_number_is_an_error_that_names_it(number):
    with pytest.raises(FoldUnknown) as unknown:
        read_genesis(record(changed(fold=number), namespace="_refold", document="log"))
    assert unknown.value.facts == {"fold": number, "known": 2, "sequence": 1}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"put":1,"put":1}'])
def test_a_log_that_begins_with_garbage_differs(body):
    with pytest.raises(LogDiffers):
        read_genesis(record(body, namespace="_refold", document="log"))


@pytest.mark.parametrize(
    ("namespace", "document"), [("n", "d"), ("_refold", "fold"), ("n", "log"), ("_other", "log")]
)
def test_a_log_that_begins_with_another_subject_differs(namespace, document):
    with pytest.raises(LogDiffers):
        read_genesis(record(genesis("log-1"), namespace=namespace, document=document))


def test_a_genesis_is_valid_only_at_sequence_1():
    log = History("_refold", "log", rules=NEWEST)
    log.publish(genesis("log-1"))
    for event in (genesis("log-1"), genesis("log-2")):
        assert log.publish(event).reason == "bad_system_event"
    assert log.state["log_id"] == "log-1"
    with pytest.raises(LogDiffers):
        read_genesis(record(genesis("log-1"), sequence=2, namespace="_refold", document="log"))


@pytest.mark.parametrize("number", [3, 2**31 - 1])
def test_a_fold_document_advances_the_number(number):
    document = fold_document()
    assert document.publish({"put": {"fold": number}}).status is Status.applied


NO_NUMBERS = [1, 0, -1, 2.0, True, "2", None, 2**31, 2**64 - 1]


@pytest.mark.parametrize(
    "state",
    [*({"fold": number} for number in NO_NUMBERS), {}, {"fold": 2, "more": 1}, {"x": 2}, 2, None, [2]],
)
def test_an_invalid_or_lower_number_is_rejected(state):
    document = fold_document()
    assert document.publish({"put": state}).reason == "bad_system_event"
    assert document.state is ABSENT


@pytest.mark.parametrize(
    "event",
    [{"merge": {"fold": 2}}, {"patch": [{"op": "add", "path": "/fold", "value": 2}]}, {"delete": True}],
)
def test_a_system_document_accepts_only_puts(event):
    assert fold_document().publish(event).reason == "bad_system_event"


@pytest.mark.parametrize("name", ["settings", "Log", "x"])
def test_an_unknown_system_document_is_rejected(name):
    assert History("_refold", name).publish({"put": {"fold": 2}}).reason == "bad_system_event"


def test_a_system_event_may_carry_an_id_and_its_retry_is_a_duplicate():
    document = fold_document()
    document.publish({"put": {"fold": 2}, "id": "x"})
    assert document.publish({"put": {"fold": 2}, "id": "x"}).status is Status.duplicate
