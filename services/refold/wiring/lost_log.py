"""`refold log create`: a new log where there has been none, or where the operator says that the old one is lost.

Used by the command alone. Nothing of the lost log is deleted: its projection stays as a schema of another name, and
the files that are left of it stay beside the broker's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refold.core.errors import LogMissing
from refold.embedded.folder import FolderMarker
from refold.embedded.system import Servers
from refold.log.jetstream import KeyValueMarker, LogMarker, delete_empty_stream
from refold.store.postgres.schema import put_aside
from refold.telemetry.logging import configure
from refold.wiring.log import connect_to, make_embedded_log, make_log, projection_traces
from refold.wiring.offline import servers_of
from refold.wiring.settings import Settings, load


class Created(NamedTuple):
    """The log's id, and where the projection and the files of the lost one are kept; empty where none was lost."""

    log_id: str
    kept: tuple[str, ...]


async def create_log(data: Path | None, *, has_lost_the_log: bool) -> Created:
    """Create the log, or check the one that is there; a lost one is replaced only if the operator says so.

    Works on a data folder on which no system runs, else by the administrator's address at NATS. Raises `LogMissing`.
    """
    configure("error", service="refold")
    settings = load(data=data)
    if "data" not in settings.model_fields_set and settings.nats_admin_url and settings.postgres_url:
        return await _create_at_broker(settings, has_lost_the_log=has_lost_the_log)
    async with servers_of(settings) as servers:
        return await _create_in_folder(servers, settings.postgres_schema, has_lost_the_log=has_lost_the_log)


async def _create_in_folder(servers: Servers, schema: str, *, has_lost_the_log: bool) -> Created:
    try:
        return Created(await make_embedded_log(servers, schema), ())
    except LogMissing:
        if not has_lost_the_log:
            raise
    marker = FolderMarker(servers.folder.path)
    kept = await _forget(servers.nats.url("administrator"), servers.postgres.dsn, schema, marker)
    files = [str(folder) for folder in servers.nats.put_streams_aside()]
    return Created(await make_embedded_log(servers, schema), (*kept, *files))


async def _create_at_broker(settings: Settings, *, has_lost_the_log: bool) -> Created:
    url, replicas = settings.required("nats_admin_url"), settings.nats_replicas
    dsn, schema = settings.required("postgres_url"), settings.postgres_schema

    async def traces() -> list[str]:
        return await projection_traces(dsn, schema)

    try:
        return Created(await make_log(url, replicas=replicas, traces=traces), ())
    except LogMissing:
        if not has_lost_the_log:
            raise
    kept = await _forget(url, dsn, schema, None)
    return Created(await make_log(url, replicas=replicas, traces=traces), tuple(kept))


async def _forget(url: str, dsn: str, schema: str, marker: LogMarker | None) -> list[str]:
    """Put the projection aside, then forget the marker and a stream without events; return what is kept."""
    client = await connect_to(url, "refold-administrator")
    try:
        kept = await put_aside(dsn, schema)
        await delete_empty_stream(client)
        await (marker or KeyValueMarker(client)).forget()
    finally:
        await client.close()
    return [] if kept is None else [f"schema {kept}"]
