"""Writes a log that crosses from fold 1 to fold 2, as `tests/data/fold1/record_log.py` writes one of fold 1.

`PYTHONPATH=tests python tests/data/fold2/record_log.py NAME`. A file that is there is never written again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data.fold1.record_log import LOG_ID, Draft, by_chance, changes, envelopes, retries, save, subjects
from refold.core.fold import RULES, genesis
from support.events import JSON_PATCH

FOLDER = Path(__file__).parent
NAMES = ["CSS.supports", "a/b", "é", "50% ∞", "𝄞"]
SYSTEM = "_refold"


def write(draft: Draft) -> None:
    """Write what each fold accepts and rejects, before and after the change."""
    draft.add(genesis(LOG_ID, RULES[1]), ("Nats-Expected-Last-Sequence", "0"), to=(SYSTEM, "log"))
    for number in (1, 2):
        changes(draft)
        envelopes(draft)
        retries(draft)
        subjects(draft)
        names(draft)
        operations(draft, f"operations-{number}")
        fields(draft, f"fields-{number}")
        strategies(draft, f"strategies-{number}")
        settings(draft)
        if number == 1:
            for _ in range(60):
                by_chance(draft)
            draft.add({"put": {"fold": 2}, "id": "two"}, to=(SYSTEM, "fold"))
            draft.add({"put": {"fold": 2}, "id": "two"}, to=(SYSTEM, "fold"))
    draft.add({"put": {"fold": 2}}, to=(SYSTEM, "fold"))
    draft.add(genesis(LOG_ID, RULES[2]), to=(SYSTEM, "log"))


def names(draft: Draft) -> None:
    """Ids that only fold 2 accepts, and tokens that stand for none."""
    for name in NAMES:
        draft.add({"put": name, "id": name}, to=("names", name))
    for token in [
        b"a%2eb",
        b"a%41",
        b"%2E",
        b"%2E%2E",
        b"a%00",
        b"a%FF",
        b"%",
        b"a%2",
        b"%C2%A0",
        b"%2F" * 43,
    ]:
        draft.add({"put": 1}, to=b"log.7.names." + token)


def operations(draft: Draft, document: str) -> None:
    """The extension operations, and what each is rejected for."""
    to = ("n", document)
    draft.add({"put": {"n": 1, "t": "aé𝄞", "l": [1, 2]}}, to=to)
    for item in [
        {"op": "inc", "path": "/n", "inc": 2}, {"op": "inc", "path": "/n", "inc": -0.5},
        {"op": "inc", "path": "/t", "inc": 1}, {"op": "inc", "path": "/x", "inc": 1},
        {"op": "inc", "path": "/n", "inc": 1e308}, {"op": "inc", "path": "/n", "inc": 1e308},
        {"op": "str_ins", "path": "/t", "pos": 2, "str": "-"}, {"op": "str_ins", "path": "/t", "pos": 99, "str": "."},
        {"op": "str_ins", "path": "/o", "pos": 0, "str": "made"}, {"op": "str_ins", "path": "/n", "pos": 0, "str": ""},
        {"op": "str_del", "path": "/t", "pos": 1, "len": 2}, {"op": "str_del", "path": "/t", "pos": 0, "str": "ab"},
        {"op": "str_del", "path": "/t", "pos": 0}, {"op": "push", "path": "/l", "value": 3, "max": 2},
        {"op": "push", "path": "/made", "value": {}, "max": 1}, {"op": "push", "path": "/t", "value": 0, "max": 1},
        {"op": "push", "path": "/l", "value": 0, "max": 0}, {"op": "push", "path": "", "value": 0},
    ]:  # fmt: skip
        draft.add({"patch": [item]}, to=to)
    draft.add([{"op": "push", "path": "/l", "value": n, "max": 3} for n in range(4)], JSON_PATCH, to=to)


def fields(draft: Draft, document: str) -> None:
    """The fields that only fold 2 has."""
    to = ("n", document)
    for event in [
        {"put": 1, "session": "s"}, {"put": 2, "session": ""}, {"put": 3, "session": "x" * 129},
        {"put": 4, "all_or_nothing": True}, {"put": 5, "all_or_nothing": 1}, {"put": 6, "reverts": 1},
        {"put": 7, "reverts": 0}, {"put": 8, "resolves": 9}, {"put": 9, "resolves": "9"}, {"put": 10, "principal": "p"},
        {"put": 11, "txn": {"id": "t", "index": 0, "count": 1}}, {"put": 12, "other": 1},
    ]:  # fmt: skip
        draft.add(event, to=to)
    draft.add({"put": 13}, ("Refold-Session", "s"), ("Refold-All-Or-Nothing", "false"), to=to)


def strategies(draft: Draft, document: str) -> None:
    """Stale events under each strategy, where each says clearly what becomes of them."""
    to = ("n", document)
    base: dict[str, Any] = {"a": {"x": 1, "y": 1}, "l": ["e0", "e1", "e2"], "t": "text", "n": 0}

    def stale(operations: list[dict[str, Any]], strategy: str, **more: Any) -> None:
        draft.add({"patch": operations, "base": 1, "on_conflict": strategy, **more}, to=to)

    draft.add({"put": base}, to=to)
    draft.add({"patch": [{"op": "replace", "path": "/a/x", "value": 2}]}, to=to)
    stale([{"op": "replace", "path": "/a/x", "value": 3}], "reject")
    stale([{"op": "replace", "path": "/a/x", "value": 3}], "first_write_wins")
    stale([{"op": "replace", "path": "/a/y", "value": 3}], "first_write_wins")
    stale([{"op": "replace", "path": "/a/x", "value": 3}], "last_write_wins")
    stale([{"op": "replace", "path": "/a/x", "value": 4}], "custom:mine")
    stale([{"op": "replace", "path": "/a", "value": {"x": 1, "y": 1, "z": 4}}], "merge")
    # Two authors remove the first and the last element of what both saw.
    stale([{"op": "remove", "path": "/l/0"}], "last_write_wins", session="one")
    stale([{"op": "remove", "path": "/l/2"}], "last_write_wins", session="two")
    stale([{"op": "add", "path": "/l/1", "value": "new"}], "last_write_wins", session="two")
    stale([{"op": "inc", "path": "/n", "inc": 1}], "last_write_wins")
    stale([{"op": "inc", "path": "/n", "inc": 1}], "merge")
    stale([{"op": "str_ins", "path": "/t", "pos": 0, "str": "<"}], "merge", session="one")
    stale([{"op": "str_ins", "path": "/t", "pos": 4, "str": ">"}], "merge", session="two")
    stale([{"op": "test", "path": "/n", "value": 0}], "last_write_wins")
    stale([{"op": "remove", "path": "/a"}], "last_write_wins")
    edit = {"op": "replace", "path": "/a/y", "value": 5}
    stale([edit, {"op": "replace", "path": "/n", "value": 9}], "last_write_wins")
    stale([edit, {"op": "replace", "path": "/n", "value": 9}], "last_write_wins", all_or_nothing=True)
    draft.add({"put": {"whole": True}, "base": 1}, to=to)
    draft.add({"delete": True, "base": 2, "on_conflict": "first_write_wins"}, to=to)
    draft.add({"delete": True, "base": 2}, to=to)
    draft.add({"put": 1, "base": 2**40}, to=to)


def settings(draft: Draft) -> None:
    """Settings, valid and not, and events that they reject."""
    to = ("set", "d")
    draft.add({"put": {"n": 1}}, to=to)
    for value in [
        {"on_conflict": "reject"}, {"limits": {"state_bytes": 20}},
        {"schema": {"properties": {"n": {"type": "number"}}}},
        {"schema": {"properties": {"n": {"format": "date"}}}}, {"limits": {"depth": 129}}, {"more": 1}, [], {},
    ]:  # fmt: skip
        draft.add({"put": value}, to=(SYSTEM, "settings:set"))
        draft.add({"merge": {"m": 1}, "base": 1}, to=to)
        draft.add({"merge": {"text": "x" * 20}}, to=to)
        draft.add({"put": {"n": "text"}}, to=to)
        draft.add({"patch": [{"op": "add", "path": "/n", "value": 1}]}, to=to)


def main() -> None:
    """Write a file that does not exist yet."""
    draft = Draft()
    write(draft)
    save(draft, FOLDER / f"{sys.argv[1]}.jsonl")


if __name__ == "__main__":
    main()
