"""The fold: what one event does to one document."""

from __future__ import annotations

import pytest

from refold.core.document import ABSENT, Kind, Status
from refold.core.fold import EVENT_BYTES_MAX, ID_WINDOW_EVENTS, ID_WINDOW_IDS, OPERATIONS_MAX, STATE_BYTES_MAX
from refold.core.fold.v1 import DETAIL_CHARS_MAX
from refold.core.timestamp import format_time
from support.events import CLOUD_EVENT, JSON_PATCH, SECOND, START, History
from support.fold1 import LIMITS

NO_OP = {"patch": []}
BROKEN = {"patch": [{"op": "test", "path": "", "value": "never"}]}


@pytest.fixture
def history():
    return History()


def statuses(history):
    return [folded.outcome.status.name for folded in history.folded]


def versions(history):
    return [folded.outcome.version for folded in history.folded]


# Effective events


@pytest.mark.parametrize(
    ("event", "state", "kind"),
    [
        ({"put": None}, b"null", Kind.put),
        ({"put": {"b": 1, "a": 1.0}}, b'{"a":1.0,"b":1}', Kind.put),
        ({"patch": [{"op": "add", "path": "/a", "value": 1}]}, b'{"a":1}', Kind.patch),
        ({"patch": []}, b"{}", Kind.patch),
        ({"patch": [{"op": "test", "path": "", "value": {}}]}, b"{}", Kind.patch),
        ({"patch": [{"op": "add", "path": "", "value": 5}]}, b"5", Kind.patch),
        ({"merge": {"a": {"b": None, "c": 1}}}, b'{"a":{"c":1}}', Kind.merge),
        ({"merge": {"a": None}}, b"{}", Kind.merge),
        ({"merge": None}, b"null", Kind.merge),
    ],
)
def test_the_first_effective_event_applies_to_an_empty_object(history, event, state, kind):
    outcome = history.publish(event)
    assert (outcome.status, outcome.version, outcome.kind) == (Status.applied, 1, kind)
    assert outcome.is_creation
    assert history.state_bytes == state
    assert history.row.size == len(state)


def test_versions_count_effective_events_including_no_ops_and_deletes(history):
    for event in [{"put": 1}, {"put": 1}, {"delete": True}, {"put": 2}, {"merge": {}}, NO_OP]:
        history.publish(event)
    assert versions(history) == [1, 2, 3, 4, 5, 6]
    assert [folded.outcome.is_creation for folded in history.folded] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]


def test_a_delete_makes_the_document_absent_and_versions_continue(history):
    history.publish({"put": {"a": 1}})
    assert history.publish({"delete": True}).version == 2
    assert history.state is ABSENT
    assert history.row.size == 0
    assert history.publish({"patch": [{"op": "add", "path": "/b", "value": 1}]}).version == 3
    assert history.state_bytes == b'{"b":1}'


def test_deleting_an_absent_document_is_rejected(history):
    assert history.publish({"delete": True}).reason == "document_absent"
    history.publish({"put": None})
    history.publish({"delete": True})
    outcome = history.publish({"delete": True})
    assert (outcome.status, outcome.reason, outcome.version) == (Status.rejected, "document_absent", 2)


def test_null_is_a_state(history):
    history.publish({"put": None})
    outcome = history.publish({"delete": True})
    assert outcome.status is Status.applied


def test_a_patch_cannot_remove_the_root(history):
    history.publish({"put": 1})
    assert history.publish({"patch": [{"op": "remove", "path": ""}]}).reason == "remove_root"
    assert history.state_bytes == b"1"


def test_the_effect_of_a_merge_is_a_patch_and_other_operations_are_their_own_effect(history):
    history.publish({"put": {"b": 1, "c": 2}})
    merged = history.publish({"merge": {"c": None, "a": {"x": None}, "b": 1}})
    assert merged.effect == [{"op": "add", "path": "/a", "value": {}}, {"op": "remove", "path": "/c"}]
    history.publish(NO_OP)
    history.publish({"delete": True})
    assert [folded.outcome.effect for folded in history.folded if folded is not history.folded[1]] == [
        None
    ] * 3


