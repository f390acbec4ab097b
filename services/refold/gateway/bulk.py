"""The bulk route: NDJSON in, appended in its order by group commit, one outcome a line out in the same order.

Mounted by `refold.gateway.app`. Reading, appending, waiting and sending go on side by side, each bounded. An atomic
batch is in the log as a whole or not at all; while the broker refuses batches, the events are appended one by one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from refold.core import json_text
from refold.core.document import STATUSES
from refold.core.errors import BatchRefused, LogUnavailable, RefoldError, Refused, TimedOut, raising_first
from refold.core.json_text import shape_of
from refold.core.stream import check_document, check_namespace
from refold.gateway.bulk_stages import Line, LineSplitter, Pipe
from refold.gateway.context import BULK_REQUESTS_MAX, Context, context_of
from refold.gateway.drafts import View, body_of, check
from refold.gateway.inflight import deadline_in, hold_body, waiting
from refold.gateway.requests import check_media_type, read_wait, receive_piece, refuse_query
from refold.gateway.responses import RETRY, Problem, Response, problem_of
from refold.gateway.tracing import TRACE
from refold.gateway.writes import LOST_ATTEMPTS_MAX, append_once, append_surely, never_acknowledged, recover
from refold.log import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, PAYLOAD_BYTES_MAX, Appended, Publication, Unknown
from refold.telemetry.logging import get_logger

MEDIA_TYPE: Final = "application/x-ndjson"
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/ndjson", "application/jsonl")

BULK_BATCHES_MAX: Final = 2
"""Batches of one bulk request that are in the log and wait for their outcomes."""

LINES_AT_ONCE: Final = 250
"""Lines that are read and checked in one turn of the event loop, in about three milliseconds."""

BULK_QUEUE_SECONDS: Final = 10.0
"""The longest wait for a slot; then the request is answered 503."""

BULK_ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Answers kept for a client that does not read while it sends; beyond this, no more of its lines are read."""

BULK_STALL_SECONDS: Final = 60
"""A client that reads no answers for so long ends its request."""

_PENDING: Final = "pending"
_STATUSES: Final = frozenset(status.name for status in STATUSES)

ENVELOPE_BYTES: Final = 512
"""Subject, headers and framing of one message, at most: names are bounded."""


async def append_events(request: Request) -> Response:
    """Append a line an event, in order; answer a line an outcome.

    A line that breaks a rule is answered by its own refusal, and the others go on. Where the log fails, what
    follows in this request is refused with its problem, so that no later event of a document overtakes an earlier one.
    """
    refuse_query(request)
    check_media_type(request, _MEDIA_TYPES)
    namespace = request.path_params["namespace"]
    check_namespace(namespace)
    return BulkResponse(request, namespace)


@dataclass(slots=True)
class Item:
    """A line: what is to be published for it, or the answer that refuses it; its sequence once it is in the log."""

    number: int
    publication: Publication | None = None
    event_id: str = ""
    refusal: bytes = b""
    sequence: int = 0

    @property
    def weight(self) -> int:
        """Return the bytes that it adds to a batch, roughly."""
        return len(self.refusal) if self.publication is None else len(self.publication.body) + ENVELOPE_BYTES


