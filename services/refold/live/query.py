"""Queries: what is sent of a document, computed and encoded once for all subscribers that ask for the same.

A message is a function of a subscriber's position and the head: a change, several changes merged, or a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from itertools import chain, takewhile
from typing import Final, NamedTuple

from orjson import Fragment

from refold.core import json_text
from refold.core.diff import diff
from refold.core.document import ABSENT
from refold.core.errors import Refused
from refold.core.json_text import Json, copied
from refold.core.pointer import parse, render, resolve
from refold.core.squash import squash
from refold.live import Frame
from refold.live.pattern import Pattern, Touch
from refold.live.watched import Change, WatchedDocument, patches

FRAMES_MAX: Final = 64
"""Messages of a query that are kept, by the position that they are for."""

STEPS_MAX: Final = 1_000
STEPS_BYTES_MAX: Final = 1024 * 1024
"""What is kept of the changes of a part of a document, in bytes of the changes."""

DIFF_BYTES_MAX: Final = 64 * 1024
"""Two values are compared where they are not larger together."""

UNKNOWN: Final = -1
"""The position of a subscriber that has nothing yet."""


class Behind(Exception):
    """What follows a position is not kept any more."""


class Step(NamedTuple):
    """What one change did in a query. `content` is its patch there, or the pointers whose values changed.

    What is not `is_due` is deeper than what counts: it is sent with the next step that is due.
    """

    change: Change
    content: list[Json]
    is_due: bool


class Query:
    """What subscribers share: a document's messages of one kind.

    `version` is the newest that is to be sent. A subscriber at a position from `floor` on can be sent what follows.
    `wake` is called when there is more; `key` tells the queries of a document apart.
    """

    needs_operations = True
    kept_bytes = 0
    """What it keeps besides the document's state, when it is made."""

    def __init__(self, document: WatchedDocument, *, is_native: bool) -> None:
        self.document = document
        self.is_native = is_native
        self.version = self.floor = document.version
        self.key: Hashable = None
        self.wake: Callable[[], None] = lambda: None
        self._frames: dict[tuple[int, int, bool], Frame] = {}
        self._snapshots: dict[str, Frame] = {}
        self._snapshot_bytes = document.state_bytes

    def before(self, operations: list[Json]) -> None:
        """Look at the document before a change, whose operations may only be read."""

    def after(self, change: Change, operations: list[Json]) -> None:
        """Take a change of the document, whose operations may only be read."""
        raise NotImplementedError

    def flush(self) -> None:
        """Let all that was taken be sent."""

    def restart(self) -> None:
        """Begin again at another head of the document."""
        self.version = self.floor = self.document.version
        self._note()

    def _note(self) -> None:
        self._frames.clear()
        self._snapshots.clear()
        self.wake()

    def is_behind(self, position: int) -> bool:
        """Tell whether there is something to send to a subscriber at a position."""
        return position < self.version or position > self.document.version

    def caught_up(self, position: int) -> int:
        """Return the version that a subscriber with all up to a position is up to date with."""
        return max(self.document.version, position)

    def covered(self, position: int, sequence: int) -> int:
        """Return the sequence before the first change that a subscriber has not got; `sequence` where it has all."""
        if not self.is_behind(position):
            return sequence
        if not self.floor <= position <= self.document.version:
            return 0
        return self._changes_after(position)[0].sequence - 1

    def next(
        self, position: int, sent: int | None = None, *, is_merged: bool = True, why: str = "slow"
    ) -> Frame | None:
        """Return what a subscriber gets that has all up to a position; None where there is no more.

        `sent` is the version of its last message, where that is before the position. A snapshot says `why`. Raises
        `Behind` for one that wants each change, where that is not kept any more.
        """
        if not self.is_behind(position):
            return None
        if position > self.document.version:
            return self.snapshot("log")
        if position == UNKNOWN:
            return self.snapshot(why)
        if position < self.floor:
            if not is_merged:
                raise Behind
            return self.snapshot(why)
        after = position if sent is None else sent
        frame = self._frames.get((position, after, is_merged))
        if frame is None:
            frame = self._make(position, after, is_merged=is_merged)
            if len(self._frames) >= FRAMES_MAX:
                self._frames.clear()
            self._frames[position, after, is_merged] = frame
        return frame

    def snapshot(self, why: str) -> Frame:
        """Return what the query is about, as it is at the head."""
        frame = self._snapshots.get(why)
        if frame is None:
            about = self.about(None)
            body = json_text.dumps({"kind": "snapshot", **about, **self._whole(), "why": why})
            body = json_text.trimmed(body)
            frame = self._frame("snapshot", body, self.document, why=why)
            self._snapshots[why] = frame
            self._snapshot_bytes = len(body)
        return frame

    def about(self, change: Change | None) -> dict[str, Json]:
        """Return what a message says of the document, after a change or at the head."""
        if change is None:
            return self.document.about()
        fields = change.fields()
        return {
            name: fields[name] for name in ("namespace", "document", "version", "sequence", "recorded_at")
        }

    def _changes_after(self, position: int) -> list[Change]:
        raise NotImplementedError

    def _make(self, position: int, after: int, *, is_merged: bool) -> Frame:
        raise NotImplementedError

    def _whole(self) -> dict[str, Json]:
        """Return what a snapshot has."""
        raise NotImplementedError

    def _change_frame(self, after: int, changes: list[Change], patch: bytes) -> Frame:
        """Return a message of changes, with the patch that they make together."""
        last = changes[-1]
        fields = {"kind": "change", **self.about(last)}
        if len(changes) == 1:
            single = last.fields()
            fields |= {name: single[name] for name in _AUTHORS if name in single}
        else:
            fields["merged"] = len(changes)
        if after != last.version - 1:
            fields["after"] = after
        body = json_text.dumps(fields | {"patch": Fragment(patch)})
        return self._frame("change", body, last, merged=len(changes))

    def _frame(
        self, kind: str, body: bytes, at: Change | WatchedDocument, *, merged: int = 1, why: str = ""
    ) -> Frame:
        return Frame(kind, body, position=at.version, sequence=at.sequence, merged=merged, why=why)


