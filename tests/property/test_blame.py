"""Blame against a naive model: a parallel document that has, in the place of each leaf, the version that wrote it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.blame import leaves, trace
from refold.core.document import Kind, Status
from refold.core.history import Entry
from refold.core.pointer import escape, parse, resolve
from refold.core.replay import apply_accepted
from support.extended import accepted_patches, apply
from support.json_values import SMALL_CONTAINERS, copied

VERSIONS_MAX = 8


def marked(value: Any, version: int) -> Any:
    """Return a value with a version in the place of each leaf: a number, or `{}3` and `[]3` where it is empty."""
    if isinstance(value, dict | list) and not value:
        return f"{json_text.dumps(value).decode()}{version}"
    if isinstance(value, dict):
        return {key: marked(member, version) for key, member in value.items()}
    return [marked(element, version) for element in value] if isinstance(value, list) else version


def remarked(marks: Any, version: int) -> Any:
    """Mark what is an empty container now."""
    if isinstance(marks, dict) and marks:
        return {key: remarked(member, version) for key, member in marks.items()}
    if isinstance(marks, list) and marks:
        return [remarked(element, version) for element in marks]
    return marks if isinstance(marks, int | str) else marked(marks, version)


def replaced(marks: Any, path: str, value: Any) -> Any:
    return apply_accepted(marks, [{"op": "replace", "path": path, "value": value}])


def added(marks: Any, path: str, value: Any) -> Any:
    above = path.rpartition("/")[0]
    if path and isinstance(resolve(marks, parse(above)), str):
        marks = replaced(marks, above, json_text.loads(resolve(marks, parse(above))[:2].encode()))
    return apply_accepted(marks, [{"op": "add", "path": path, "value": value}])


def marks_after(marks: Any, state: Any, operation: Any, version: int) -> Any:
    """Change the marks as an operation changes the state, which is given as it was before."""
    kind, path = operation["op"], operation["path"]
    if kind == "test" or (kind == "move" and path == operation["from"]):
        return marks
    if kind == "remove":
        return apply_accepted(marks, [operation])
    if kind == "move":
        value = resolve(marks, parse(operation["from"]))
        rest = remarked(apply_accepted(marks, [{"op": "remove", "path": operation["from"]}]), version)
        return added(rest, path, value)
    if kind == "copy":
        return added(marks, path, marked(resolve(state, parse(operation["from"])), version))
    if kind == "add":
        return added(marks, path, marked(operation["value"], version))
    if kind == "str_ins" and path and path.rpartition("/")[2] not in _members(state, path):
        return added(marks, path, version)
    return replaced(marks, path, marked(operation.get("value"), version))


def _members(state: Any, path: str) -> Any:
    """Return the keys beside a place, escaped; in an array, its own."""
    parent = resolve(state, parse(path.rpartition("/")[0]))
    return {escape(key) for key in parent} if isinstance(parent, dict) else {path.rpartition("/")[2]}


class Model:
    """A document's entries, and after each version its state and the marks of who wrote what."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.states: list[bytes | None] = [None]
        self.marks: list[Any] = [None]

    def change(self, fields: dict[str, Any]) -> None:
        """Fold an event."""
        version, before, effect = len(self.states), self.states[-1], None
        if "patch" in fields:
            state = {} if before is None else json_text.loads(before)
            marks = marked({}, version) if before is None else copied(self.marks[-1])
            after, _, effect = apply(copied(state), copied(fields["patch"]))
            for operation in copied(fields["patch"] if effect is None else effect):
                marks = remarked(marks_after(marks, state, operation, version), version)
                state = apply_accepted(state, [copied(operation)])
            assert json_text.identical(state, after)
        else:
            after = fields.get("put")
            marks = marked(after, version)
        kind = next(Kind[name] for name in ("patch", "put", "delete") if name in fields)
        about = (version, 0, 0, 0, version, Status.applied, kind, before is None, None, b"")
        kept = None if effect is None else json_text.dumps(effect)
        self.entries.append(Entry(*about, json_text.dumps(fields), kept, "", "", None, 0))
        self.states.append(None if kind is Kind.delete else json_text.dumps(after))
        self.marks.append(marks)

    def writers(self, version: int) -> dict[tuple[str, ...], int]:
        """Return the leaves with the versions that wrote them."""
        if self.states[version] is None:
            return {}
        marks = leaves(self.marks[version])
        return {tokens: mark if isinstance(mark, int) else int(mark[2:]) for tokens, mark in marks}

    def blame(self, version: int, cuts: list[int]) -> dict[tuple[str, ...], Any]:
        """Trace the leaves at a version through segments that begin after the versions `cuts`, newest first."""
        state = self.states[version]
        found = () if state is None else leaves(json_text.loads(state))
        origins: dict[tuple[str, ...], Any] = {tokens: tokens for tokens, _ in found}
        end = version
        for cut in sorted({0, *cuts}, reverse=True):
            if cut < end:
                is_open = [tokens for tokens, origin in origins.items() if isinstance(origin, tuple)]
                places = [origins[tokens] for tokens in is_open]
                traced = trace(self.states[cut], self.entries[cut:end], places)
                origins |= dict(zip(is_open, traced, strict=True))
                end = cut
        return origins


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Return a document with a few versions."""
    model = Model()
    for _ in range(draw(st.integers(1, VERSIONS_MAX))):
        kind = draw(st.sampled_from(["patch"] * 8 + ["put", "delete"]))
        state = model.states[-1]
        if kind == "patch":
            patch = draw(accepted_patches({} if state is None else json_text.loads(state)))
            model.change({"patch": patch})
        elif kind == "put" or state is not None:
            model.change({kind: draw(SMALL_CONTAINERS) if kind == "put" else True})
    return model


@settings(max_examples=100)
@given(st.data())
def test_each_leaf_at_each_version_is_traced_to_the_version_that_wrote_it(data):
    model = data.draw(models())
    for version in range(len(model.states)):
        cuts = data.draw(st.lists(st.integers(0, version), max_size=3))
        assert model.blame(version, cuts) == model.writers(version)


def test_a_moved_and_a_shifted_value_keep_their_writers_and_a_copy_does_not():
    model = Model()
    model.change({"put": {"a": [1, {"b": 2}], "c": {"d": 3}}})
    model.change({"patch": [{"op": "add", "path": "/a/0", "value": 0}]})
    model.change({"patch": [{"op": "move", "from": "/c/d", "path": "/a/3"}]})
    model.change(
        {"patch": [{"op": "copy", "from": "/a/2", "path": "/e"}, {"op": "inc", "path": "/a/1", "inc": 1}]}
    )
    expected = {("a", "0"): 2, ("a", "1"): 4, ("a", "2", "b"): 1, ("a", "3"): 1, ("c",): 3, ("e", "b"): 4}
    for cuts in ([], [1], [1, 2, 3]):
        assert model.blame(4, cuts) == expected