def test_an_effective_event_updates_every_field_of_the_head(history):
    history.publish({"put": 1, "occurred_at": format_time(START - 5)}, at=START)
    row = history.row
    assert (row.version, row.version_sequence, row.last_sequence, row.events) == (1, 1, 1, 1)
    assert (row.recorded_at, row.last_recorded_at) == (START, START)
    assert (row.occurred_at, row.occurred_max) == (START - 5, START - 5)


def test_occurred_time_defaults_to_recorded_time(history):
    history.publish({"put": 1}, at=START)
    assert history.folded[0].occurred_at == history.row.occurred_at == START


def test_the_running_maximum_of_occurred_times_never_decreases(history):
    for ahead in (-100, 5, -50, 7):
        history.publish({"put": ahead, "occurred_at": format_time(START + ahead)}, at=START)
    assert (history.row.occurred_at, history.row.occurred_max) == (START + 7, START + 7)
    history.publish({"put": 1, "occurred_at": "1900-01-01T00:00:00Z"}, at=START)
    assert history.row.occurred_max == START + 7


def test_the_first_occurred_time_may_be_before_1970(history):
    history.publish({"put": 1, "occurred_at": "1900-01-01T00:00:00Z"})
    assert history.row.occurred_max == history.row.occurred_at < 0


# Rejected events


def test_a_rejected_event_does_not_advance_the_version(history):
    history.publish({"put": 1}, at=START)
    outcome = history.publish(BROKEN, at=START + 9)
    assert (outcome.status, outcome.version, outcome.is_creation) == (Status.rejected, 1, False)
    row = history.row
    assert (row.version, row.version_sequence, row.recorded_at, row.occurred_at) == (1, 1, START, START)


def test_a_rejected_event_is_counted_and_advances_the_last_sequence(history):
    history.publish({"put": 1}, at=START)
    history.publish(b"garbage", at=START + 9)
    row = history.row
    assert (row.events, row.last_sequence, row.last_recorded_at) == (2, 2, START + 9)


def test_a_patch_is_all_or_nothing(history):
    history.publish({"put": {"a": [1, {"b": 2}], "c": "x"}})
    before = history.state_bytes
    operations = [
        {"op": "add", "path": "/a/1/new", "value": 1},
        {"op": "move", "from": "/c", "path": "/a/0"},
        {"op": "replace", "path": "", "value": []},
        {"op": "add", "path": "/0", "value": {}},
        {"op": "test", "path": "/0", "value": []},
    ]
    assert history.publish({"patch": operations}).reason == "test_failed"
    assert history.state_bytes == before
    assert history.row.size == len(before)


def test_a_failed_merge_does_not_change_the_state(history):
    history.publish({"put": {"a": 1, "z": {}}})
    deep = b"[" * LIMITS.depth + b"]" * LIMITS.depth
    outcome = history.publish(b'{"merge":{"a":null,"b":2,"z":{"y":%s}}}' % deep)
    assert outcome.reason == "too_deep"
    assert history.state_bytes == b'{"a":1,"z":{}}'


def test_a_rejected_first_event_leaves_the_document_absent(history):
    assert history.publish(BROKEN).version == 0
    assert history.state is ABSENT


