"""How a process runs that folds many events: on uvloop, and searching for garbage seldom.

Used by the projector and by the commands that replay the log.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import uvloop

COLLECT_AFTER: Final = (50_000, 20, 100)
"""Objects made before the young, generations of them before the older are searched for garbage."""

Result = TypeVar("Result")


def run_folding(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to its end what folds many events, in a process that does nothing else."""
    collect_seldom()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def collect_seldom() -> None:
    """Spare the collector: folding makes many small objects that live until the next commit (a fifth of the time)."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
