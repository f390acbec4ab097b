"""Clients that write strictly and read through several gateways, and check each answer against `Sent`.

`HttpClient` uses any gateway for each request; if it carries, it sends the highest sequence that it was sent.
`SdkClient` is the SDK at one gateway. Both have the same methods.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from refold.client import Conflict, Document, Outcome, Refold
from refold.client.connection import Answer
from refold.client.transport import Transport
from refold.core import json_text
from refold.core.errors import DocumentAbsent, RefoldError, ServiceUnavailable, TimedOut
from support.sent import NOTHING, Carried, Seen, Sent

ANSWER_SECONDS = 30.0
"""A request that has no answer after this is a violation."""
WAIT_SECONDS = 2.0
"""A read waits so long for the next version."""
RETRY_SECONDS = 60.0
RETRY_PAUSE_SECONDS = 0.1
MIN_SEQUENCE = "Refold-Min-Sequence"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
INCREMENT = "increment"
PENDING = "pending"
DUPLICATE = "duplicate"

UNAVAILABLE = (ServiceUnavailable, TimedOut)


class Read(NamedTuple):
    """A document as it was read."""

    version: int
    sequence: int
    state: Any


class Change(NamedTuple):
    """A change of a document, by HTTP method and media type."""

    method: str
    media: str
    value: Any


class Written(NamedTuple):
    """An acknowledged write: where it took effect; sequence 0 where that is not known."""

    document: str
    version: int
    sequence: int


@dataclass(slots=True)
class Answers:
    """The answers to writes, by event id."""

    written: dict[str, Written] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class Context:
    """What all clients share."""

    namespace: str
    urls: list[str]
    sent: Sent
    answers: Answers = field(default_factory=Answers)

    def took(self, event_id: str, document: str, outcome: Mapping[str, Any]) -> None:
        """Note the outcome of a write that took effect; a duplicate's is its first."""
        first = outcome.get("first") or outcome
        self.answers.written[event_id] = Written(document, first["version"], first["sequence"])


