"""`refold up`: the whole system on this machine until it is told to stop. Used by the command alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from refold.telemetry.logging import configure
from refold.wiring.serving import stop_on_signals
from refold.wiring.settings import Settings
from refold.wiring.system import running_system


async def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Say a line a part, then `ready` with the addresses; SIGINT and SIGTERM drain and end it all."""
    configure(settings.log_level, service="up")
    spoken = _spoken(say)
    await until_signal(_serve(settings, spoken), spoken)


def _spoken(say: Callable[[str], None]) -> Callable[[str], None]:
    """Say what can be said: a terminal that is gone, or a full disk behind stdout, ends no system."""

    def speak(line: str) -> None:
        with suppress(OSError):
            say(line)

    return speak


async def until_signal(work: Awaitable[None], say: Callable[[str], None]) -> None:
    """Do something until it is done, or until a signal asks to stop: then it is cancelled and cleans up."""
    stop = stop_on_signals()
    working = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        await working
        return
    say("stopping")
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    say("stopped")


async def _serve(settings: Settings, say: Callable[[str], None]) -> None:
    async with running_system(settings, say) as system:
        say(f"ready      {system.http}  {system.nats}  {system.postgres}")
        await asyncio.Event().wait()
