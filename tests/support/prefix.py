"""A namespace after a prefix of the log, folded by the package jsonpatch: an oracle independent of the core.

For tests and commands that compare lists as of a point with it; the states are compared as texts, so that 1 is not 1.0.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import jsonpatch


class Listed(NamedTuple):
    """A present document: its id, its version, and its state's text."""

    id: str
    version: int
    state: str


class Prefix:
    """Folds events that the log accepted, one after another."""

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._versions: Counter[str] = Counter()

    def fold(self, document: str, event: dict[str, Any]) -> None:
        """Fold one effective event: `put`, `patch` or `delete`."""
        if "put" in event:
            self._states[document] = event["put"]
        elif "patch" in event:
            self._states[document] = jsonpatch.apply_patch(self._states.get(document, {}), event["patch"])
        else:
            assert event["delete"] is True, event
            del self._states[document]
        self._versions[document] += 1

    def state(self, document: str) -> Any:
        """Return a document's state; `{}` where it is absent."""
        return self._states.get(document, {})

    def is_present(self, document: str) -> bool:
        """Return whether a document is present."""
        return document in self._states

    def listed(self) -> list[Listed]:
        """List what is present, by id."""
        return [
            Listed(name, self._versions[name], text(state)) for name, state in sorted(self._states.items())
        ]


def listed(items: list[dict[str, Any]]) -> list[Listed]:
    """Read the items that the gateway answered."""
    return [Listed(item["id"], item["version"], text(item["state"])) for item in items]


def text(state: Any) -> str:
    """Write a state with its keys in order."""
    return json.dumps(state, sort_keys=True)


def differences(expected: list[Listed], found: list[Listed]) -> list[str]:
    """List every document that is missing, unexpected or different."""
    wanted, given = ({row.id: row for row in rows} for rows in (expected, found))
    compared = [
        f"{name}: {_compared(wanted.get(name), given.get(name))}" for name in sorted({*wanted, *given})
    ]
    order = (
        [] if [row.id for row in found] == sorted(given) else ["the answer is not in the order of the ids"]
    )
    return order + [line for line in compared if not line.endswith(": equal")]


def _compared(wanted: Listed | None, given: Listed | None) -> str:
    if wanted == given:
        return "equal"
    if wanted is None or given is None:
        return "is listed and was absent" if wanted is None else "was present and is not listed"
    if wanted.version != given.version:
        return f"version {given.version}, and {wanted.version} by the oracle"
    return f"version {wanted.version} has another state"