class HttpClient:
    """A client of all gateways."""

    def __init__(self, context: Context, name: str, *, carries: bool, chance: random.Random) -> None:
        self.name = name
        self._context = context
        self._carries = carries
        self._chance = chance
        self._sequence = 0
        self._versions: dict[str, Seen] = {}
        self._transports = [
            Transport(url, timeout_seconds=ANSWER_SECONDS, trace=None) for url in context.urls
        ]

    async def close(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            await transport.close()

    def learn(self, document: str, seen: Seen) -> None:
        """Take note of what this client was sent by something else than a gateway."""
        self._sequence = max(self._sequence, seen.sequence)
        if seen.version > self._versions.get(document, NOTHING).version:
            self._versions[document] = seen

    async def read(self, document: str, version: int | None = None, min_version: int = 0) -> Read | None:
        """Read the head, once it is at a version, or a version that was sent; None where there is no answer yet."""
        query = {"version": version} if version else {"min_version": min_version, "timeout": WAIT_SECONDS}
        request = _Request(self, "GET", document, query if version or min_version else {})
        answer = await request.answered()
        if answer is None:
            return None
        if answer.status != 200:
            code = orjson.loads(answer.body).get("code")
            if version is None and code == "document_absent":
                # Another gateway has created it, and this one may not have it yet.
                request.saw(document, 0, 0)
                return None
            # Another gateway has sent it, and this one may not have it yet.
            is_early = code == "version_unknown" and (version or 0) > request.floor(document).version
            if not is_early:
                self._context.sent.violate("refused", f"{request.what}: {answer.status} {answer.body!r:.300}")
            return None
        found, sequence = (int(answer.headers[f"refold-{name}"]) for name in ("version", "sequence"))
        self._context.sent.check_digest(document, found, sha256(answer.body).digest(), request.what)
        if version is None:
            request.saw(document, found, sequence)
            if found < min_version:
                self._context.sent.violate("behind", f"{request.what} read version {found}")
        else:
            self._context.sent.expect(f"the version of {request.what}", found=found, expected=version)
            request.note(document, found, sequence)
        return Read(found, sequence, orjson.loads(answer.body))

    async def list(self) -> None:
        """Read the whole namespace."""
        request = _Request(self, "GET", None, {})
        answer = await request.answered()
        if answer is None:
            return
        items = {item["id"]: item for item in orjson.loads(answer.body)["items"]}
        for document in sorted(items.keys() | request.floors.keys()):
            item = items.get(document)
            request.saw(document, 0 if item is None else item["version"], 0)
        for document, item in items.items():
            digest = sha256(json_text.dumps(item["state"])).digest()
            self._context.sent.check_digest(document, item["version"], digest, request.what)

    async def history(self, document: str, limit: int = 5) -> None:
        """Read a document's last changes."""
        request = _Request(self, "GET", document, {"order": "desc", "limit": limit}, "/history")
        answer = await request.answered()
        if answer is None:
            return
        if answer.status == 404:
            request.saw(document, 0, 0)
            return
        items = orjson.loads(answer.body)["items"]
        versions = [item["version"] for item in items]
        expected = list(range(versions[0], versions[0] - len(versions), -1))
        self._context.sent.expect(f"the versions of {request.what}", found=versions, expected=expected)
        request.saw(document, versions[0], items[0]["sequence"])

    async def write(self, document: str, change: Change, event_id: str, version: int | None = None) -> bool:
        """Write on a version (None: on an absent document) until it is answered; return whether it took effect."""
        headers = {"Content-Type": change.media, "Idempotency-Key": event_id, "Refold-Actor": self.name}
        headers |= {"If-None-Match": "*"} if version is None else {"If-Match": f'"{version}"'}
        headers |= {"Refold-Type": INCREMENT} if version is not None else {}
        body = orjson.dumps(change.value)
        until = self._context.sent.now + RETRY_SECONDS
        while self._context.sent.now < until:
            request = _Request(self, change.method, document, {}, headers=headers, body=body)
            answer = await request.answered()
            if answer is not None and answer.status != 202:
                return self._decided(request, answer, event_id)
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
        self._context.answers.in_doubt.add(event_id)
        return False

    def _decided(self, request: _Request, answer: Answer, event_id: str) -> bool:
        context, view = self._context, orjson.loads(answer.body)
        context.sent.counts[f"write {answer.status}"] += 1
        if answer.status in (200, 201):
            context.took(event_id, request.document, view)
            request.note(request.document, view["version"], view["sequence"])
            return True
        context.answers.refused.add(event_id)
        if answer.status == 412:
            request.saw(request.document, view["version"], 0)
        elif answer.status != 409:
            context.sent.violate("refused", f"{request.what}: {answer.status} {answer.body!r:.300}")
        return False

    def begin(self) -> tuple[int, Transport, int]:
        """Choose a gateway, and return it with its connections and the sequence to carry."""
        gateway = self._chance.randrange(len(self._transports))
        return gateway, self._transports[gateway], self._sequence if self._carries else 0

    @property
    def context(self) -> Context:
        """What all clients share."""
        return self._context

    @property
    def versions(self) -> Mapping[str, Seen]:
        """What this client was sent, by any gateway, if it carries."""
        return self._versions if self._carries else {}


class _Request:
    """One request: what was sent before it began, and what its answer shows."""

    def __init__(
        self,
        client: HttpClient,
        method: str,
        document: str | None,
        query: Mapping[str, Any],
        rest: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        self.document = document or ""
        self._client = client
        self._sent = client.context.sent
        self._gateway, self._transport, carried = client.begin()
        self._carried = carried if method == "GET" else 0
        self.floors = self._sent.floors(self._gateway)
        self._versions = dict(client.versions) if self._carried else {}
        self._method, self._query, self._body = method, query, body
        self._headers = dict(headers or {}) | ({MIN_SEQUENCE: str(self._carried)} if self._carried else {})
        self._elsewhere = self._sent.everywhere.get(self.document, NOTHING)
        self._path = "/".join(filter(None, ("/v1", client.context.namespace, document))) + rest
        self.what = (
            f"{client.name}'s {method} {self._path} {dict(query)} at gateway {self._gateway},"
            f" carrying {self._carried}, begun at {self._sent.now:.3f} s"
        )

    def floor(self, document: str) -> Seen:
        """Return the newest version that the answer may not be behind."""
        return max(self.floors.get(document, NOTHING), self._versions.get(document, NOTHING))

    async def answered(self) -> Answer | None:
        """Send it; None where the service is unavailable."""
        counts, begun_at = self._sent.counts, self._sent.now
        try:
            answer = await self._transport.request(
                self._method,
                self._path,
                query=self._query,
                headers=self._headers,
                body=self._body,
                also=(404, 409, 412),
            )
        except UNAVAILABLE as error:
            counts[f"{'read' if self._method == 'GET' else 'write'} {error.code}"] += 1
            if self._sent.now - begun_at >= ANSWER_SECONDS:
                self._sent.violate("hung", f"{self.what}: {error}")
            # A refused connection returns at once.
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
            return None
        except RefoldError as error:
            self._sent.violate("refused", f"{self.what}: {error}")
            return None
        if self._method == "GET":
            counts[f"read {answer.status}"] += 1
        return answer

    def saw(self, document: str, version: int, sequence: int) -> None:
        """Check the head that the answer shows, then note it."""
        self._sent.check(document, version, self.floor(document), self.what)
        if self._carried:
            self._sent.carried.append(Carried(document, self._carried, version, self.what, self._sent.now))
        elif document == self.document and version < self._elsewhere.version:
            self._sent.counts["reads behind what another gateway had sent"] += 1
        self.note(document, version, sequence)

    def note(self, document: str, version: int, sequence: int) -> None:
        """Note what the answer has sent."""
        self._sent.note(document, version, sequence, self.what, self._gateway)
        self._client.learn(document, Seen(version, sequence, self.what, self._sent.now))


class SdkClient:
    """The SDK at one gateway."""

    def __init__(self, context: Context, name: str, gateway: int) -> None:
        self.name = name
        self._context = context
        self._gateway = gateway
        self._refold = Refold(
            context.urls[gateway], timeout_seconds=ANSWER_SECONDS, retry_seconds=RETRY_SECONDS
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._refold.close()

    async def read(self, document: str) -> Read | None:
        """Read the head; None where there is no answer yet."""
        sent, floor = self._context.sent, self._context.sent.floor(self._gateway, document)
        what = f"{self.name}'s get of {document} at gateway {self._gateway}, begun at {sent.now:.3f} s"
        begun_at = sent.now
        try:
            found: Document = await self._refold.get(self._context.namespace, document)
        except DocumentAbsent:
            sent.check(document, 0, floor, what)
            return None
        except UNAVAILABLE as error:
            sent.counts[f"read {error.code}"] += 1
            if sent.now - begun_at >= ANSWER_SECONDS:
                sent.violate("hung", f"{what}: {error}")
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
            return None
        sent.counts["read 200"] += 1
        assert found.sequence is not None
        sent.check(document, found.version, floor, what)
        digest = sha256(json_text.dumps(found.state)).digest()
        sent.check_digest(document, found.version, digest, what)
        sent.note(document, found.version, found.sequence, what, self._gateway)
        return Read(found.version, found.sequence, found.state)

    async def write(self, document: str, change: Change, event_id: str, version: int | None = None) -> bool:
        """Write on a version until it is answered; return whether it took effect."""
        send = {JSON_PATCH: self._refold.patch, MERGE_PATCH: self._refold.merge}.get(
            change.media, self._refold.put
        )
        sent = self._context.sent
        try:
            outcome: Outcome = await send(
                self._context.namespace,
                document,
                change.value,
                id=event_id,
                if_version=version or 0,
                type=INCREMENT,
                actor=self.name,
            )
        except Conflict:
            sent.counts["write 412"] += 1
            self._context.answers.refused.add(event_id)
            return False
        except UNAVAILABLE as error:
            sent.counts[f"write {error.code}"] += 1
            self._context.answers.in_doubt.add(event_id)
            return False
        sent.counts[f"write {outcome.status}"] += 1
        answers = self._context.answers
        if not outcome.is_effective:
            (answers.in_doubt if outcome.status == PENDING else answers.refused).add(event_id)
            return False
        assert outcome.version is not None
        assert outcome.sequence is not None
        # A duplicate has a sequence of its own.
        sequence = 0 if outcome.status == DUPLICATE else outcome.sequence
        answers.written[event_id] = Written(document, outcome.version, sequence)
        what = f"the outcome of {event_id}"
        sent.note(document, outcome.version, outcome.sequence, what, self._gateway)
        return True

    async def append(self, events: list[dict[str, Any]]) -> None:
        """Append events that expect nothing of their documents until each is answered."""
        sent, answers = self._context.sent, self._context.answers
        try:
            outcomes = await self._refold.append(self._context.namespace, events)
        except UNAVAILABLE as error:
            sent.counts[f"bulk {error.code}"] += 1
            answers.in_doubt |= {event["id"] for event in events}
            return
        for event, outcome in zip(events, outcomes, strict=True):
            document, event_id = event["doc"], event["id"]
            sent.counts[f"bulk {outcome.status}"] += 1
            if not outcome.is_effective:
                answers.in_doubt.add(event_id)
                continue
            assert outcome.version is not None
            assert outcome.sequence is not None
            sequence = 0 if outcome.status == DUPLICATE else outcome.sequence
            answers.written[event_id] = Written(document, outcome.version, sequence)
            what = f"the bulk outcome of {event_id}"
            sent.note(document, outcome.version, outcome.sequence, what, self._gateway)
