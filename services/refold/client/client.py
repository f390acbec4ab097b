"""The asynchronous client, one method per operation. For users of the client.

A rejected write is a returned value; exceptions mean that the request was wrong or could not be answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from itertools import takewhile
from typing import Any, Final, Literal, Unpack

from refold.client.requests import (
    Time,
    WriteOptions,
    fixed_time,
    headers_of,
    json_bytes,
    lines_of,
    time_text,
    wait_header,
)
from refold.client.responses import (
    CONFLICT,
    FAILED,
    PENDING,
    Change,
    Conflict,
    Document,
    Namespace,
    Outcome,
    Patch,
    RecordedConflict,
    Rejection,
    read_answer,
    read_outcome,
    read_rejection,
)
from refold.client.transport import (
    DEFAULT_URL,
    RETRY_SECONDS,
    Answer,
    Backoff,
    Transport,
    document_path,
    namespace_path,
    parse_json,
)
from refold.core import json_text
from refold.core.errors import ServiceUnavailable, TimedOut
from refold.core.json_text import Json

TIMEOUT_SECONDS: Final = 60.0
ITEMS_PAGE: Final = 1_000

Clock = Literal["recorded", "occurred"]

_MISSING: Final = Outcome(status=FAILED, reason=FAILED, detail="the answer ended early")


class Refold(AbstractAsyncContextManager["Refold"]):
    """A running Refold, by its gateway's address.

    ```python
    async with Refold("http://127.0.0.1:8080") as refold:
        outcome = await refold.put("acme", "order-1", {"total": 10})
        document = await refold.get("acme", "order-1", version=outcome.version)
    ```
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        """Connect on first use. `TimedOut` is raised after `timeout_seconds` of silence.

        A read is never behind what this client was sent, whatever gateway answers: it carries the highest sequence of
        the outcomes and states so far (`Refold-Min-Sequence`).

        A write that was not answered, or that the service could not answer (5xx), is sent again under its id for
        `retry_seconds` (0: never), so that it takes effect once; a repeated one is answered as `duplicate`. The
        error raised at the end names the id: the write may have taken effect.

        `trace` is called with a line about each answer.
        """
        self._transport = Transport(url, timeout_seconds=timeout_seconds, trace=trace)
        self._retry_seconds = retry_seconds
        self._seen_sequence = 0
        self.url = self._transport.url

    async def put(
        self, namespace: str, document: str, state: Json, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Write the whole state; JSON null is a state."""
        return await self._write("PUT", namespace, document, state, "application/json", options)

    async def patch(
        self, namespace: str, document: str, operations: Patch, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Apply a JSON Patch (RFC 6902), all or nothing. An absent document reads as `{}`."""
        return await self._write(
            "PATCH", namespace, document, operations, "application/json-patch+json", options
        )

    async def merge(
        self, namespace: str, document: str, patch: Json, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Apply a merge patch (RFC 7396): members set to null are removed."""
        return await self._write("PATCH", namespace, document, patch, "application/merge-patch+json", options)

    async def delete(self, namespace: str, document: str, **options: Unpack[WriteOptions]) -> Outcome:
        """Make the document absent; its history stays. `DocumentAbsent` where it already is."""
        return await self._write("DELETE", namespace, document, None, "", options)

    async def append(
        self,
        namespace: str,
        events: Iterable[Mapping[str, Json] | bytes],
        *,
        wait_seconds: float | None = None,
        committed: bool = False,
        retry_seconds: float | None = None,
    ) -> list[Outcome]:
        """Append many events, `{"doc": id, …event fields}` each (or such a line's bytes), in their order.

        Each event is folded by itself; the outcomes have the same order. Events that the service could not append
        are sent again as other writes are; those that are not appended in time have the outcome `failed`.
        """
        seconds = self._retry_seconds if retry_seconds is None else retry_seconds
        lines = lines_of(events, needs_ids=seconds > 0)
        headers = {"Content-Type": "application/x-ndjson"}
        headers |= wait_header(wait_seconds, is_for_commit=committed)
        path, backoff = namespace_path(namespace, "events"), Backoff(seconds)
        outcomes: list[Outcome] = []
        while left := lines[len(outcomes) :]:
            answer = await self._transport.request_retrying(
                backoff, "POST", path, headers=headers, body=b"\n".join(left) + b"\n"
            )
            answered = [read_outcome(json_text.loads(line)) for line in answer.body.splitlines() if line]
            self._note(*answered)
            answered += [_MISSING] * (len(left) - len(answered))
            # After one that failed, all have failed.
            taken = list(takewhile(lambda outcome: outcome.status != FAILED, answered))
            outcomes += taken
            if len(taken) < len(left) and not await backoff.pause():
                return outcomes + answered[len(taken) :]
        return outcomes

    async def get(
        self,
        namespace: str,
        document: str,
        *,
        version: int | None = None,
        at: Time | None = None,
        clock: Clock = "recorded",
        sequence: int | None = None,
        path: str | None = None,
        min_version: int | None = None,
        min_sequence: int | None = None,
        timeout_seconds: float | None = None,
    ) -> Document:
        """Read a document at its head, at a version, at a time on either clock, or at a sequence of the log."""
        query = {
            "version": version,
            "at": None if at is None else time_text(at),
            "clock": clock if at is not None else None,
            "sequence": sequence,
            "path": path,
            "min_version": min_version,
            "min_sequence": min_sequence,
            "timeout": timeout_seconds,
        }
        response = await self._read(document_path(namespace, document), query=query)
        found = response.headers
        read = Document(
            namespace=namespace,
            id=document,
            version=int(found["refold-version"]),
            state=parse_json(response),
            sequence=int(found["refold-sequence"]),
            recorded_at=found.get("refold-recorded-at"),
            occurred_at=found.get("refold-occurred-at"),
        )
        self._note(read)
        return read

    async def history(
        self,
        namespace: str,
        document: str,
        *,
        after: int | None = None,
        limit: int | None = None,
        path: str | None = None,
        is_reversed: bool = False,
    ) -> AsyncIterator[Change]:
        """Yield a document's changes after a version, oldest first; `is_reversed`: newest first."""
        query = {"path": path, "order": "desc" if is_reversed else None}
        items = self._items(document_path(namespace, document, "history"), query, "after", after, limit)
        async for item in items:
            yield read_answer(Change, item)

    async def diff(self, namespace: str, document: str, from_version: int, to_version: int) -> Patch:
        """Return the JSON Patch that turns one version into the other."""
        query = {"from": from_version, "to": to_version}
        path = document_path(namespace, document, "diff")
        patch: Patch = parse_json(await self._read(path, query=query))
        return patch

    async def list(
        self,
        namespace: str,
        *,
        prefix: str | None = None,
        where: str | None = None,
        at: Time | None = None,
        clock: Clock = "recorded",
        sequence: int | None = None,
        limit: int | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[Document]:
        """Yield a namespace's documents by id; `where` is an SQL/JSON path predicate.

        With `at` or `sequence`: the documents as they were then. By recorded time and by sequence that is one
        moment, even if others write while it is read.
        """
        query = {
            "prefix": prefix,
            "where": where,
            "at": fixed_time(at),
            "clock": clock if at is not None else None,
            "sequence": sequence,
            "timeout": timeout_seconds,
        }
        async for item in self._items(namespace_path(namespace), query, "cursor", None, limit):
            yield read_answer(Document, item, namespace=namespace)

    async def names(self, namespace: str, *, prefix: str | None = None) -> AsyncIterator[str]:
        """Yield the ids of all documents that a namespace ever had, present or deleted."""
        query = {"prefix": prefix, "fields": "id", "absent": "true"}
        async for item in self._items(namespace_path(namespace), query, "cursor", None, None):
            yield str(item["id"])

    async def rejections(
        self, namespace: str | None = None, document: str | None = None, *, limit: int | None = None
    ) -> AsyncIterator[Rejection]:
        """Yield rejected events, newest first: of a document, of a namespace, or all."""
        path, query = "/v1/_rejections", {"namespace": namespace}
        if namespace is not None and document is not None:
            path, query = document_path(namespace, document, "rejections"), {}
        async for item in self._items(path, query, "after", None, limit):
            yield read_rejection(item)

    async def conflicts(
        self,
        namespace: str | None = None,
        document: str | None = None,
        *,
        is_open: bool = False,
        after: int | None = None,
        limit: int | None = None,
        is_reversed: bool = False,
    ) -> AsyncIterator[RecordedConflict]:
        """Yield a document's conflicts after a sequence, oldest first; `is_open`: those that wait for a decision.

        Without a document: the open ones of a namespace, or of all.
        """
        path, query = "/v1/_conflicts", {"namespace": namespace}
        if namespace is not None and document is not None:
            path = document_path(namespace, document, "conflicts")
            query = {"order": "desc" if is_reversed else None, "open": "true" if is_open else None}
        async for item in self._items(path, query, "after", after, limit):
            yield read_answer(RecordedConflict, item, is_open=item["open"])

    async def conflict(self, namespace: str, document: str, sequence: int) -> RecordedConflict:
        """Read one conflict, with the states that it is about."""
        path = document_path(namespace, document, "conflicts", str(sequence))
        item = parse_json(await self._read(path))
        return read_answer(RecordedConflict, item, is_open=item["open"])

    async def outcome(
        self, namespace: str, document: str, *, sequence: int | None = None, event_id: str | None = None
    ) -> Outcome:
        """Look up an event's outcome by its sequence or its id: after a pending write or a lost answer."""
        rest = ("outcomes",) if sequence is None else ("outcomes", str(sequence))
        path = document_path(namespace, document, *rest)
        found = read_outcome(parse_json(await self._read(path, query={"id": event_id}, also=(202, 409))))
        self._note(found)
        return found

    async def namespaces(self) -> tuple[Namespace, ...]:
        """Count documents and events by namespace."""
        answer = parse_json(await self._read("/v1"))
        return tuple(read_answer(Namespace, item, name=item["namespace"]) for item in answer["items"])

    async def status(self) -> dict[str, Any]:
        """Return the system's log, fold, versions and the lag of each partition."""
        status: dict[str, Any] = parse_json(await self._transport.request("GET", "/status"))
        return status

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _write(
        self,
        method: str,
        namespace: str,
        document: str,
        value: Json,
        content_type: str,
        options: WriteOptions,
    ) -> Outcome:
        headers = headers_of(options)
        body = None
        if content_type:
            headers["Content-Type"], body = content_type, json_bytes(value)
        path = document_path(namespace, document)
        backoff = Backoff(self._retry_seconds)
        try:
            response = await self._transport.request_retrying(
                backoff, method, path, headers=headers, body=body, also=(409, 412)
            )
        except (ServiceUnavailable, TimedOut) as error:
            if self._transport.was_reached:
                # The event may be in the log: its outcome can be looked up by the id.
                error.facts["id"] = headers["Idempotency-Key"]
            raise
        answer = parse_json(response)
        if response.status == 412:
            outcome = read_outcome({**answer, "status": CONFLICT, "reason": CONFLICT})
        else:
            outcome = read_outcome(answer.get("outcome") or answer)
        self._note(outcome)
        is_strict = options.get("strict", True) and ("if_version" in options or "if_absent" in options)
        if is_strict and outcome.reason == CONFLICT and not outcome.is_effective:
            raise Conflict(outcome.detail or "the document has changed", outcome=outcome)
        return outcome

    async def _read(self, path: str, **options: Any) -> Answer:
        """Read what is not behind what this client was sent."""
        headers = {"Refold-Min-Sequence": str(self._seen_sequence)} if self._seen_sequence else {}
        return await self._transport.request("GET", path, headers=headers, **options)

    def _note(self, *sent: Outcome | Document) -> None:
        """Remember the highest sequence; a pending event is not folded yet, and no read waits for it."""
        sequences = [each.sequence or 0 for each in sent if getattr(each, "status", "") != PENDING]
        self._seen_sequence = max(self._seen_sequence, *sequences, 0)

    async def _items(
        self, path: str, query: Mapping[str, Any], continued_by: str, start: Any, limit: int | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield items page by page, at most `limit`."""
        left = limit
        while left is None or left > 0:
            count = ITEMS_PAGE if left is None else min(left, ITEMS_PAGE)
            params = {**query, continued_by: start, "limit": count}
            answer = parse_json(await self._read(path, query=params))
            self._seen_sequence = max(
                self._seen_sequence, *(item.get("sequence", 0) for item in answer["items"]), 0
            )
            for item in answer["items"]:
                yield item
            start = answer.get("next")
            if start is None:
                return
            left = None if left is None else left - len(answer["items"])
