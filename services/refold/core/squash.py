"""Merge the patches of several versions into one patch with the same effect. For subscribers that are behind.

What cannot be merged is concatenated, which is always correct.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from refold.core.json_text import Json
from refold.core.pointer import parse

_ANYWHERE: Final = ("\0",)
"""Where the moves and copies are noted, which may concern any path."""


def squash(operations: Iterable[Json]) -> list[Json]:
    """Return operations that have the effect of these, in order, on any state to which these apply.

    A `test` is left out. A later write of a path takes the place of an earlier one, and what was done at the path and
    below it in between is left out, unless the path may have meant something else meanwhile.
    """
    merging = _Merging()
    for operation in operations:
        if operation["op"] != "test":
            merging.take(operation)
    return [operation for operation in merging.kept if operation is not None]


class _Merging:
    """The operations so far. Times are counts of operations taken."""

    def __init__(self) -> None:
        self.kept: list[Json | None] = []
        self._now = 0
        # By path: the write that is kept, and when it was taken.
        self._writes: dict[tuple[str, ...], tuple[int, int]] = {}
        # By path: what was done at it or below it, and since when; a write of the path leaves nothing of it.
        self._inside: dict[tuple[str, ...], tuple[int, list[int]]] = {}
        # By path: when what is below it got other paths, or was written as a whole.
        self._changed: dict[tuple[str, ...], int] = {}

    def take(self, operation: Json) -> None:
        """Add an operation."""
        self._now += 1
        name, tokens = operation["op"], parse(operation["path"])
        if name in {"move", "copy"}:
            self._changed[_ANYWHERE] = self._now
            self.kept.append(operation)
        elif name == "replace" or (name == "add" and not _may_be_element(tokens)):
            self._write(tokens, operation)
        else:
            # A text may begin with its first characters: then it was not there before.
            may_create = name == "str_ins" and not operation["pos"] and not self._is_kept(tokens)
            self._note_inside(tokens, is_local=name not in {"add", "remove"} and not may_create)
            self.kept.append(operation)
            if name in {"add", "remove"}:
                self._writes.pop(tokens, None)
                self._inside.pop(tokens, None)
                self._changed[tokens] = self._now
                if _may_be_element(tokens):
                    self._changed[tokens[:-1]] = self._now

    def _write(self, tokens: tuple[str, ...], operation: Json) -> None:
        at, _ = self._writes.get(tokens, (-1, 0))
        since, places = self._inside.pop(tokens, (0, []))
        if self._is_same_place(tokens, since):
            for place in places:
                if place > at:
                    self.kept[place] = None
        if self._is_kept(tokens):
            earlier = self.kept[at]
            assert earlier is not None
            self.kept[at] = {**earlier, "value": operation["value"]}
        else:
            self._note_inside(tokens, is_local=False)
            at = len(self.kept)
            self.kept.append(operation)
        self._writes[tokens] = at, self._now
        self._changed[tokens] = self._now

    def _note_inside(self, tokens: tuple[str, ...], *, is_local: bool) -> None:
        """Note the operation that is kept next, for later writes around it, and at it if `is_local`."""
        for depth in range(len(tokens) + is_local):
            around = tokens[:depth]
            since, places = self._inside.get(around, (self._now, []))
            if not self._is_same_place(around, since):
                since, places = self._now, []
            places.append(len(self.kept))
            self._inside[around] = since, places

    def _is_kept(self, tokens: tuple[str, ...]) -> bool:
        """Tell whether the last write of a path is kept, and can be another one instead."""
        _, taken = self._writes.get(tokens, (-1, -1))
        return taken >= 0 and self._is_same_place(tokens, taken)

    def _is_same_place(self, tokens: tuple[str, ...], since: int) -> bool:
        """Tell whether a path has meant the same place since a time."""
        changed = self._changed
        if changed.get(_ANYWHERE, 0) > since:
            return False
        return all(changed.get(tokens[:depth], 0) <= since for depth in range(len(tokens)))


def _may_be_element(tokens: tuple[str, ...]) -> bool:
    """Tell whether an `add` or `remove` may shift an array's elements; a member's name may be digits too."""
    return bool(tokens) and (tokens[-1] == "-" or tokens[-1].isdigit())