class WholeQuery(Query):
    """All changes of a document."""

    needs_operations = False

    def __init__(self, document: WatchedDocument, *, is_native: bool) -> None:
        super().__init__(document, is_native=is_native)
        self.floor = document.version
        for change in reversed(document.changes):
            if not is_native and change.plain_body is None:
                break
            self.floor = change.version - 1

    def after(self, change: Change, operations: list[Json]) -> None:  # noqa: ARG002 - it is the change's own
        """Take a change."""
        self.version = change.version
        self.floor = max(self.floor, self.document.floor)
        self._note()

    def _changes_after(self, position: int) -> list[Change]:
        return self.document.changes_after(position)

    def _make(self, position: int, after: int, *, is_merged: bool) -> Frame:
        changes = self._changes_after(position)
        first = changes[0]
        if len(changes) == 1 or not is_merged:
            body = first.body if self.is_native else first.plain_body
            assert body is not None
            return change_frame(body, position=first.version, sequence=first.sequence)
        if sum(len(change.body) for change in changes) > 64 * self._snapshot_bytes:
            return self.snapshot("smaller")
        patch = json_text.dumps(squash(patches(changes, is_native=self.is_native)))
        if len(patch) > self._snapshot_bytes and len(patch) > len(self.snapshot("smaller").body):
            return self.snapshot("smaller")
        return self._change_frame(after, changes, patch)

    def _whole(self) -> dict[str, Json]:
        state = self.document.state()
        return {"absent": True} if state is ABSENT else {"state": Fragment(json_text.dumps(state))}


