"""JSON Merge Patch (RFC 7396), applied in place, all or nothing, and written as a JSON Patch. For the fold."""

from __future__ import annotations

import orjson

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.json_text import Json, identical, size_within
from refold.core.pointer import render
from refold.core.undo_log import RootCheck, UndoLog


def apply_merge(
    state: Json, merge: Json, *, size: int, limits: Limits, check: RootCheck | None = None
) -> tuple[Json, int, list[dict[str, Json]]]:
    """Apply in place, and return root, canonical size and effect. Or raise `Refused` and leave the state as it was.

    `size` is the canonical size of `state`; the merge's values become part of the state; `check` may refuse the new
    root. The effect is a JSON Patch from the same state to the same result that shares nothing with either. Members
    are in the order of their code points; one that does not change, byte for byte, makes no operation. An effect that
    would be too long for a patch is one `replace` of the root.
    """
    merging = _Merging(state, size, limits)
    try:
        merging.change_root(merge)
    except Refused as refusal:
        merging.edit.undo()
        refusal.field = f"merge{render(merging.tokens)}"
        raise
    if check is not None:
        merging.edit.hold_to(check)
    return merging.edit.root, merging.edit.size, merging.effect()


class _Merging:
    __slots__ = ("_limits", "_operations", "_path_chars", "edit", "tokens")

    def __init__(self, state: Json, size: int, limits: Limits) -> None:
        self.edit = UndoLog(state, size, limits)
        self._limits = limits
        self.tokens: list[str] = []
        self._operations: list[dict[str, Json]] = []
        self._path_chars = 0

    def effect(self) -> list[dict[str, Json]]:
        if self._is_short():
            return self._operations
        return [{"op": "replace", "path": "", "value": _copied(self.edit.root)}]

    def change_root(self, merge: Json) -> None:
        root = self.edit.root
        if type(merge) is dict and type(root) is dict:
            self._change_members(root, merge)
            return
        value = without_nulls(merge)
        if not identical(root, value):
            self.edit.set_root(value, size_within(value, self._limits.depth))
            self._record("replace", value)

    def _change_members(self, target: dict[str, Json], changes: dict[str, Json]) -> None:
        for key in sorted(changes):
            self.tokens.append(key)
            change = changes[key]
            if change is None:
                if key in target:
                    self.edit.remove_member(target, key)
                    self._record("remove", None)
            elif type(change) is dict and type(target.get(key)) is dict:
                self._change_members(target[key], change)
            else:
                self._set(target, key, without_nulls(change))
            self.tokens.pop()

    def _set(self, target: dict[str, Json], key: str, value: Json) -> None:
        kind = "replace" if key in target else "add"
        if kind == "replace" and identical(target[key], value):
            return
        self.edit.add_member(target, key, value, size_within(value, self._limits.depth - len(self.tokens)))
        self._record(kind, value)

    def _record(self, kind: str, value: Json) -> None:
        self.edit.check_size()
        # A long key with many members under it would make of a short merge an effect of gigabytes.
        if self._is_short():
            operation: dict[str, Json] = {"op": kind, "path": render(self.tokens)}
            if kind != "remove":
                operation["value"] = _copied(value)
            self._path_chars += len(operation["path"])
            self._operations.append(operation)

    def _is_short(self) -> bool:
        limits = self._limits
        return len(self._operations) <= limits.operations and self._path_chars <= limits.event_bytes


def without_nulls(value: Json) -> Json:
    """Return what a merge patch's value makes where there is nothing."""
    if type(value) is not dict:
        return value
    return {key: without_nulls(item) for key, item in value.items() if item is not None}


def _copied(value: Json) -> Json:
    """Copy, so that it shares no container with the state, which later events change."""
    return orjson.loads(orjson.dumps(value))
