"""Entity tags and the conditions made of them (RFC 9110, section 13): a document's tag is its version.

Used by the routes that read and write documents; pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from refold.gateway.problems import Problem

_TAG: Final = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
_VERSION: Final = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What must hold for a write: the document is at one of these versions, or (None) at any; or is absent."""

    versions: frozenset[int] | None = None
    must_be_absent: bool = False

    def holds(self, version: int, *, is_absent: bool) -> bool:
        """Judge a document's row."""
        if self.must_be_absent:
            return is_absent
        return not is_absent if self.versions is None else version in self.versions

    @property
    def may_hold_again(self) -> bool:
        """Tell whether it may hold after a write that it let through: then it does not tell a write from its retry."""
        return self.versions is None or len(self.versions) > 1

    def is_past(self, version: int) -> bool:
        """Tell whether it can never hold again, whatever the log still has."""
        return self.versions is not None and version > max(self.versions, default=-1)


def tag_of(version: int) -> str:
    """Return a version's entity tag."""
    return f'"{version}"'


def write_condition(if_match: str | None, if_none_match: str | None) -> Condition | None:
    """Read `If-Match` and `If-None-Match` of a write; None where there are none."""
    if if_match is None and if_none_match is None:
        return None
    if if_match is not None and if_none_match is not None:
        raise _malformed("If-Match and If-None-Match contradict each other")
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise _malformed("a write takes only `If-None-Match: *` (absent now)")
        return Condition(must_be_absent=True)
    assert if_match is not None
    if if_match.strip() == "*":
        return Condition()
    # A weak tag never matches here (RFC 9110, 13.1.1), nor does one that is no version.
    strong = [opaque for is_weak, opaque in _tags("If-Match", if_match) if not is_weak]
    return Condition(versions=frozenset(int(opaque) for opaque in strong if _VERSION.fullmatch(opaque)))


def is_unchanged(if_none_match: str, version: int) -> bool:
    """Tell whether a reader already has this version (compared weakly)."""
    if if_none_match.strip() == "*":
        return True
    return any(opaque == str(version) for _, opaque in _tags("If-None-Match", if_none_match))


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
