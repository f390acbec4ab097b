"""Recorded logs of a fold number have the same outcomes, states and chains in every later program."""

from __future__ import annotations

import pytest

from refold.core.document import Status
from support.node import own_fold
from support.recorded import DATA, recorded_log, shortened

FOLD_1, FOLD_2 = (sorted((DATA / name).glob("*.jsonl")) for name in ("fold1", "fold2"))


def found_in(log):
    """Fold a recorded log, and return the result in the file's format."""
    found = own_fold(log.records, log.log_id)
    heads = {key: {**head, "state": shortened(head["state"])} for key, head in found["documents"].items()}
    return found["outcomes"], heads, found["chains"]


@pytest.mark.parametrize("path", [*FOLD_1, *FOLD_2], ids=lambda path: path.stem)
def test_a_recorded_log_has_its_recorded_result(path):
    log = recorded_log(path)
    outcomes, documents, chains = found_in(log)
    for record, found, expected in zip(log.records, outcomes, log.outcomes, strict=True):
        assert found == expected, record
    assert (documents, chains) == (log.documents, log.chains)


REASONS = [
    "bad_event",
    "bad_field",
    "bad_header",
    "bad_json",
    "bad_name",
    "bad_patch",
    "bad_pointer",
    "bad_system_event",
    "bad_time",
    "base_in_future",
    "conflict",
    "contradictory",
    "copy_too_large",
    "document_absent",
    "duplicate_key",
    "event_too_large",
    "headers_too_large",
    "id_reused",
    "lone_surrogate",
    "not_in_this_fold",
    "number_out_of_range",
    "occurred_in_future",
    "remove_root",
    "repeated_header",
    "reserved_namespace",
    "state_too_large",
    "strategy_unavailable",
    "target_missing",
    "test_failed",
    "too_deep",
    "too_many_operations",
    "too_many_shifts",
    "unknown_field",
]


def test_the_recorded_logs_of_fold_1_cover_every_outcome_and_reason():
    outcomes = [outcome for path in FOLD_1 for outcome in recorded_log(path).outcomes]
    assert {status for status, *_ in outcomes} == {it.name for it in Status} - {"merged"}
    assert sorted({reason for _, _, reason, *_ in outcomes if reason}) == REASONS


def test_a_recorded_log_crosses_from_fold_1_to_fold_2():
    outcomes = [outcome for path in FOLD_2 for outcome in recorded_log(path).outcomes]
    assert {status for status, *_ in outcomes} == {it.name for it in Status}
    reasons = {reason for _, _, reason, *_ in outcomes}
    only_of_fold_1, only_of_fold_2 = {"strategy_unavailable"}, {"needs_resolution", "schema", "target_gone"}
    assert reasons >= only_of_fold_1 | only_of_fold_2 | {"not_a_number", "not_a_string", "not_an_array"}
