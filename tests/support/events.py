"""Events as the log would hold them: records by hand, one document's history, and Hypothesis strategies of logs.

For tests of the core and the projector.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from refold.core import json_text
from refold.core.document import ABSENT, Document, Outcome
from refold.core.fold import RULES, fold
from refold.core.fold.rules import Folded, Rules
from refold.core.fold_state import entry_of
from refold.core.history import NEVER, Entry, Segment
from refold.core.stream import Record, Route, partition_of
from refold.core.timestamp import format_time

OCCURRED_AHEAD_NANOSECONDS = RULES[1].limits.occurred_ahead_nanoseconds
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

JSON_PATCH = ("Content-Type", "application/json-patch+json")
MERGE_PATCH = ("Content-Type", "application/merge-patch+json")
CLOUD_EVENT = ("Content-Type", "application/cloudevents+json")


def lines(*headers: tuple[str, str]) -> bytes:
    """Write header lines as the log stores them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode()


def body_of(event: Any) -> bytes:
    """Write an event's body; bytes are used unchanged."""
    return event if isinstance(event, bytes) else json_text.dumps(event)


def subject_of(namespace: str, document: str) -> bytes:
    """Name a document's subject as the stream stores it."""
    return Route.of(namespace, document).subject


def record(
    event: Any,
    *headers: tuple[str, str],
    sequence: int = 1,
    time: int | None = None,
    namespace: str = "n",
    document: str = "d",
) -> Record:
    """Record an event; without a time, one second for each sequence."""
    recorded = START + sequence * SECOND if time is None else time
    return Record(sequence, recorded, subject_of(namespace, document), lines(*headers), body_of(event))


class History:
    """One document, folded event by event."""

    def __init__(
        self, namespace: str = "n", document: str = "d", *, sequence: int = 0, rules: Rules = RULES[1]
    ) -> None:
        partition = partition_of(namespace.encode(), document.encode())
        self.row = Document(namespace=namespace, document=document, partition=partition)
        self.sequence = sequence
        self.rules = rules
        self.folded: list[Folded] = []
        self.entries: list[Entry] = []

    @property
    def state(self) -> Any:
        """The head's state, ABSENT where there is none."""
        return self.row.state

    @property
    def state_bytes(self) -> bytes | None:
        """The head's canonical bytes."""
        return None if self.row.state is ABSENT else json_text.dumps(self.row.state)

    def publish(self, event: Any, *headers: tuple[str, str], at: int | None = None) -> Outcome:
        """Fold one more event; `at` is its recorded time in nanoseconds."""
        self.sequence += 1
        row = self.row
        published = record(
            event, *headers, sequence=self.sequence, time=at, namespace=row.namespace, document=row.document
        )
        decoded = self.rules.decode(published, self.rules)
        is_stale = self.rules.needs is not None and self.rules.needs(decoded, row) is not None
        window = Segment(NEVER, 0, list(self.entries)) if is_stale else None
        at = published.time
        folded = fold(row, published, self.rules, recorded_at=at, decoded=decoded, window=window)
        self.entries.append(entry_of(published, folded, at, is_usual=True))
        self.folded.append(folded)
        return folded.outcome

    def publish_many(self, count: int, event: Any) -> None:
        """Fold the same event so many times."""
        for _ in range(count):
            self.publish(event)


# Strategies. Few names, ids, keys and values, so that events meet each other, and few draws for each event.

_VALUES = st.sampled_from(
    [
        None,
        True,
        1,
        1.0,
        -0.5,
        2**64 - 1,
        "",
        "é\u0000𝄞",
        {},
        [],
        [0, [1], {"a": 2}],
        {"a": {"b": [3]}, "~/": 4},
        {"__proto__": {"": None}, "b": ["x" * 50]},
    ]
)
_POINTERS = st.sampled_from(
    [
        "",
        "/a",
        "/a",
        "/b",
        "/b",
        "/~0~1",
        "/__proto__",
        "/",
        "/a/b",
        "/a/0",
        "/b/-",
        "/b/1",
        "/a/a",
        "/a/00",
        "x",
    ]
)
_KINDS = st.sampled_from(["add", "add", "add", "replace", "test", "remove", "move", "copy"])


