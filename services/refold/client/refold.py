"""The client: one class, asynchronous, one method a thing that can be asked. Anyone may use it.

A rejected write and a conflict are returned values; exceptions mean that the world or the caller failed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final, Literal, Self, Unpack

from refold.client.about import About, Time, bytes_of, headers_of, line_of, time_text
from refold.client.patience import RETRY_SECONDS, Patience
from refold.client.transport import Transport, document_path, json_of, namespace_path
from refold.client.values import (
    CONFLICT,
    FAILED,
    Change,
    Document,
    Namespace,
    Outcome,
    Patch,
    Rejection,
    change_of,
    listed,
    namespace_of,
    outcome_of,
    rejection_of,
)
from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import ServiceUnavailable, TimedOut

TIMEOUT_SECONDS: Final = 60.0
ITEMS_PAGE: Final = 1_000

Clock = Literal["recorded", "occurred"]


class Refold:
    """A running Refold, by its gateway's address.

    ```python
    async with Refold("http://127.0.0.1:8080") as refold:
        outcome = await refold.put("acme", "order-1", {"total": 10})
        document = await refold.get("acme", "order-1", version=outcome.version)
    ```
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Connect when first asked. An answer that is silent for `timeout_seconds` is `TimedOut`.

        A write whose connection broke, or that the service could not answer (5xx), is sent again under its id for
        `retry_seconds` (0: never), so that it is made once; what was made already is answered as `duplicate`. The
        error that ends it names the id: the write may have been made.
        """
        self._transport = Transport(url, timeout_seconds=timeout_seconds)
        self._retry_seconds = retry_seconds

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self._transport.url

    async def put(self, namespace: str, document: str, state: Json, **about: Unpack[About]) -> Outcome:
        """Write the whole state; JSON null is a state."""
        return await self._write("PUT", namespace, document, state, "application/json", about)

    async def patch(
        self, namespace: str, document: str, operations: Patch, **about: Unpack[About]
    ) -> Outcome:
        """Apply a JSON Patch (RFC 6902), all or nothing. An absent document reads as `{}`."""
        return await self._write(
            "PATCH", namespace, document, operations, "application/json-patch+json", about
        )

    async def merge(self, namespace: str, document: str, patch: Json, **about: Unpack[About]) -> Outcome:
        """Apply a merge patch (RFC 7396): members set to null are removed."""
        return await self._write("PATCH", namespace, document, patch, "application/merge-patch+json", about)

    async def delete(self, namespace: str, document: str, **about: Unpack[About]) -> Outcome:
        """Make the document absent; its history stays. `DocumentAbsent` where it already is."""
        return await self._write("DELETE", namespace, document, None, "", about)

    async def append(
        self,
        namespace: str,
        events: Iterable[Mapping[str, Json] | bytes],
        *,
        wait_seconds: float | None = None,
        retry_seconds: float | None = None,
    ) -> list[Outcome]:
        """Append many events, `{"doc": id, …event fields}` each (or such a line's bytes), in their order.

        Each is folded for itself; the outcomes come back in the same order. What the service could not append is
        sent again as other writes are; `failed` outcomes are those for which the time did not suffice.
        """
        seconds = self._retry_seconds if retry_seconds is None else retry_seconds
        lines = [line_of(event) if seconds else bytes_of(event) for event in events]
        headers = {"Content-Type": "application/x-ndjson"}
        if wait_seconds is not None:
            headers["Refold-Wait"] = str(wait_seconds)
        patience = Patience(seconds)
        outcomes: list[Outcome] = []
        while True:
            answered = await self._appended(patience, namespace, lines[len(outcomes) :], headers)
            # Behind one that failed, all have failed.
            outcomes += takewhile(lambda outcome: outcome.status != FAILED, answered)
            left = len(lines) - len(outcomes)
            if not left:
                return outcomes
            if not await patience.pause():
                return [*outcomes, *answered[-left:]]

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
            "at": time_text(at),
            "clock": clock if at is not None else None,
            "sequence": sequence,
            "path": path,
            "min_version": min_version,
            "min_sequence": min_sequence,
            "timeout": timeout_seconds,
        }
        response = await self._transport.ask("GET", document_path(namespace, document), query=query)
        found = response.headers
        return Document(
            namespace=namespace,
            id=document,
            version=int(found["refold-version"]),
            state=json_of(response),
            sequence=int(found["refold-sequence"]),
            recorded_at=found.get("refold-recorded-at"),
            occurred_at=found.get("refold-occurred-at"),
        )

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
        """Yield a document's changes, oldest first, from after a version on; `is_reversed`: newest first."""
        query = {"path": path, "order": "desc" if is_reversed else None}
        items = self._items(document_path(namespace, document, "history"), query, "after", after, limit)
        async for item in items:
            yield change_of(item)

    async def diff(self, namespace: str, document: str, from_version: int, to_version: int) -> Patch:
        """Return the JSON Patch that turns one version into the other."""
        query = {"from": from_version, "to": to_version}
        path = document_path(namespace, document, "diff")
        patch: Patch = json_of(await self._transport.ask("GET", path, query=query))
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

        With `at` or `sequence`: all that was there then, as it was. By recorded time and by sequence that is one
        moment, whatever is written while it is read.
        """
        query = {
            "prefix": prefix,
            "where": where,
            "at": time_text(at),
            "clock": clock if at is not None else None,
            "sequence": sequence,
            "timeout": timeout_seconds,
        }
        async for item in self._items(namespace_path(namespace), query, "cursor", None, limit):
            yield listed(namespace, item)

    async def names(self, namespace: str, *, prefix: str | None = None) -> AsyncIterator[str]:
        """Yield the ids of all documents that a namespace ever had, whether they are present now or not."""
        query = {"prefix": prefix, "fields": "id", "absent": "true"}
        async for item in self._items(namespace_path(namespace), query, "cursor", None, None):
            yield str(item["id"])

    async def rejections(
        self, namespace: str, document: str, *, limit: int | None = None
    ) -> AsyncIterator[Rejection]:
        """Yield what the fold refused for a document, newest first."""
        path = document_path(namespace, document, "rejections")
        async for item in self._items(path, {}, "after", None, limit):
            yield rejection_of(item)

    async def outcome(
        self, namespace: str, document: str, *, sequence: int | None = None, event_id: str | None = None
    ) -> Outcome:
        """Look up an event's outcome by its sequence or its id: after a pending write or a lost answer."""
        rest = ("outcomes",) if sequence is None else ("outcomes", str(sequence))
        path = document_path(namespace, document, *rest)
        return outcome_of(
            json_of(await self._transport.ask("GET", path, query={"id": event_id}, also=(202, 409)))
        )

    async def namespaces(self) -> tuple[Namespace, ...]:
        """Count documents and events by namespace."""
        answer = json_of(await self._transport.ask("GET", "/v1"))
        return tuple(namespace_of(item) for item in answer["items"])

    async def status(self) -> dict[str, Any]:
        """Return what the system says of itself: log, fold, versions, and each partition's lag."""
        status: dict[str, Any] = json_of(await self._transport.ask("GET", "/status"))
        return status

    async def close(self) -> None:
        """Let go of the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Use it in an `async with` block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the connections."""
        await self.close()

    async def _appended(
        self, patience: Patience, namespace: str, lines: Sequence[bytes], headers: Mapping[str, str]
    ) -> Sequence[Outcome]:
        path, body = namespace_path(namespace, "events"), b"\n".join(lines) + b"\n"
        answer = await self._transport.ask_surely(patience, "POST", path, headers=headers, body=body)
        answered = [outcome_of(canonical.loads(line)) for line in answer.body.splitlines() if line]
        missing = Outcome(status=FAILED, reason=FAILED, detail="the answer ended early")
        return answered + [missing] * (len(lines) - len(answered))

    async def _write(
        self, method: str, namespace: str, document: str, value: Json, content_type: str, about: About
    ) -> Outcome:
        headers = headers_of(about)
        body = None
        if content_type:
            headers["Content-Type"], body = content_type, canonical.dumps(value)
        path = document_path(namespace, document)
        patience = Patience(self._retry_seconds)
        try:
            response = await self._transport.ask_surely(
                patience, method, path, headers=headers, body=body, also=(409, 412)
            )
        except (ServiceUnavailable, TimedOut) as error:
            if self._transport.was_reached:
                # It may have been written all the same: by this its author can ask.
                error.facts["id"] = headers["Idempotency-Key"]
            raise
        answer = json_of(response)
        if response.status == 412:
            return Outcome(status=CONFLICT, reason=CONFLICT, detail=str(answer.get("detail") or ""))
        return outcome_of(answer.get("outcome") or answer)

    async def _items(
        self, path: str, query: Mapping[str, Any], continued_by: str, start: Any, limit: int | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Follow `next` until the end, or until so many items have come."""
        left = limit
        while left is None or left > 0:
            count = ITEMS_PAGE if left is None else min(left, ITEMS_PAGE)
            asked = {**query, continued_by: start, "limit": count}
            answer = json_of(await self._transport.ask("GET", path, query=asked))
            for item in answer["items"]:
                yield item
            start = answer.get("next")
            if start is None:
                return
            left = None if left is None else left - len(answer["items"])
