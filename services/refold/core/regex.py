"""Regular expressions that every language matches alike, in time that grows with the text's length only.

The dialect is the regular part of ECMA-262 with the flag `u`: what is accepted here means in JavaScript what it means
here. Left out is what needs backtracking (references, assertions that look around, `\\b`), what changes with Unicode's
version (`\\p`), and escapes that stand for nothing special. An expression is searched for: `^` and `$` are the
beginning and the end of the text, never of a line.

A text is matched by a deterministic automaton that is made as it is needed, of states that are sets of places in the
expression, in the bits of an integer.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from refold.core.errors import Refused
from refold.core.regex_parser import (
    Alternation,
    Assertion,
    Characters,
    Node,
    Repetition,
    Sequence,
    parse_regex,
)

PLACES_MAX: Final = 500
"""Places in one expression, those of a repetition as often as it is made: they bound the work for a character."""

TRANSITIONS_CACHED_MAX: Final = 20_000
"""Transitions of one expression that are remembered; then all are forgotten."""


class _State:
    """A set of places, and the states after it by character."""

    __slots__ = ("is_match", "places", "transitions")

    def __init__(self, places: int) -> None:
        self.places = places
        self.is_match = bool(places & _MATCHED)
        self.transitions: dict[str, _State] = {}


class _Edge:
    """A place at which a character is consumed, and the place after it."""

    __slots__ = ("characters", "target")

    def __init__(self, characters: Characters, target: int) -> None:
        self.characters = characters
        self.target = target


_Place: TypeAlias = _Edge | Assertion | tuple[int, ...] | None
"""A tuple names the places that are reached from it without a character."""


class Regex:
    """A compiled expression."""

    def __init__(self, pattern: str) -> None:
        """Raises `Refused` where the pattern is not of the dialect or is too large."""
        tree = parse_regex(pattern)
        if _count(tree) > PLACES_MAX:
            raise Refused("bad_regex", f"a regular expression has at most {PLACES_MAX} places")
        self._places: list[_Place] = [None, None]
        entry = self._add(tree, _MATCH)
        self._start = self._reached(entry, is_start=True)
        self._restart = self._reached(entry)
        self._accepting: dict[Characters, int] = {}
        self._following = [0] * len(self._places)
        # Places from which only the one before them in the list is reached: in a sequence, nearly all.
        self._sequential = 0
        for number, place in enumerate(self._places):
            if isinstance(place, _Edge):
                self._accepting[place.characters] = self._accepting.get(place.characters, 0) | 1 << number
                self._following[number] = self._reached(place.target)
                if self._following[number] == 1 << number - 1:
                    self._sequential |= 1 << number
        self._forget()

    def search(self, text: str) -> bool:
        """Tell whether the expression matches anywhere in a text."""
        state = self._first
        if state.is_match:
            return True
        for character in text:
            following = state.transitions.get(character)
            state = self._follow(state, character) if following is None else following
            if state.is_match:
                return True
        return bool(state.places & _MATCHED_AT_END)

    def _add(self, node: Node, then: int) -> int:
        """Add places for a node, each before the place `then`; return the first."""
        match node:
            case Sequence(parts):
                for part in reversed(parts):
                    then = self._add(part, then)
                return then
            case Alternation(parts):
                return self._place(tuple(self._add(part, then) for part in parts))
            case Repetition(part, least, most):
                return self._add_repetition(part, least, most, then)
            case Characters():
                return self._place(_Edge(node, then))
            case Assertion():
                return self._place(node._replace(target=then))

    def _add_repetition(self, part: Node, least: int, most: int | None, then: int) -> int:
        end = then
        if most is None:
            then = self._place(())
            self._places[then] = (self._add(part, then), end)
        for _ in range((most or least) - least):
            then = self._place((self._add(part, then), end))
        for _ in range(least):
            then = self._add(part, then)
        return then

    def _place(self, place: _Place) -> int:
        self._places.append(place)
        return len(self._places) - 1

    def _reached(self, entry: int, *, is_start: bool = False) -> int:
        """Return the places that are reached without a character, and whether the expression has then matched."""
        reached = self._without_character(entry, is_start=is_start, is_end=False)
        at_end = self._without_character(entry, is_start=is_start, is_end=True)
        edges = sum(1 << number for number in reached if isinstance(self._places[number], _Edge))
        return edges | (_MATCH in reached) * _MATCHED | (_MATCH in at_end) * _MATCHED_AT_END

    def _without_character(self, entry: int, *, is_start: bool, is_end: bool) -> set[int]:
        reached: set[int] = set()
        waiting = [entry]
        while waiting:
            number = waiting.pop()
            if number in reached:
                continue
            reached.add(number)
            place = self._places[number]
            if isinstance(place, Assertion):
                if is_end if place.is_end else is_start:
                    waiting.append(place.target)
            elif isinstance(place, tuple):
                waiting += place
        return reached

    def _forget(self) -> None:
        self._transitions = 0
        self._states: dict[int, _State] = {}
        self._first = _State(self._start)

    def _follow(self, state: _State, character: str) -> _State:
        """Return the state after a character, and remember it."""
        if self._transitions >= TRANSITIONS_CACHED_MAX:
            self._forget()
        code_point = ord(character)
        accepting = sum(mask for characters, mask in self._accepting.items() if code_point in characters)
        accepting &= state.places
        places = self._restart | (accepting & self._sequential) >> 1
        accepting &= ~self._sequential
        while accepting:
            lowest = accepting & -accepting
            places |= self._following[lowest.bit_length() - 1]
            accepting ^= lowest
        found = self._states.get(places)
        if found is None:
            found = self._states[places] = _State(places)
        self._transitions += 1
        state.transitions[character] = found
        return found


def _count(node: Node) -> int:
    """Count the places that a node takes at most."""
    match node:
        case Sequence(parts):
            return max(1, sum(map(_count, parts)))
        case Alternation(parts):
            return 1 + sum(map(_count, parts))
        case Repetition(part, least, most):
            return (1 + _count(part)) * max(1, least + 1 if most is None else most)
        case _:
            return 1


_MATCH: Final = 0
"""The place after the whole expression."""

_MATCHED: Final = 1
_MATCHED_AT_END: Final = 2
"""Bits beside those of the places: the expression has matched, or has if the text ends here."""
