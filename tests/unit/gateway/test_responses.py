"""Every error is a problem document with a stable code; the status follows from what kind of error it is."""

from __future__ import annotations

import orjson
import pytest

from refold.core import errors
from refold.core.errors import RefoldError, Refused
from refold.gateway.responses import PROBLEM, Problem, problem_of


def test_a_problem_has_the_members_of_rfc_9457_and_its_facts() -> None:
    response = Problem(412, "precondition_failed", "at version 3", version=3).response()
    assert (b"content-type", PROBLEM.encode()) in response.raw_headers
    assert response.status == 412
    assert orjson.loads(bytes(response.body)) == {
        "type": "urn:refold:problem:precondition_failed",
        "title": "Precondition failed",
        "status": 412,
        "detail": "at version 3",
        "code": "precondition_failed",
        "version": 3,
    }


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.DocumentAbsent(), 404, "document_absent"),
        (errors.VersionUnknown(version=9), 404, "version_unknown"),
        (errors.TimedOut(), 504, "timed_out"),
        (errors.LogFull(), 503, "log_full"),
        (errors.LogUnavailable(), 503, "log_unavailable"),
        (errors.LogHole(), 503, "log_hole"),
        (errors.StoreFull(), 503, "store_full"),
        (errors.StoreUnavailable(), 503, "store_unavailable"),
        (errors.HistoryElsewhere(), 501, "history_not_kept"),
        (errors.HistorySlow(), 503, "history_slow"),
        (errors.PortTaken(), 500, "port_taken"),
        (Refused("bad_json", "no"), 400, "bad_json"),
        (Refused("repeated_header", "no"), 400, "repeated_header"),
        (Refused("event_too_large", "no"), 413, "event_too_large"),
        (Refused("unsupported_media_type", "no"), 415, "unsupported_media_type"),
        (Refused("bad_name", "no"), 422, "bad_name"),
        (Refused("unknown_field", "no"), 422, "unknown_field"),
    ],
)
def test_an_error_has_its_status_and_keeps_its_code(error: RefoldError, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert problem.detail


def test_a_transient_error_may_be_retried() -> None:
    assert problem_of(errors.LogFull()).headers == {"Retry-After": "1"}
    assert problem_of(errors.DocumentAbsent()).headers is None
    assert problem_of(errors.HistorySlow()).headers is None


def test_a_validation_error_names_field_rule_and_shape() -> None:
    view = problem_of(Refused("bad_field", "must be a string", field="actor", shape="integer")).view()
    assert view["detail"] == "actor: must be a string (got integer)"
    assert (view["field"], view["shape"]) == ("actor", "integer")


def test_a_problem_contains_the_facts_of_its_error() -> None:
    view = problem_of(errors.VersionUnknown(version=9, head=3)).view()
    assert (view["version"], view["head"]) == (9, 3)
