"""The command that shows a running system once a second: top. Loaded by `refold.cli`.

It asks `/metrics` and `/readyz` of every service, and the gateway's `/status` and `/v1`; nothing else runs for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from refold.cli.options import Output, System
from refold.cli.output import console, json_line, say
from refold.core.errors import Refused, ServiceUnavailable

if TYPE_CHECKING:
    from refold.cli.top_numbers import History, Scraped, Service
    from refold.telemetry.http import Response

GATEWAY: Final = "gateway"
STARTED: Final = "process_start_time_seconds"
"""A metric that differs between a process and the one before it at the same address."""

GATEWAYS_OWN: Final = "refold_http_requests_working"
"""A metric that only gateways expose, from their start."""

ANSWER_SECONDS: Final = 3.0
"""A service that has not answered by then is shown as silent; the gateway's own checks end after 2 s."""


async def top(
    system: System,
    output: Output,
    probe: Annotated[
        list[str] | None,
        typer.Option("--probe", metavar="URL", help="Probe address of a projector, with --url; repeatable."),
    ] = None,
    is_once: Annotated[
        bool, typer.Option("--once", help="Print the numbers of one interval, and exit.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two requests for the numbers.")
    ] = 1.0,
) -> None:
    """Show what a running system is doing, once a second: services, rates, lag, latencies.

    Keys: q quits, p pauses, s changes the order of the namespaces. Quantiles, conflicts and rejections are those of the
    last minute; with --once, quantiles are those since the services' start, and the others those of the interval. A
    service that has disappeared stays, in red.
    """
    from refold.cli.top_numbers import History, numbers
    from refold.client.connection import Address

    history = History()
    addresses = _addresses(system, probe or []) or {GATEWAY: system.gateway_url()}
    for url in addresses.values():
        Address.of(url)
    await _look(history, addresses)
    if all(service.is_silent for service in history.services.values()):
        raise ServiceUnavailable(f"no service answers at {', '.join(addresses.values())}")
    rounds = history.services[GATEWAY].rounds
    if rounds and rounds[-1].total(GATEWAYS_OWN) is None:
        rule = "is no gateway; give a projector's address with --probe"
        raise Refused("bad_usage", rule, field="--url", shape=addresses[GATEWAY])
    if output.is_json or is_once or not sys.stdout.isatty():
        await asyncio.sleep(seconds)
        await _look(history, addresses)
        found = numbers(history, time.monotonic())
        if output.is_json:
            json_line(found)
        else:
            _print(found, addresses)
        return
    await _Display(system, probe or [], history, seconds).run()


