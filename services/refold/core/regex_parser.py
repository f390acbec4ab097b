"""The syntax of regular expressions, read into a tree. Used by `refold.core.regex` only."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import pairwise
from typing import Final, NamedTuple, NoReturn, TypeAlias

from refold.core.errors import Refused

PATTERN_CHARS_MAX: Final = 1_000
GROUPS_MAX: Final = 50
"""Groups within each other."""

Ranges: TypeAlias = list[tuple[int, int]]
"""First and last code points."""


class Characters:
    """A set of code points."""

    __slots__ = ("_bounds",)

    def __init__(self, ranges: Ranges, *, is_negated: bool = False) -> None:
        bounds: list[int] = []
        for first, last in sorted(ranges):
            if bounds and first <= bounds[-1]:
                bounds[-1] = max(bounds[-1], last + 1)
            else:
                bounds += first, last + 1
        # Code points before an odd number of bounds are in the set.
        self._bounds = [0, *bounds] if is_negated else bounds

    def __contains__(self, code_point: int) -> bool:
        return bool(bisect_right(self._bounds, code_point) % 2)


class Sequence(NamedTuple):
    """Parts one after another."""

    parts: list[Node]


class Alternation(NamedTuple):
    """One of several parts."""

    parts: list[Node]


class Repetition(NamedTuple):
    """A part several times; a `most` of None is any number."""

    part: Node
    least: int
    most: int | None


class Assertion(NamedTuple):
    """The beginning of the text, or its end; `target` is the place after it in a compiled expression."""

    is_end: bool
    target: int = 0


Node: TypeAlias = Sequence | Alternation | Repetition | Assertion | Characters


def parse_regex(pattern: str) -> Node:
    """Read a pattern, or raise `Refused`, naming the position."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise Refused("bad_regex", f"a regular expression has at most {PATTERN_CHARS_MAX} characters")
    parser = _Parser(pattern)
    tree = parser.alternation(0)
    if parser.rest:
        parser.refuse("an opening parenthesis is missing")
    return tree


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0

    @property
    def rest(self) -> str:
        """The character at the position, and those after it that one construct may take."""
        return self._pattern[self._position : self._position + 10]

    def refuse(self, rule: str) -> NoReturn:
        """Refuse the pattern at the position."""
        raise Refused("bad_regex", f"at character {self._position}: {rule}")

    def alternation(self, depth: int) -> Node:
        """Read up to a closing parenthesis or the end."""
        if depth > GROUPS_MAX:
            self.refuse(f"more than {GROUPS_MAX} groups within each other")
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else Alternation(parts)

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._repeated(self._atom(depth)))
        return Sequence(parts)

    def _atom(self, depth: int) -> Node:
        character = self._next()
        if character == "(":
            return self._group(depth)
        if character in "^$":
            return Assertion(is_end=character == "$")
        if character == "[":
            return self._class()
        if character == "\\":
            return Characters(self._escape(_ESCAPED))
        if character == ".":
            return Characters(_LINE_ENDS, is_negated=True)
        if character in _SYNTAX:
            self._position -= 1
            self.refuse(f"{character} stands for itself only behind a backslash")
        return Characters([(ord(character), ord(character))])

    def _group(self, depth: int) -> Node:
        if self._take("?") and not self._take(":"):
            self.refuse("a group begins with ( or (?:")
        node = self.alternation(depth + 1)
        if not self._take(")"):
            self.refuse("a closing parenthesis is missing")
        return node

    def _repeated(self, part: Node) -> Node:
        found = _QUANTIFIER.match(self._pattern, self._position)
        if found is None:
            return part
        if isinstance(part, Assertion):
            self.refuse("^ and $ are not repeated")
        kind, least, comma, most = found.groups()
        bounds: tuple[int, int | None] = _BOUNDS.get(kind) or (int(least), int(most or least))
        if comma and not most:
            bounds = bounds[0], None
        if bounds[1] is not None and bounds[1] < bounds[0]:
            self.refuse("the numbers of a repetition are out of order")
        self._position = found.end()
        return Repetition(part, *bounds)

    def _class(self) -> Node:
        is_negated = self._take("^")
        ranges: Ranges = []
        while not self._take("]"):
            found = self._class_atom()
            if self.rest[:1] == "-" and self.rest[:2] != "-]":
                self._position += 1
                found = self._range(found, self._class_atom())
            ranges += found
        return Characters(ranges, is_negated=is_negated)

    def _range(self, start: Ranges, end: Ranges) -> Ranges:
        (first, last), (first_of_end, last_of_end) = start[0], end[0]
        if len(start) + len(end) > 2 or first != last or first_of_end != last_of_end or last > first_of_end:
            self.refuse("a range is from one character to a later one")
        return [(first, last_of_end)]

    def _class_atom(self) -> Ranges:
        character = self._next()
        if character == "\\":
            return self._escape(_ESCAPED_IN_CLASS)
        return [(ord(character), ord(character))]

    def _escape(self, escaped: str) -> Ranges:
        if self.rest[:1] and self.rest[0] in _CLASSES:
            return _CLASSES[self._next()]
        if self.rest[:1] and self.rest[0] in escaped:
            character = ord(self._next())
            return [(character, character)]
        found = _CODE_POINT.match(self._pattern, self._position)
        code_point = int(found[1] or found[2] or found[3], 16) if found else -1
        if found is None or code_point > _LAST or 0xD800 <= code_point < 0xE000:
            self.refuse("there is no such escape")
        self._position = found.end()
        return [(code_point, code_point)]

    def _next(self) -> str:
        if not self.rest:
            self.refuse("the expression is not complete")
        self._position += 1
        return self._pattern[self._position - 1]

    def _take(self, character: str) -> bool:
        if self.rest[:1] != character:
            return False
        self._position += 1
        return True


def _complement(ranges: Ranges) -> Ranges:
    ends = [(-1, -1), *ranges, (_LAST + 1, _LAST + 1)]
    return [(end + 1, start - 1) for (_, end), (start, _) in pairwise(ends) if end + 1 < start]


_LAST: Final = 0x10FFFF
_SYNTAX: Final = "^$\\.*+?()[]{}|"
_ESCAPED: Final = f"{_SYNTAX}/"
_ESCAPED_IN_CLASS: Final = f"{_SYNTAX}/-"
_QUANTIFIER: Final = re.compile(r"([*+?]|\{(\d{1,4})(?:(,)(\d{1,4})?)?\})\??", re.ASCII)
_BOUNDS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_CODE_POINT: Final = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_LINE_ENDS: Final = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_DIGITS: Final = [(0x30, 0x39)]
_WORD: Final = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Final = [
    *[(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)],
    *[(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)],
]
_CLASSES: Final[dict[str, Ranges]] = {
    "d": _DIGITS,
    "D": _complement(_DIGITS),
    "w": _WORD,
    "W": _complement(_WORD),
    "s": _SPACE,
    "S": _complement(_SPACE),
    **{name: [(code, code)] for name, code in zip("tnvfr", range(0x09, 0x0E), strict=True)},
}
"""White space as ECMA-262 lists it; digits and words are ASCII's."""
