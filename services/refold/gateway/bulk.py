"""The bulk route: NDJSON in, appended in its order by group commit, one outcome a line out in the same order.

Mounted by `refold.gateway.app`; `refold.gateway.bulk_append` puts a batch into the log.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from refold.core import json_text
from refold.core.errors import RefoldError, Refused, TimedOut
from refold.core.json_text import shape_of
from refold.core.stream import check_name, check_namespace
from refold.gateway.bulk_batches import Batch, Inbox, Item, Line, LineSplitter, Outbox, append_batch
from refold.gateway.context import Context, context_of
from refold.gateway.inflight import BodyInMemory, waiting
from refold.gateway.limits import BULK_BATCHES_MAX, BULK_QUEUE_SECONDS, BULK_REQUESTS_MAX, BULK_STALL_SECONDS
from refold.gateway.requests import check_media_type, receive_piece, refuse_query, wait_seconds
from refold.gateway.responses import RETRY, Problem, problem_of
from refold.gateway.writes import checked_line
from refold.log import Publication
from refold.log.limits import PAYLOAD_BYTES_MAX
from refold.telemetry.logging import get_logger

MEDIA_TYPE: Final = "application/x-ndjson"
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/ndjson", "application/jsonl")


async def append_events(request: Request) -> Response:
    """Append a line an event, in order; answer a line an outcome.

    A line that breaks a rule is answered by its own refusal, and the others go on. Where the log fails, what
    follows in this request is refused with its problem, so that no later event of a document overtakes an earlier one.
    """
    refuse_query(request)
    check_media_type(request, _MEDIA_TYPES)
    namespace = request.path_params["namespace"]
    check_namespace(namespace)
    context = context_of(request)
    return BulkResponse(request, context, namespace, wait_seconds(request, context.wait_seconds))


class BulkResponse(Response):
    """Reads, appends, waits and answers side by side, each stage bounded."""

    def __init__(self, request: Request, context: Context, namespace: str, wait: float) -> None:
        """Serve this request."""
        super().__init__(None, 200, None, MEDIA_TYPE)
        self._request = request
        self._context = context
        self._namespace = namespace
        self._wait = wait
        self._carried = (("Refold-Reply", context.reply_subject),) if wait > 0 else ()
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._batches: asyncio.Queue[Batch | None] = asyncio.Queue(BULK_BATCHES_MAX)
        self._failure: Problem | None = None
        self._has_written = False
        self.has_started = False
        self._turn = Turn(context.bulk_slots)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve it, among a bounded number of others."""
        # Bulk requests hold a slot of their own kind instead of a permit for short requests.
        async with waiting():
            try:
                await self._serve(send)
            except TimedOut as error:
                if not self.has_started:
                    raise
                # The answer has begun: breaking it off is all that is left to say.
                get_logger().warning("bulk_abandoned", code=error.code, error=str(error))
            finally:
                self._turn.end()

    async def _serve(self, send: Send) -> None:
        try:
            async with asyncio.TaskGroup() as stages:
                reading = stages.create_task(self._read(), name="bulk-read")
                ending = stages.create_task(self._end_reading(reading), name="bulk-end")
                stages.create_task(self._append(), name="bulk-append")
                stages.create_task(self._answer(), name="bulk-answer")
                await self._send(send)
                ending.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _read(self) -> None:
        splitter = LineSplitter(PAYLOAD_BYTES_MAX)
        try:
            with BodyInMemory() as kept:
                is_complete = False
                while not is_complete:
                    piece, is_complete = await self._turn.receive(self._request)
                    lines = splitter.feed(piece) + (splitter.finish() if is_complete else [])
                    kept.keep(splitter.pending_bytes)
                    items = [self._item(line) for line in lines]
                    self._turn.start_lines(len(items))
                    await self._inbox.put(items)
        except Problem as problem:
            if not splitter.lines_count:
                raise
            # The lines before are answered as ever; this one was never complete.
            number = splitter.lines_count + 1
            self._turn.start_lines(1)
            await self._inbox.put([Item(number, None, refusal=_refusal(number, problem))])
        finally:
            await self._inbox.close()

    async def _end_reading(self, reading: asyncio.Task[None]) -> None:
        """Take no more lines once the gateway is ending."""
        await self._context.consistency.released.wait()
        reading.cancel()

    async def _append(self) -> None:
        while items := await self._inbox.take():
            batch = Batch(items=items)
            if self._failure is None:
                await self._append_one(batch)
            batch.failure = batch.failure or self._failure
            batch.deadline = asyncio.get_running_loop().time() + self._wait
            await self._batches.put(batch)
        await self._batches.put(None)

    async def _append_one(self, batch: Batch) -> None:
        try:
            await append_batch(self._context, batch)
        except (RefoldError, Problem) as error:
            # Nothing is in the log yet, and nothing answered: then the whole request fails, plainly.
            if not (self._has_written or batch.written or self.has_started):
                raise
            batch.failure = error if isinstance(error, Problem) else problem_of(error)
            # Whatever is true of this batch, those behind it are not sent at all.
            self._failure = _NOT_SENT if batch.failure.status == 504 else batch.failure
        self._has_written |= bool(batch.written)

    async def _answer(self) -> None:
        while (batch := await self._batches.get()) is not None:
            made: list[bytes] = []
            for index, item in enumerate(batch.items):
                answer = self._ready(batch, index, item)
                if answer is None:
                    # What is known is sent while the next is waited for.
                    await self._outbox.put(b"".join(made))
                    made.clear()
                    answer = await self._outcome(batch, index, item)
                made.append(answer)
            await self._outbox.put(b"".join(made))
        await self._outbox.close()

    def _ready(self, batch: Batch, index: int, item: Item) -> bytes | None:
        if item.refusal:
            return item.refusal
        written = batch.written.get(index)
        if written is None:
            assert batch.failure is not None
            return _refusal(item.number, batch.failure, item.event_id)
        if self._wait == 0:
            return b'{"sequence":%d,"status":"pending"}\n' % written.sequence
        outcome = written.outcome or self._context.outcomes.arrived(written.sequence)
        return None if outcome is None else _line(outcome)

    async def _outcome(self, batch: Batch, index: int, item: Item) -> bytes:
        assert item.publication is not None
        names, sequence = (
            (item.publication.namespace, item.publication.document),
            batch.written[index].sequence,
        )
        outcome = await self._context.outcomes.wait(*names, sequence, batch.deadline)
        return _line(outcome or {"sequence": sequence, "status": "pending"})

    async def _send(self, send: Send) -> None:
        while data := await self._outbox.take():
            lines_count = data.count(b"\n")
            await self._start(send)
            try:
                async with asyncio.timeout(BULK_STALL_SECONDS):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except TimeoutError as error:
                raise TimedOut("the client does not read its answers", seconds=BULK_STALL_SECONDS) from error
            self._turn.end_lines(lines_count)
        await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        if not self.has_started:
            self.has_started = True
            headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _item(self, line: Line) -> Item:
        try:
            fields = json_text.loads(line.checked(PAYLOAD_BYTES_MAX))
            if type(fields) is not dict:
                raise Refused("bad_event", "a line is an object", field="line", shape=shape_of(fields))
            document = fields.pop("doc", None)
            if type(document) is not str:
                raise Refused("bad_name", "a line names its document", field="doc", shape=shape_of(document))
            check_name(document, "doc")
            if "id" not in fields:
                fields["id"] = self._context.new_id()
            event_id = fields["id"]
            body = checked_line(fields)
        except Refused as refused:
            return Item(line.number, None, refusal=_refusal(line.number, problem_of(refused)))
        publication = Publication(
            namespace=self._namespace, document=document, body=body, headers=self._carried
        )
        return Item(line.number, publication, event_id)