def _operation(kind: str, path: str, source: str, value: Any) -> dict[str, Any]:
    named = {"move": {"from": source}, "copy": {"from": source}, "remove": {}}
    return {"op": kind, "path": path, **named.get(kind, {"value": value})}


_PATCHES = st.lists(st.builds(_operation, _KINDS, _POINTERS, _POINTERS, _VALUES), max_size=3)
_MERGES = st.dictionaries(st.sampled_from(["a", "b", "~/"]), _VALUES, max_size=3) | _VALUES
_CHANGES = st.one_of(
    st.builds(lambda patch: {"patch": patch}, _PATCHES),
    st.builds(lambda merge: {"merge": merge}, _MERGES),
    st.builds(lambda state: {"put": state}, _VALUES),
    st.just({"delete": True}),
)
_OCCURRED = st.integers(-3, 2).map(lambda n: format_time(START + n * OCCURRED_AHEAD_NANOSECONDS + n % 2))
_OTHERS = st.builds(
    lambda weight, name, time, base: [
        {},
        {},
        {"id": name},
        {"occurred_at": time},
        {"id": name, "base": base},
    ][weight],
    st.integers(0, 4),
    st.sampled_from(["one", "two", "three", "four", ""]),
    _OCCURRED,
    st.integers(0, 4),
)
_MISTAKES = st.sampled_from([*[{}] * 12, {"v": 2}, {"session": "later"}, {"base": 1, "on_conflict": "merge"}])
EVENTS = st.builds(lambda change, others, wrong: {**change, **others, **wrong}, _CHANGES, _OTHERS, _MISTAKES)
"""Events, most of them valid on their own; whether they apply depends on the document."""

_GARBAGE = st.sampled_from(
    [b"", b"garbage", b"\xff\x00", b"[]", b'{"put":1,"put":2}', b'{"put":NaN}', b'{"put":"\\ud800"}']
)
# Weighted by a number: `one_of` merges equal branches.
_BODIES = st.builds(
    lambda weight, event, garbage: garbage if weight == 9 else body_of(event),
    st.integers(0, 9),
    EVENTS,
    _GARBAGE,
)
_HEADERS = st.sampled_from(
    [
        *[b""] * 8,
        lines(("Refold-Id", "one"), ("Nats-Expected-Stream", "STATE")),
        lines(("refold-id", "two"), ("Refold-Actor", "ada")),
        lines(("Content-Type", "application/merge-patch+json"), ("traceparent", "00-1")),
        lines(("Nats-Msg-Id", "x")),
    ]
)
_SUBJECTS = st.sampled_from(
    [
        *[subject_of("n", "a")] * 6,
        *[subject_of("n", "b"), subject_of("m", "a")] * 2,
        b"state.n.a",
        subject_of("_refold", "fold"),
        b"log.1.n.*",
        b"state._mine.a",
        b"\xff.\x00",
    ]
)
_TIMES = st.integers(-2, 2).map(lambda n: START + n * OCCURRED_AHEAD_NANOSECONDS)
_RECORDS = st.builds(Record, st.just(0), _TIMES, _SUBJECTS, _HEADERS, _BODIES)


def _numbered(drawn: list[tuple[Record, int]]) -> list[Record]:
    """Number a log's events; now and then one is an earlier one, sent again."""
    log: list[Record] = []
    for record, back in drawn:
        first = log[-back] if 0 < back <= len(log) else record
        log.append(first._replace(sequence=len(log) + 1, time=record.time))
    return log


LOGS = st.lists(st.tuples(_RECORDS, st.integers(-9, 6)), min_size=6, max_size=24).map(_numbered)
"""Logs from sequence 1 on, hostile subjects and bytes among them, the clock not monotone."""


