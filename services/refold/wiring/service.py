"""Run one service in this process, or start one as a child: its settings, log lines, event loop and port.

Used by the commands and by the compositions of gateway, projector and replay. `python -m refold.wiring.service NAME`
runs a service as a child; its settings come by `hand_work`, or from its environment if nothing is handed to it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import uvloop
from prometheus_client import CollectorRegistry

from refold import __version__
from refold.core import json_text
from refold.core.errors import RefoldError, Refused
from refold.embedded.process import LOOPBACK, Command, Process, choose_port
from refold.telemetry import instance
from refold.telemetry.logging import configure, get_logger
from refold.telemetry.metrics.process import SpanMetrics
from refold.telemetry.tracing import Spans
from refold.wiring.settings import Settings, environment_without, load, split_address, unknown_variables

COLLECT_AFTER: Final = (50_000, 20, 100)
"""Thresholds of the garbage collector's three generations."""

ANYWHERE: Final = frozenset({"0.0.0.0", "::"})

Result = TypeVar("Result")


class Listener(NamedTuple):
    """Where a service listens."""

    host: str
    port: int

    @classmethod
    def choose(cls, setting: str, choose: Callable[[str, int], int] = choose_port) -> Self:
        """Read HOST:PORT, and let `choose` return the port; by default, 0 is any free one. Raises `PortTaken`."""
        host, port = split_address(setting)
        return cls(host, choose(host, port))

    @property
    def address(self) -> str:
        """The setting that chooses this port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Listener:
        """The address by which it is reached from this machine."""
        return Listener(LOOPBACK, self.port) if self.host in ANYWHERE else self

    @property
    def url(self) -> str:
        """The URL by which it is reached from this machine."""
        return f"http://{self.reachable.address}"


def start_process(service: str, name: str | None = None) -> Process:
    """Start a service as a child; it loads its code, then waits for `hand_work`. It is called `name`, if given."""
    return Process(
        Command(
            name=name or service,
            arguments=(sys.executable, "-m", "refold.wiring.service", service),
            # Nothing is imported from the working folder, which may hold a `nats.py`.
            environment=environment_without() | {"PYTHONSAFEPATH": "1"},
            stop_signal=signal.SIGTERM,
        )
    )


def hand_work(process: Process, log: Path, settings: Mapping[str, object], **arguments: object) -> None:
    """Hand a child its settings and the other arguments of its `run`, by a pipe: process arguments are public."""
    process.hand(json_text.dumps({"settings": dict(settings), "arguments": arguments}) + b"\n", log)


def main() -> None:
    """Run the service that is named."""
    name = sys.argv[1]
    run = importlib.import_module(f"refold.wiring.{name}").run
    handed = json_text.loads(sys.stdin.buffer.readline() or b"{}")
    try:
        start(name, partial(run, **handed.get("arguments", {})), **handed.get("settings", {}))
    except RefoldError:
        # Its last log line is the reason.
        sys.exit(1)


def start(service: str, run: Callable[[Settings], Coroutine[Any, Any, None]], **flags: Any) -> None:
    """Run a service until it is asked to stop; an error that ends it is its last log line."""
    settings = load(**flags)
    configure(settings.log_level, service=service)
    log = get_logger()
    for name, nearest in unknown_variables().items():
        log.warning("variable_unknown", variable=name, nearest=nearest)
    try:
        uvloop.run(run(settings))
    except RefoldError as error:
        # An error of the environment: code and facts, without our stack.
        log.critical("service_ended", code=error.code, error=str(error))
        raise
    except Exception:
        # A programming error: the log gets the stack, without secrets, and stderr does not get it again.
        log.exception("service_crashed")
        sys.exit(1)


def run_folding(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that folds many events, in a process that does nothing else."""
    collect_seldom()
    return uvloop.run(work)


def collect_seldom() -> None:
    """Search for garbage seldom: there is little, and many small objects that live for a while (saves a fifth)."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


@contextmanager
def open_spans(settings: Settings, service: str, registry: CollectorRegistry) -> Iterator[Spans | None]:
    """Send a service's spans to the collector that is set; None where there is none."""
    metrics = SpanMetrics(registry)
    if settings.otlp_url is None:
        yield None
        return
    try:
        from refold.telemetry.otlp import OtlpSpans  # noqa: PLC0415 - an extra, and slow to load.
    except ImportError as error:
        rule = "traces need an extra: pip install 'refold[otel]'"
        raise Refused("bad_setting", rule, field="REFOLD_OTLP_URL") from error
    spans = OtlpSpans(
        settings.otlp_url,
        service=f"refold-{service}",
        version=__version__,
        instance=instance(),
        metrics=metrics,
    )
    try:
        yield spans
    finally:
        spans.close()


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT, SIGTERM and SIGHUP set; SIGHUP stays ignored under `nohup`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
    return stop


@asynccontextmanager
async def working(work: Coroutine[Any, Any, None], stop: asyncio.Event, *, name: str) -> AsyncIterator[None]:
    """Work beside the block, whose `stop` is set when the work ends; after the block, the work has ended.

    Raises the error that ended the work.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def unless_stopped(work: Coroutine[Any, Any, Result], stop: asyncio.Event) -> Result | None:
    """Await what may take long. None if the process is asked to stop before that; then it is cancelled."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait({working, stopping})


if __name__ == "__main__":
    main()
