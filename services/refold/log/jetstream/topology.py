"""The stream and its genesis: made at start by the administrator's user, or checked; never silently changed.

A start that died halfway is completed by the next one. Used by whoever brings the log up or opens it.
"""

from __future__ import annotations

from typing import Any, Final

from refold.core import canonical
from refold.core.errors import LogDiffers, LogHole, LogUnavailable
from refold.core.limits import PARTITIONS
from refold.core.record import SYSTEM_NAMESPACE, partition_of, stored_subject
from refold.core.system import GENESIS_DOCUMENT, genesis, read_genesis
from refold.log.jetstream.acknowledgement import read_pub_ack
from refold.log.jetstream.api import STREAM, STREAM_ABSENT, ApiRefused, ask_api, stored_record, stream_info
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

_EXISTS_OTHERWISE: Final = 10058
_SHOWN_MAX: Final = 20
_GENESIS_SUBJECT: Final = f"state.{SYSTEM_NAMESPACE}.{GENESIS_DOCUMENT}"


async def create_log(client: BrokerClient, *, log_id: str, replicas: int = 1, bytes_max: int = -1) -> str:
    """Make the log, or complete or check the one that is there; return its log id, which may be another's.

    Raises `LogDiffers`, `LogHole`, `LogUnavailable`.
    """
    wanted = MEANING | {"num_replicas": replicas, "max_bytes": bytes_max}
    info = await _stream(client, wanted)
    _check_configuration(info["config"], wanted)
    if info["state"]["last_seq"] == 0:
        await _publish_genesis(client, log_id)
    found = await _read_log_id(client)
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
    return log_id or await _read_log_id(client)


async def _stream(client: BrokerClient, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return await ask_api(client, f"STREAM.INFO.{STREAM}")
    except ApiRefused as refused:
        if refused.code != STREAM_ABSENT:
            raise LogUnavailable("the broker does not tell of the log", reason=str(refused)) from refused
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


async def _read_log_id(client: BrokerClient) -> str:
    record = await stored_record(client, seq=1)
    if record is None:
        raise LogHole("the log lacks its genesis", sequence=1)
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
    if state["first_seq"] != 1:
        raise LogHole("the log does not begin at sequence 1", first_sequence=state["first_seq"])
    if state.get("num_deleted", 0):
        detailed = await stream_info(client, deleted_details=True)
        deleted = detailed["state"].get("deleted", [])
        raise LogHole("events were deleted from the log", sequences=deleted[:_SHOWN_MAX], count=len(deleted))


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
