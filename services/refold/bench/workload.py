"""Generate seeded events: each document is put whole, then small valid patches fall on random documents.

Used by the measurements, here and in `tests/bench/`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

import orjson

NAMESPACE: Final = "bench"
COUNTER: Final = "version"
"""The member that holds the document's version, in a counted workload."""

MEMBER_BYTES: Final = 48
EXTRAS_MAX: Final = 8
LINES_MAX: Final = 8
ACTORS: Final = 50
STALE_VERSIONS_MAX: Final = 10
SESSIONS: Final = 8
"""A stale event's base is up to so many versions behind, and it is of one of so many sessions."""

WORDS: Final = (
    "order",
    "invoice",
    "amount",
    "customer",
    "street",
    "paid",
    "open",
    "sent",
    "parcel",
    "total",
    "due",
)

Kind = Literal["random", "compressible"]
"""What texts are made of: random hex, which PostgreSQL cannot compress, or words of a business."""


class Event(NamedTuple):
    """One event to publish."""

    document: str
    body: bytes


@dataclass(slots=True)
class _Shape:
    """The facts of a document that its next valid patch needs."""

    version: int = 0
    lines: int = 0
    extras: int = 0


class Workload:
    """Events over `documents` documents of about `document_bytes`; the same seed gives the same events.

    Texts are of one `kind`. With `is_counted`, every event also sets the member `version` to the version that it makes.
    A share of the patches, `stale_share`, has a base behind the head.
    """

    def __init__(
        self,
        *,
        documents: int,
        document_bytes: int = 2_048,
        seed: int = 1,
        is_counted: bool = False,
        prefix: str = "d",
        kind: Kind = "random",
        stale_share: float = 0.0,
    ) -> None:
        self.documents = documents
        self._stale_share = stale_share
        self._kind = kind
        self._members = max(1, (document_bytes - 100) // (MEMBER_BYTES + 10))
        self._random = random.Random(seed)  # noqa: S311 - the same work each time, no secret.
        self._is_counted = is_counted
        self._prefix = prefix
        self._shapes: dict[int, _Shape] = {}

    def events(self, count: int) -> Iterator[Event]:
        """Yield the next events: first a put of every document, then small patches of random documents."""
        for _ in range(count):
            number = len(self._shapes)
            yield self._put(number) if number < self.documents else self._patch()

    def puts(self) -> Iterator[Event]:
        """Return a put of every document."""
        return self.events(self.documents)

    def skip(self, count: int) -> None:
        """Drop events that are in the log already."""
        for _ in self.events(count):
            pass

    def name(self, document: int) -> str:
        """Return a document's id by its number."""
        return f"{self._prefix}{document}"

    def version(self, document: int) -> int:
        """Return a document's version after the events returned so far."""
        shape = self._shapes.get(document)
        return shape.version if shape else 0

    def _put(self, number: int) -> Event:
        self._shapes[number] = _Shape(version=1)
        state: dict[str, Any] = {f"m{at}": self._text() for at in range(self._members)}
        state |= {"lines": [], COUNTER: 1}
        return Event(self.name(number), orjson.dumps({"put": state, **self._about("document.made")}))

    def _patch(self) -> Event:
        number = self._random.randrange(self.documents)
        shape = self._shapes[number]
        shape.version += 1
        # Without another random number, so that the other workloads stay as they were.
        is_stale = bool(self._stale_share) and self._random.random() < self._stale_share
        kind, operation = self._stale_operation(shape) if is_stale else self._operation(shape)
        patch = [operation]
        if self._is_counted:
            patch.append({"op": "replace", "path": f"/{COUNTER}", "value": shape.version})
        event: dict[str, Any] = {"patch": patch, **self._about(kind)}
        if is_stale:
            # The version before this event is one less than the one that it makes.
            event["base"] = max(1, shape.version - 1 - self._random.randint(1, STALE_VERSIONS_MAX))
            event["session"] = f"session-{self._random.randrange(SESSIONS)}"
        return Event(self.name(number), orjson.dumps(event))

    def _stale_operation(self, shape: _Shape) -> tuple[str, dict[str, Any]]:
        """Return an operation that is possible whatever the author has seen."""
        if shape.lines < LINES_MAX and self._random.random() < 1 / 2:
            shape.lines += 1
            return "line.added", {"op": "add", "path": "/lines/-", "value": self._text()}
        path = f"/m{self._random.randrange(self._members)}"
        return "member.replaced", {"op": "replace", "path": path, "value": self._text()}

    def _operation(self, shape: _Shape) -> tuple[str, dict[str, Any]]:
        choice = self._random.random()
        if choice < 0.55:
            path = f"/m{self._random.randrange(self._members)}"
            return "member.replaced", {"op": "replace", "path": path, "value": self._text()}
        if choice < 0.70:
            return self._on_extras(shape)
        if shape.lines == LINES_MAX or (shape.lines and choice > 0.85):
            shape.lines -= 1
            return "line.removed", {"op": "remove", "path": "/lines/0"}
        shape.lines += 1
        return "line.added", {"op": "add", "path": "/lines/-", "value": self._text()}

    def _on_extras(self, shape: _Shape) -> tuple[str, dict[str, Any]]:
        """Add members up to the limit, then remove the last one."""
        if shape.extras == EXTRAS_MAX:
            shape.extras -= 1
            return "member.removed", {"op": "remove", "path": f"/extra{shape.extras}"}
        shape.extras += 1
        path = f"/extra{shape.extras - 1}"
        return "member.added", {"op": "add", "path": path, "value": self._text()}

    def _about(self, kind: str) -> dict[str, str]:
        return {"type": kind, "actor": f"user-{self._random.randrange(ACTORS)}"}

    def _text(self) -> str:
        if self._kind == "compressible":
            return " ".join(self._random.choices(WORDS, k=12))[:MEMBER_BYTES]
        return f"{self._random.getrandbits(MEMBER_BYTES * 4):0{MEMBER_BYTES}x}"


def small_events(count: int, *, documents: int = 1_000, kind: Kind = "random") -> list[Event]:
    """Return patches without the puts before them, for measurements that do not fold."""
    workload = Workload(documents=documents, kind=kind)
    workload.skip(documents)
    return list(workload.events(count))


def batches(events: Iterator[Event], size: int) -> Iterator[list[Event]]:
    """Cut events into lists of `size`, the last one shorter."""
    while batch := list(islice(events, size)):
        yield batch
