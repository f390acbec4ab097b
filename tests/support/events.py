"""Events as the log would hold them: records by hand, one document's history, and Hypothesis strategies of logs.

For tests of the core and the projector.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from refold.core import canonical
from refold.core.document import ABSENT, Document
from refold.core.fold import Folded, fold
from refold.core.limits import OCCURRED_AHEAD_NANOSECONDS
from refold.core.outcome import Outcome
from refold.core.record import Record, partition_of, stored_subject
from refold.core.timestamp import format_time

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

JSON_PATCH = ("Content-Type", "application/json-patch+json")
MERGE_PATCH = ("Content-Type", "application/merge-patch+json")
CLOUD_EVENT = ("Content-Type", "application/cloudevents+json")


def lines(*headers: tuple[str, str]) -> bytes:
    """Write header lines as the log stores them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode()


def body_of(event: Any) -> bytes:
    """Write an event's body; bytes stand for themselves."""
    return event if isinstance(event, bytes) else canonical.dumps(event)


def subject_of(namespace: str, document: str) -> bytes:
    """Name a document's subject as the stream stores it."""
    partition = partition_of(namespace.encode(), document.encode())
    return stored_subject(partition, namespace, document)


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

    def __init__(self, namespace: str = "n", document: str = "d", *, sequence: int = 0) -> None:
        partition = partition_of(namespace.encode(), document.encode())
        self.row = Document(namespace=namespace, document=document, partition=partition)
        self.sequence = sequence
        self.folded: list[Folded] = []

    @property
    def state(self) -> Any:
        """The head's state, ABSENT where there is none."""
        return self.row.state

    @property
    def state_bytes(self) -> bytes | None:
        """The head's canonical bytes."""
        return None if self.row.state is ABSENT else canonical.dumps(self.row.state)

    def publish(self, event: Any, *headers: tuple[str, str], at: int | None = None) -> Outcome:
        """Fold one more event; `at` is its recorded time in nanoseconds."""
        self.sequence += 1
        row = self.row
        published = record(
            event, *headers, sequence=self.sequence, time=at, namespace=row.namespace, document=row.document
        )
        self.folded.append(fold(row, published, recorded_at=published.time))
        return self.folded[-1].outcome

    def publish_many(self, count: int, event: Any) -> None:
        """Fold the same event so many times."""
        for _ in range(count):
            self.publish(event)


# Strategies: few names and few ids, so that events meet each other.

_KEYS = st.sampled_from(["a", "b", "", "~/", "0", "-", "__proto__", "é\u0000"])
_SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, -0.5, 1e300, 2**64 - 1, -(2**63), "", "text", "𝄞"])
_VALUES = st.recursive(
    _SCALARS,
    lambda items: st.lists(items, max_size=3) | st.dictionaries(_KEYS, items, max_size=3),
    max_leaves=6,
)
_TOKENS = st.lists(_KEYS | st.sampled_from(["1", "2", "00"]), max_size=3)
_POINTERS = _TOKENS.map(lambda tokens: "".join(f"/{t.replace('~', '~0').replace('/', '~1')}" for t in tokens))
_OPERATIONS = st.one_of(
    st.builds(
        lambda op, path, value: {"op": op, "path": path, "value": value},
        st.sampled_from(["add", "add", "replace", "test"]),
        _POINTERS,
        _VALUES,
    ),
    st.builds(lambda path: {"op": "remove", "path": path}, _POINTERS),
    st.builds(
        lambda op, path, source: {"op": op, "path": path, "from": source},
        st.sampled_from(["move", "copy"]),
        _POINTERS,
        _POINTERS,
    ),
)
PATCHES = st.lists(_OPERATIONS, max_size=3)
"""Patches of which many apply and many do not."""

_MERGES = st.dictionaries(_KEYS, st.none() | _VALUES, max_size=3) | _VALUES
CHANGES = st.one_of(
    PATCHES.map(lambda patch: {"patch": patch}),
    _MERGES.map(lambda merge: {"merge": merge}),
    _VALUES.map(lambda state: {"put": state}),
    st.just({"delete": True}),
)
"""An event's change alone."""

_OCCURRED = st.integers(-3 * OCCURRED_AHEAD_NANOSECONDS, 2 * OCCURRED_AHEAD_NANOSECONDS).map(
    lambda ahead: format_time(START + ahead)
)
_OTHERS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["one", "two", "three", ""]),
        "base": st.integers(0, 6),
        "on_conflict": st.sampled_from(["reject", "merge", "nonsense"]),
        "occurred_at": _OCCURRED,
        "actor": st.sampled_from(["ada", "é\u0000"]),
        "v": st.sampled_from([1, 1, 2]),
        "session": st.just("later"),
    },
)
EVENTS = st.builds(lambda change, others: {**change, **others}, CHANGES, st.just({}) | _OTHERS)
"""Events, most of them valid."""

_GARBAGE = st.binary(max_size=12) | st.sampled_from(
    [b'{"put":1,"put":2}', b'{"put":NaN}', b"[]", b'{"put":"\\ud800"}']
)
_HEADERS = st.lists(
    st.sampled_from(
        [
            ("Refold-Id", "one"),
            ("refold-id", "two"),
            ("Refold-Actor", "ada"),
            ("Content-Type", "application/json"),
            ("traceparent", "00-1"),
            ("Nats-Expected-Stream", "STATE"),
            ("Refold-Base", "2"),
        ]
    ),
    max_size=2,
)
_SUBJECTS = st.sampled_from(
    [subject_of("n", "a"), subject_of("n", "a"), subject_of("n", "b"), subject_of("m", "a"), b"state.n.a"]
)
_STRANGE = st.sampled_from(
    [subject_of("_refold", "fold"), b"log.1.n.*", b"state._mine.a", b"\xff.\x00", b"x"]
)


@st.composite
def records(draw: st.DrawFn, *, max_size: int = 30) -> list[Record]:
    """Draw a log's events from sequence 1 on: hostile subjects and bytes among them, the clock not monotone."""
    count = draw(st.integers(1, max_size))
    return [
        Record(
            sequence,
            START + draw(st.integers(-2, 2)) * OCCURRED_AHEAD_NANOSECONDS,
            draw(_STRANGE) if draw(st.integers(0, 9)) == 0 else draw(_SUBJECTS),
            lines(*draw(_HEADERS)) if draw(st.integers(0, 3)) == 0 else b"",
            draw(_GARBAGE) if draw(st.integers(0, 9)) == 0 else body_of(draw(EVENTS)),
        )
        for sequence in range(1, count + 1)
    ]
