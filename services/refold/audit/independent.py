"""Fold stored events by other code than the projector's: patches by the jsonpatch library, merges as in RFC 7396.

The second opinion of `refold verify --independent`. It judges states and versions; what it takes as it is stored, such
as limits and the resolution of conflicts, is counted in its `Coverage`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from jsonpatch import JsonPatch, JsonPatchException
from jsonpointer import JsonPointer, JsonPointerException

from refold.audit import EMPTY_DIGEST, Difference, digest_of
from refold.core.document import ABSENT, Document, Kind, Status
from refold.core.history import Entry, fields_of
from refold.core.stream import Route
from refold.history import record_of
from refold.store import DAMAGES, Key
from refold.store.ports import Item, StoredEntry, StoredHead, StoredPage, Unreadable

Coverage = Counter[str]
"""Events by how they were judged; the names are those that `refold verify` prints."""

PATCHES: Final = "patches applied by jsonpatch"
EXTENDED: Final = "patches with extension operations, those by a reference"
MERGES: Final = "merges applied as RFC 7396"
WHOLE: Final = "puts and deletes"
RESOLVED: Final = "changes that were resolved against others: applied, not decided again"
REFUSED: Final = "rejections that jsonpatch confirms"
REPEATED: Final = "duplicates whose id came before"
UNJUDGED: Final = "rejections for other reasons (limits, schemas, conditions): not judged"

_FITTING: Final = frozenset({"test_failed", "target_missing"})
"""Reasons for which a patch does not fit the state."""

_FAILURES: Final = (JsonPatchException, JsonPointerException, LookupError, TypeError, ValueError)
"""What jsonpatch raises for a patch that does not fit."""


class IndependentCheck:
    """Fold one document's events, as `ReplayCheck` does, and compare the states and versions that are stored."""

    def __init__(self, key: Key, coverage: Coverage) -> None:
        self.key = key
        self.digest = EMPTY_DIGEST
        self.counts = [0] * len(Status)
        self.is_readable = True
        self._where = Route.of(*key)
        self.document = Document.new(self._where)
        self._coverage = coverage
        self._ids: dict[str, int] = {}
        self._head: StoredHead | None = None
        self._state_of_row: Any = ABSENT

    def take(self, item: Item) -> Iterator[Difference]:
        """Compare one row with the fold so far, and fold its events."""
        if isinstance(item, StoredHead):
            self._head = item
        elif isinstance(item, Unreadable):
            self.is_readable = False
            yield Difference(*self.key, item.sequence, item.part, "content", "readable", item.why)
        elif not self.is_readable:
            return
        elif isinstance(item, StoredPage):
            for entry in item.entries:
                yield from self._take_entry(entry, "page")
            at, closing = item.last_sequence, item.closing
            yield from self._compare(at, "page", self.document.version, closing.version)
            yield from self._compare_states(at, "page", self.document.state, closing.state)
        elif isinstance(item, StoredEntry):
            yield from self._take_entry(item.entry, "journal")

    def finish(self) -> Iterator[Difference]:
        """Compare the document's row with the fold of all its events."""
        row = self._head
        if not self.is_readable:
            return
        if row is None:
            yield Difference(
                *self.key, None, "document", "row", f"version {self.document.version}", "missing"
            )
            return
        yield from self._compare(None, "document", self.document.version, row.document.version)
        yield from self._compare(None, "document", self.document.events, row.document.events)
        state = self.document.state if row.state_version is None else self._state_of_row
        yield from self._compare_states(None, "document", state, row.state)

    def _take_entry(self, entry: Entry, part: str) -> Iterator[Difference]:
        document = self.document
        self.digest = digest_of(self.digest, record_of(entry, self._where), entry.recorded_at)
        self.counts[entry.status] += 1
        document.events += 1
        try:
            fields = fields_of(entry)
        except DAMAGES:
            # Not an event at all, which only a rejection may be.
            fields = {}
        event_id = fields.get("id")
        if entry.status.is_effective:
            document.version += 1
            yield from self._compare(entry.sequence, part, document.version, entry.version)
            try:
                document.state = self._changed(entry, fields)
            except _FAILURES as error:
                why = f"{type(error).__name__}: {error}"
                yield Difference(*self.key, entry.sequence, part, "status", f"rejected, {why}", "applied")
        elif entry.status is Status.duplicate:
            self._coverage[REPEATED] += 1
            first = self._ids.get(str(event_id), 0)
            yield from self._compare(entry.sequence, part, first, entry.first_sequence)
        else:
            yield from self._take_rejection(entry, fields, part)
        if isinstance(event_id, str) and entry.identity is not None:
            self._ids[event_id] = entry.sequence
        if self._head is not None and document.version == self._head.state_version:
            self._state_of_row = copied(document.state)

    def _changed(self, entry: Entry, fields: dict[str, Any]) -> Any:
        """Return the state after an effective event."""
        state, kind, version = self.document.state, entry.kind, self.document.version
        is_as_sent = entry.status is Status.applied and entry.conflict is None
        is_fresh = fields.get("base", version - 1) == version - 1
        if kind is Kind.delete or (kind is Kind.put and entry.effect is None):
            self._coverage[WHOLE if is_as_sent else RESOLVED] += 1
            return ABSENT if kind is Kind.delete else copied(fields["put"])
        if is_as_sent and kind is Kind.merge and is_fresh:
            self._coverage[MERGES] += 1
            return merged(state, copied(fields["merge"]))
        if is_as_sent and kind is Kind.patch and (entry.effect is None or is_fresh):
            is_plain = all(operation["op"] not in _EXTENSIONS for operation in fields["patch"])
            self._coverage[PATCHES if is_plain else EXTENDED] += 1
            return patched(state, copied(fields["patch"]))
        self._coverage[RESOLVED] += 1
        return patched(state, copied(fields["patch"]) if entry.effect is None else json.loads(entry.effect))

    def _take_rejection(self, entry: Entry, fields: dict[str, Any], part: str) -> Iterator[Difference]:
        patch = fields.get("patch")
        is_judged = entry.reason in _FITTING and "base" not in fields
        if patch is None or not is_judged or any(operation["op"] in _EXTENSIONS for operation in patch):
            self._coverage[UNJUDGED] += 1
            return
        try:
            patched(copied(self.document.state), copied(patch))
        except _FAILURES:
            self._coverage[REFUSED] += 1
            return
        if entry.reason == "test_failed":
            # For jsonpatch true equals 1, and 1 equals 1.0.
            self._coverage[UNJUDGED] += 1
            return
        yield Difference(*self.key, entry.sequence, part, "status", "applied", f"rejected, {entry.reason}")

    def _compare(self, at: int | None, part: str, expected: int, found: int) -> Iterator[Difference]:
        if expected != found:
            yield Difference(*self.key, at, part, "version or events", str(expected), str(found))

    def _compare_states(
        self, at: int | None, part: str, expected: Any, found: bytes | None
    ) -> Iterator[Difference]:
        state = ABSENT if found is None else json.loads(found)
        if _text(expected) != _text(state):
            yield Difference(*self.key, at, part, "state", _text(expected)[:200], _text(state)[:200])


