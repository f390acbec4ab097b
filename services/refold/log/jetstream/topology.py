"""The stream and its genesis: created by the administrator's user where there has been no log, else checked.

A start that died halfway is completed by the next one. A log is never created where one may have been: the broker
deletes the files of a stream that it could not read when a stream of the same name is created.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from refold.core import canonical
from refold.core.errors import LogDiffers, LogHole, LogMissing, LogUnavailable
from refold.core.limits import PARTITIONS
from refold.core.record import SYSTEM_NAMESPACE, partition_of, stored_subject
from refold.core.system import GENESIS_DOCUMENT, genesis, read_genesis
from refold.log.jetstream.acknowledgement import read_pub_ack
from refold.log.jetstream.api import (
    EVENT_ABSENT,
    STREAM,
    STREAM_ABSENT,
    ApiRefused,
    ask_api,
    stored_record,
    stream_info,
    unreadable_range,
)
from refold.log.jetstream.client import BrokerClient

NARROW: Final = [f"state.{SYSTEM_NAMESPACE}.*"]
"""Before there is a genesis, nobody else's event may come first."""

WIDE: Final = ["state.*.*"]

MEANING: Final[dict[str, Any]] = {
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
"""What makes the stream the log; how many replicas and bytes it has is its operator's to say."""

FOREIGN: Final = (
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
"""What would let the stream lose, change or borrow events: absent, or as good as absent."""

_MEND: Final = (
    "Either its storage was lost or moved, or the broker could not read it (a damaged block, a wrong key: its own log "
    "says so). Nothing was created or deleted: bring the storage back as it was, and start again. Only if it is lost "
    "for good, `refold log create --i-have-lost-the-log` begins a new log"
)

_BUCKET: Final = "KV_refold"
_MARKER_SUBJECT: Final = "$KV.refold.log"
_BUCKET_CONFIG: Final[dict[str, Any]] = {
    "name": _BUCKET,
    "subjects": ["$KV.refold.>"],
    "storage": "file",
    "discard": "new",
    "max_msgs_per_subject": 1,
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "deny_delete": True,
}
"""As NATS' own clients create a key-value bucket of one value a key."""

_EXISTS_OTHERWISE: Final = 10058
_SHOWN_MAX: Final = 20
_GENESIS_SUBJECT: Final = f"state.{SYSTEM_NAMESPACE}.{GENESIS_DOCUMENT}"


class LogMarker(Protocol):
    """Remembers outside of the stream which log has been created."""

    async def read(self) -> str | None:
        """Return the log's id; None where no log has been created."""

    async def write(self, log_id: str) -> None:
        """Remember a log that has been created."""

    async def forget(self) -> None:
        """Forget it, for its log is lost."""


Traces = Callable[[], Awaitable[Sequence[str]]]
"""Says in words where there are traces of an earlier log; nothing where a log may be created."""


async def no_traces() -> Sequence[str]:
    """Say that there has been no log: for a broker that is known to be new."""
    return ()


async def create_log(
    client: BrokerClient,
    *,
    log_id: str,
    replicas: int = 1,
    bytes_max: int = -1,
    marker: LogMarker | None = None,
    traces: Traces = no_traces,
) -> str:
    """Create the log, or complete or check the one that is there; return its log id, which may be another's.

    Raises `LogMissing` where there is no log, or an empty one, but traces or the marker say that there has been one;
    `LogDiffers`, `LogHole`, `LogUnavailable`.
    """
    wanted = MEANING | {"num_replicas": replicas, "max_bytes": bytes_max}
    marked = await marker.read() if marker else None
    info = await _find_stream(client)
    if info is None:
        await _refuse_trace(marked, traces)
        info = await _create_stream(client, wanted)
    _check_configuration(info["config"], wanted)
    if info["state"]["last_seq"] == 0:
        if info["config"]["subjects"] == WIDE:
            raise LogMissing(f"the stream {STREAM} is empty, and was not before. {_MEND}")
        await _refuse_trace(marked, traces)
        await _publish_genesis(client, log_id)
    found = await _read_log_id(client, info["state"])
    if marked not in {None, found}:
        raise LogDiffers(
            "the stream holds another log than the one created here", expected=marked, found=found
        )
    if marker and marked is None:
        # Before anyone's event can be stored, so that no log with events is without its marker.
        await marker.write(found)
    if info["config"]["subjects"] == NARROW:
        await _widen(client, wanted)
    return await check_log(client, log_id=found)


async def check_log(client: BrokerClient, *, log_id: str | None = None) -> str:
    """Return the log's id. Raises `LogDiffers`, `LogHole`; `LogUnavailable` while the log is being made."""
    info = await stream_info(client)
    _check_configuration(info["config"], MEANING)
    state = info["state"]
    if info["config"]["subjects"] == NARROW or state["last_seq"] == 0:
        raise LogUnavailable("the log is still being made by the administrator's user", stream=STREAM)
    await _check_whole(client, state)
    return log_id or await _read_log_id(client, state)


class KeyValueMarker:
    """A LogMarker in a key-value bucket of the same broker: `nats kv get refold log` shows it."""

    def __init__(self, client: BrokerClient, *, replicas: int = 1) -> None:
        """Use the administrator's connection."""
        self._client = client
        self._replicas = replicas

    async def read(self) -> str | None:
        """Return the log's id; None where there is no bucket, or nothing in it."""
        try:
            request = {"last_by_subj": _MARKER_SUBJECT}
            answer = await ask_api(self._client, f"STREAM.MSG.GET.{_BUCKET}", request)
        except ApiRefused as refused:
            if refused.code in {STREAM_ABSENT, EVENT_ABSENT}:
                return None
            raise LogUnavailable(
                "the broker does not give the log's marker", reason=str(refused)
            ) from refused
        return base64.b64decode(answer["message"]["data"]).decode()

    async def write(self, log_id: str) -> None:
        """Create the bucket and put the id in it."""
        try:
            await ask_api(
                self._client, f"STREAM.CREATE.{_BUCKET}", _BUCKET_CONFIG | {"num_replicas": self._replicas}
            )
        except ApiRefused as refused:
            raise LogUnavailable(
                "the broker does not keep the log's marker", reason=str(refused)
            ) from refused
        answer = read_pub_ack(*await self._client.ask(_MARKER_SUBJECT, log_id.encode()))
        if answer is not None and answer.code:
            raise answer.error()

    async def forget(self) -> None:
        """Empty the bucket."""
        try:
            await ask_api(self._client, f"STREAM.PURGE.{_BUCKET}")
        except ApiRefused as refused:
            if refused.code != STREAM_ABSENT:
                message = "the broker does not forget the log's marker"
                raise LogUnavailable(message, reason=str(refused)) from refused


async def delete_empty_stream(client: BrokerClient) -> None:
    """Delete the stream where it has no events, so that it can be created again. Raises `LogDiffers` else."""
    info = await _find_stream(client)
    if info is None:
        return
    if info["state"]["messages"] or info["state"]["last_seq"]:
        raise LogDiffers("the log has events: it is not lost", last_sequence=info["state"]["last_seq"])
    try:
        await ask_api(client, f"STREAM.DELETE.{STREAM}")
    except ApiRefused as refused:
        raise LogUnavailable("the broker does not delete the stream", reason=str(refused)) from refused


async def _find_stream(client: BrokerClient) -> dict[str, Any] | None:
    try:
        return await ask_api(client, f"STREAM.INFO.{STREAM}")
    except ApiRefused as refused:
        if refused.code == STREAM_ABSENT:
            return None
        raise LogUnavailable("the broker does not tell of the log", reason=str(refused)) from refused


async def _refuse_trace(marked: str | None, traces: Traces) -> None:
    """Raise `LogMissing` where anything says that there has been a log."""
    found = [*([f"the marker names log {marked}"] if marked else ()), *await traces()]
    if found:
        raise LogMissing(f"the broker has no log, but there has been one: {'; '.join(found)}. {_MEND}")


async def _create_stream(client: BrokerClient, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return await ask_api(client, f"STREAM.CREATE.{STREAM}", {**wanted, "subjects": NARROW})
    except ApiRefused as refused:
        # Another start was faster, and has gone further than this.
        if refused.code != _EXISTS_OTHERWISE:
            raise LogUnavailable("the broker does not make the log", reason=str(refused)) from refused
        return await stream_info(client)


async def _publish_genesis(client: BrokerClient, log_id: str) -> None:
    body = canonical.dumps(genesis(log_id))
    answer = await client.ask(_GENESIS_SUBJECT, body, lines=b"Nats-Expected-Last-Sequence: 0\r\n")
    told = read_pub_ack(*answer)
    # Stale: another start's genesis is there already, and is read like ours.
    if told is not None and told.code and not told.is_stale:
        raise told.error()


async def _read_log_id(client: BrokerClient, state: dict[str, Any]) -> str:
    record = await stored_record(client, seq=1)
    if record is None:
        _check_beginning(state)
        first, last = await unreadable_range(client, 1, state["last_seq"])
        message = "the broker cannot read the log's first events: the first block of its storage is damaged"
        raise LogHole(message, first_sequence=first, last_sequence=last)
    place = SYSTEM_NAMESPACE, GENESIS_DOCUMENT
    subject = stored_subject(partition_of(*(name.encode() for name in place)), *place)
    if record.subject != subject:
        raise LogDiffers("sequence 1 is not a genesis", expected=subject, found=record.subject)
    return read_genesis(record)


async def _widen(client: BrokerClient, wanted: dict[str, Any]) -> None:
    try:
        await ask_api(client, f"STREAM.UPDATE.{STREAM}", {**wanted, "subjects": WIDE})
    except ApiRefused as refused:
        raise LogUnavailable("the broker does not widen the log", reason=str(refused)) from refused


async def _check_whole(client: BrokerClient, state: dict[str, Any]) -> None:
    """Raise `LogHole`, naming the sequences, where the stream lacks any."""
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
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in ranges[:_SHOWN_MAX]]
    return ", ".join([*shown, "…"] if len(ranges) > _SHOWN_MAX else shown)


def _check_configuration(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `LogDiffers` that lists every difference."""
    differences = {
        name: (expected, found.get(name)) for name, expected in wanted.items() if found.get(name) != expected
    }
    differences |= {name: (None, found[name]) for name in FOREIGN if found.get(name)}
    if found.get("subjects") not in (NARROW, WIDE):
        differences["subjects"] = (WIDE, found.get("subjects"))
    if differences:
        told = "; ".join(
            f"{name}: expected {expected!r}, found {there!r}"
            for name, (expected, there) in sorted(differences.items())
        )
        raise LogDiffers(
            f"the stream {STREAM} is not the log that this system makes: {told}", names=sorted(differences)
        )
