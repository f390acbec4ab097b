"""Compose the usage counts: catch up on demand, or as a service that answers HTTP. Used by `refold usage` and `up`.

Shutdown order of the service: HTTP stops, then the counting; what is not counted yet is counted at the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.core import json_text
from refold.core.errors import (
    HistoryElsewhere,
    LogUnavailable,
    Refused,
    ServiceUnavailable,
    StoreFull,
    StoreUnavailable,
    TimedOut,
)
from refold.embedded import read_endpoints, running_setting
from refold.gateway.access import Access
from refold.gateway.responses import Problem, Response, json_response
from refold.log import end_of
from refold.telemetry.http import get
from refold.telemetry.logging import get_logger
from refold.usage import FILE
from refold.usage.reader import UsageReader
from refold.usage.report import Question, answer
from refold.usage.storage import Storage
from refold.wiring.audit import replayed_store
from refold.wiring.probes import not_found, not_ready, serve_probes
from refold.wiring.servers import log_info, opened, reach
from refold.wiring.service import Listener, collect_seldom, stop_on_signals, working
from refold.wiring.settings import Settings, parts_of
from refold.wiring.store_url import StoreUrl
from refold.wiring.stores import store_urls

LOOK_SECONDS: Final = 1.0
"""How often the service looks for events that are folded."""

SILENT_SECONDS_MAX: Final = 5.0
"""The service is not ready when nothing could be counted for longer than this."""

ANSWER_SECONDS: Final = 60.0
"""How long a command waits for the service."""

_PASSING: Final = (LogUnavailable, StoreUnavailable, StoreFull, TimedOut)

Progress = Callable[[str, int, int], None]
"""What is done, how far it is, and how far it goes."""


# --- On demand ------------------------------------------------------------------------------------------


async def read_usage(settings: Settings, question: Mapping[str, Any], progress: Progress) -> Any:
    """Answer a question: by the service that runs, else count up to now and answer.

    `question` has the parameters of `Question.read`. Raises `Refused`, `ServiceUnavailable`.
    """
    asked = Question.read(**question)
    url = read_endpoints(settings.data).get("services", {}).get("usage")
    if url is not None and not settings.names_servers:
        return await _ask(str(url), question)
    found = reach(settings.data if "data" in settings.model_fields_set else None)
    log_id = (await log_info(found, "usage")).log_id
    storage = Storage(settings.data / FILE, log_id, _totals(settings))
    try:
        store = _full_store(found)
        if store is None:
            await _count_replayed(found, storage, progress)
        else:
            async with opened(found, "usage", store, readers_max=2) as (log, reader):
                await UsageReader(log, reader, storage).catch_up(_counting(progress))
        return answer(storage, asked)
    finally:
        storage.close()


async def _ask(url: str, question: Mapping[str, Any]) -> Any:
    """Ask the usage service."""
    given = {_PARAMETERS.get(name, name): value for name, value in question.items() if value is not None}
    path = "/usage" + (f"/{quote(given.pop('namespace'))}" if "namespace" in given else "")
    try:
        response = await get(f"{url.rstrip('/')}{path}?{urlencode(given)}", seconds=ANSWER_SECONDS)
    except OSError as error:
        raise ServiceUnavailable(f"the usage service at {url} does not answer: {error}") from error
    found = json_text.object_in(response.body)
    if response.status != 200:
        facts = {"field": str(found.get("field", "")), "shape": str(found.get("shape", ""))}
        detail = str(found.get("detail", f"the usage service answered {response.status}"))
        raise Refused(
            str(found.get("code", "bad_usage")), detail.removeprefix(f"{facts['field']}: "), **facts
        )
    return found


async def _count_replayed(settings: Settings, storage: Storage, progress: Progress) -> None:
    """Count by a replay of the whole log: of stores of recent depth, none knows the outcomes of earlier events."""
    info = await log_info(settings, "usage")
    if storage.position.sequence >= info.last_sequence:
        return

    def replaying(folded: int, end: int) -> None:
        progress("events folded again", folded, end)

    async with replayed_store(settings, end_of, replaying) as (log, store, _):
        await UsageReader(log, store, storage).catch_up(_counting(progress))


def _counting(progress: Progress) -> Callable[[int, int], None]:
    return lambda counted, end: progress("events counted", counted, end)


def _totals(settings: Settings) -> tuple[str, ...]:
    """Return the namespaces that are counted without actors: as set, else as in the system of the data folder."""
    totals = settings.usage_totals
    if totals is None and not settings.names_servers:
        totals = running_setting(settings.data, "usage_totals")
    return parts_of(totals)


def _full_store(settings: Settings) -> StoreUrl | None:
    """Return the first store that keeps every outcome."""
    return next((store for store in store_urls(settings) if store.kind != "redis"), None)


# --- The service ----------------------------------------------------------------------------------------


async def run(settings: Settings) -> None:
    """Count and answer until SIGINT or SIGTERM. Raises `HistoryElsewhere` where every store is of recent depth."""
    store = _full_store(settings)
    if store is None:
        message = (
            "the usage service needs a store of full depth (postgres, files); `refold usage` on demand does without: "
            "it folds the log again"
        )
        raise HistoryElsewhere(message)
    stop = stop_on_signals()
    collect_seldom()
    async with opened(settings, "usage", store, readers_max=2) as (log, projection):
        totals = parts_of(settings.usage_totals)
        storage = Storage(settings.data / FILE, (await log.info()).log_id, totals)
        try:
            service = Service(UsageReader(log, projection, storage), storage)
            registry = CollectorRegistry()
            registry.register(_Counted(storage))
            hosts, origins = parts_of(settings.http_hosts), parts_of(settings.cors_origins)
            listener = Listener.choose(settings.probe)
            async with working(service.count(), stop, name="usage"):
                await serve_probes(
                    registry,
                    listener,
                    stop=stop,
                    readiness=service.readiness,
                    route=service.answer,
                    access=Access(hosts=hosts, cors_origins=origins),
                    idle_seconds=settings.http_idle_seconds,
                )
        finally:
            storage.close()


class Service:
    """Counts, and answers what was counted: one question at a time, so that counting has its turn."""

    def __init__(
        self, reader: UsageReader, storage: Storage, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader, self._storage, self._timer = reader, storage, timer
        self._advanced, self._fault = timer(), "the last look has not ended"
        self._asking = asyncio.Lock()

    async def count(self) -> None:
        """Count what is folded, again and again; after a transient error too."""
        while True:
            try:
                await self._reader.catch_up(lambda _, __: self._note())
                self._note()
            except _PASSING as error:
                self._fault = f"{error.code}: {error}"
                get_logger().warning("usage_not_counted", code=error.code, error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def readiness(self) -> Response:
        """Return the answer of `/readyz`."""
        seconds = self._timer() - self._advanced
        if seconds > SILENT_SECONDS_MAX:
            return not_ready(f"nothing could be counted for {seconds:.0f} s: {self._fault}")
        return json_response({"status": "ready", "sequence": self._storage.position.sequence})

    async def answer(self, scope: Any) -> Response:
        """Answer `/usage` and `/usage/{namespace}`."""
        _, first, *rest = scope["path"].split("/")
        if first != "usage" or len(rest) > 1:
            return await not_found(scope)
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        unknown = given.keys() - {"from", "to", "by"}
        if unknown:
            name = min(unknown)
            raise Problem(422, "bad_parameter", f"{name[:40]}: there are from, to and by", field=name[:40])
        namespace = rest[0] if rest else None
        times: dict[str, Any] = {"begin": given.get("from"), "end": given.get("to"), "now": time.time_ns()}
        question = Question.read(namespace, given.get("by"), **times)
        try:
            async with self._asking:
                return json_response(await asyncio.to_thread(answer, self._storage, question))
        except Refused as error:
            raise Problem(404, error.reason, str(error), field=error.field) from error

    def _note(self) -> None:
        self._advanced, self._fault = self._timer(), "the last look has not ended"


class _Counted(Collector):
    """The service's metrics."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._first = storage.position.sequence

    def collect(self) -> Iterator[Metric]:
        """Read the position."""
        sequence = self._storage.position.sequence
        yield GaugeMetricFamily(
            "refold_usage_sequence", "Sequence up to which usage is counted.", value=sequence
        )
        about = "Events whose usage was counted since the service started."
        yield CounterMetricFamily("refold_usage_events", about, value=sequence - self._first)


_PARAMETERS: Final = {"begin": "from", "end": "to"}
"""Names of a question's parameters in a query string, where they differ."""