class PartQuery(Query):
    """A part of a document, by steps of its own."""

    def __init__(self, document: WatchedDocument, pattern: Pattern, path: str, *, is_native: bool) -> None:
        super().__init__(document, is_native=is_native)
        self.pattern = pattern
        self._path = path
        self._steps: deque[Step] = deque()
        self._steps_bytes = 0

    def about(self, change: Change | None) -> dict[str, Json]:
        """Return what a message says of the document, with the path."""
        return super().about(change) | {"path": self._path}

    def caught_up(self, position: int) -> int:
        """Return the version that a subscriber is up to date with: not beyond what is not due yet."""
        has_more = bool(self._steps) and self._steps[-1].change.version > position
        return position if has_more else super().caught_up(position)

    def restart(self) -> None:
        """Begin again at another head of the document."""
        self._steps.clear()
        self._steps_bytes = 0
        super().restart()

    def _step(self, change: Change, content: list[Json], *, is_due: bool) -> None:
        self._steps.append(Step(change, content, is_due))
        self._steps_bytes += len(change.body)
        while len(self._steps) > 1 and self._is_full():
            dropped = self._steps.popleft().change
            self._steps_bytes -= len(dropped.body)
            self.floor = dropped.version
        if is_due:
            self.version = change.version
            self._note()
        else:
            self._snapshots.clear()

    def _is_full(self) -> bool:
        return len(self._steps) > STEPS_MAX or self._steps_bytes > STEPS_BYTES_MAX

    def flush(self) -> None:
        """Let all steps be sent, also what is not due."""
        if self._steps:
            self.version = self._steps[-1].change.version

    def _steps_after(self, position: int) -> list[Step]:
        newer = takewhile(lambda step: step.change.version > position, reversed(self._steps))
        return [step for step in newer if step.change.version <= self.version][::-1]

    def _changes_after(self, position: int) -> list[Change]:
        return [step.change for step in self._steps_after(position)]

    def _sent_next(self, position: int, *, is_merged: bool) -> list[Step]:
        """Return the steps that a message has: all, or those up to the first that is due."""
        steps = self._steps_after(position)
        if is_merged:
            return steps
        first = next((number for number, step in enumerate(steps) if step.is_due), len(steps))
        return steps[: first + 1]


class PathQuery(PartQuery):
    """The value at a path, and patches relative to it."""

    def __init__(self, document: WatchedDocument, pattern: Pattern, path: str, *, is_native: bool) -> None:
        super().__init__(document, pattern, path, is_native=is_native)
        self._tokens = pattern.literal()
        self._touched: list[Touch] = []
        self._old: bytes | None = None

    def before(self, operations: list[Json]) -> None:
        """Keep the value, where the change may write it as a whole."""
        self._touched = [self.pattern.touch(operation) for operation in operations]
        if self.document.is_absent:
            # The change makes a document of nothing.
            self._touched.append(Touch.whole)
        if Touch.whole in self._touched:
            self._old = self._value()

    def after(self, change: Change, operations: list[Json]) -> None:
        """Take what the change did at the path."""
        touched = self._touched
        if Touch.whole in touched:
            patch = _patch_between(self._old, self._value())
            is_due = bool(patch)
        else:
            pairs = zip(operations, touched, strict=True)
            patch = [self._relative(operation) for operation, touch in pairs if touch]
            is_due = Touch.inside in touched
        if patch:
            self._step(change, patch, is_due=is_due)

    def _relative(self, operation: Json) -> Json:
        count = len(self._tokens)
        names = [name for name in ("path", "from") if name in operation]
        return operation | {name: render(parse(operation[name])[count:]) for name in names}

    def _value(self) -> bytes | None:
        return written_at(self.document.state(), self._tokens)

    def _make(self, position: int, after: int, *, is_merged: bool) -> Frame:
        steps = self._sent_next(position, is_merged=is_merged)
        operations = chain.from_iterable(step.content for step in steps)
        patch = json_text.dumps(list(operations) if len(steps) == 1 else squash(operations))
        is_large = len(steps) > 1 and is_merged and len(patch) > self._snapshot_bytes
        if is_large and len(patch) > len(self.snapshot("smaller").body):
            return self.snapshot("smaller")
        return self._change_frame(after, [step.change for step in steps], patch)

    def _whole(self) -> dict[str, Json]:
        value = self._value()
        return {"absent": True} if value is None else {"state": Fragment(value)}


def written_at(state: Json, tokens: tuple[str, ...]) -> bytes | None:
    """Return the value at a path as canonical bytes; None where there is none."""
    try:
        return None if state is ABSENT else json_text.trimmed(json_text.dumps(resolve(state, tokens)))
    except Refused:
        return None


def change_frame(body: bytes, *, position: int, sequence: int) -> Frame:
    """Return a message of one change. Nothing is encoded again: the numbers stay as they were written."""
    return Frame("change", b'{"kind":"change",' + body[1:], position=position, sequence=sequence)


def _patch_between(before: bytes | None, after: bytes | None) -> list[Json]:
    """Return the patch that turns one value at a path into another, where it may be absent."""
    if before == after:
        return []
    if after is None:
        return [{"op": "remove", "path": ""}]
    if before is None or len(before) + len(after) > DIFF_BYTES_MAX:
        name = "add" if before is None else "replace"
        return [{"op": name, "path": "", "value": json_text.reread(after)}]
    return list(copied(diff(json_text.reread(before), json_text.reread(after))))


_AUTHORS: Final = ("occurred_at", "type", "actor", "id", "meta")
