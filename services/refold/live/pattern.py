"""Patterns of paths: JSON Pointers in which `*` matches any member or element, and which operations touch them.

Used by the queries of parts of documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple, Self

from refold.core.errors import Refused
from refold.core.json_text import Json
from refold.core.pointer import escape, parse, render

PATTERN_TOKENS_MAX: Final = 32
PATTERN_CHARS_MAX: Final = 1_024

WILD: Final = None
"""The token that matches any."""

_PATTERN: Final = re.compile(r"(/([^~/]|~[012])*)*")


class Touch(IntEnum):
    """What an operation does to what a pattern matches."""

    none = 0
    deeper = 1
    """It writes more levels below than count."""
    inside = 2
    """It changes what is matched from within."""
    whole = 3
    """It may write, move or remove what is matched."""


class Pattern(NamedTuple):
    """A pattern, and the levels below it that count, None for all."""

    tokens: tuple[str | None, ...]
    depth: int | None = None

    @classmethod
    def parse(cls, text: str, depth: int | None = None) -> Self:
        """Read a pattern, or raise `Refused`. In it, `~2` is a `*` that means itself."""
        if len(text) > PATTERN_CHARS_MAX or text.count("/") > PATTERN_TOKENS_MAX:
            rule = f"a pattern has at most {PATTERN_TOKENS_MAX} tokens and {PATTERN_CHARS_MAX} characters"
            raise Refused("bad_pattern", rule, field="path", shape=f"{len(text)} characters")
        if not _PATTERN.fullmatch(text):
            rule = 'a pattern is empty or begins with "/", and in it "~" is followed by 0, 1 or 2'
            raise Refused("bad_pattern", rule, field="path", shape=repr(text[:80]))
        return cls(tuple(map(_token, text.split("/")[1:])), depth)

    @property
    def is_wild(self) -> bool:
        """Tell whether it may match several paths."""
        return WILD in self.tokens

    def literal(self) -> tuple[str, ...]:
        """Return the tokens of a pattern without `*`."""
        return tuple(token for token in self.tokens if token is not WILD)

    def touch(self, operation: Json) -> Touch:
        """Tell what an operation does to what is matched."""
        name = operation["op"]
        if name == "test":
            return Touch.none
        if name == "str_ins" and not operation["pos"]:
            # A text may begin with its first characters.
            name = "replace"
        touched = self._touch(parse(operation["path"]), name)
        if name == "move" or (name == "copy" and touched):
            source = self._touch(parse(operation["from"]), name)
            if Touch.none in {source, touched} and source is not touched:
                # From somewhere else to within, or from within to somewhere else.
                return Touch.whole
            return max(source, touched)
        return touched

    def _touch(self, written: tuple[str, ...], name: str) -> Touch:
        tokens = self.tokens
        levels = len(written) - len(tokens)
        for place in range(min(len(tokens), len(written))):
            token = tokens[place]
            if token is not WILD and token != written[place]:
                is_last = place == len(written) - 1 and name in _SHIFTS
                return Touch.whole if is_last and _is_after(token, written[place]) else Touch.none
        if levels < 0 or (levels == 0 and name not in _IN_PLACE):
            return Touch.whole
        return Touch.inside if self.depth is None or levels <= self.depth else Touch.deeper

    def matches(self, state: Json) -> Iterator[tuple[str, Json]]:
        """Yield the pointers that match in a state, with their values."""
        return self._matches(state, 0, "")

    def _matches(self, node: Json, place: int, pointer: str) -> Iterator[tuple[str, Json]]:
        if place == len(self.tokens):
            yield pointer, node
            return
        token = self.tokens[place]
        if type(node) is dict:
            names = node if token is WILD else (token,) if token in node else ()
            for name in names:
                yield from self._matches(node[name], place + 1, f"{pointer}/{escape(name)}")
        elif type(node) is list:
            positions = range(len(node)) if token is WILD else _position(token, len(node))
            for position in positions:
                yield from self._matches(node[position], place + 1, f"{pointer}/{position}")

    def matched_by(self, operation: Json) -> str | None:
        """Return the one pointer whose value an operation that touches the pattern changes; None if it may be more."""
        name, written = operation["op"], parse(operation["path"])
        count = len(self.tokens)
        is_one = len(written) > count or name not in _SHIFTS or not _may_be_element(written)
        if name in _COPIES or len(written) < count or not is_one:
            return None
        return render(written[:count])


def _token(part: str) -> str | None:
    return WILD if part == "*" else part.replace("~1", "/").replace("~2", "*").replace("~0", "~")


def _position(token: str, count: int) -> range:
    """Return the place of an array that a token means, if there is one."""
    if len(token) < 16 and token.isascii() and token.isdigit() and (token[0] != "0" or len(token) == 1):
        return range(int(token), min(count, int(token) + 1))
    return range(0)


def _is_after(token: str, written: str) -> bool:
    """Tell whether an insertion or a removal gives an element another place, or another element its place."""
    if len(token) >= 16 or not (token.isascii() and token.isdigit()):
        return False
    return written == "-" or (len(written) < 16 and written.isdigit() and int(written) < int(token))


def _may_be_element(tokens: tuple[str, ...]) -> bool:
    return bool(tokens) and (tokens[-1] == "-" or tokens[-1].isdigit())


_SHIFTS: Final = frozenset({"add", "remove", "move", "copy"})
_COPIES: Final = frozenset({"move", "copy"})
_IN_PLACE: Final = frozenset({"inc", "str_ins", "str_del"})
