"""Read and check the conditions of a request (RFC 9110, section 13): a document's entity tag is its version.

Used by the routes of documents.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from starlette.requests import Request

from refold.gateway.consistency import BareHead
from refold.gateway.requests import has_repeated, header
from refold.gateway.responses import Problem

_TAG: Final = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
_ONE_TAG: Final = re.compile(r'[ \t]*(?:W/)?"([1-9]\d{0,17})"[ \t]*', re.ASCII)
_TAG_VERSION: Final = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)


class Condition(NamedTuple):
    """What must hold for a write: the document is at one of these versions, is absent, or is present; else nothing."""

    versions: frozenset[int] | None = None
    must_be_absent: bool = False
    must_be_present: bool = False

    def holds(self, head: BareHead) -> bool:
        """Return whether it holds at a document's head."""
        if self.versions is not None:
            return head.version in self.versions
        return not (self.must_be_present if head.is_absent else self.must_be_absent)

    @property
    def may_hold_again(self) -> bool:
        """Return whether it may hold after a write that it allowed; then it does not tell a write from its retry."""
        return self.versions is None or len(self.versions) > 1

    def is_past(self, head: BareHead) -> bool:
        """Return whether it can never hold again, whatever else the log has."""
        return self.versions is not None and head.version > max(self.versions, default=-1)


ANYTHING: Final = Condition()


def write_condition(request: Request) -> Condition:
    """Read `If-Match` and `If-None-Match` of a write."""
    if_match, if_none_match = _joined(request, b"if-match"), _joined(request, b"if-none-match")
    if if_match is not None and if_none_match is not None:
        raise _malformed("If-Match and If-None-Match contradict each other")
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise _malformed("a write takes only `If-None-Match: *` (absent now)")
        return Condition(must_be_absent=True)
    if if_match is None:
        return ANYTHING
    if if_match.strip() == "*":
        return Condition(must_be_present=True)
    # A weak tag never matches here (RFC 9110, 13.1.1), nor does one that is no version.
    strong = [opaque for is_weak, opaque in _tags("If-Match", if_match) if not is_weak]
    return Condition(versions=frozenset(int(opaque) for opaque in strong if _TAG_VERSION.fullmatch(opaque)))


def known_version(request: Request) -> int | None:
    """Return the version that a reader has, if its `If-None-Match` names exactly one."""
    known = _joined(request, b"if-none-match")
    found = None if known is None else _ONE_TAG.fullmatch(known)
    return None if found is None else int(found[1])


def is_unchanged(request: Request, version: int) -> bool:
    """Return whether a reader already has this version (compared weakly)."""
    known = _joined(request, b"if-none-match")
    if known is None:
        return False
    return known.strip() == "*" or any(opaque == str(version) for _, opaque in _tags("If-None-Match", known))


def _joined(request: Request, name: bytes) -> str | None:
    first = header(request, name)
    if first is None or not has_repeated(request):
        return first
    return b", ".join([value for given, value in request.scope["headers"] if given == name]).decode("latin-1")


def _tags(name: str, header: str) -> list[tuple[bool, str]]:
    tags: list[tuple[bool, str]] = []
    at = 0
    while at < len(header) or not tags:
        found = _TAG.match(header, at)
        if found is None:
            raise _malformed(f'{name} is a list of entity tags such as "3", or *')
        tags.append((found[1] is not None, found[2]))
        at = found.end()
    return tags


def _malformed(rule: str) -> Problem:
    return Problem(400, "bad_precondition", rule)
