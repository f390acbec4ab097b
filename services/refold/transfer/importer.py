"""Import a file: read a batch of lines, plan their events, append them while the next batch is planned.

For commands and programs. The lines of one document are imported in the file's order.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from refold.client import Outcome, Refold, WriteOptions
from refold.client.responses import FAILED
from refold.core import json_text
from refold.core.errors import Refused, ServiceUnavailable, TimedOut, raising_first
from refold.core.stream import check_namespace
from refold.transfer import LINE_BYTES_MAX, Line, LinesFile, parse_line
from refold.transfer.planner import HeadCache, Planned, plan

T = TypeVar("T")

BATCH_LINES_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 2 * 1024 * 1024
UNANSWERED_TRIES_MAX: Final = 120
RETRY_SECONDS: Final = 1.0
"""The pause between tries of a request that was not answered; the events keep their ids."""

PENDING_TRIES_MAX: Final = 60
STALE_TRIES_MAX: Final = 5
"""Tries of a line whose document other writers keep changing."""

_STALE: Final = frozenset({"conflict", "base_in_future"})
"""Reasons of an outcome that mean: another writer's change came first."""


@dataclass(slots=True, kw_only=True)
class ImportTally:
    """Progress of an import: lines read, and their results. `present`: imported before, by this file or another."""

    lines: int = 0
    events: int = 0
    unchanged: int = 0
    present: int = 0
    refused: int = 0
    read_bytes: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportListener:
    """Callbacks: for each refused line, for progress, and for waiting for a service that does not answer."""

    refused: Callable[[int, Refused], None]
    progress: Callable[[ImportTally], None]
    waiting: Callable[[Exception], None]


async def import_file(
    refold: Refold,
    namespace: str,
    path: Path,
    listener: ImportListener,
    *,
    is_dry: bool = False,
    stops_on_error: bool = False,
    takes_older: bool = False,
) -> ImportTally:
    """Import a file's lines into a namespace; refused lines go to the listener.

    `is_dry`: check and count everything, append nothing; times are compared with this machine's clock.
    `stops_on_error`: import no line behind the first that is refused, except those of the same batch
    (`BATCH_LINES_MAX`) when the fold rejects it.
    `takes_older`: import a line also where another file has brought a later state of its document.
    """
    check_namespace(namespace)
    file = LinesFile(path)
    digest = file.digest()
    return await _Import(
        refold=refold,
        namespace=namespace,
        file=file,
        listener=listener,
        is_dry=is_dry,
        stops_on_error=stops_on_error,
        takes_older=takes_older,
        digest=digest,
        heads=HeadCache(refold, namespace, digest),
        tally=ImportTally(size_bytes=file.size_bytes),
    ).run()


