"""Authors who write to one document at the same time, each by what is on its own screen.

Each sends events with delay, several in flight, and learns of the others' changes late. The fold must do what each
meant, which the naive model of `support.identities` says. Every value is unique, so that a confusion shows.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from random import Random
from typing import Any

import jsonpatch

from refold.core import json_text
from refold.core.document import ABSENT as NO_DOCUMENT
from refold.core.document import Document, Status
from refold.core.fold import fold, v2
from refold.core.fold.rules import entry_of
from refold.core.fold.window import remember
from refold.core.history import NEVER, Entry, Segment, Snapshot, snapshot_of
from refold.core.inverse import inverse
from refold.core.stream import Record, Route
from support.identities import ABSENT, NOBODY, Oracle, escaped, merge_patch

STRATEGIES = ["last_write_wins"] * 12 + ["first_write_wins"] * 6 + ["reject", "custom:x"]
KINDS = {"patch": 8}


class Mismatch(AssertionError):
    """The fold did something else than the authors meant."""


class Folded:
    """One document, folded event by event from its entries."""

    def __init__(self, state: Any = None) -> None:
        self.document = Document.new(Route.of("n", "d"))
        self.entries: list[Entry] = []
        self.versions: list[tuple[bytes | None, bytes | None, list[Any]]] = []
        """The states before and after each version, and what made the one of the other."""
        self.snapshots: list[tuple[Snapshot, int]] = [(NEVER, 0)]
        """Each version, and the number of entries up to it."""
        if state is not None:
            self.publish({"put": state})

    def needs(self, event: dict[str, Any]) -> int | None:
        """Return what the fold of an event asks for."""
        record = Record(1, 1, b"state.n.d", b"", json_text.dumps(event))
        return v2.needs(v2.RULES.decode(record, v2.RULES), self.document)

    def publish(self, event: dict[str, Any], *, is_kept: bool = True) -> Any:
        """Fold an event. Without `is_kept`, from the entries since its base alone, as after a restart."""
        if not is_kept:
            self.document.recent = None
        sequence = len(self.entries) + 1
        before = self._state()
        record = Record(sequence, sequence * 10**9, b"state.n.d", b"", json_text.dumps(event))
        decoded = v2.RULES.decode(record, v2.RULES)
        base = v2.RULES.needs(decoded, self.document)
        snapshot, count = self.snapshots[0 if is_kept or base is None else base]
        window = None if base is None else Segment(snapshot, 0, self.entries[count:])
        folded = fold(
            self.document, record, v2.RULES, recorded_at=record.time, decoded=decoded, window=window
        )
        entry = entry_of(record, folded, record.time, is_usual=True)
        remember(self.document, entry)
        self.entries.append(entry)
        self._check(event, before, folded.outcome)
        return folded.outcome

    def _state(self) -> bytes | None:
        state = self.document.state
        return None if state is NO_DOCUMENT else json_text.dumps(state)

    def _check(self, event: dict[str, Any], before: bytes | None, outcome: Any) -> None:
        """Check that the effective patch does to the version before what the event did."""
        after = self._state()
        if len(after or b"") != self.document.size:
            raise Mismatch("the size is wrong", event)
        expected, operations = json_text.loads(before or b"{}"), outcome.effect
        if outcome.status is Status.rejected:
            operations = []
        elif operations is None:
            whole = {"op": "replace", "path": "", "value": event.get("put", {})}
            operations = event.get("patch", [whole])
        for operation in operations:
            expected = apply_alone(expected, operation)
        if json_text.dumps(expected) != (after or b"{}"):
            raise Mismatch("the effective patch does something else", operations, expected)
        if outcome.status is not Status.rejected:
            self.versions.append((before, after, operations))
            self.snapshots.append((snapshot_of(self.document, after), len(self.entries)))

    def inverse_of(self, version: int) -> dict[str, Any]:
        """Return the change that undoes a version."""
        before, after, operations = self.versions[version - 1]
        return inverse(before, after, json_text.loads(json_text.dumps(operations)), v2.LIMITS)


def apply_alone(state: Any, operation: dict[str, Any]) -> Any:
    """Apply one operation by the library for JSON Patch, or the plain definition of a text operation."""
    name = operation["op"]
    if name in {"str_ins", "str_del", "inc"}:
        old = jsonpatch.JsonPointer(operation["path"]).resolve(state, None)
        if name == "str_ins" and old is None:
            # A text may begin with its first characters.
            return jsonpatch.apply_patch(
                state, [{"op": "add", "path": operation["path"], "value": operation["str"]}]
            )
        if name == "inc":
            new = old + operation["inc"]
        elif name == "str_ins":
            new = old[: operation["pos"]] + operation["str"] + old[operation["pos"] :]
        else:
            count = len(operation["str"]) if "str" in operation else operation["len"]
            new = old[: operation["pos"]] + old[operation["pos"] + count :]
        operation = {"op": "replace", "path": operation["path"], "value": new}
    elif name == "push":
        return push_alone(state, operation)
    return jsonpatch.apply_patch(state, [operation])


def push_alone(state: Any, operation: dict[str, Any]) -> Any:
    """Push by its definition."""
    path, value = operation["path"], operation["value"]
    old = jsonpatch.JsonPointer(path).resolve(state, None)
    new = [value] if old is None else [*old, value][-operation["max"] :]
    return jsonpatch.apply_patch(
        state, [{"op": "add" if old is None else "replace", "path": path, "value": new}]
    )


class Author:
    """One author with a screen."""

    def __init__(self, session: str, screen: Any) -> None:
        self.session = session
        self.base = 1
        self.screen = screen
        self.sent: deque[dict[str, Any]] = deque()
        self.is_exact = True
        """False after it saw changes of others while it had events in flight, whose outcomes may turn out otherwise."""
        self.is_waiting = False
        """It sends nothing before it has seen everything that has arrived."""
        self.undone = 1
        """The last version at which an event or operation of its was rejected or dropped."""
        self.has_deleted = False
        """It has deleted the document since its base."""


class Simulation:
    """Authors, their document, and the oracle.

    `kinds` weighs kinds of events; without a weight for `delete`, no event is rejected because the document is gone.
    `without` names operations that do not occur.
    """

    def __init__(
        self,
        random: Random,
        *,
        authors: int = 3,
        operations: int = 2,
        strategies: list[str] = STRATEGIES,
        kinds: dict[str, int] = KINDS,
        without: Collection[str] = (),
    ) -> None:
        self.random = random
        self.counter = 0
        self.operations = operations
        self.strategies = strategies
        self.kinds = kinds
        self.without = without
        state = self._first_state()
        names = [f"s{number}" for number in range(authors)]
        if random.random() < 0.25:
            names[-1] = NOBODY
        self.oracle = Oracle(state)
        self.folded = Folded(state)
        self.authors = [Author(name, state) for name in names]
        self.counts: Counter[str] = Counter()
        self.history: list[Any] = [("state", state)]

    def _first_state(self) -> dict[str, Any]:
        state = {
            "l": self._array(4),
            "t": self._text(5),
            "n": 0,
            "o": {"a": self._name(), "l": self._array(2)},
        }
        if self.random.random() < 0.3:
            state["m"] = [self._array(2), {"x": self._name(), "l": self._array(2), "t": self._text(3)}]
        return state

    def _name(self) -> str:
        self.counter += 1
        return f"<{self.counter}>"

    def _text(self, count: int) -> str:
        return "".join(chr(0x4E00 + self._next()) for _ in range(count))

    def _next(self) -> int:
        self.counter += 1
        return self.counter

    def _array(self, count: int) -> list[Any]:
        return [self._name() for _ in range(count)]

    def play(self, turns: int) -> None:
        """Let authors write, events arrive and changes be seen, in random order, until all has arrived."""
        for _ in range(turns):
            self._turn()
        while any(author.sent for author in self.authors):
            self._arrive(self.random.choice([author for author in self.authors if author.sent]))

    def _turn(self) -> None:
        author = self.random.choice(self.authors)
        choice = self.random.random()
        if choice < 0.04 and len(self.authors) > 1:
            self._undo()
        elif choice < 0.45:
            if not author.is_waiting:
                self._send(author)
        elif choice < 0.8 and author.sent:
            self._arrive(author)
        elif author.base < self.oracle.version and not any(map(self._may_be_rejected, author.sent)):
            self._see(author)

    def _send(self, author: Author) -> None:
        """Let an author change its screen and send the change."""
        view = self._view(author)
        if author.is_exact and view != author.screen:
            raise Mismatch("the view is not the screen", view, author.screen)
        strategy = self.random.choice(self.strategies)
        event, author.screen = self._event(author)
        event["base"] = author.base
        if author.session != NOBODY:
            event["session"] = author.session
        if strategy != "last_write_wins":
            event["on_conflict"] = strategy
        if self.random.random() < 0.08:
            event["all_or_nothing"] = True
        # Without a session an author sees its own event only in the document.
        author.is_waiting = author.session == NOBODY
        author.sent.append(event)

    def _event(self, author: Author) -> tuple[dict[str, Any], Any]:
        """Return an event, and the screen after it."""
        screen = author.screen
        (kind,) = self.random.choices([*self.kinds], [*self.kinds.values()])
        if kind == "delete" and not author.has_deleted:
            author.has_deleted = True
            return {"delete": True}, {}
        if kind == "merge":
            change = self._merge_patch(screen)
            return {"merge": change}, merge_patch(screen, change)
        patch = []
        for _ in range(self.random.randint(1, self.operations)):
            operation = self._operation(screen)
            while operation["op"] in self.without:
                operation = self._operation(screen)
            screen = apply_alone(screen, operation)
            patch.append(operation)
        return ({"put": screen} if kind == "put" else {"patch": patch}), screen

    def _may_be_rejected(self, event: dict[str, Any]) -> bool:
        """Tell whether an author must know an event's outcome before it takes over changes of the others."""
        if self.kinds.get("delete") or event.get("on_conflict") or event.get("all_or_nothing"):
            return True
        return any(item["op"] in {"test", "move", "inc", "push"} for item in event.get("patch", []))

    def _undo(self) -> None:
        """Undo a version, which others may have changed since; redo it where nothing was between."""
        version = self.random.randint(max(1, self.oracle.version - 8), self.oracle.version)
        if version == 1:
            return
        before, after, _ = self.folded.versions[version - 1]
        is_head = version == self.oracle.version
        reason = self._publish(self.folded.inverse_of(version) | {"base": version})["reason"]
        if is_head and not reason:
            if self.folded.versions[-1][1] != before:
                raise Mismatch("undone", self.folded.versions[-1][1], before)
            self._publish(self.folded.inverse_of(version + 1) | {"base": version + 1})
            if self.folded.versions[-1][1] != after:
                raise Mismatch("done again", self.folded.versions[-1][1], after)

    def _arrive(self, author: Author) -> None:
        expected = self._publish(author.sent.popleft())
        if expected["reason"] or "dropped" in expected:
            author.undone = self.oracle.version

    def _publish(self, event: dict[str, Any]) -> dict[str, Any]:
        """Fold an event, and compare the outcome with the oracle's."""
        self.history.append(event)
        expected = self.oracle.apply(event)
        # Sometimes the document has left the cache.
        outcome = self.folded.publish(event, is_kept=self.random.random() < 0.8)
        conflict = outcome.conflict or {}
        self.counts["events"] += 1
        self.counts[outcome.reason or outcome.status.name] += 1
        self.counts["dropped"] += len(conflict.get("dropped", []))
        self.history.append((outcome.status.name, outcome.reason, outcome.effect, outcome.conflict))
        found = {"reason": outcome.reason}
        if not outcome.reason:
            found |= {name: conflict[name] for name in ("overwrote", "merged", "dropped") if name in conflict}
        if found != expected:
            raise Mismatch("outcome", found, expected)
        head = ABSENT if self.folded.document.state is NO_DOCUMENT else self.folded.document.state
        if head != self.oracle.head():
            raise Mismatch("head", head, self.oracle.head())
        return expected

    def _see(self, author: Author) -> None:
        """Let an author see changes of the others, up to some version."""
        is_whole = author.is_waiting
        # It takes over what was rejected or dropped together with the changes up to there.
        first = self.oracle.version if is_whole else max(author.base + 1, author.undone)
        author.base = self.random.randint(min(first, self.oracle.version), self.oracle.version)
        author.is_waiting = is_whole and bool(author.sent)
        author.has_deleted = any("delete" in event for event in author.sent)
        author.screen = self._view(author)
        author.is_exact = not author.sent

    def _view(self, author: Author) -> Any:
        """Return what an author sees, with what it has sent."""
        mark = self.oracle.mark()
        for event in author.sent:
            self.oracle.apply(event)
        view = self.oracle.view(author.base, author.session)
        self.oracle.undo(mark)
        return view

    # Changes of a screen

    def _merge_patch(self, value: dict[str, Any]) -> dict[str, Any]:
        change: dict[str, Any] = {}
        for key in self.random.sample([*value, *"abc"], k=self.random.randint(1, 2)):
            kind, old = self.random.random(), value.get(key)
            if kind < 0.25:
                change[key] = None
            elif kind < 0.4 or type(old) is dict:
                change[key] = self._merge_patch(old if type(old) is dict else {})
            else:
                change[key] = self._value()
        return change

    def _operation(self, screen: Any) -> dict[str, Any]:
        random = self.random
        containers, leaves = places_of(screen)
        kind = random.random()
        if kind < 0.34:
            path, container = random.choice(containers)
            return self._addition(path, container)
        if not leaves:
            return {"op": "add", "path": "/n", "value": 0}
        path, value = random.choice(leaves)
        if kind < 0.5:
            return {"op": "remove", "path": path}
        if kind < 0.62:
            return {"op": "replace", "path": path, "value": self._value()}
        if kind < 0.75:
            moved = self._move(screen, path)
            if moved:
                return moved
        if kind < 0.78:
            source = random.choice(leaves)[0]
            return {"op": "copy", "from": source, "path": self._addition(*random.choice(containers))["path"]}
        if kind < 0.79:
            return {"op": random.choice(["add", "replace"]), "path": "", "value": self._first_state()}
        if kind < 0.82:
            arrays = [path for path, container in containers if type(container) is list]
            target = random.choice([*arrays, "/p"])
            if target != "/p" or "p" not in screen or type(screen["p"]) is list:
                return {"op": "push", "path": target, "value": self._name(), "max": random.randint(1, 5)}
        if kind < 0.84:
            return {"op": "test", "path": path, "value": value}
        if kind < 0.85 and type(screen) is dict and "s" not in screen:
            return {"op": "str_ins", "path": "/s", "pos": 0, "str": self._text(2)}
        texts = [(path, value) for path, value in leaves if type(value) is str and not value.startswith("<")]
        if texts:
            return self._text_operation(*random.choice(texts))
        numbers = [path for path, value in leaves if type(value) is int]
        if numbers:
            return {"op": "inc", "path": random.choice(numbers), "inc": random.randint(1, 9)}
        return {"op": "add", "path": "/n", "value": 0}

    def _addition(self, path: str, container: Any) -> dict[str, Any]:
        if type(container) is list:
            place = self.random.choice([*map(str, range(len(container) + 1)), "-"])
        else:
            place = self.random.choice([*"abcln01", "~1~0"])
        return {"op": "add", "path": f"{path}/{place}", "value": self._value()}

    def _value(self) -> Any:
        kind = self.random.random()
        if kind < 0.6:
            return self._name()
        if kind < 0.75:
            return self._array(self.random.randint(0, 3))
        if kind < 0.85:
            return {"a": self._name(), "l": self._array(2)}
        return self._text(3) if kind < 0.95 else self.random.randint(0, 99)

    def _move(self, screen: Any, source: str) -> dict[str, Any] | None:
        rest = jsonpatch.apply_patch(screen, [{"op": "remove", "path": source}])
        containers, _ = places_of(rest)
        path, container = self.random.choice(containers)
        target = self._addition(path, container)["path"]
        if target == source or target.startswith(source + "/"):
            return None
        return {"op": "move", "from": source, "path": target}

    def _text_operation(self, path: str, text: str) -> dict[str, Any]:
        if text and self.random.random() < 0.45:
            begin = self.random.randrange(len(text))
            return {
                "op": "str_del",
                "path": path,
                "pos": begin,
                "len": self.random.randint(1, len(text) - begin),
            }
        position = self.random.randint(0, len(text))
        return {"op": "str_ins", "path": path, "pos": position, "str": self._text(self.random.randint(1, 3))}