class BulkResponse(Response):
    """Reads, appends, waits and answers side by side, each stage bounded."""

    def __init__(self, request: Request, namespace: str) -> None:
        super().__init__(None, 200, None, MEDIA_TYPE)
        self._request = request
        self._context = context_of(request)
        self._namespace = namespace
        self._wait = read_wait(request, self._context.wait_seconds)
        trace = TRACE.get()
        self._carried = () if trace is None else trace.send.headers
        if self._wait.seconds > 0:
            self._carried += (("Refold-Reply", self._context.reply_subject),)
        self._inbox: Pipe[Item] = Pipe(lambda item: item.weight, BATCH_BYTES_MAX, BATCH_EVENTS_MAX)
        self._outbox: Pipe[bytes] = Pipe(len, BULK_ANSWER_BYTES_MAX)
        self._appended: asyncio.Queue[tuple[list[Item], float]] = asyncio.Queue(BULK_BATCHES_MAX)
        self._failure: Problem | None = None
        self._has_written = False
        self.has_started = False
        self._has_slot = False
        self._lines_count = 0

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve it, among a bounded number of others."""
        # Bulk requests hold a slot of their own kind instead of a permit for short requests.
        async with waiting():
            try:
                await self._serve(send)
            except TimedOut as error:
                if not self.has_started:
                    raise
                # The answer has begun: the only way left is to break it off.
                get_logger().warning("bulk_abandoned", code=error.code, error=str(error))
            finally:
                self._count_lines(-self._lines_count)

    async def _serve(self, send: Send) -> None:
        with raising_first():
            async with asyncio.TaskGroup() as stages:
                reading = stages.create_task(self._read(), name="bulk-read")
                ending = stages.create_task(self._end_reading(reading), name="bulk-end")
                stages.create_task(self._append(), name="bulk-append")
                stages.create_task(self._answer(), name="bulk-answer")
                await self._send(send)
                ending.cancel()

    async def _read(self) -> None:
        splitter = LineSplitter(PAYLOAD_BYTES_MAX)
        try:
            is_complete = False
            while not is_complete:
                piece, is_complete = await receive_piece(self._request)
                await self._take_slot()
                lines = splitter.feed(piece, is_last=is_complete)
                hold_body(splitter.pending_bytes)
                self._count_lines(len(lines))
                for start in range(0, len(lines), LINES_AT_ONCE):
                    await self._inbox.put([self._item(line) for line in lines[start : start + LINES_AT_ONCE]])
                    # The append of these begins, and other requests go on, before the next are checked.
                    await asyncio.sleep(0)
        except Problem as problem:
            if not splitter.lines_count:
                raise
            # The lines before it are answered as usual; this one was never complete.
            number = splitter.lines_count + 1
            self._count_lines(1)
            await self._inbox.put([Item(number, refusal=_refusal(number, problem))])
        finally:
            await self._inbox.close()

    async def _take_slot(self) -> None:
        if self._has_slot:
            return
        try:
            await asyncio.wait_for(self._context.bulk_slots.acquire(), BULK_QUEUE_SECONDS)
        except TimeoutError as error:
            detail = f"{BULK_REQUESTS_MAX} bulk requests are being served, and none ended in {BULK_QUEUE_SECONDS:g} s"
            raise Problem(503, "busy", detail, headers=RETRY) from error
        self._has_slot = True

    def _count_lines(self, count: int) -> None:
        """Count lines that wait for their answers; without any, an idle upload leaves its slot to others."""
        self._lines_count += count
        if self._has_slot and not self._lines_count:
            self._has_slot = False
            self._context.bulk_slots.release()

    async def _end_reading(self, reading: asyncio.Task[None]) -> None:
        """Take no more lines once the gateway is ending."""
        await self._context.consistency.released.wait()
        reading.cancel()

    async def _append(self) -> None:
        while items := await self._inbox.take():
            failure = self._failure or await self._append_batch(items)
            for item in items:
                if failure is not None and not (item.refusal or item.sequence):
                    item.refusal = _refusal(item.number, failure, item.event_id)
            await self._appended.put((items, deadline_in(self._wait.seconds)))
        await self._appended.put(([], 0))

    async def _append_batch(self, items: list[Item]) -> Problem | None:
        """Append a batch; return why events of it, and all behind it, are not in the log."""
        try:
            await append_items(self._context, [item for item in items if not item.refusal])
        except (RefoldError, Problem) as error:
            # Nothing is in the log yet, and nothing answered: the whole request fails.
            if not (self._has_written or self.has_started or any(item.sequence for item in items)):
                raise
            failure = problem_of(error)
            # Later batches are not sent at all.
            self._failure = _NOT_SENT if failure.status == 504 else failure
            return failure
        self._has_written |= any(item.sequence for item in items)
        return None

    async def _answer(self) -> None:
        while True:
            items, deadline = await self._appended.get()
            if not items:
                break
            lines: list[bytes] = []
            statuses: Counter[str] = Counter()
            for item in items:
                known = self._known_line(item)
                if known is None:
                    # What is known is sent while the next is waited for.
                    await self._outbox.put(lines)
                    lines = []
                    known = await self._awaited_line(item, deadline)
                status, line = known
                statuses[status] += 1
                lines.append(line)
            self._context.metrics.count_lines(self._namespace, statuses)
            await self._outbox.put(lines)
        await self._outbox.close()

    def _known_line(self, item: Item) -> tuple[str, bytes] | None:
        """Return a line's status and answer, where that is known."""
        if item.refusal:
            return "refused", item.refusal
        if self._wait.seconds == 0:
            return _PENDING, b'{"sequence":%d,"status":"pending"}\n' % item.sequence
        if self._wait.is_for_commit:
            return None
        outcome = self._context.outcomes.arrived(item.sequence)
        return None if outcome is None else _outcome_line(outcome)

    async def _awaited_line(self, item: Item, deadline: float) -> tuple[str, bytes]:
        assert item.publication is not None
        names, sequence = (item.publication.namespace, item.publication.document), item.sequence
        outcome = await self._context.outcomes.wait(*names, sequence, deadline)
        if self._wait.is_for_commit and not await self._context.consistency.reach(sequence, deadline, names):
            outcome = None
        return _outcome_line(outcome or {"sequence": sequence, "status": _PENDING})

    async def _send(self, send: Send) -> None:
        while lines := await self._outbox.take():
            await self._start(send)
            try:
                async with asyncio.timeout(BULK_STALL_SECONDS):
                    await send({"type": "http.response.body", "body": b"".join(lines), "more_body": True})
            except TimeoutError as error:
                raise TimedOut("the client does not read its answers", seconds=BULK_STALL_SECONDS) from error
            self._count_lines(-len(lines))
        await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        if not self.has_started:
            self.has_started = True
            headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _item(self, line: Line) -> Item:
        try:
            if line.size:
                rule = f"a line has at most {PAYLOAD_BYTES_MAX} bytes"
                raise Refused("event_too_large", rule, field="line", shape=f"{line.size} bytes")
            fields = json_text.loads(line.data)
            if type(fields) is not dict:
                raise Refused("bad_event", "a line is an object", field="line", shape=shape_of(fields))
            document = fields.pop("doc", None)
            if type(document) is not str:
                raise Refused("bad_name", "a line names its document", field="doc", shape=shape_of(document))
            check_document(document, "doc")
            event_id = fields.setdefault("id", self._context.new_id())
            body = body_of(fields)
            check(fields)
        except Refused as refused:
            return Item(line.number, refusal=_refusal(line.number, problem_of(refused)))
        publication = Publication(
            namespace=self._namespace, document=document, body=body, headers=self._carried
        )
        return Item(line.number, publication, event_id)


