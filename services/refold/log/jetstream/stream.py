"""The stream and its genesis: created by the administrator's user where there has been no log, else checked.

Used by the compositions. A creation that was interrupted is completed by the next start. A log is never created where
there may have been one: the broker deletes the files of a stream that it could not read when a stream of the same name
is created.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from refold.core import json_text
from refold.core.errors import LogDiffers, LogHole, LogMissing, LogUnavailable
from refold.core.fold import genesis, read_genesis
from refold.core.stream import GENESIS_DOCUMENT, PARTITIONS, SYSTEM_NAMESPACE, Route
from refold.log.jetstream.api import (
    MESSAGE_NOT_FOUND,
    STREAM,
    STREAM_NOT_FOUND,
    ApiError,
    parse_pub_ack,
    request_api,
    stored_record,
    stream_info,
    unreadable_range,
)
from refold.log.jetstream.client import Client

NARROW: Final = [f"state.{SYSTEM_NAMESPACE}.*"]
"""The stream's subjects until it has a genesis, so that no other event can be the first."""
WIDE: Final = ["state.*.*"]

CONFIGURATION: Final[dict[str, Any]] = {
    "name": STREAM,
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "new",
    "storage": "file",
    "compression": "s2",
    "subject_transform": {
        "src": "state.*.*",
        "dest": f"log.{{{{partition({PARTITIONS},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
    },
    "allow_direct": True,
    "allow_atomic": True,
    "deny_delete": True,
    "deny_purge": True,
}
"""What a stream must have to be the log; replicas and size are the operator's choice."""

FORBIDDEN: Final = (
    "allow_batched",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_msg_ttl",
    "allow_rollup_hdrs",
    "discard_new_per_subject",
    "mirror",
    "no_ack",
    "persist_mode",
    "sealed",
    "sources",
)
"""Options with which the stream could lose or change events, or take them from elsewhere."""

_ADVICE: Final = (
    "Either its storage was lost or moved, or the broker could not read it (a damaged block or a wrong key; its own "
    "log says so). Nothing was created or deleted. Restore the storage, then start again. Only if it is lost for good, "
    "`refold log create --i-have-lost-the-log` creates a new log"
)

_BUCKET: Final = "KV_refold"
_MARKER_SUBJECT: Final = "$KV.refold.log"
_BUCKET_CONFIGURATION: Final[dict[str, Any]] = {
    "name": _BUCKET,
    "subjects": ["$KV.refold.>"],
    "storage": "file",
    "discard": "new",
    "max_msgs_per_subject": 1,
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "deny_delete": True,
}
"""As NATS' own clients create a key-value bucket with one value a key."""

_NAME_IN_USE: Final = 10058
_RANGES_SHOWN_MAX: Final = 20
_GENESIS_SUBJECT: Final = f"state.{SYSTEM_NAMESPACE}.{GENESIS_DOCUMENT}"


class LogMarker(Protocol):
    """Remembers, outside of the stream, which log has been created."""

    async def read(self) -> str | None:
        """Return the log's id; None if no log has been created."""

    async def write(self, log_id: str) -> None:
        """Remember a log that has been created."""

    async def forget(self) -> None:
        """Forget a log that is lost."""


Traces = Callable[[], Awaitable[Sequence[str]]]
"""Returns the traces of an earlier log, for people; empty if a log may be created."""


async def no_traces() -> Sequence[str]:
    """Return no traces: for a broker that is known to be new."""
    return ()


async def create_log(
    client: Client,
    *,
    log_id: str,
    replicas: int = 1,
    bytes_max: int = -1,
    marker: LogMarker | None = None,
    traces: Traces = no_traces,
) -> str:
    """Create the log, or complete or check the one that exists; return its id, which may differ from `log_id`.

    Raises:
        LogMissing: there is no log, or an empty one, but the marker or traces say that there has been one.
        LogDiffers: the stream is not this log.
        LogHole, LogUnavailable: as their names say.
    """
    wanted = CONFIGURATION | {"num_replicas": replicas, "max_bytes": bytes_max}
    marked = await marker.read() if marker else None
    info = await _find_stream(client)
    if info is None:
        await _check_no_trace(marked, traces)
        info = await _create_stream(client, wanted)
    _check_configuration(info["config"], wanted)
    if info["state"]["last_seq"] == 0:
        if info["config"]["subjects"] == WIDE:
            raise LogMissing(f"the stream {STREAM} is empty, but it had events before. {_ADVICE}")
        await _check_no_trace(marked, traces)
        await _publish_genesis(client, log_id)
    found = await _read_log_id(client, info["state"])
    if marked not in {None, found}:
        message = "the stream holds another log than the one created here"
        raise LogDiffers(message, expected=marked, found=found)
    if marker and marked is None:
        # Written before any other event can be stored, so that no log with events lacks its marker.
        await marker.write(found)
    if info["config"]["subjects"] == NARROW:
        update = {**wanted, "subjects": WIDE}
        failure = "the broker does not widen the log's subjects"
        await request_api(client, f"STREAM.UPDATE.{STREAM}", update, failure)
    return await check_log(client, log_id=found)


async def check_log(client: Client, *, log_id: str | None = None) -> str:
    """Return the log's id. Raises `LogMissing`, `LogDiffers`, `LogHole`; `LogUnavailable` while it is being created."""
    info = await stream_info(client)
    _check_configuration(info["config"], CONFIGURATION)
    state = info["state"]
    if info["config"]["subjects"] == NARROW or state["last_seq"] == 0:
        raise LogUnavailable("the administrator's user is still creating the log", stream=STREAM)
    await _check_complete(client, state)
    return log_id or await _read_log_id(client, state)


