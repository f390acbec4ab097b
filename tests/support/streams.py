"""Live streams without servers: a feed and a past in memory, subscribers of every pace, and what they make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import jsonpatch
from prometheus_client import CollectorRegistry

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.core.replay import apply_accepted
from refold.core.timestamp import format_time
from refold.live import Frame, Mode, Subscription
from refold.live.backlog import Backlog
from refold.live.documents import DocumentSubscriptions
from refold.live.namespace import NamespaceSubscriptions
from refold.live.ring import Ring
from refold.live.streams import Live
from refold.live.watched import Change, WatchedDocument
from refold.log.memory import MemoryLog
from refold.store.memory import MemoryStore
from refold.telemetry.metrics.gateway import LiveMetrics

LOG = "0123abcd"
KEY = ("acme", "order-1")
ABSENT = object()


class MemoryFeed:
    """All documents' changes, and those of them that are watched."""

    def __init__(self) -> None:
        self.sequence = 0
        self.is_late = False
        self.behind_seconds = 0.0
        self.changes: dict[tuple[str, str], list[Change]] = {}
        self.states: dict[tuple[str, str], list[Any]] = {}
        self.documents: dict[tuple[str, str], WatchedDocument] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.listeners: list[Ring] = []

    def publish(self, patch: list[Any], key: tuple[str, str] = KEY, **fields: Any) -> Change:
        """Append a version; the states after each are kept."""
        changes = self.changes.setdefault(key, [])
        states = self.states.setdefault(key, [ABSENT])
        self.sequence += 1
        namespace, document = key
        body = {
            "actor": None, "document": document, "id": None, "namespace": namespace,
            "occurred_at": format_time(self.sequence), "patch": patch, "recorded_at": format_time(self.sequence),
            "sequence": self.sequence, "type": None, "version": len(changes) + 1, **fields,
        }  # fmt: skip
        change = Change(body["version"], self.sequence, json_text.dumps(body))
        states.append(folded(states[-1], change.operations()))
        changes.append(change)
        if not self.is_late:
            self.deliver(key)
        for listener in self.listeners:
            listener.take(key, change)
            listener.advance(self.sequence, 0)
        return change

    def deliver(self, key: tuple[str, str] = KEY) -> None:
        """Bring a document that is watched all its changes."""
        if key in self.documents:
            for change in self.changes[key][self.documents[key].version :]:
                self.documents[key].append(change)

    async def add_listener(self, listener: Ring) -> Callable[[], None]:
        """Pass all changes from now on."""
        self.listeners.append(listener)
        listener.advance(self.sequence, self.sequence)
        return lambda: self.listeners.remove(listener)

    def snapshot_at(self, key: tuple[str, str], version: int) -> Snapshot:
        """Return a document at a version."""
        if not version:
            return NEVER
        change, state = self.changes[key][version - 1], self.states[key][version]
        written = None if state is ABSENT else json_text.dumps(state)
        return NEVER._replace(
            version=version, state=written, sequence=change.sequence, recorded_at=change.sequence
        )

    async def watch(self, key: tuple[str, str]) -> WatchedDocument:
        """Watch a document."""
        await asyncio.sleep(0)
        self.counts[key] = self.counts.get(key, 0) + 1
        if key not in self.documents:
            head = self.snapshot_at(key, len(self.changes.get(key, ())))
            self.documents[key] = WatchedDocument(key, head)
        return self.documents[key]

    def release(self, key: tuple[str, str]) -> None:
        """End one watch."""
        self.counts[key] -= 1
        if not self.counts[key]:
            del self.documents[key]

    async def snapshot(self, key: tuple[str, str], point: Point) -> Snapshot:
        """Read a document at a point."""
        await asyncio.sleep(0)
        changes = self.changes.get(key, [])
        if point.clock is Clock.sequence:
            return self.snapshot_at(key, sum(change.sequence <= point.value for change in changes))
        return self.snapshot_at(key, point.value)

    async def past_changes(self, key: tuple[str, str], after: int, limit: int) -> list[Change]:
        """Read changes after a version, as a gateway does that knows none of them."""
        await asyncio.sleep(0)
        some = self.changes.get(key, [])[after : after + limit]
        return [Change(change.version, change.sequence, change.body) for change in some]


class MemoryReader:
    """What was before."""

    def __init__(self, feed: MemoryFeed) -> None:
        self._feed = feed
        self.snapshot = feed.snapshot
        self.changes = feed.past_changes

    async def reaches(self, sequence: int) -> bool:
        """Tell whether there is a sequence."""
        return sequence <= self._feed.sequence

    async def newest(self, key: tuple[str, str]) -> int:
        """Read a document's version."""
        return (await self.snapshot(key, Point(Clock.sequence, 2**62))).version


async def has_none(_sequence: int) -> bool:
    """Tell that the log has no such sequence."""
    return False


def live_of(feed: MemoryFeed) -> Live:
    """Return the streams of a gateway over a feed; of namespaces, those without a past."""
    metrics = LiveMetrics(CollectorRegistry())
    backlog = Backlog(MemoryLog(LOG), MemoryStore())
    namespaces = NamespaceSubscriptions(feed, backlog, lambda: 0, has_none, log=LOG, metrics=metrics)
    documents = DocumentSubscriptions(feed, MemoryReader(feed), log=LOG, metrics=metrics)
    return Live(feed, documents, namespaces, log=LOG, metrics=metrics, age_seconds=3_600)


