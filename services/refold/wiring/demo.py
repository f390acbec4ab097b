"""What `refold demo` does before it tells of it: a system in a temporary folder, and a recording of vital signs.

Used by the command alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from refold.client import Outcome, Refold
from refold.core.canonical import Json
from refold.core.diff import diff
from refold.telemetry.logging import configure
from refold.wiring.settings import load
from refold.wiring.system import Say, System, running_system
from refold.wiring.vitals import Vitals

NAMESPACE: Final = "machine"
ACTOR: Final = "refold-demo"
TICK_SECONDS: Final = 0.1


@dataclass(slots=True, kw_only=True)
class Recording:
    """What was recorded so far. `waits` are the seconds from a publication to its outcomes."""

    versions: dict[str, int] = field(default_factory=dict)
    events: int = 0
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def wait_seconds(self) -> float:
        """The middle one of the waits."""
        return median(self.waits) if self.waits else 0.0


@asynccontextmanager
async def passing_system(say: Say) -> AsyncIterator[System]:
    """A whole system in a folder that is removed afterwards, on ports that are free."""
    configure("error", service="demo")
    with TemporaryDirectory(prefix="refold-demo-") as folder:
        settings = load(data=Path(folder), http="127.0.0.1:0", nats_port=0)
        async with running_system(settings, say) as system:
            yield system


async def record(refold: Refold, seconds: float, listen: Callable[[Recording], None]) -> Recording:
    """Publish what changes of the vital signs, ten times a second, each change as a small patch."""
    recording = Recording()
    vitals = Vitals()
    states: dict[str, Json] = {}
    begun = time.monotonic()
    due = begun
    while recording.seconds < seconds:
        signs = await asyncio.to_thread(vitals.look)
        await _publish(refold, recording, states, signs)
        due = max(due + TICK_SECONDS, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        recording.seconds = time.monotonic() - begun
        listen(recording)
    return recording


async def _publish(
    refold: Refold, recording: Recording, states: dict[str, Json], signs: dict[str, Json]
) -> None:
    events = [
        event for document in signs if (event := _event(document, states.get(document), signs[document]))
    ]
    if not events:
        return
    sent = time.monotonic()
    outcomes = await refold.append(NAMESPACE, events)
    recording.waits.append(time.monotonic() - sent)
    for event, outcome in zip(events, outcomes, strict=True):
        _take(recording, event["doc"], outcome)
    states.update(signs)


def _event(document: str, before: Json, after: Json) -> dict[str, Json] | None:
    about = {"doc": document, "actor": ACTOR}
    if before is None:
        return {**about, "type": f"{document}.seen", "put": after}
    patch = diff(before, after)
    return {**about, "type": f"{document}.changed", "patch": patch} if patch else None


def _take(recording: Recording, document: str, outcome: Outcome) -> None:
    recording.events += 1
    if outcome.is_effective and outcome.version is not None:
        recording.versions[document] = outcome.version