@pytest.mark.parametrize(
    ("event", "headers", "reason", "kind"),
    [
        (b"\x00\xff", (), "bad_json", Kind.unknown),
        ([], (), "bad_event", Kind.unknown),
        ({}, (), "bad_event", Kind.unknown),
        ({"put": 1, "x": 1}, (), "unknown_field", Kind.unknown),
        ({"put": 1, "session": "s"}, (), "not_in_this_fold", Kind.unknown),
        ({"put": 1, "actor": "a"}, (("Refold-Actor", "b"),), "contradictory", Kind.unknown),
        ({"put": 1}, (("Refold-Id", "x"), ("refold-id", "x")), "repeated_header", Kind.unknown),
        ({"put": 1}, (CLOUD_EVENT,), "bad_event", Kind.unknown),
        ({"put": 1}, (JSON_PATCH,), "bad_patch", Kind.unknown),
        ({"put": 1, "occurred_at": "x"}, (), "bad_time", Kind.unknown),
        ({"patch": [{"op": "remove", "path": "/a"}]}, (), "target_missing", Kind.patch),
        ({"put": 1, "base": 1}, (), "base_in_future", Kind.put),
        ({"delete": True}, (), "document_absent", Kind.delete),
        (b" " * (EVENT_BYTES_MAX + 1), (), "event_too_large", Kind.unknown),
        ({"put": 1}, (("X", "x" * 40_000),), "headers_too_large", Kind.unknown),
        ({"patch": [{"op": "inc", "path": "/a", "value": 1}]}, (), "not_in_this_fold", Kind.unknown),
        ({"patch": [NO_OP] * (OPERATIONS_MAX + 1)}, (), "too_many_operations", Kind.unknown),
    ],
)
def test_an_event_that_breaks_a_rule_is_an_outcome_with_the_reason_not_an_error(
    history, event, headers, reason, kind
):
    outcome = history.publish(event, *headers)
    assert (outcome.status, outcome.reason, outcome.kind) == (Status.rejected, reason, kind)
    assert outcome.detail
    assert history.folded[0].occurred_at == START + SECOND


@pytest.mark.parametrize(
    ("event", "header"),
    [
        ({"put": 1, "\u0000\u001b" * 400: 1}, ("X", "x")),
        ({"patch": [{"op": "\u0000" * 10_000, "path": ""}]}, ("X", "x")),
        ({"put": 1}, ("Refold-" + "\u0000\u001b" * 5_000, "x")),
        ({"merge": {"\u009b" * 1_000: [[]] * 9}, "base": 1}, ("X", "x")),
    ],
)
def test_a_detail_is_bounded_and_holds_no_control_character(history, event, header):
    outcome = history.publish(event, header)
    assert outcome.detail.isprintable()
    assert 0 < len(outcome.detail) <= DETAIL_CHARS_MAX == 500


def test_an_operation_that_makes_the_state_too_large_is_rejected(history):
    mebibyte = "x" * (EVENT_BYTES_MAX - 100)
    history.publish({"put": [mebibyte]})
    double = {"op": "copy", "from": "/0", "path": "/-"}
    assert history.publish({"patch": [double] * 7}).status is Status.applied
    before = history.row.size
    assert STATE_BYTES_MAX - EVENT_BYTES_MAX < before <= STATE_BYTES_MAX
    remove = {"op": "remove", "path": "/0"}
    assert history.publish({"patch": [double, remove]}).reason == "state_too_large"
    assert history.row.size == before
    assert history.publish({"patch": [remove, double]}).status is Status.applied


# base


def test_an_event_without_base_applies_at_the_head(history):
    history.publish({"put": {"a": 1}})
    assert history.publish({"merge": {"b": 2}}).status is Status.applied


@pytest.mark.parametrize(
    "on_conflict", [None, "reject", "merge", "last_write_wins", "first_write_wins", "custom:x"]
)
def test_a_base_at_the_head_is_no_conflict_under_any_strategy(history, on_conflict):
    said = {} if on_conflict is None else {"on_conflict": on_conflict}
    assert history.publish({"put": 1, "base": 0, **said}).version == 1
    history.publish(BROKEN)
    assert history.publish({"put": 2, "base": 1, **said}).version == 2