def asked(**fields: Any) -> Subscription:
    """Return a subscription to the document of the tests."""
    return Subscription(**{"namespace": KEY[0], "document": KEY[1], "mode": Mode.patch, **fields})


class Reader:
    """A sink with the subscriber behind it: it takes messages while it is open, and keeps what they make.

    It begins at a version; without one, it keeps the messages only.
    """

    def __init__(self, version: int | None = -1) -> None:
        self.is_open = self.is_ready = True
        self.on_ready: Callable[[], None] = lambda: None
        self.messages: list[dict[str, Any]] = []
        self.cursors: list[str] = []
        self.is_ended = False
        self.version = version
        self.value: Any = ABSENT
        self.values: dict[str, Any] = {}

    def send(self, frame: Frame, cursor: str) -> None:
        """Take a message."""
        message = json_text.loads(frame.body)
        self.messages.append(message)
        if cursor:
            self.cursors.append(cursor)
        self.is_ready = self.is_open
        if self.version is not None and message["kind"] in {"snapshot", "change", "values"}:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "snapshot":
            self.value = ABSENT if message.get("absent") else message.get("state")
            self.values = dict(message.get("values", {}))
        else:
            assert message.get("after", message["version"] - 1) == self.version, message
            if message["kind"] == "change":
                self.value = folded(self.value, message["patch"])
            else:
                self.values |= message["values"]
                for pointer in message.get("gone", ()):
                    self.values.pop(pointer, None)
        self.version = message["version"]

    def end(self) -> None:
        """Note the end."""
        self.is_ended = True

    def set_open(self, is_open: bool) -> None:
        """Begin or stop to take messages."""
        self.is_open = is_open
        if is_open and not self.is_ready:
            self.is_ready = True
            self.on_ready()


def folded(state: Any, patch: list[Any]) -> Any:
    """Apply a patch as a subscriber does: by the jsonpatch library where it can, which is not the core's own code."""
    if state is ABSENT and not (patch and patch[0]["path"] == ""):
        state = {}
    patch = json_text.loads(json_text.dumps(patch))
    for operation in patch:
        if operation["op"] == "remove" and operation["path"] == "":
            state = ABSENT
        elif operation["op"] in {"inc", "str_ins", "str_del"}:
            state = apply_accepted(json_text.loads(json_text.dumps(state)), [operation])
        elif operation["path"] == "" and "value" in operation:
            state = operation["value"]
        else:
            state = jsonpatch.apply_patch({} if state is ABSENT else state, [operation])
    return state


def random_state(random: Random, depth: int = 3) -> Any:
    """Return a small object."""
    return {key: _value(random, depth - 1) for key in random.sample(KEYS, random.randint(1, 3))}


def _value(random: Random, depth: int) -> Any:
    kind = random.randrange(7 if depth else 3)
    if kind < 3:
        return random.choice([random.randint(0, 9), "text", None, True, 1.5])
    if kind < 5:
        return [_value(random, depth - 1) for _ in range(random.randint(0, 3))]
    return {key: _value(random, depth - 1) for key in random.sample(KEYS, random.randint(0, 3))}


def random_patch(random: Random, state: Any, *, is_native: bool = False) -> list[Any]:
    """Return a patch that applies to a state."""
    patch: list[Any] = []
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        while True:
            operation = _operation(random, state, is_native=is_native)
            try:
                state = folded(copied(state), [operation])
            except (
                jsonpatch.JsonPatchException,
                jsonpatch.JsonPointerException,
                Refused,
                LookupError,
                TypeError,
            ):
                continue
            patch.append(operation)
            break
    return patch


def copied(state: Any) -> Any:
    """Return a state that shares nothing with another."""
    return state if state is ABSENT else json_text.loads(json_text.dumps(state))


def _operation(random: Random, state: Any, *, is_native: bool) -> dict[str, Any]:
    if random.randrange(60) == 0:
        whole = {"op": "add" if state is ABSENT else "replace", "path": "", "value": random_state(random)}
        return random.choice([whole, {"op": "remove", "path": ""}]) if state is not ABSENT else whole
    path = _path(random, state)
    kinds = ["add", "add", "add", "replace", "replace", "replace", "remove", "move", "copy"]
    kind = random.choice([*kinds, *(["inc", "str_ins", "str_del"] if is_native else [])])
    if kind == "inc":
        return {"op": kind, "path": path, "inc": random.randint(-3, 3)}
    if kind == "str_ins":
        return {"op": kind, "path": path, "pos": random.randint(0, 3), "str": random.choice("xyz")}
    if kind == "str_del":
        return {"op": kind, "path": path, "pos": random.randint(0, 2), "len": random.randint(0, 2)}
    operation: dict[str, Any] = {"op": kind, "path": path or "/a"}
    if kind in {"move", "copy"}:
        operation["from"] = _path(random, state) or "/a"
    elif kind != "remove":
        operation["value"] = _value(random, 2)
    return operation


def _path(random: Random, node: Any) -> str:
    path = ""
    while random.randrange(5):
        if isinstance(node, dict):
            key = random.choice([*KEYS, *node])
            path, node = f"{path}/{key}", node.get(key)
        elif isinstance(node, list):
            place = random.randint(0, len(node))
            path, node = f"{path}/{place}", node[place] if place < len(node) else None
        else:
            break
    return path


KEYS = ["a", "b", "c", "0"]
