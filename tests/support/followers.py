"""Subscribers that return after each end with their cursor, as a browser does, and check all that they are sent.

For commands that kill servers under them. The documents' writers set and remove members of the root only.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from refold.client import Refold
from support.subscribers import Subscriber, stream_request

RETRY_SECONDS: Final = 3.0
"""Until a stream has said how soon its client returns."""

VIOLATIONS_MAX: Final = 50
LAST_VERSION_SECONDS: Final = 30.0
"""Within this, every follower must have the last version."""


@dataclass(slots=True)
class Found:
    """What all followers found: counts, and what must not be."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def violate(self, what: str) -> None:
        """Note what must not be; all are counted, the first ones are kept."""
        self.counts["violations"] += 1
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(what)


class Follower(Subscriber):
    """Follows one document.

    One that is not merged gets a snapshot, then each version once and in order, over all of its connections. One that
    is merged may get several versions in one message, or a snapshot that is newer.
    """

    __slots__ = (
        "_body", "_is_open", "_left_bytes", "_raw", "_retry_seconds", "cursor", "document", "found", "is_merged",
        "path", "state", "version",
    )  # fmt: skip

    def __init__(self, number: int, namespace: str, document: str, found: Found, *, is_merged: bool) -> None:
        super().__init__(number)
        self.document = document
        self.found = found
        self.is_merged = is_merged
        self.path = f"/v1/{namespace}/{document}/live{'' if is_merged else '?merge=false'}"
        self.cursor = ""
        self.version: int | None = None
        self.state: Any = None
        self._retry_seconds = RETRY_SECONDS
        self._begin()

    def request(self) -> bytes:
        """Return the request, with the cursor."""
        self._begin()
        return stream_request(self.path, cursor=self.cursor)

    def take(self, data: bytes, now: float) -> None:  # noqa: ARG002 - what comes counts, not when
        """Take the parts of a response, and the events that are whole."""
        self._raw += data
        if not self._is_open:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return
            self._is_open, self._raw = True, rest
            if not head.startswith(b"HTTP/1.1 200 "):
                self._violate(f"refused: {head[:100]!r} {rest[:200]!r}")
            # A stream that cannot be opened now has a response of known length.
            length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
            self._left_bytes = int(length[1]) if length else None
        self._read_body()
        while b"\n\n" in self._body:
            event, _, self._body = self._body.partition(b"\n\n")
            self._take_event(dict(line.split(b": ", 1) for line in event.split(b"\n")))
        if self._left_bytes == 0 and self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> None:
        if self._left_bytes is not None:
            self._left_bytes -= len(self._raw)
            self._body, self._raw = self._body + self._raw, b""
            return
        while True:
            line, end, rest = self._raw.partition(b"\r\n")
            size = int(line, 16) if end else 0
            if not size or len(rest) < size + 2:
                return
            self._body, self._raw = self._body + rest[:size], rest[size + 2 :]

    def lost(self) -> float:
        """Return when it returns: as soon as the stream said."""
        return self._retry_seconds

    def _begin(self) -> None:
        self._raw = self._body = b""
        self._is_open = False
        self._left_bytes: int | None = None

    def _take_event(self, fields: dict[bytes, bytes]) -> None:
        self.is_begun = True
        if b"retry" in fields:
            self._retry_seconds = int(fields[b"retry"]) / 1_000
        if b"data" in fields:
            message = orjson.loads(fields[b"data"])
            self.found.counts[message["kind"]] += 1
            self._take_message(message)
            self.cursor = fields.get(b"id", self.cursor.encode()).decode()

    def _take_message(self, message: dict[str, Any]) -> None:
        kind, version = message["kind"], message.get("version")
        if kind == "snapshot":
            self.found.counts[f"snapshot {message['why']}"] += 1
            is_first = self.version is None
            if not (is_first or self.is_merged):
                self._violate(f"a snapshot at {version}, why {message['why']}")
            if version < (self.version or 0):
                self._violate(f"a snapshot that is older: {version}")
            self.version, self.state = version, message.get("state")
        elif kind == "change":
            if message.get("after", version - 1) != self.version:
                self._violate(f"version {version} after {message.get('after', version - 1)}")
            if not self.is_merged and "merged" in message:
                self._violate(f"version {version} has several changes")
            self.found.counts["versions"] += version - (self.version or 0)
            self.version, self.state = version, self._changed(message["patch"])
        elif kind == "bye":
            self.found.counts[f"bye {message['reason']}"] += 1
        elif kind != "alive":
            self._violate(f"unexpected: {message}")

    def _changed(self, patch: list[Any]) -> Any:
        state = dict(self.state or {})
        for operation in patch:
            name = operation["path"][1:]
            if operation["op"] in {"add", "replace"}:
                state[name] = operation["value"]
            elif state.pop(name, self) is self or operation["op"] != "remove":
                self._violate(f"does not apply: {operation}")
        return state

    def _violate(self, what: str) -> None:
        self.found.violate(f"{self.number}, {self.path}, at {self.version} ({self.cursor}): {what}")


async def compare_followers(url: str, namespace: str, followers: list[Follower], found: Found) -> None:
    """Wait until all have the last version; compare their states with those that are served."""
    async with Refold(url) as refold:
        served = {
            document: await refold.get(namespace, document)
            for document in sorted({it.document for it in followers})
        }
    deadline = time.monotonic() + LAST_VERSION_SECONDS
    while any((it.version or 0) < served[it.document].version for it in followers):
        if time.monotonic() > deadline:
            found.violate("the last version has not come to all")
            break
        await asyncio.sleep(0.05)
    for follower in followers:
        if follower.version != served[follower.document].version:
            found.violate(
                f"{follower.number} ends at {follower.version} of {served[follower.document].version}"
            )
        elif follower.state != served[follower.document].state:
            found.violate(f"{follower.number} has another state: {follower.state}")
    versions = sum(each.version for each in served.values())
    print(f"{versions:,} versions of {len(served)} documents; {len(followers):,} states compared")
