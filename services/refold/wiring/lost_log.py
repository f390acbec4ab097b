"""Make a new log where there has been none, or where the operator says that the old one is lost.

Run by `refold log create`. Nothing of a lost log is deleted: its projections and its counts of usage stay under
another name, and what is left of its files stays beside the broker's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from refold.core.errors import LogMissing
from refold.embedded.folder import FolderMarker
from refold.embedded.nats import put_streams_aside
from refold.log.jetstream.stream import KeyValueMarker, LogMarker, delete_empty_stream
from refold.telemetry.logging import configure
from refold.usage import FILE as USAGE_FILE
from refold.wiring.servers import (
    Servers,
    connected,
    make_embedded_log,
    make_log,
    projection_traces,
    servers_of,
)
from refold.wiring.settings import Settings, load
from refold.wiring.stores import put_aside, put_file_aside, store_urls


class Created(NamedTuple):
    """The log's id, and where the projection and the files of a lost one are kept."""

    log_id: str
    kept: tuple[str, ...]


async def create_log(data: Path | None, *, has_lost_the_log: bool) -> Created:
    """Create the log, or check the existing one; a lost one is replaced only if the operator says so.

    Works on a data folder on which no system runs, else with the administrator's NATS address. Raises `LogMissing`.
    """
    configure("error", service="refold")
    settings = load(data=data)
    if settings.reaches_stores and settings.nats_admin_url:
        url = settings.required("nats_admin_url")
        traces = partial(projection_traces, settings)
        make = partial(make_log, url, replicas=settings.nats_replicas, traces=traces)
        return await _create(has_lost_the_log, make, partial(_forget, url, settings))
    async with servers_of(settings) as servers:
        found = servers.settings(settings)
        make = partial(make_embedded_log, servers, found)
        return await _create(has_lost_the_log, make, partial(_forget_embedded, servers, found))


async def _create(
    has_lost_the_log: bool, make: Callable[[], Awaitable[str]], forget: Callable[[], Awaitable[list[str]]]
) -> Created:
    try:
        return Created(await make(), ())
    except LogMissing:
        if not has_lost_the_log:
            raise
    kept = await forget()
    return Created(await make(), tuple(kept))


async def _forget_embedded(servers: Servers, settings: Settings) -> list[str]:
    marker = FolderMarker(servers.folder.path)
    kept = await _forget(servers.nats.url("administrator"), settings, marker)
    counts = put_file_aside(servers.folder.path / USAGE_FILE)
    return [*kept, *([] if counts is None else [counts]), *map(str, put_streams_aside(servers.nats.home))]


async def _forget(url: str, settings: Settings, marker: LogMarker | None = None) -> list[str]:
    """Rename the projections, then remove the marker and a stream without events; return what is kept."""
    async with connected(url, "refold-administrator") as client:
        kept = [await put_aside(store, settings) for store in store_urls(settings)]
        await delete_empty_stream(client)
        await (marker or KeyValueMarker(client)).forget()
    return [each for each in kept if each is not None]