@dataclass(slots=True, kw_only=True)
class _Import:
    """One import of one file into one namespace."""

    refold: Refold
    namespace: str
    file: LinesFile
    listener: ImportListener
    is_dry: bool
    stops_on_error: bool
    takes_older: bool
    digest: str
    heads: HeadCache
    tally: ImportTally
    end_line: float = math.inf

    async def run(self) -> ImportTally:
        # Fails at once if the service does not run.
        await self.heads.load(())
        batches = self._batches()
        plans = await self._next(batches)
        while plans:
            outcomes, following = await _run_both(self._send(plans), self._next(batches))
            is_failed = await self._finish(plans, outcomes)
            if following is not None and (is_failed or following[0].line.number >= self.end_line):
                # The next batch was planned on heads that do not exist.
                lines = [planned.line for planned in following]
                for line in lines:
                    self.heads.forget(line.document)
                following = await self._plan(lines)
            self.listener.progress(self.tally)
            plans = following
        return self.tally

    async def _next(self, batches: Iterator[list[Line]]) -> list[Planned] | None:
        # Lets the previous batch be sent before this one takes the processor.
        await asyncio.sleep(0)
        lines = next(batches, None)
        return None if lines is None else await self._plan(lines)

    def _batches(self) -> Iterator[list[Line]]:
        lines: list[Line] = []
        count_bytes = 0
        for number, text in self.file.lines():
            if number >= self.end_line:
                break
            self.tally.lines += 1
            self.tally.read_bytes = self.file.read_bytes
            if (line := self._parse(number, text)) is None:
                continue
            lines.append(line)
            count_bytes += len(line.text)
            if len(lines) >= BATCH_LINES_MAX or count_bytes >= BATCH_BYTES_MAX:
                yield lines
                lines, count_bytes = [], 0
        if lines:
            yield lines

    def _parse(self, number: int, text: bytes | None) -> Line | None:
        try:
            if text is None:
                raise Refused("line_too_long", f"a line has at most {LINE_BYTES_MAX} bytes")
            return parse_line(number, text) if text.strip() else None
        except Refused as refused:
            self._refuse(number, refused)
            return None

    async def _plan(self, lines: Sequence[Line], *, attempt: int = 0) -> list[Planned]:
        await self._retry(lambda: self.heads.load(line.document for line in lines))
        plans: list[Planned] = []
        for line in lines:
            if line.number >= self.end_line:
                break
            planned = plan(
                line,
                self.heads,
                self.digest,
                attempt=attempt,
                is_dry=self.is_dry,
                takes_older=self.takes_older,
            )
            plans.append(planned)
            if plans[-1].refusal is not None and self.stops_on_error:
                break
            await asyncio.sleep(0)
        return plans

    async def _send(self, plans: Sequence[Planned]) -> list[Outcome]:
        sent = [planned for planned in plans if planned.is_sent]
        if self.is_dry:
            return [Outcome(status="applied") for _ in sent]
        outcomes: list[Outcome] = []
        # In the file's order: events in batches, states that are too large for one event alone.
        for is_put, group in groupby(sent, key=lambda planned: planned.put is not None):
            if is_put:
                outcomes += [await self._put(planned) for planned in group]
            else:
                outcomes += await self._append([each.event for each in group if each.event is not None])
        return [await self._final(*each) for each in zip(sent, outcomes, strict=True)]

    async def _final(self, planned: Planned, outcome: Outcome) -> Outcome:
        """Return the outcome of a pending event, and the first outcome of one that was rejected before."""
        names, event = (self.namespace, planned.line.document), planned.event
        if outcome.status == "pending":
            outcome = await self._look_up(planned, outcome)
        if outcome.status == "duplicate" and not outcome.is_effective and event is not None:
            # A duplicate does not say why the first was rejected.
            event_id = json_text.reread(event)["id"]
            outcome = await self._retry(lambda: self.refold.outcome(*names, event_id=event_id))
        return outcome

    async def _append(self, events: list[bytes]) -> list[Outcome]:
        async def append() -> list[Outcome]:
            # Retried here, not by the client, so that the listener is called; the whole batch is sent again.
            outcomes = await self.refold.append(self.namespace, events, retry_seconds=0)
            for outcome in outcomes:
                if outcome.status == FAILED:
                    raise ServiceUnavailable(outcome.detail or outcome.reason)
            return outcomes

        return await self._retry(append) if events else []

    async def _put(self, planned: Planned) -> Outcome:
        line = planned.line
        options = cast(
            "WriteOptions", {**(planned.put or {}), "if_version": planned.version, "strict": False}
        )
        try:
            return await self._retry(
                lambda: self.refold.put(self.namespace, line.document, line.state, **options)
            )
        except Refused as refused:
            return Outcome(status="refused", reason=refused.reason, detail=str(refused))

    async def _look_up(self, planned: Planned, outcome: Outcome) -> Outcome:
        names, sequence = (self.namespace, planned.line.document), outcome.sequence
        for _ in range(PENDING_TRIES_MAX):
            # The first look needs no pause: the batch's other events are usually folded by now.
            outcome = await self._retry(lambda: self.refold.outcome(*names, sequence=sequence))
            if outcome.status != "pending":
                return outcome
            await asyncio.sleep(RETRY_SECONDS)
        raise TimedOut(
            "events are in the log but are not folded: is the projector running?", document=names[1]
        )

    async def _retry(self, ask: Callable[[], Awaitable[T]]) -> T:
        for left in reversed(range(UNANSWERED_TRIES_MAX + 1)):
            try:
                return await ask()
            except (ServiceUnavailable, TimedOut) as error:
                if not left:
                    raise
                self.listener.waiting(error)
                await asyncio.sleep(RETRY_SECONDS)
        raise AssertionError

    async def _finish(self, plans: Sequence[Planned], outcomes: Sequence[Outcome]) -> bool:
        """Count the outcomes and retry the lines that a failure made stale. Returns whether anything failed."""
        stale, is_broken = self._find_stale(plans, outcomes)
        waiting: defaultdict[str, _Waiting] = defaultdict(_Waiting)
        for line in stale:
            waiting[line.document].lines.append(line)
        attempt = 0
        while tried := [line for each in waiting.values() for line in each.lines[: each.width]]:
            attempt += 1
            tried.sort(key=lambda line: line.number)
            plans = await self._plan(tried, attempt=attempt)
            stale, _ = self._find_stale(plans, await self._send(plans))
            left = Counter(line.document for line in stale)
            for document, count in Counter(line.document for line in tried).items():
                for line in waiting[document].record(count, left[document]):
                    refused = Refused("conflict", "other writers keep changing the document", field="doc")
                    self._refuse(line.number, refused)
        return is_broken

    def _find_stale(self, plans: Sequence[Planned], outcomes: Sequence[Outcome]) -> tuple[list[Line], bool]:
        """Return the lines to retry: stale ones, and all that follow a failure in their document."""
        again: list[Line] = []
        broken: set[str] = set()
        answers = iter(outcomes)
        for planned in plans:
            outcome = next(answers) if planned.is_sent else None
            line = planned.line
            if line.document in broken or (outcome is not None and outcome.reason in _STALE):
                broken.add(line.document)
                again.append(line)
            elif not self._count(planned, outcome):
                broken.add(line.document)
        for document in broken:
            self.heads.forget(document)
        return again, bool(broken)

    def _count(self, planned: Planned, outcome: Outcome | None) -> bool:
        """Count a line's result; False if the service refused it."""
        if planned.refusal is not None:
            self._refuse(planned.line.number, planned.refusal)
        elif planned.is_present:
            self.tally.present += 1
        elif outcome is None:
            self.tally.unchanged += 1
        elif outcome.is_effective:
            self.tally.events += 1
        else:
            if planned.line.version is not None:
                self.heads.broken.add(planned.line.document)
            self._refuse(planned.line.number, Refused(outcome.reason or outcome.status, outcome.detail))
            return False
        return True

    def _refuse(self, number: int, refused: Refused) -> None:
        self.tally.refused += 1
        if self.stops_on_error:
            self.end_line = min(self.end_line, number)
        self.listener.refused(number, refused)


async def _run_both(
    sending: Coroutine[Any, Any, list[Outcome]], planning: Coroutine[Any, Any, list[Planned] | None]
) -> tuple[list[Outcome], list[Planned] | None]:
    """Run both concurrently; the first failure cancels the other."""
    with raising_first():
        async with asyncio.TaskGroup() as tasks:
            sent, planned = tasks.create_task(sending), tasks.create_task(planning)
    return sent.result(), planned.result()


@dataclass(slots=True)
class _Waiting:
    """A document's lines to retry, in order: one first, twice as many after each success."""

    lines: list[Line] = field(default_factory=list)
    width: int = 1
    misses: int = 0

    def record(self, tried: int, left: int) -> list[Line]:
        """Remove the lines that are done, all of the tried ones but the last `left`; return those to give up."""
        del self.lines[: tried - left]
        self.misses = self.misses + 1 if left == tried else 0
        self.width = 1 if left else 2 * tried
        given_up: list[Line] = []
        if self.misses == STALE_TRIES_MAX:
            given_up, self.lines = self.lines, []
        return given_up
