"""The values that match a pattern, for subscribers that look at many places of a document.

Whole documents and single paths are in `refold.live.query`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final

from orjson import Fragment

from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.errors import Refused
from refold.core.json_text import Json
from refold.core.pointer import parse
from refold.live import Frame
from refold.live.pattern import Pattern, Touch
from refold.live.query import PartQuery, written_at
from refold.live.watched import Change, WatchedDocument

MATCHES_MAX: Final = 10_000
"""Values that a pattern matches."""

VALUE_BYTES: Final = 160
"""What a kept value takes besides its pointer and its bytes."""


class ValuesQuery(PartQuery):
    """The values that match a pattern. Raises `Refused` where there are too many."""

    def __init__(self, document: WatchedDocument, pattern: Pattern, path: str, *, is_native: bool) -> None:
        super().__init__(document, pattern, path, is_native=is_native)
        self.is_too_wide = self._was_absent = False
        self._values = self._matching()
        if self.is_too_wide:
            raise too_wide()
        self.kept_bytes = sum(
            len(pointer) + len(value) + VALUE_BYTES for pointer, value in self._values.items()
        )

    def before(self, operations: list[Json]) -> None:  # noqa: ARG002 - any change makes a document of nothing
        """Note whether there is a document."""
        self._was_absent = self.document.is_absent

    def after(self, change: Change, operations: list[Json]) -> None:
        """Take the values that changed."""
        touched = [(operation, self.pattern.touch(operation)) for operation in operations]
        pointers = [
            self.pattern.matched_by(operation) for operation, touch in touched if touch > Touch.deeper
        ]
        if not pointers and not self._was_absent:
            return
        if None in pointers or self._was_absent:
            values = self._matching()
            changed = [it for it in {**self._values, **values} if self._values.get(it) != values.get(it)]
            self._values = values
        else:
            changed = [
                pointer
                for pointer in dict.fromkeys(pointers)
                if pointer is not None and self._has_changed(pointer)
            ]
        if changed:
            self._step(change, changed, is_due=True)

    def restart(self) -> None:
        """Begin again at another head of the document."""
        self._values = self._matching()
        super().restart()

    def _has_changed(self, pointer: str) -> bool:
        """Look at one value again; tell whether it is another one."""
        old = self._values.pop(pointer, None)
        new = written_at(self.document.state(), parse(pointer))
        if new is not None:
            self._values[pointer] = new
        self.is_too_wide = self.is_too_wide or len(self._values) > MATCHES_MAX
        return new != old

    def _matching(self) -> dict[str, bytes]:
        state = self.document.state()
        values: dict[str, bytes] = {}
        for pointer, value in () if state is ABSENT else self.pattern.matches(state):
            values[pointer] = json_text.trimmed(json_text.dumps(value))
            if len(values) > MATCHES_MAX:
                self.is_too_wide = True
                break
        return values

    def next(
        self, position: int, sent: int | None = None, *, is_merged: bool = True, why: str = "slow"
    ) -> Frame | None:
        """Return what a subscriber at a position gets. Raises `Refused` where too many values match by now."""
        if self.is_too_wide:
            raise too_wide()
        return super().next(position, sent, is_merged=is_merged, why=why)

    def _make(self, position: int, after: int, *, is_merged: bool) -> Frame:  # noqa: ARG002 - values are those of the head
        steps = self._steps_after(position)
        pointers = dict.fromkeys(chain.from_iterable(step.content for step in steps))
        last = steps[-1].change
        fields = {"kind": "values", **self.about(last), "values": self._shown(pointers)}
        gone = [pointer for pointer in pointers if pointer not in self._values]
        if gone:
            fields["gone"] = gone
        if len(steps) > 1:
            fields["merged"] = len(steps)
        if after != last.version - 1:
            fields["after"] = after
        return self._frame("values", json_text.dumps(fields), last, merged=len(steps))

    def _whole(self) -> dict[str, Json]:
        return {"values": self._shown(self._values)}

    def _shown(self, pointers: Iterable[str]) -> dict[str, Json]:
        return {pointer: Fragment(self._values[pointer]) for pointer in pointers if pointer in self._values}


def too_wide() -> Refused:
    """Say that a pattern matches too many values."""
    return Refused("pattern_too_wide", f"a pattern matches at most {MATCHES_MAX} values", field="path")
