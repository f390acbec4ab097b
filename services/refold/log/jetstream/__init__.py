"""The EventLog port on NATS JetStream: one stream, `STATE`, read whole and appended to in groups.

What its users may publish, beside their inbox prefix that they listen on:
- whoever creates the log: `$JS.API.STREAM.{INFO,CREATE,UPDATE,MSG.GET}.STATE`, `state._refold.log`, and for the marker
  `$JS.API.STREAM.{CREATE,MSG.GET}.KV_refold`, `$KV.refold.log`;
- whoever opens it: `$JS.API.STREAM.INFO.STATE`, `$JS.API.STREAM.MSG.GET.STATE`, and `$JS.API.DIRECT.GET.STATE`
  for events whose subject JSON cannot carry;
- whoever reads it: `$JS.API.CONSUMER.CREATE.STATE`, `$JS.API.CONSUMER.{MSG.NEXT,DELETE}.STATE.*`;
- whoever appends: `state.*.*`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from refold.core.limits import ACKNOWLEDGE_SECONDS, LOG_CONNECT_SECONDS
from refold.core.record import Record, check_name, partition_of, stored_subject
from refold.core.timestamp import parse_rfc3339
from refold.log import Acknowledgement, Appended, LogInfo, Publication, Stale, Unknown
from refold.log.jetstream.api import stored_record, stream_info
from refold.log.jetstream.appender import Appender
from refold.log.jetstream.client import DEFAULT_INBOX_PREFIX, BrokerClient, connect
from refold.log.jetstream.notices import JetStreamNotices
from refold.log.jetstream.reader import read_log
from refold.log.jetstream.topology import (
    KeyValueMarker,
    LogMarker,
    Traces,
    check_log,
    create_log,
    delete_empty_stream,
    no_traces,
)

__all__ = [
    "JetStreamLog",
    "JetStreamNotices",
    "KeyValueMarker",
    "LogMarker",
    "Traces",
    "check_log",
    "connect",
    "create_log",
    "delete_empty_stream",
    "no_traces",
]


class JetStreamLog:
    """The log over one connection."""

    def __init__(
        self, client: BrokerClient, log_id: str, *, acknowledge_seconds: float = ACKNOWLEDGE_SECONDS
    ) -> None:
        """Use a connection that stands, to a log that was checked: see `open`."""
        self.client = client
        self._log_id = log_id
        self._appender = Appender(client, acknowledge_seconds=acknowledge_seconds)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        inbox_prefix: str = DEFAULT_INBOX_PREFIX,
        name: str = "refold",
        connect_seconds: float = LOG_CONNECT_SECONDS,
        acknowledge_seconds: float = ACKNOWLEDGE_SECONDS,
    ) -> JetStreamLog:
        """Connect and check the log. Raises `LogUnavailable`, `LogMissing`, `LogDiffers`, `LogHole`."""
        client = await connect(
            url,
            user=user,
            password=password,
            inbox_prefix=inbox_prefix,
            name=name,
            connect_seconds=connect_seconds,
        )
        try:
            log_id = await check_log(client)
        except BaseException:
            await client.close()
            raise
        return cls(client, log_id, acknowledge_seconds=acknowledge_seconds)

    async def info(self) -> LogInfo:
        """Ask the leader for the log's ends and clock."""
        info = await stream_info(self.client)
        state = info["state"]
        return LogInfo(
            log_id=self._log_id,
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            time=parse_rfc3339(info["ts"], "ts"),
            size_bytes=state["bytes"],
        )

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event."""
        return await self._appender.append(publication)

    async def append_atomically(
        self, publications: Sequence[Publication]
    ) -> list[Appended] | Stale | Unknown:
        """Append all next to each other, or none."""
        return await self._appender.append_atomically(publications)

    def read(self, after_sequence: int) -> AsyncGenerator[list[Record], None]:
        """Yield every event after a sequence, then go on with the live tail."""
        return read_log(self.client, after_sequence)

    async def get(self, sequence: int) -> Record | None:
        """Return one event by its sequence, from the leader."""
        return await stored_record(self.client, seq=sequence) if sequence > 0 else None

    async def last_of(self, namespace: str, document: str) -> Record | None:
        """Return a document's last event, from the leader."""
        check_name(namespace, "namespace")
        check_name(document, "document")
        partition = partition_of(namespace.encode(), document.encode())
        subject = stored_subject(partition, namespace, document).decode()
        return await stored_record(self.client, last_by_subj=subject)

    async def close(self) -> None:
        """Send what waits, then let go of the connection."""
        await self._appender.close()
        await self.client.close()