class Garbage:
    """Events of random operations at random pointers, most of which mean nothing."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.first = self.state()

    def state(self, depth: int = 3) -> Any:
        """Return a value of any kind."""
        kind = self._random.random()
        if depth and kind < 0.35:
            return {key: self.state(depth - 1) for key in self._random.sample(["a", "b", "0", "1"], 2)}
        if depth and kind < 0.7:
            return [self.state(depth - 1) for _ in range(self._random.randint(0, 3))]
        return self._random.choice([None, True, 1, 2.5, "", "text", "é𝄞"])

    def event(self, version: int) -> dict[str, Any]:
        """Return an event for a document at a version."""
        random = self._random
        kind = random.random()
        if kind < 0.05:
            event: dict[str, Any] = {"delete": True}
        elif kind < 0.1:
            event = {"put": self.state()}
        elif kind < 0.2:
            event = {"merge": self.state()}
        else:
            event = {"patch": [self._operation() for _ in range(random.randint(1, 4))]}
        if random.random() < 0.8:
            event["base"] = max(0, version - random.randint(0, 6))
            event["on_conflict"] = random.choice(
                ["merge", "merge", "last_write_wins", "first_write_wins", "custom:x"]
            )
        if random.random() < 0.7:
            event["session"] = random.choice("st")
        if random.random() < 0.1:
            event["all_or_nothing"] = True
        return event

    def _pointer(self) -> str:
        return "".join(f"/{self._random.choice('ab0011-')}" for _ in range(self._random.randint(0, 4)))

    def _operation(self) -> dict[str, Any]:
        random, path = self._random, self._pointer()
        name = random.choice(
            ["add", "add", "replace", "remove", "move", "copy", "test", "inc", "push", "str_ins", "str_del"]
        )
        operation: dict[str, Any] = {"op": name, "path": path}
        if name in {"add", "replace", "test"}:
            return operation | {"value": self.state()}
        if name == "remove":
            return operation if path else {"op": name, "path": "/a"}
        if name in {"move", "copy"}:
            source = self._pointer()
            return operation | {"from": path if name == "move" and path.startswith(source) else source}
        return (
            operation
            | {
                "inc": {"inc": random.choice([1, 0.5])},
                "push": {"value": self.state(), "max": random.randint(1, 3)},
                "str_ins": {"pos": random.randint(0, 3), "str": "xy"},
                "str_del": {"pos": random.randint(0, 3), "len": random.randint(0, 3)},
            }[name]
        )


def places_of(screen: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Return the containers, and all values below the root, by their pointers."""
    containers, leaves = [], []
    waiting = [("", screen)]
    while waiting:
        path, value = waiting.pop()
        if path:
            leaves.append((path, value))
        if type(value) is dict or type(value) is list:
            containers.append((path, value))
            pairs = value.items() if type(value) is dict else enumerate(value)
            waiting.extend((f"{path}/{escaped(key)}", each) for key, each in pairs)
    return containers, leaves