@pytest.mark.parametrize("on_conflict", [None, "reject"])
def test_a_stale_base_is_rejected_as_a_conflict(history, on_conflict):
    said = {} if on_conflict is None else {"on_conflict": on_conflict}
    history.publish({"put": 1})
    history.publish({"delete": True})
    for base in (0, 1):
        outcome = history.publish({"put": 2, "base": base, **said})
        assert (outcome.reason, outcome.version) == ("conflict", 2)
        assert f"version {base + 1}" in outcome.detail


@pytest.mark.parametrize("strategy", ["merge", "last_write_wins", "first_write_wins", "custom:x"])
def test_under_fold_1_other_strategies_are_unavailable_for_a_stale_base(history, strategy):
    history.publish({"put": 1})
    assert history.publish({"put": 2, "base": 0, "on_conflict": strategy}).reason == "strategy_unavailable"


@pytest.mark.parametrize("strategy", [None, "merge"])
def test_a_base_above_the_head_is_in_the_future_under_any_strategy(history, strategy):
    said = {} if strategy is None else {"on_conflict": strategy}
    history.publish({"put": 1})
    assert history.publish({"put": 2, "base": 2, **said}).reason == "base_in_future"


def test_rejected_events_and_duplicates_do_not_make_a_base_stale(history):
    history.publish({"put": 1, "id": "x"})
    history.publish({"put": 1, "id": "x"})
    history.publish(b"garbage")
    assert history.publish({"put": 2, "base": 1}).version == 2


# occurred_at


def test_an_event_may_have_occurred_up_to_five_minutes_after_its_recorded_time(history):
    assert LIMITS.occurred_ahead_nanoseconds == 5 * 60 * SECOND
    latest = START + LIMITS.occurred_ahead_nanoseconds
    assert history.publish({"put": 1, "occurred_at": format_time(latest)}, at=START).status is Status.applied
    outcome = history.publish({"put": 1, "occurred_at": format_time(latest + 1)}, at=START)
    assert outcome.reason == "occurred_in_future"


# id


def test_a_retry_is_a_duplicate_with_the_first_outcome_in_it(history):
    first = history.publish({"put": 1, "id": "x"}, at=START)
    history.publish({"put": 2})
    again = history.publish({"put": 1, "id": "x"})
    assert (again.status, again.version, again.is_creation) == (Status.duplicate, first.version, True)
    assert again.first is not None
    assert (again.first.sequence, again.first.version, again.first.recorded_at) == (1, 1, START)
    assert again.first.status is Status.applied
    assert (history.state_bytes, history.row.version) == (b"2", 2)


def test_a_retry_of_a_rejected_event_is_a_duplicate_of_its_rejection(history):
    history.publish({"delete": True, "id": "x"})
    history.publish({"put": 1})
    again = history.publish({"delete": True, "id": "x"})
    assert (again.status, again.version) == (Status.duplicate, 0)
    assert again.first is not None
    assert (again.first.status, again.first.reason) == (Status.rejected, "document_absent")


@pytest.mark.parametrize("field", ["unheard_of", "session"])
def test_a_rejected_event_that_can_be_decoded_enters_the_window(history, field):
    history.publish({"put": 1, "id": "x", field: 1})
    assert history.publish({"put": 1, "id": "x"}).reason == "id_reused"


def test_an_event_that_cannot_be_decoded_does_not_enter_the_window(history):
    history.publish({"put": 1, "id": "x"}, ("Refold-Id", "y"))
    assert history.publish({"put": 1, "id": "x"}).status is Status.applied
    assert history.publish({"put": 1, "id": "y"}).status is Status.applied


def test_other_content_under_the_same_id_is_rejected(history):
    history.publish({"put": 1, "id": "x"})
    outcome = history.publish({"put": 2, "id": "x"})
    assert (outcome.status, outcome.reason, outcome.version) == (Status.rejected, "id_reused", 1)
    assert "sequence 1" in outcome.detail
    assert history.state_bytes == b"1"