_PLAIN_VALUES = st.sampled_from(
    [1, -0.5, True, None, "", "é\u0000", [1, [2]], {"b": {}}, {"a": [3], "b": 0}, "x" * 30]
)
_PLACES = st.sampled_from(
    ["/a", "/a", "/b", "/b", "/c", "/", "/a/b", "/a/0", "/b/-", "/b/1", "/a/b/0", "/b/00"]
)
_PLAIN_KINDS = st.sampled_from(["add", "add", "add", "replace", "remove", "test"])
_USUAL_CHANGES = st.one_of(
    st.builds(
        lambda operations: {"patch": operations},
        st.lists(
            st.builds(_operation, _PLAIN_KINDS, _PLACES, _PLACES, _PLAIN_VALUES), min_size=1, max_size=2
        ),
    ),
    st.builds(
        lambda merge: {"merge": merge}, st.dictionaries(st.sampled_from("abc"), _PLAIN_VALUES, max_size=2)
    ),
    st.builds(lambda a, b: {"put": {"a": a, "b": [b]}}, _PLAIN_VALUES, _PLAIN_VALUES),
    st.builds(
        lambda path, item: {"patch": [{"path": path, **item}]},
        _PLACES,
        st.sampled_from(
            [
                {"op": "inc", "inc": 1},
                {"op": "str_ins", "pos": 1, "str": "é"},
                {"op": "str_del", "pos": 0, "len": 1},
                {"op": "push", "value": 1, "max": 2},
            ]
        ),
    ),
)
_ABOUT = st.sampled_from(
    [
        *[{}, {"type": "t", "actor": "ada"}, {"meta": {"a": [1]}}, {"on_conflict": "reject"}] * 4,
        {"type": 1},
        {"meta": 1},
        {"session": "s"},
        {"session": 1},
        {"all_or_nothing": True},
        {"on_conflict": "merge"},
    ]
)
_REPLIES = st.sampled_from(
    [
        *[
            b"",
            b"Nats-Batch-Id: b\r\nNats-Batch-Sequence: 2\r\n",
            b"Refold-Reply: refold.reply.g\r\n",
        ]
        * 4,
        b"Refold-Reply: refold.reply.g\r\nNats-Expected-Last-Subject-Sequence: 1\r\n",
        b"Nats-A: b\r\nrefold-reply: _INBOX.a\r\nX: y\r\n",
        b"Refold-Reply: refold.reply.g\r\nrefold-reply: refold.reply.h\r\n",
        b"Refold-Reply: refold.reply.g\r\nRefold-Type: t\r\n",
        b"Refold-Reply: refold.reply.g\r\nX: %b\r\n" % (b"y" * 40),
        b"Refold-Reply: nowhere",
    ]
)


def _usual_log(drawn: list[tuple[Any, Any, int, int, int, bytes, int]]) -> list[Record]:
    """Make a log of two documents, each put whole first; a base is near the number of its events so far."""
    log: list[Record] = []
    for change, about, document, named, base, headers, time in drawn:
        subject = subject_of("n", "ab"[document])
        counted = sum(record.subject == subject for record in log)
        first = {"put": {"a": {"b": [1]}, "b": [1]}}
        fields = {**(change if counted else first), **about}
        fields |= {"id": f"i{named}"} if named < 12 else {}
        fields |= {"base": max(0, counted - base)} if base < 3 else {}
        fields |= {"occurred_at": format_time(START + time * OCCURRED_AHEAD_NANOSECONDS)} if time < 2 else {}
        recorded = START + len(log)
        log.append(Record(len(log) + 1, recorded, subject, headers, body_of(fields)))
    return log


USUAL_LOGS = st.lists(
    st.tuples(
        _USUAL_CHANGES,
        _ABOUT,
        st.integers(0, 1),
        st.integers(0, 20),
        st.integers(0, 20),
        _REPLIES,
        st.integers(0, 20),
    ),
    min_size=3,
    max_size=16,
).map(_usual_log)
"""Logs of usual events: native, with texts, ids, bases and reply subjects; some break a rule."""