class Turn:
    """The slot of one bulk request, held only while it has work: an idle upload leaves its slot to others."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        """Hold none yet."""
        self._slots = slots
        self._is_held = False
        self._is_receiving = False
        self._lines_count = 0

    async def receive(self, request: Request) -> tuple[bytes, bool]:
        """Return the next piece of the body and whether it is the last, with a slot held. Raises `Problem`."""
        self._is_receiving = True
        self._release_if_idle()
        piece, is_complete = await receive_piece(request)
        self._is_receiving = False
        if not self._is_held:
            await self._take()
        return piece, is_complete

    def start_lines(self, count: int) -> None:
        """Count lines that have been read."""
        self._lines_count += count

    def end_lines(self, count: int) -> None:
        """Count lines whose answers have been sent."""
        self._lines_count -= count
        self._release_if_idle()

    def end(self) -> None:
        """Release the slot."""
        if self._is_held:
            self._is_held = False
            self._slots.release()

    async def _take(self) -> None:
        try:
            await asyncio.wait_for(self._slots.acquire(), BULK_QUEUE_SECONDS)
        except TimeoutError as error:
            detail = f"{BULK_REQUESTS_MAX} bulk requests are being served, and none ended in {BULK_QUEUE_SECONDS:g} s"
            raise Problem(503, "busy", detail, headers=RETRY) from error
        self._is_held = True

    def _release_if_idle(self) -> None:
        if self._is_receiving and not self._lines_count:
            self.end()


def _refusal(number: int, problem: Problem, event_id: str = "") -> bytes:
    told = {"reason": problem.code, "detail": problem.detail}
    if event_id:
        # What was made here must be known to who would send it again.
        told["id"] = event_id
    return _line({"line": number, "status": "refused", **told, "error": problem.view()})


def _line(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


_NOT_SENT: Final = Problem(
    503, "log_unavailable", "events before this one are in doubt, so that it was not sent", headers=RETRY
)