def test_another_form_of_the_same_event_is_its_duplicate(history):
    history.publish({"patch": NO_OP["patch"], "id": "x", "actor": "ada"})
    again = history.publish(
        [], JSON_PATCH, ("Refold-Id", "x"), ("Refold-Actor", "ada"), ("Refold-Reply", "_INBOX.a")
    )
    assert again.status is Status.duplicate


def test_a_delete_does_not_reset_the_window(history):
    history.publish({"put": 1, "id": "x"})
    history.publish({"delete": True, "id": "y"})
    assert history.publish({"put": 1, "id": "x"}).status is Status.duplicate
    assert history.publish({"put": 1, "id": "y"}).reason == "id_reused"
    assert history.state is ABSENT


def test_an_id_is_scoped_to_its_document():
    one, other = History(document="one"), History(document="other")
    one.publish({"put": 1, "id": "x"})
    assert other.publish({"put": 2, "id": "x"}).status is Status.applied


def test_an_id_is_found_among_the_last_1000_events_that_carried_one(history):
    history.publish({"put": 0, "id": "x"})
    for n in range(ID_WINDOW_IDS - 1):
        history.publish({"put": 0, "id": f"y{n}"})
    assert history.publish({"put": 0, "id": "x"}).status is Status.duplicate
    history.publish({"put": 0, "id": "last"})
    assert history.publish({"put": 0, "id": "x"}).status is Status.applied


def test_rejected_events_count_towards_the_1000(history):
    history.publish({"put": 0, "id": "x"})
    for n in range(ID_WINDOW_IDS):
        assert history.publish({**BROKEN, "id": f"y{n}"}).status is Status.rejected
    assert history.publish({"put": 0, "id": "x"}).status is Status.applied


def test_duplicates_and_reused_ids_do_not_count_towards_the_1000(history):
    history.publish({"put": 0, "id": "x"})
    history.publish({"put": 0, "id": "y"})
    for n in range(ID_WINDOW_IDS):
        history.publish({"put": n, "id": "y"})
    assert statuses(history)[2:4] == ["duplicate", "rejected"]
    assert history.publish({"put": 0, "id": "x"}).status is Status.duplicate
    assert [folded.identity is None for folded in history.folded[:4]] == [False, False, True, True]


def test_a_retry_does_not_renew_its_id_in_the_window(history):
    history.publish({"put": 0, "id": "x"})
    for n in range(ID_WINDOW_IDS):
        history.publish({"put": 0, "id": f"y{n}"})
        if n == ID_WINDOW_IDS - 2:
            assert history.publish({"put": 0, "id": "x"}).status is Status.duplicate
    assert history.publish({"put": 0, "id": "x"}).status is Status.applied


@pytest.mark.parametrize("filler", [NO_OP, b"garbage", {"put": 0, "id": "y"}])
def test_an_id_is_found_within_the_last_10000_events_of_any_outcome(history, filler):
    history.publish({"put": 0, "id": "x"})
    history.publish_many(ID_WINDOW_EVENTS - 1, filler)
    assert history.publish({"put": 0, "id": "x"}).status is Status.duplicate
    assert history.publish({"put": 0, "id": "x"}).status is Status.applied


def test_a_duplicate_does_not_renew_the_10000(history):
    history.publish({"put": 0, "id": "x"})
    history.publish_many(ID_WINDOW_EVENTS - 2, NO_OP)
    assert history.publish({"put": 0, "id": "x"}).status is Status.duplicate
    assert history.publish({"put": 0, "id": "x"}).status is Status.duplicate
    assert history.publish({"put": 0, "id": "x"}).status is Status.applied


def test_every_outcome_carries_the_id_of_its_event(history):
    for event in [{"put": 0}, {"put": 0}, {"put": 1}, {"nonsense": 1}]:
        history.publish({**event, "id": "x"})
    assert [folded.event_id for folded in history.folded] == ["x"] * 4
