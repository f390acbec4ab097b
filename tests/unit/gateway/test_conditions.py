"""Entity tags and conditions by RFC 9110, as restricted by the contract."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from refold.gateway import conditions
from refold.gateway.conditions import ANYTHING, Condition
from refold.gateway.consistency import BareHead
from refold.gateway.responses import Problem, tag_of


def request(**headers: str | None) -> Request:
    """Make a request with the headers that are given: `if_match` is `If-Match`."""
    raw = [
        (name.replace("_", "-").encode(), value.encode())
        for name, value in headers.items()
        if value is not None
    ]
    return Request({"type": "http", "headers": raw})


def is_unchanged(if_none_match: str, version: int) -> bool:
    return conditions.is_unchanged(request(if_none_match=if_none_match), version)


def write_condition(if_match: str | None, if_none_match: str | None) -> Condition:
    return conditions.write_condition(request(if_match=if_match, if_none_match=if_none_match))


def head(version: int, *, is_absent: bool = False) -> BareHead:
    return BareHead(version, 1, is_absent=is_absent)


def test_a_tag_is_the_quoted_version() -> None:
    assert tag_of(12) == '"12"'


@pytest.mark.parametrize("header", ['"3"', 'W/"3"', '"1", "3"', '"1" ,W/"3"', ' "3"', "*", '"x,3","3"'])
def test_a_reader_that_has_the_version_is_answered_304(header: str) -> None:
    assert is_unchanged(header, 3)


@pytest.mark.parametrize("header", ['"4"', 'W/"33"', '"1", "2"', '"03"', '""'])
def test_a_reader_that_has_another_version_is_answered(header: str) -> None:
    assert not is_unchanged(header, 3)


@pytest.mark.parametrize("header", ["3", '"3', "W/3", 'w/"3"', "", '"3" "4"', '"a b"', "**"])
def test_a_malformed_tag_is_400(header: str) -> None:
    with pytest.raises(Problem) as raised:
        is_unchanged(header, 3)
    assert (raised.value.status, raised.value.code) == (400, "bad_precondition")
    with pytest.raises(Problem):
        write_condition(header, None)


def test_no_headers_make_no_condition() -> None:
    assert write_condition(None, None) is ANYTHING


def test_if_match_names_versions() -> None:
    condition = write_condition('"3", "5"', None)
    assert condition == Condition(versions=frozenset({3, 5}))
    assert condition.holds(head(5))
    assert not condition.holds(head(4))
    assert condition.is_past(head(6))
    assert not condition.is_past(head(4))


def test_if_match_0_means_never_existed() -> None:
    condition = write_condition('"0"', None)
    assert condition.holds(head(0, is_absent=True))
    assert not condition.holds(head(2, is_absent=True))


@pytest.mark.parametrize("header", ['W/"3"', '"abc"', '"03"'])
def test_a_weak_or_foreign_tag_never_matches_a_write(header: str) -> None:
    condition = write_condition(header, None)
    assert condition == Condition(versions=frozenset())
    assert condition.is_past(head(0))


def test_if_match_star_means_present() -> None:
    condition = write_condition("*", None)
    assert condition.holds(head(7))
    assert not condition.holds(head(7, is_absent=True))


def test_if_none_match_star_means_absent_now() -> None:
    condition = write_condition(None, "*")
    assert condition.holds(head(7, is_absent=True))
    assert not condition.holds(head(7))
    assert not condition.is_past(head(7)), "a delete may be on its way"


@pytest.mark.parametrize(("if_match", "if_none_match"), [(None, '"3"'), ('"3"', "*"), (None, "3")])
def test_other_conditions_on_a_write_are_400(if_match: str | None, if_none_match: str | None) -> None:
    with pytest.raises(Problem) as raised:
        write_condition(if_match, if_none_match)
    assert raised.value.status == 400
