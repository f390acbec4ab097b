"""Starts one service in this process: its settings, its log lines, its event loop. Used by the commands."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from refold.core.errors import RefoldError
from refold.telemetry.logging import configure, get_logger
from refold.wiring.settings import Settings, load, unknown_variables


def start(service: str, run: Callable[[Settings], Coroutine[Any, Any, None]], **flags: Any) -> None:
    """Run a service until it is told to end; an error that ends it is its last log line."""
    settings = load(**flags)
    configure(settings.log_level, service=service)
    log = get_logger()
    for name in unknown_variables():
        log.warning("variable_unknown", variable=name)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except RefoldError as error:
        # What ends a service is a fact of the world: its code and facts, without our stack.
        log.critical("service_ended", code=error.code, error=str(error))
        raise
    except Exception:
        # A programming error: the log gets its stack, without secrets, and stderr does not get it again.
        log.exception("service_crashed")
        sys.exit(1)
