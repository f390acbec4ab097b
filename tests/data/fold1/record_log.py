"""Writes a log of fold 1 with what its fold makes of it: `PYTHONPATH=tests python tests/data/fold1/record_log.py NAME`.

The files beside it are permanent: every later program folds them to the same outcomes, states and chains, so a file
that is there is never written again. A file is JSON lines. The first is `{"log_id"}`; each event is `{"time",
"subject", "headers", "body", "outcome"}`, bytes as text of the code points 0 to 255, a long text as a list of
[text, how many times]; the last line is `{"documents", "chains"}` as `support.node` names them.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refold.core import json_text
from refold.core.fold import genesis
from refold.core.fold.v1 import RULES
from refold.core.stream import Record
from support.events import CLOUD_EVENT, JSON_PATCH, MERGE_PATCH, SECOND, START, body_of, lines, subject_of
from support.node import own_fold
from support.recorded import shortened

FOLDER = Path(__file__).parent
LOG_ID = "recorded-1"
VALUES: list[Any] = [
    None, True, 0, 1, 1.0, -0.5, 1e300, -(2**63), 2**64 - 1, "", "é\u0000𝄞", {}, [], [0, [1], {"a": 2}],
    {"a": {"b": [3]}, "~/": 4}, {"": None, "b": ["x" * 50]},
]  # fmt: skip
POINTERS = [
    "",
    "/a",
    "/a",
    "/b",
    "/b",
    "/~0~1",
    "/",
    "/a/b",
    "/a/0",
    "/b/-",
    "/b/1",
    "/a/a",
    "/a/00",
    "x",
    "/~",
]


class Draft:
    """The growing log: the time advances by a second, and sometimes goes back."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.texts: list[dict[str, Any]] = []
        self.random = random.Random(1_001)

    def add(self, event: Any, *headers: tuple[str, str], to: Any = ("n", "a"), late: int = 0) -> None:
        """Append an event: a JSON value, bytes, or a body in parts; `to` a document, or a subject as it is stored."""
        sequence = len(self.records) + 1
        back = self.random.choice([0] * 8 + [400, 3]) * SECOND
        time = START + (sequence + late) * SECOND - back
        subject = to if isinstance(to, bytes) else subject_of(*to)
        body = parts = event if isinstance(event, tuple) else body_of(event)
        if isinstance(parts, tuple):
            body = b"".join(part * times for part, times in parts)
        self.records.append(Record(sequence, time, subject, lines(*headers), body))
        text = [[_text(part), times] for part, times in parts] if isinstance(parts, tuple) else _text(parts)
        self.texts.append(
            {"time": str(time), "subject": _text(subject), "headers": _text(lines(*headers)), "body": text}
        )


def write(draft: Draft) -> None:
    """Write the events, each rule broken at least once, and a few hundred by chance."""
    draft.add(genesis(LOG_ID, RULES), ("Nats-Expected-Last-Sequence", "0"), to=("_refold", "log"))
    changes(draft)
    envelopes(draft)
    retries(draft)
    garbage(draft)
    bounds(draft)
    for _ in range(330):
        by_chance(draft)
    system(draft)
    subjects(draft)


