"""What the asynchronous client reads, one method per operation. `refold.client.client` adds the writes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, Unpack, overload

from refold.client.connection import Answer
from refold.client.requests import Time, WatchOptions, fixed_time, time_text
from refold.client.responses import (
    PENDING,
    Change,
    Document,
    DocumentUpdate,
    Leaf,
    Namespace,
    NamespaceUpdate,
    Outcome,
    Patch,
    RecordedConflict,
    Rejection,
    read_answer,
    read_outcome,
    read_rejection,
)
from refold.client.transport import Transport, document_path, namespace_path, parse_json, read_error
from refold.core.errors import Refused, ServiceUnavailable

ITEMS_PAGE: Final = 1_000

Clock = Literal["recorded", "occurred"]


class Reader:
    """The reads of a client. None is behind what the client was sent: it carries the highest sequence so far."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._seen_sequence = 0

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

    @overload
    def watch(
        self, namespace: str, document: str, **options: Unpack[WatchOptions]
    ) -> AsyncGenerator[DocumentUpdate, None]: ...

    @overload
    def watch(
        self, namespace: str, document: None = None, **options: Unpack[WatchOptions]
    ) -> AsyncGenerator[NamespaceUpdate, None]: ...

    def watch(
        self, namespace: str, document: str | None = None, **options: Unpack[WatchOptions]
    ) -> AsyncGenerator[DocumentUpdate, None] | AsyncGenerator[NamespaceUpdate, None]:
        """Yield a document's state and each later change, or what changes in a namespace, without end.

        ```python
        async for update in refold.watch("acme", "order-1", path="/lines"):
            print(update.version, update.patch, update.state)
        ```

        The first update of a document is its state now. A connection that is lost is replaced, and what was missed
        comes. Where changes come faster than they are taken, or many were missed, several are in one update.
        A cancellation, `aclose` and the end of the client close the connection.

        Raises what permanently refuses the subscription, as `Refused` for a path that is none; `ServiceUnavailable` if
        the service was never reached; of a namespace `LogDiffers` where the log is another one than before.
        """
        from refold.client.watch import watch_document, watch_namespace  # noqa: PLC0415 - most clients watch nothing

        if document is None:
            return watch_namespace(self._transport, namespace, options)
        name, path = document, options.get("path") or None
        return watch_document(
            self._transport,
            namespace,
            name,
            options,
            lambda version: self.get(namespace, name, version=version, path=path),
        )

    async def blame(
        self,
        namespace: str,
        document: str,
        *,
        path: str | None = None,
        version: int | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Leaf]:
        """Yield the leaves of a document, or of a part of it, with who last wrote each; at the head or a version."""
        query = {"path": path, "version": version}
        async for item in self._items(
            document_path(namespace, document, "blame"), query, "cursor", None, limit
        ):
            yield read_answer(Leaf, item)

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

    async def health(self) -> dict[str, Any]:
        """Return the system's health as health+json; its `status` is `pass`, `warn` or `fail`.

        Raises `ServiceUnavailable` for any other answer.
        """
        # Whatever is answered is read here: a load balancer or another service says nothing about this system.
        answer = await self._transport.request("GET", "/health", also=tuple(range(300, 600)))
        with suppress(Refused):
            found: Any = parse_json(answer)
            if (
                isinstance(found, dict)
                and found.get("status") in ("pass", "warn", "fail")
                and "checks" in found
            ):
                return found
        error = read_error(answer)
        if isinstance(error, ServiceUnavailable):
            # The gateway is busy, or blocked.
            raise error
        raise ServiceUnavailable(f"/health is answered {answer.status}, without health+json: {error}")

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
