"""One event's changes to one state in memory, with its size and what undoes them. For patch and merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from orjson import dumps

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.json_text import Json

RootCheck: TypeAlias = Callable[[Json], None]
"""Refuses a state, by `Refused`."""


def key_bytes(others: dict[str, Json], key: str) -> int:
    """Count the canonical bytes that a member takes beside its value and the object's other members."""
    return len(dumps(key)) + (2 if others else 1)


class UndoLog:
    """One event's changes to one state, so that they can be undone."""

    __slots__ = ("_carried_bytes", "_limits", "_shifts", "_steps", "depth_max", "root", "size")

    def __init__(self, root: Json, size: int, limits: Limits) -> None:
        """`size` is the canonical size of `root`."""
        self.root = root
        self.size = size
        self.depth_max = limits.depth
        self._limits = limits
        self._steps: list[tuple[int, Json, Json, Json]] = []
        self._carried_bytes = 0
        self._shifts = 0

    def set_root(self, value: Json, value_bytes: int) -> None:
        """Put another value in the place of the whole state."""
        self.root = value
        self.size = value_bytes

    def replace(self, parent: Json, place: str | int, value: Json, value_bytes: int) -> None:
        """Replace a member or an element, which must be there."""
        old = parent[place]
        self.size += value_bytes - len(dumps(old))
        self._steps.append((_SET, parent, place, old))
        parent[place] = value

    def rewrite(self, parent: Json, place: Json, value: Json, growth_bytes: int) -> None:
        """Replace a value that is no container by another, where the growth of the canonical size is known.

        A `parent` of None is the place of the whole state.
        """
        self.size += growth_bytes
        if parent is None:
            self.root = value
            return
        self._steps.append((_SET, parent, place, parent[place]))
        parent[place] = value

    def add_member(self, parent: dict[str, Json], key: str, value: Json, value_bytes: int) -> None:
        """Add a member to an object, or replace the one that is there."""
        if key in parent:
            self.replace(parent, key, value, value_bytes)
            return
        self.size += value_bytes + key_bytes(parent, key)
        self._steps.append((_TAKE_OUT, parent, key, None))
        parent[key] = value

    def remove_member(self, parent: dict[str, Json], key: str) -> int:
        """Remove an object's member, which must be there; return its value's size."""
        old = parent.pop(key)
        old_bytes = len(dumps(old))
        self.size -= old_bytes + key_bytes(parent, key)
        self._steps.append((_SET, parent, key, old))
        return old_bytes

    def insert_element(self, parent: list[Json], place: int, value: Json, value_bytes: int) -> None:
        """Insert before an array's element, or at its end."""
        self.count_shifts(len(parent) - place)
        self.size += value_bytes + (1 if parent else 0)
        self._steps.append((_TAKE_OUT, parent, place, None))
        parent.insert(place, value)

    def remove_element(self, parent: list[Json], place: int) -> int:
        """Remove an array's element; return its size."""
        self.count_shifts(len(parent) - place)
        old = parent.pop(place)
        old_bytes = len(dumps(old))
        self.size -= old_bytes + (1 if parent else 0)
        self._steps.append((_PUT_BACK, parent, place, old))
        return old_bytes

    def remove_first(self, parent: list[Json], count: int) -> None:
        """Remove elements from the front of an array that has more."""
        self.count_shifts(len(parent) - count)
        old = parent[:count]
        del parent[:count]
        self.size -= len(dumps(old)) - 1
        self._steps.append((_PUT_FIRST, parent, None, old))

    def count_carried(self, value_bytes: int) -> None:
        """Charge what a move or a copy carries: without a bound a short event could cost minutes."""
        self._carried_bytes += value_bytes
        bytes_max = self._limits.copy_bytes
        if self._carried_bytes > bytes_max:
            raise Refused("copy_too_large", f"one event moves and copies more than {bytes_max} bytes")

    def check_size(self) -> None:
        """Refuse a state that has grown too large."""
        bytes_max = self._limits.state_bytes
        if self.size > bytes_max:
            raise Refused("state_too_large", f"the state would take {self.size} bytes of {bytes_max}")

    def hold_to(self, check: RootCheck) -> None:
        """Undo all where a check refuses the new root, and raise its `Refused`."""
        try:
            check(self.root)
        except Refused:
            self.undo()
            raise

    def undo(self) -> None:
        """Restore the state that was given; the order of an object's keys may differ."""
        for step, parent, place, old in reversed(self._steps):
            if step == _SET:
                parent[place] = old
            elif step == _TAKE_OUT:
                del parent[place]
            elif step == _PUT_BACK:
                parent.insert(place, old)
            else:
                parent[:0] = old

    def count_shifts(self, elements: int) -> None:
        """Charge what an operation pushes aside in an array or a string: many on a long one could cost minutes."""
        self._shifts += elements
        shifts_max = self._limits.shifts
        if self._shifts > shifts_max:
            raise Refused("too_many_shifts", f"one event shifts more than {shifts_max} array elements")


_SET: Final = 0
_TAKE_OUT: Final = 1
_PUT_BACK: Final = 2
_PUT_FIRST: Final = 3