async def delete_empty_stream(client: Client) -> None:
    """Delete the stream if it has no events, so that it can be created again. Raises `LogDiffers` if it has."""
    info = await _find_stream(client)
    if info is None:
        return
    if info["state"]["messages"] or info["state"]["last_seq"]:
        raise LogDiffers("the log has events: it is not lost", last_sequence=info["state"]["last_seq"])
    await request_api(client, f"STREAM.DELETE.{STREAM}", None, "the broker does not delete the stream")


class KeyValueMarker:
    """A `LogMarker` in a key-value bucket of the same broker: `nats kv get refold log` shows it."""

    def __init__(self, client: Client, *, replicas: int = 1) -> None:
        self._client = client
        self._replicas = replicas

    async def read(self) -> str | None:
        """Return the log's id; None if there is no bucket, or no value."""
        request = {"last_by_subj": _MARKER_SUBJECT}
        failure = "the broker does not return the log's marker"
        try:
            answer = await request_api(self._client, f"STREAM.MSG.GET.{_BUCKET}", request, failure)
        except ApiError as error:
            if error.broker_code not in {STREAM_NOT_FOUND, MESSAGE_NOT_FOUND}:
                raise
            return None
        return base64.b64decode(answer["message"]["data"]).decode()

    async def write(self, log_id: str) -> None:
        """Create the bucket and store the id in it."""
        configuration = _BUCKET_CONFIGURATION | {"num_replicas": self._replicas}
        failure = "the broker does not store the log's marker"
        await request_api(self._client, f"STREAM.CREATE.{_BUCKET}", configuration, failure)
        ack = parse_pub_ack(await self._client.request(_MARKER_SUBJECT, log_id.encode()))
        if ack is not None and ack.code:
            raise ack.error()

    async def forget(self) -> None:
        """Empty the bucket."""
        failure = "the broker does not delete the log's marker"
        try:
            await request_api(self._client, f"STREAM.PURGE.{_BUCKET}", None, failure)
        except ApiError as error:
            if error.broker_code != STREAM_NOT_FOUND:
                raise


async def _find_stream(client: Client) -> dict[str, Any] | None:
    try:
        return await stream_info(client)
    except LogMissing:
        return None


async def _check_no_trace(marked: str | None, traces: Traces) -> None:
    """Raise `LogMissing` if anything says that there has been a log."""
    found = [*([f"the marker names log {marked}"] if marked else ()), *await traces()]
    if found:
        raise LogMissing(f"the broker has no log, but there has been one: {'; '.join(found)}. {_ADVICE}")


async def _create_stream(client: Client, wanted: dict[str, Any]) -> dict[str, Any]:
    request = {**wanted, "subjects": NARROW}
    failure = "the broker does not create the log"
    try:
        return await request_api(client, f"STREAM.CREATE.{STREAM}", request, failure)
    except ApiError as error:
        if error.broker_code != _NAME_IN_USE:
            raise
    # Another process has created it, and may have widened its subjects.
    return await stream_info(client)


async def _publish_genesis(client: Client, log_id: str) -> None:
    body = json_text.dumps(genesis(log_id))
    headers = b"Nats-Expected-Last-Sequence: 0\r\n"
    ack = parse_pub_ack(await client.request(_GENESIS_SUBJECT, body, headers=headers))
    # Stale: another process has published its genesis, which is read instead.
    if ack is not None and ack.code and not ack.is_stale:
        raise ack.error()


async def _read_log_id(client: Client, state: dict[str, Any]) -> str:
    record = await stored_record(client, seq=1)
    if record is None:
        _check_beginning(state)
        first, last = await unreadable_range(client, 1, state["last_seq"])
        message = "the broker cannot read the log's first events: the first block of its storage is damaged"
        raise LogHole(message, first_sequence=first, last_sequence=last)
    subject = Route.of(SYSTEM_NAMESPACE, GENESIS_DOCUMENT).subject
    if record.subject != subject:
        raise LogDiffers("sequence 1 is not a genesis", expected=subject, found=record.subject)
    return read_genesis(record)


async def _check_complete(client: Client, state: dict[str, Any]) -> None:
    """Raise `LogHole`, which names the sequences, if the stream lacks any."""
    _check_beginning(state)
    if state.get("num_deleted", 0):
        detailed = await stream_info(client, deleted_details=True)
        deleted = detailed["state"].get("deleted", [])
        raise LogHole("events were deleted from the log", sequences=_ranges(deleted), count=len(deleted))


def _check_beginning(state: dict[str, Any]) -> None:
    if state["first_seq"] > 1:
        message = "the log does not begin at sequence 1: blocks of the broker's storage are missing"
        raise LogHole(message, first_sequence=state["first_seq"])


def _ranges(sequences: list[int]) -> str:
    """Write sequences as ranges: `3, 7-12`."""
    ranges: list[list[int]] = []
    for sequence in sequences:
        if ranges and ranges[-1][1] == sequence - 1:
            ranges[-1][1] = sequence
        else:
            ranges.append([sequence, sequence])
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in ranges[:_RANGES_SHOWN_MAX]]
    return ", ".join([*shown, "…"] if len(ranges) > _RANGES_SHOWN_MAX else shown)


def _check_configuration(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `LogDiffers`, which lists every difference."""
    differences = {
        name: (expected, found.get(name)) for name, expected in wanted.items() if found.get(name) != expected
    }
    differences |= {name: (None, found[name]) for name in FORBIDDEN if found.get(name)}
    if found.get("subjects") not in (NARROW, WIDE):
        differences["subjects"] = (WIDE, found.get("subjects"))
    if differences:
        listed = "; ".join(
            f"{name}: expected {expected!r}, found {actual!r}"
            for name, (expected, actual) in sorted(differences.items())
        )
        message = f"the stream {STREAM} is not configured as a log of this system: {listed}"
        raise LogDiffers(message, names=sorted(differences))