class _Display:
    """The screen, its keys, and the looks that it shows."""

    def __init__(self, system: System, probes: list[str], history: History, seconds: float) -> None:
        self._system, self._probes, self._history, self._seconds = system, probes, history, seconds
        self._sort = "rate"
        self._is_paused = self._is_ended = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Show the system until the key q, or a signal, after which the terminal is as before."""
        from rich.live import Live

        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._press, "q")
        with Live(console=console(), screen=True, auto_refresh=False) as live, _keys(self._press):
            while not self._is_ended:
                addresses = _addresses(self._system, self._probes) or self._known()
                if not self._is_paused:
                    await _look(self._history, addresses)
                self._changed.clear()
                live.update(self._screen(addresses), refresh=True)
                await self._wait()

    def _known(self) -> dict[str, str]:
        """Return the addresses of a system that has ended."""
        return {name: service.url for name, service in self._history.services.items()}

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _press(self, key: str) -> None:
        from refold.cli.top_screen import SORTS

        if key == "q":
            self._is_ended = True
        elif key == "p":
            self._is_paused = not self._is_paused
        elif key == "s":
            sorts = list(SORTS)
            self._sort = sorts[(sorts.index(self._sort) + 1) % len(sorts)]
        else:
            return
        self._changed.set()

    def _screen(self, addresses: Mapping[str, str]) -> Any:
        from rich.text import Text

        from refold.cli.top_numbers import numbers
        from refold.cli.top_screen import screen

        shown = console()
        lines = screen(
            numbers(self._history, time.monotonic()),
            url=addresses.get(GATEWAY, "") + (" (paused)" if self._is_paused else ""),
            columns=shown.width,
            rows=shown.height,
            sort=self._sort,
        )
        text = Text(no_wrap=True, overflow="crop", end="")
        for place, line in enumerate(lines):
            text.append("\n" if place else "").append(line.text, style=line.style)
        return text


def _print(found: Mapping[str, Any], addresses: Mapping[str, str]) -> None:
    from refold.cli.top_screen import screen

    for line in screen(found, url=addresses.get(GATEWAY, ""), columns=80, rows=24, sort="rate"):
        say(line.text.rstrip(), line.style)


def _addresses(system: System, probes: list[str]) -> dict[str, str]:
    """Return the services' addresses by name: those that are given, or those of the data folder's system."""
    if probes or system.url:
        others = {
            f"projector-{place}" if place > 1 else "projector": url for place, url in enumerate(probes, 1)
        }
        return {GATEWAY: system.gateway_url(), **others}
    services: dict[str, str] = system.endpoints().get("services", {})
    return {GATEWAY: services[GATEWAY], **services} if services else {}


async def _look(history: History, addresses: Mapping[str, str]) -> None:
    """Ask all services at once, and add what they answer."""
    _, *found = await asyncio.gather(
        _ask_gateway(history, addresses[GATEWAY]),
        *(_scrape(history.services.get(name), url) for name, url in addresses.items()),
    )
    now = time.monotonic()
    for (name, url), scraped in zip(addresses.items(), found, strict=True):
        history.add(now, name, url, scraped)


async def _ask_gateway(history: History, url: str) -> None:
    from refold.cli.top_numbers import Answer

    status, namespaces = await asyncio.gather(_get(url, "/status"), _get(url, "/v1"))
    now = time.monotonic()
    if (body := _json_of(status)) is not None and "lag_events" in body:
        history.add_status(now, body)
    if (body := _json_of(namespaces)) is not None and "items" in body:
        history.namespaces.append(Answer(now, {each["namespace"]: each for each in body["items"]}))


async def _scrape(service: Service | None, url: str) -> Scraped | None:
    """Return what a service exposes; None if it does not answer, or not with metrics."""
    from refold.cli.top_numbers import Scraped
    from refold.telemetry.metrics.samples import parse

    metrics, ready = await asyncio.gather(_get(url, "/metrics"), _get(url, "/readyz"))
    if metrics is None or metrics.status != 200:
        return None
    try:
        samples = tuple(parse(metrics.body.decode()))
    except ValueError:
        return None
    started = next((each.value for each in samples if each.name == STARTED), None)
    known = service.rounds[-1] if service is not None and service.rounds else None
    is_same = known is not None and known.started == started
    pid = known.pid if known is not None and is_same else await asyncio.to_thread(_pid_of, url)
    return Scraped(time=time.monotonic(), stage=_stage(ready), samples=samples, started=started, pid=pid)


def _stage(ready: Response | None) -> str:
    body = _json_of(ready)
    if ready is None or body is None:
        return "unknown"
    stage = body.get("stage")
    if ready.status == 200:
        return str(stage or body.get("status"))
    return str(stage) if stage in {"starting", "waiting", "stopped"} else "not ready"


def _pid_of(url: str) -> int | None:
    """Return the process on this machine that listens at an address; None where it cannot be known."""
    from refold.embedded.process import listening_pid
    from refold.telemetry.http import LOOPBACK_HOSTS

    parts = urlsplit(url)
    return listening_pid(parts.port or 0) if parts.hostname in LOOPBACK_HOSTS else None


async def _get(url: str, path: str) -> Response | None:
    from refold.telemetry.http import get

    try:
        return await get(url.rstrip("/") + path, seconds=ANSWER_SECONDS)
    except OSError:
        return None


def _json_of(answer: Response | None) -> dict[str, Any] | None:
    import orjson

    try:
        body = orjson.loads(answer.body) if answer is not None else None
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


@contextmanager
def _keys(press: Callable[[str], None]) -> Iterator[None]:
    """Call `press` with each key, where stdin is a terminal."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield
        return
    file, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        for key in os.read(file, 32).decode(errors="replace"):
            press(key)

    before = termios.tcgetattr(file)
    tty.setcbreak(file)
    loop.add_reader(file, read)
    try:
        yield
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
