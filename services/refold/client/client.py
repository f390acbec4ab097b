"""The asynchronous client, one method per operation. For users of the client.

A rejected write is a returned value; exceptions mean that the request was wrong or could not be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from itertools import takewhile
from typing import Final, Unpack

from refold.client.connection import Answer
from refold.client.reads import Reader
from refold.client.requests import (
    WriteOptions,
    headers_of,
    json_bytes,
    lines_of,
    new_id,
    transaction_bytes,
    wait_header,
)
from refold.client.responses import (
    CONFLICT,
    FAILED,
    Conflict,
    Outcome,
    Patch,
    Rejected,
    Transaction,
    read_outcome,
    read_transaction,
)
from refold.client.transport import (
    DEFAULT_URL,
    RETRY_SECONDS,
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

_MISSING: Final = Outcome(status=FAILED, reason=FAILED, detail="the answer ended early")


class Refold(Reader, AbstractAsyncContextManager["Refold"]):
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

        A write that was not answered, or that the service could not take (429, 5xx), is sent again under its id for
        `retry_seconds` (0: never), so that it takes effect once; a repeated one is answered as `duplicate`. The
        pause before a try is at least the answer's `Retry-After`, up to 60 s; where it is longer than the time that
        is left, the error is raised at once, with the fact `retry_after_seconds`. After `Retry-After: 0` (others wrote
        to the document each time), it is random, of milliseconds. The error raised at the end names the id: the write
        may have taken effect.

        Where the program has a current span of OpenTelemetry, requests carry its context, so that its trace goes on
        through the service.

        `trace` is called with a line about each answer.
        """
        super().__init__(Transport(url, timeout_seconds=timeout_seconds, trace=trace))
        self._retry_seconds = retry_seconds
        self.url = self._transport.url

    async def put(
        self, namespace: str, document: str, state: Json, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Write the whole state; JSON null is a state."""
        return await self._write("PUT", namespace, document, state, "application/json", options)

    async def patch(
        self, namespace: str, document: str, operations: Patch, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Apply a JSON Patch (RFC 6902), all or nothing. An absent document reads as `{}`.

        In addition to RFC 6902 there are the operations `inc`, `str_ins`, `str_del` and `push` (`event.schema.json`).
        """
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

    async def revert(
        self, namespace: str, document: str, version: int, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Write the state at a version again; delete the document if it was absent then."""
        return await self._write(
            "POST", namespace, document, {"version": version}, "application/json", options, "revert"
        )

    async def undo(
        self, namespace: str, document: str, version: int, **options: Unpack[WriteOptions]
    ) -> Outcome:
        """Undo what one version did, and keep what others did since. The undo of an undo does it again."""
        return await self._write(
            "POST", namespace, document, {"undo": version}, "application/json", options, "revert"
        )

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
        seconds = self._retries_for(wait_seconds) if retry_seconds is None else retry_seconds
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

    async def transact(
        self,
        namespace: str,
        changes: Iterable[Mapping[str, Json]],
        *,
        transaction_id: str | None = None,
        wait_seconds: float | None = None,
        committed: bool = False,
    ) -> Transaction:
        """Change several documents, all or none: `{"doc": id, "version": N, …event fields}` each, N as it was read.

        Raises `Conflict` where a document is not at that version, and `Rejected` where the fold would reject a change:
        nothing is published, and the error's facts `doc` and `index` name the change.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": transaction_id or new_id()}
        headers |= wait_header(wait_seconds, is_for_commit=committed)
        path = namespace_path(namespace, "transactions")
        answer = await self._send("POST", path, headers, transaction_bytes(changes), wait_seconds)
        done = read_transaction(answer.status, parse_json(answer))
        self._note(*done.outcomes)
        return done

    async def close(self) -> None:
        """Close the connections. A closed client stays closed: its methods raise `RuntimeError`."""
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
        *rest: str,
    ) -> Outcome:
        headers = headers_of(options)
        body = None
        if content_type:
            headers["Content-Type"], body = content_type, json_bytes(value)
        path = document_path(namespace, document, *rest)
        response = await self._send(method, path, headers, body, options.get("wait_seconds"))
        answer = parse_json(response)
        if response.status == 412:
            answer |= {"status": CONFLICT, "reason": CONFLICT}
        elif response.status == 409:
            # A write that is refused before it is published has no outcome.
            answer = answer.get("outcome") or answer | {"status": Rejected.code}
        outcome = read_outcome(answer)
        self._note(outcome)
        is_strict = options.get("strict", True) and ("if_version" in options or "if_absent" in options)
        if is_strict and outcome.reason == CONFLICT and not outcome.is_effective:
            raise Conflict(outcome.detail or "the document has changed", outcome=outcome)
        return outcome

    def _retries_for(self, wait_seconds: float | None) -> float:
        """Return for how long a write is sent again: no longer than it waits, where it waits for so many seconds."""
        return min(self._retry_seconds, wait_seconds or self._retry_seconds)

    async def _send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, wait_seconds: float | None
    ) -> Answer:
        """Send a write, again where it was not answered, under its id."""
        backoff = Backoff(self._retries_for(wait_seconds))
        try:
            return await self._transport.request_retrying(
                backoff, method, path, headers=headers, body=body, also=(409, 412)
            )
        except (ServiceUnavailable, TimedOut) as error:
            if self._transport.was_reached:
                # The event may be in the log: its outcome can be looked up by the id.
                error.facts["id"] = headers["Idempotency-Key"]
            raise