def changes(draft: Draft) -> None:
    """Every kind of change, and what each can be rejected for."""
    for event in [
        {"delete": True}, {"merge": {"a": {"b": 1}, "c": None}}, {"put": {"a": [1, 2, 3], "b": {}}},
        {"patch": [{"op": "add", "path": "/a/-", "value": 4}, {"op": "move", "from": "/a/0", "path": "/b/x"}]},
        {"patch": [{"op": "copy", "from": "/a", "path": "/b/y"}, {"op": "test", "path": "/b/x", "value": 1.0}]},
        {"patch": [{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b/x", "value": 2}]},
        {"patch": [{"op": "remove", "path": "/nothing"}]}, {"patch": [{"op": "remove", "path": ""}]},
        {"patch": [{"op": "inc", "path": "/b/x", "value": 1}]}, {"patch": [{"op": "frobnicate", "path": ""}]},
        {"patch": [{"op": "add", "path": "b", "value": 1}]}, {"patch": {}}, {"merge": 7}, {"put": None},
        {"delete": True}, {"patch": []}, {"put": {"deep": 1}, "base": 99}, {"put": 1, "base": 2},
        {"put": 1, "base": 2, "on_conflict": "merge"}, {"put": 1, "base": 2, "on_conflict": "custom:x"},
        {"put": 2, "base": 10}, {"put": 3, "occurred_at": "1999-01-01T00:00:00+01:00"},
        {"put": 3, "occurred_at": "2200-01-01T00:00:00Z"}, {"put": 3, "occurred_at": "9999-01-01T00:00:00Z"},
    ]:  # fmt: skip
        draft.add(event, to=("n", "kinds"))


def envelopes(draft: Draft) -> None:
    """Every form in which an event is published."""
    to = ("forms", "d")
    cloud = {"specversion": "1.0", "id": "1", "source": "/s", "type": "made", "time": "2023-11-14T22:13:20Z"}
    ce = [(f"ce-{name}", value) for name, value in cloud.items()]
    draft.add([{"op": "add", "path": "/p", "value": 1}], JSON_PATCH, ("Refold-Actor", "ada"), to=to)
    draft.add({"p": {"q": 2}}, MERGE_PATCH, ("Refold-Id", "merge-1"), ("traceparent", "00-1"), to=to)
    draft.add({**cloud, "data": {"put": {"c": 1}}}, CLOUD_EVENT, to=to)
    draft.add({"put": {"c": 2}}, *ce, to=to)
    draft.add({**cloud, "data": {"put": {"c": 1}}}, CLOUD_EVENT, to=to)
    draft.add({"patch": [], "type": "other"}, ("Refold-Type", "made"), to=to)
    draft.add({"put": 1}, ("Refold-Base", "x"), to=to)
    draft.add({"put": 1}, ("Refold-Nothing", "x"), to=to)
    draft.add({"put": 1}, ("Refold-Id", "a"), ("refold-id", "a"), to=to)
    draft.add({"put": 1, "meta": {"a": [1]}}, ("Refold-Meta", '{"a":[1.0]}'), to=to)
    draft.add(
        {**cloud, "data": {"merge": {"z": 1}}, "id": "2", "datacontenttype": "application/json"},
        CLOUD_EVENT,
        to=to,
    )
    draft.add({"z": 1}, *ce[:1], ("ce-id", "%ff"), *ce[2:], to=to)
    draft.add({**cloud, "specversion": "0.3", "data": {}}, CLOUD_EVENT, to=to)


def retries(draft: Draft) -> None:
    """Ids sent again, with the same content and with another."""
    to = ("n", "retried")
    for event in [
        {"put": {"n": 1}, "id": "one"}, {"put": {"n": 1}, "id": "one"}, {"put": {"n": 1.0}, "id": "one"},
        {"id": "one", "v": 1, "put": {"n": 1}}, {"patch": [{"op": "remove", "path": "/x"}], "id": "two"},
        {"patch": [{"op": "remove", "path": "/x"}], "id": "two"}, {"delete": True, "id": "three"},
        {"put": 1, "id": ""}, {"put": 1, "id": "x" * 129}, {"put": 1, "id": "x" * 128}, {"delete": True, "id": "three"},
        {"put": {}, "id": 5}, {"frob": 1, "put": 2, "id": "four"}, {"frob": 1, "put": 2, "id": "four"},
    ]:  # fmt: skip
        draft.add(event, to=to)


def garbage(draft: Draft) -> None:
    """Bodies and headers that are no event."""
    to = ("n", "garbage")
    for body in [
        b"", b"garbage", b"\xff\x00", b"[]", b"{}", b"null", b'{"put":1,"put":2}', b'{"put":NaN}', b'{"put":"\\ud800"}',
        b'{"put":18446744073709551616}', b'{"put":1e400}', b'{"put":-0.0}', b'{"put":-0}', b'{"put":1.50,"v":1}',
        b'{"put":1,"merge":2}', b'{"put":1,"session":"s"}', b'{"put":1,"v":2}', b'{"put":1,"meta":[]}', b'{"delete":1}',
        b'{"put":1,"base":-1}', b'{"put":1,"on_conflict":"never"}', b'{"put":1,"occurred_at":"yesterday"}',
        b'{"put": {"b": 1, "a": [1,2 ,3]}, "type": "spaced"}',
    ]:  # fmt: skip
        draft.add(body, to=to)
    draft.add({"put": 1}, ("Content-Type", "text/plain"), ("Nats-Msg-Id", "x"), to=to)


def bounds(draft: Draft) -> None:
    """Events at the limits of fold 1, and past them."""
    to = ("n", "large")
    draft.add(((b'{"put":"', 1), (b"x", 1024 * 1024), (b'"}', 1)), to=to)
    draft.add(((b'{"put":', 1), (b"[", 128), (b"]", 128), (b"}", 1)), to=to)
    draft.add(((b'{"put":', 1), (b"[", 129), (b"]", 129), (b"}", 1)), to=to)
    draft.add(((b'{"put":', 1), (b"[", 160), (b"]", 160), (b"}", 1)), to=to)
    operation = b'{"op":"test","path":"","value":[]},'
    draft.add({"put": []}, to=to)
    draft.add(((b'{"patch":[', 1), (operation, 9_999), (operation[:-1], 1), (b"]}", 1)), to=to)
    draft.add(((b'{"patch":[', 1), (operation, 10_000), (operation[:-1], 1), (b"]}", 1)), to=to)
    draft.add(((b'{"put":[', 1), (b"0,", 29_999), (b"0]}", 1)), to=to)
    insert = b'{"op":"add","path":"/0","value":0},'
    draft.add(((b'{"patch":[', 1), (insert, 9_000), (insert[:-1], 1), (b"]}", 1)), to=to)
    draft.add(((b'{"put":{"a":"', 1), (b"x", 1_000_000), (b'"}}', 1)), to=to)
    there, back = b'{"op":"move","from":"/a","path":"/b"},', b'{"op":"move","from":"/b","path":"/a"},'
    draft.add(((b'{"patch":[', 1), (there + back, 8), (there[:-1], 1), (b"]}", 1)), to=to)
    copies = [{"op": "copy", "from": "/a", "path": f"/c{number}"} for number in range(9)]
    draft.add({"patch": copies}, to=to)
    draft.add({"patch": copies[:7]}, to=to)
    draft.add({"put": 0}, ("Refold-Actor", "y" * 33_000), to=to)


def by_chance(draft: Draft) -> None:
    """One event of few names, ids, keys and values, so that events meet each other."""
    choice = draft.random.choice
    change: dict[str, Any] = choice(
        [
            {"patch": [_operation(draft.random) for _ in range(choice([1, 1, 2, 3]))]},
            {"patch": [_operation(draft.random)]},
            {"merge": {choice("ab~"): choice(VALUES) for _ in range(2)}},
            {"put": choice(VALUES)},
            {"put": {"a": choice(VALUES), "b": choice(VALUES)}},
            choice([{"delete": True}, {"merge": choice(VALUES)}]),
        ]
    )
    others: dict[str, Any] = choice(
        [{}, {}, {"id": f"i{choice(range(60))}"}, {"base": choice(range(40))}, {"actor": "ada", "type": "é"}]
    )
    headers = choice([(), (), (), (("Refold-Id", f"i{choice(range(60))}"),), (("Nats-Msg-Id", "z"),)])
    draft.add({**change, **others}, *headers, to=choice([("n", "a"), ("n", "a"), ("n", "b"), ("m", "a")]))


def _operation(chance: random.Random) -> dict[str, Any]:
    kind = chance.choice(["add", "add", "add", "replace", "test", "remove", "move", "copy"])
    operation: dict[str, Any] = {"op": kind, "path": chance.choice(POINTERS)}
    if kind in {"move", "copy"}:
        return operation | {"from": chance.choice(POINTERS)}
    return operation if kind == "remove" else operation | {"value": chance.choice(VALUES)}


def system(draft: Draft) -> None:
    """Rejected system events: none changes the fold number."""
    fold = ("_refold", "fold")
    for event in [
        {"put": {"fold": 1}},
        {"put": {"fold": True}},
        {"merge": {"fold": 2}},
        {"put": {"fold": 2}, "base": 1},
    ]:
        draft.add({**event, "id": "once"}, to=fold)
    draft.add({"put": {"fold": 1}, "id": "once"}, to=fold)
    draft.add(genesis("other", RULES), to=("_refold", "log"))
    draft.add({"put": 1}, to=("_refold", "unknown"))


def subjects(draft: Draft) -> None:
    """Subjects that no client of Refold makes."""
    for subject in [
        b"log.1.n.*",
        b"state._mine.a",
        b"\xff.\x00",
        b"state.n.a",
        b"x",
        b"log.3.n." + b"d" * 129,
        b"a.b.n.a",
    ]:
        draft.add({"merge": {"from": "elsewhere"}}, to=subject)


def texts_of(draft: Draft) -> Iterator[str]:
    """Return the lines of the log and of its fold."""
    folded = own_fold(draft.records, LOG_ID)
    yield json.dumps({"log_id": LOG_ID})
    for text, outcome in zip(draft.texts, folded["outcomes"], strict=True):
        yield json.dumps({**text, "outcome": outcome})
    documents = {
        key: {**head, "state": shortened(head["state"])} for key, head in folded["documents"].items()
    }
    yield json.dumps({"documents": documents, "chains": folded["chains"]})


def save(draft: Draft, path: Path) -> None:
    """Write a file that does not exist yet."""
    with path.open("x") as file:
        file.writelines(f"{line}\n" for line in texts_of(draft))
    print(f"{len(draft.records)} events, {len(json_text.dumps(draft.texts))} bytes")


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def main() -> None:
    """Write a file that does not exist yet."""
    draft = Draft()
    write(draft)
    save(draft, FOLDER / f"{sys.argv[1]}.jsonl")


if __name__ == "__main__":
    main()