async def append_items(context: Context, items: list[Item]) -> None:
    """Append events in order, each exactly once in effect, for each carries an id.

    Raises where not all are in the log for sure; those that are have their sequence.
    """
    publications = [item.publication for item in items if item.publication is not None]
    if not publications:
        return
    try:
        first_sequence = await append_surely(context, publications)
    except BatchRefused:
        await _append_singly(context, items)
    else:
        for sequence, item in enumerate(items, first_sequence):
            item.sequence = sequence


async def _append_singly(context: Context, items: list[Item]) -> None:
    """Append each event on its own, all in flight together: the log keeps their order.

    It sends none of a document's events behind one that failed; those are sent again after it.
    """
    known_sequence = context.consistency.known_sequence
    left = [(item, item.publication) for item in items if item.publication is not None]
    for _ in range(LOST_ATTEMPTS_MAX):
        appends = (append_once(context, [publication]) for _, publication in left)
        answers = await asyncio.gather(*appends, return_exceptions=True)
        answered = list(zip(left, answers, strict=True))
        for (item, _), answer in answered:
            if isinstance(answer, Appended):
                item.sequence = answer.sequence
        lost = [event for event, answer in answered if isinstance(answer, Unknown)]
        for answer in answers:
            # What was not sent behind a lost event is unavailable too.
            if isinstance(answer, BaseException) and not (lost and isinstance(answer, LogUnavailable)):
                raise answer
        for item, publication in lost:
            item.sequence = await recover(context, [publication], known_sequence) or 0
        left = [event for event in left if not event[0].sequence]
        if not left:
            return
    raise never_acknowledged()


def _refusal(number: int, problem: Problem, event_id: str = "") -> bytes:
    # A client needs the id that was made here to send the line again.
    named = {"id": event_id} if event_id else {}
    reason = {"reason": problem.code, "detail": problem.detail}
    return _line({"line": number, "status": "refused", **reason, **named, "error": problem.view()})


def _outcome_line(outcome: View) -> tuple[str, bytes]:
    status = str(outcome["status"])
    return status if status in _STATUSES else _PENDING, _line(outcome)


def _line(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


_NOT_SENT: Final = Problem(
    503, "log_unavailable", "events before this one are in doubt, so that it was not sent", headers=RETRY
)
