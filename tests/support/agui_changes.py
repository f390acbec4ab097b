"""Random changes of a document, of every kind that AG-UI's clients might fold differently, and a client that follows.

For tests/integration/test_agui_client.py and the command `acceptance.agui`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from random import Random
from typing import Any

from refold.client import Refold, Refused, apply_patch
from refold.core import json_text
from refold.core.pointer import escape
from support.agui_client import Session

NAMES = [
    "a",
    "b",
    "c",
    "list",
    "",
    "a/b",
    "m~n",
    "é😀",
    "0",
    "__proto__",
    "constructor",
    "prototype",
    "toString",
]
FOLLOWERS = {
    "every": {"interval": 0},
    "merged": {"interval": 100},
    "stamped": {"interval": 50, "stamp": "_v"},
}
"""Options of the clients that follow, by name."""

BATCH_MAX = 40
CHECK_EVERY = 10
SAFE_INTEGER = 2**53 - 1


@dataclass(frozen=True, kw_only=True)
class Course:
    """What came of it: states compared, and what was wrong."""

    changes: int
    compared: int
    seconds: float
    faults: list[str]


class Changes:
    """The changes of one document, from a state that is known."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.state: Any = {}

    def next(self) -> dict[str, Any]:
        """Return a change that applies; the state is then what it makes."""
        random = self.random
        kind = random.random()
        if kind < 0.01 or type(self.state) is not dict or len(str(self.state)) > 6_000:
            self.state = {"list": [self._value(2) for _ in range(3)], "a": self._value(2)}
            return {"put": self.state}
        if kind < 0.02 and self.state != {}:
            self.state = {}
            return {"delete": True}
        if kind < 0.03:
            self.state = random.choice([None, 5, [1, 2], "text"])
            return {"put": self.state}
        while True:
            patch = [self._operation() for _ in range(random.choice([1, 1, 1, 2, 4]))]
            with contextlib.suppress(Refused):
                self.state = apply_patch(self.state, patch)
                return {"patch": patch}

    def _operation(self) -> dict[str, Any]:
        random, path = self.random, self._path()
        op = random.choice(
            ["add", "add", "add", "replace", "replace", "remove", "move", "move", "copy", "push", "inc"]
        )
        if op in {"move", "copy"}:
            return {"op": op, "from": self._path(), "path": path}
        if op == "push":
            return {"op": op, "path": "/list", "value": self._value(1), "max": 6}
        if op == "inc":
            return {"op": op, "path": path, "inc": random.randint(1, 5)}
        return {"op": op, "path": path} | ({} if op == "remove" else {"value": self._value(2)})

    def _path(self) -> str:
        """Return a path of a value that is there, or of one beside it."""
        node, path = self.state, ""
        while True:
            if type(node) is dict:
                name = self.random.choice([*node, *NAMES])
                path, node = f"{path}/{escape(name)}", node.get(name)
            elif type(node) is list:
                index = self.random.randint(0, len(node))
                path = f"{path}/{index if index < len(node) else self.random.choice(['-', index])}"
                node = node[index] if index < len(node) else None
            if type(node) not in (dict, list) or self.random.random() < 0.4:
                return path

    def _value(self, depth: int) -> Any:
        random = self.random
        kind = random.randint(0, 9 if depth else 5)
        if kind > 7:
            return [self._value(depth - 1) for _ in range(random.randint(0, 4))]
        if kind > 5:
            return {random.choice(NAMES): self._value(depth - 1) for _ in range(random.randint(0, 4))}
        numbers = [0, 1.5, -1, 1e300, SAFE_INTEGER, 1.0]
        return [None, True, False, random.choice(numbers), "x" * random.randint(0, 30), "é\u2028\ud7ff"][kind]


async def follow_changes(
    refold: Refold, client: Session, *, namespace: str, changes: int, seed: int
) -> Course:
    """Change a document so often, and compare what the clients that follow have with what was served."""
    made, document = Changes(Random(seed)), "d"
    agui = f"{refold.url}/agui/{namespace}/{document}"
    began, version, compared, batches = time.monotonic(), 0, 0, 0
    faults: list[str] = []
    for name, options in FOLLOWERS.items():
        client.do(name, "open", url=agui, thread=name)
        client.do(name, "follow", refold=options)
    while version < changes:
        count = made.random.randint(1, BATCH_MAX)
        outcomes = await refold.append(namespace, [{"doc": document, **made.next()} for _ in range(count)])
        assert all(outcome.is_effective for outcome in outcomes), outcomes
        version = outcomes[-1].version or 0
        batches += 1
        if batches % CHECK_EVERY and version < changes:
            continue
        for name, options in FOLLOWERS.items():
            folded = client.do(name, "until", version=version)
            compared += 1
            if not json_text.equal(
                as_doubles(made.state), as_doubles(unstamped(folded, options.get("stamp")))
            ):
                faults.append(f"{name} at version {version}: {folded['state']!r}, not {made.state!r}")
    faults += client.warnings
    return Course(changes=version, compared=compared, seconds=time.monotonic() - began, faults=faults)


def unstamped(folded: dict[str, Any], stamp: Any) -> Any:
    """Return a state without its stamp, which must be its version."""
    state = folded["state"]
    if stamp is None or type(state) is not dict:
        return state
    assert state[stamp] == folded["version"], (state, folded["version"])
    return {name: value for name, value in state.items() if name != stamp}


def as_doubles(value: Any) -> Any:
    """Return a value with the numbers that JavaScript has: all are doubles."""
    if isinstance(value, dict):
        return {name: as_doubles(member) for name, member in value.items()}
    if isinstance(value, list):
        return [as_doubles(element) for element in value]
    return float(value) if type(value) in (int, float) else value