def patched(state: Any, operations: list[dict[str, Any]]) -> Any:
    """Apply a patch in place where it can be; return the new state. Raises what jsonpatch raises."""
    plain: list[dict[str, Any]] = []
    for operation in operations:
        if operation["op"] in _EXTENSIONS:
            state = _applied(state, plain)
            state = _applied(state, [_plain_of(state, operation)] if operation["op"] != "push" else [])
            state = _pushed(state, operation) if operation["op"] == "push" else state
            plain = []
        else:
            plain.append(operation)
    return _applied(state, plain)


def merged(target: Any, patch: Any) -> Any:
    """Apply a merge patch: the pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def copied(value: Any) -> Any:
    """Return a deep copy of a JSON value."""
    return value if value is ABSENT else json.loads(json.dumps(value))


def _applied(state: Any, operations: list[dict[str, Any]]) -> Any:
    """Apply RFC 6902 operations; removing the whole document makes it absent."""
    if not operations:
        return state
    if operations == [{"op": "remove", "path": ""}]:
        return ABSENT
    return JsonPatch(operations).apply({} if state is ABSENT else state, in_place=True)


def _plain_of(state: Any, operation: dict[str, Any]) -> dict[str, Any]:
    """Return what an extension operation on a number or a text does, as one of RFC 6902."""
    pointer = JsonPointer(operation["path"])
    if operation["op"] == "inc":
        total = pointer.resolve(state) + operation["inc"]
        return {"op": "replace", "path": operation["path"], "value": total}
    position = operation["pos"]
    if operation["op"] == "str_ins":
        try:
            old, kind = pointer.resolve(state), "replace"
        except JsonPointerException:
            if position:
                raise
            old, kind = "", "add"
        text = old[:position] + operation["str"] + old[position:]
        return {"op": kind, "path": operation["path"], "value": text}
    old = pointer.resolve(state)
    length = len(operation["str"]) if "str" in operation else operation["len"]
    text = old[:position] + old[position + length :]
    return {"op": "replace", "path": operation["path"], "value": text}


def _pushed(state: Any, operation: dict[str, Any]) -> Any:
    """Append to an array, which is made where it is missing, and keep its last `max` elements."""
    path = operation["path"]
    try:
        array = [*JsonPointer(path).resolve(state), operation["value"]][-operation["max"] :]
    except JsonPointerException:
        return _applied(state, [{"op": "add", "path": path, "value": [operation["value"]]}])
    return _applied(state, [{"op": "replace", "path": path, "value": array}])


def _text(state: Any) -> str:
    """Write a state so that equal texts are equal values of equal types."""
    return "absent" if state is ABSENT else json.dumps(_without_negative_zero(state), sort_keys=True)


def _without_negative_zero(value: Any) -> Any:
    if isinstance(value, float):
        return value or 0.0
    if isinstance(value, list):
        return [_without_negative_zero(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_negative_zero(each) for name, each in value.items()}
    return value


_EXTENSIONS: Final = frozenset({"inc", "push", "str_del", "str_ins"})
