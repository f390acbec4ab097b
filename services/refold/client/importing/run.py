"""The import itself: read a run of lines, plan their events, send them while the next run is planned.

Used by `refold.client.importing.import_file` alone. Within a document everything happens in the file's order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeVar, cast

from refold.client.about import About
from refold.client.importing.file import LINE_BYTES_MAX, LinesFile
from refold.client.importing.heads import Heads
from refold.client.importing.line import Line, parse_line
from refold.client.importing.plan import Planned, plan
from refold.client.importing.turns import Turns
from refold.client.refold import Refold
from refold.client.values import Outcome
from refold.core.errors import Refused, ServiceUnavailable, TimedOut

T = TypeVar("T")

RUN_LINES_MAX: Final = 1_000
RUN_BYTES_MAX: Final = 2 * 1024 * 1024
UNANSWERED_MAX: Final = 120
RETRY_SECONDS: Final = 1.0
"""What the service does not answer is asked again so often, so long apart: the same events, the same ids."""

PENDING_LOOKS_MAX: Final = 60
_STALE: Final = frozenset({"conflict", "base_in_future"})


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far an import is: lines read, and what became of them. `present`: an earlier run brought them."""

    lines: int = 0
    events: int = 0
    unchanged: int = 0
    present: int = 0
    refused: int = 0
    read_bytes: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told: of every line refused, of progress, and of waiting for a service that does not answer."""

    refused: Callable[[int, Refused], None]
    progress: Callable[[Tally], None]
    waiting: Callable[[Exception], None]


class Import:
    """One import of one file into one namespace."""

    def __init__(self, refold: Refold, namespace: str, file: LinesFile, listener: Listener) -> None:
        """Read nothing yet."""
        self._refold = refold
        self._namespace = namespace
        self._file = file
        self._listener = listener
        self._digest = file.digest()
        self._heads = Heads(refold, namespace, self._digest)
        self.tally = Tally(size_bytes=file.size_bytes)

    async def run(self) -> Tally:
        """Import every line that is not there yet; returns what became of the lines."""
        # A service that is not there to begin with is told of at once.
        await self._heads.load(())
        runs = self._runs()
        plans = await self._next(runs)
        while plans is not None:
            outcomes, following = await _both(self._send(plans), self._next(runs))
            if await self._settle(plans, outcomes) and following is not None:
                # What was planned ahead stands on heads that never came to be.
                lines = [planned.line for planned in following]
                self._forget(lines)
                following = await self._plan(lines)
            self._listener.progress(self.tally)
            plans = following
        return self.tally

    async def _next(self, runs: Iterator[list[Line]]) -> list[Planned] | None:
        # The run that has just been handed over is to be on its way before this one takes the processor.
        await asyncio.sleep(0)
        lines = next(runs, None)
        return None if lines is None else await self._plan(lines)

    def _runs(self) -> Iterator[list[Line]]:
        lines: list[Line] = []
        count_bytes = 0
        for number, text in self._file.lines():
            self.tally.lines += 1
            self.tally.read_bytes = self._file.read_bytes
            line = self._parsed(number, text)
            if line is None or text is None:
                continue
            lines.append(line)
            count_bytes += len(text)
            if len(lines) >= RUN_LINES_MAX or count_bytes >= RUN_BYTES_MAX:
                yield lines
                lines, count_bytes = [], 0
        if lines:
            yield lines

    def _parsed(self, number: int, text: bytes | None) -> Line | None:
        if text is None:
            self._refuse(number, Refused("line_too_long", f"a line has at most {LINE_BYTES_MAX} bytes"))
            return None
        if not text.strip():
            return None
        try:
            return parse_line(number, text)
        except Refused as refused:
            self._refuse(number, refused)
            return None

    async def _plan(self, lines: Sequence[Line], *, attempt: int = 0) -> list[Planned]:
        await self._answered(lambda: self._heads.load(line.document for line in lines))
        plans = []
        for line in lines:
            plans.append(plan(line, self._heads, self._digest, attempt=attempt))
            await asyncio.sleep(0)
        return plans

    def _forget(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._heads.forget(line.document)

    async def _send(self, plans: Sequence[Planned]) -> list[Outcome]:
        sent = [planned for planned in plans if planned.is_sent]
        outcomes: list[Outcome] = []
        # In the file's order: events together, a state that is too large for one event by itself.
        for is_put, group in groupby(sent, key=lambda planned: planned.put is not None):
            if is_put:
                outcomes += [await self._put(planned) for planned in group]
            else:
                outcomes += await self._append([each.event for each in group if each.event is not None])
        return [
            await self._looked_up(planned, outcome) if outcome.status == "pending" else outcome
            for planned, outcome in zip(sent, outcomes, strict=True)
        ]

    async def _append(self, events: list[bytes]) -> list[Outcome]:
        # Sent again here, not by the client: whoever waits is told.
        async def append() -> list[Outcome]:
            return _complete(events, await self._refold.append(self._namespace, events, retry_seconds=0))

        return await self._answered(append) if events else []

    async def _put(self, planned: Planned) -> Outcome:
        line = planned.line
        about = cast("About", {**(planned.put or {}), "if_version": planned.version})
        try:
            return await self._answered(
                lambda: self._refold.put(self._namespace, line.document, line.state, **about)
            )
        except Refused as refused:
            return Outcome(status="refused", reason=refused.reason, detail=str(refused))

    async def _looked_up(self, planned: Planned, outcome: Outcome) -> Outcome:
        names, sequence = (self._namespace, planned.line.document), outcome.sequence
        for _ in range(PENDING_LOOKS_MAX):
            # Asked at once: behind one that was waited for, the others of its run are folded too.
            outcome = await self._answered(lambda: self._refold.outcome(*names, sequence=sequence))
            if outcome.status != "pending":
                return outcome
            await asyncio.sleep(RETRY_SECONDS)
        raise TimedOut(
            "events are in the log, but nobody folds them: does the projector run?", document=names[1]
        )

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        for left in reversed(range(UNANSWERED_MAX + 1)):
            try:
                return await ask()
            except (ServiceUnavailable, TimedOut) as error:
                if not left:
                    raise
                self._listener.waiting(error)
                await asyncio.sleep(RETRY_SECONDS)
        raise AssertionError

    async def _settle(self, plans: Sequence[Planned], outcomes: Sequence[Outcome]) -> bool:
        """Take note of the outcomes; try again what a failure before it has made stale. True if anything failed."""
        again, is_broken = self._judge(plans, outcomes)
        turns, attempt = Turns(again), 0
        while tried := turns.take():
            attempt += 1
            plans = await self._plan(tried, attempt=attempt)
            left, _ = self._judge(plans, await self._send(plans))
            turns.settle(tried, left)
        for line in turns.given_up:
            self._refuse(line.number, Refused("conflict", "others keep changing the document", field="doc"))
        return is_broken

    def _judge(self, plans: Sequence[Planned], outcomes: Sequence[Outcome]) -> tuple[list[Line], bool]:
        """Return the lines to try again: the stale ones, and all that follow a failure in its document."""
        again: list[Line] = []
        broken: set[str] = set()
        answers = iter(outcomes)
        for planned in plans:
            outcome = next(answers) if planned.is_sent else None
            line = planned.line
            if line.document in broken or (outcome is not None and _is_stale(outcome)):
                broken.add(line.document)
                again.append(line)
            elif not self._take(planned, outcome):
                broken.add(line.document)
        for document in broken:
            self._heads.forget(document)
        return again, bool(broken)

    def _take(self, planned: Planned, outcome: Outcome | None) -> bool:
        """Count what became of a line; False where it was refused by the service."""
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
                self._heads.broken_off.add(planned.line.document)
            self._refuse(planned.line.number, Refused(outcome.reason or outcome.status, outcome.detail))
            return False
        return True

    def _refuse(self, number: int, refused: Refused) -> None:
        self.tally.refused += 1
        self._listener.refused(number, refused)


def _is_stale(outcome: Outcome) -> bool:
    """Tell whether another's change came first: by the fold's reason, or by the log's own check."""
    return outcome.reason in _STALE or outcome.status == "conflict"


def _complete(events: Sequence[bytes], outcomes: list[Outcome]) -> list[Outcome]:
    """An answer that stops early, or says that the log did, is none: the whole run is sent again."""
    if len(outcomes) != len(events):
        raise ServiceUnavailable("the answer ended early", events=len(events), outcomes=len(outcomes))
    failed = next((outcome for outcome in outcomes if outcome.status == "failed"), None)
    if failed is not None:
        raise ServiceUnavailable(failed.detail or failed.reason)
    return outcomes


async def _both(
    sending: Coroutine[Any, Any, list[Outcome]], planning: Coroutine[Any, Any, list[Planned] | None]
) -> tuple[list[Outcome], list[Planned] | None]:
    """Run both at once; the first failure ends the other."""
    try:
        async with asyncio.TaskGroup() as tasks:
            sent, planned = tasks.create_task(sending), tasks.create_task(planning)
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return sent.result(), planned.result()
