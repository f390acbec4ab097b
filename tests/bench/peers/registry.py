"""The compared peers: program, required server, and notes on the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Server = Literal["postgres", "nats", "umadb", "refold"]

FSYNC_POSTGRES: Final = "synced (fsync, synchronous_commit on)"
FSYNC_NATS: Final = "synced (sync_interval always)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One row of the tables.

    `package` is the pin with its version. `read` describes the work of the figure `read_all`, `written` what is
    written for `rebuild`.
    """

    name: str
    title: str
    program: str
    server: Server
    package: str
    durability: str
    variant: str = ""
    read: str = ""
    written: str = ""


PEERS: Final = (
    Peer(
        name="refold-folded",
        title="Refold, SDK over HTTP, waits for the fold",
        program="refold_system.py",
        server="refold",
        package="refold",
        durability=FSYNC_NATS,
        variant="folded",
        written="states, every event and version, id windows, checkpoints; compared with the live ones, swapped",
    ),
    Peer(
        name="refold-stored",
        title="Refold, SDK over HTTP, waits for the log",
        program="refold_system.py",
        server="refold",
        package="refold",
        durability=FSYNC_NATS,
        variant="stored",
    ),
    Peer(
        name="refold-nats",
        title="Refold, nats-py to the log, SQL",
        program="refold_system.py",
        server="refold",
        package="refold",
        durability=FSYNC_NATS,
        variant="nats",
    ),
    Peer(
        name="postgres",
        title="PostgreSQL by itself, psycopg",
        program="raw_postgres.py",
        server="postgres",
        package="psycopg",
        durability=FSYNC_POSTGRES,
        read="cursor, folded",
        written="last states, by one COPY",
    ),
    Peer(
        name="message-db",
        title="message-db",
        program="message_db.py",
        server="postgres",
        package="@eventide/message-db",
        durability=FSYNC_POSTGRES,
        read="category pages, folded",
    ),
    Peer(
        name="eventsourcing",
        title="eventsourcing + PostgreSQL",
        program="eventsourcing_postgres.py",
        server="postgres",
        package="eventsourcing",
        durability=FSYNC_POSTGRES,
        read="notifications, folded",
        written="last states, a transaction an event",
    ),
    Peer(
        name="emmett",
        title="Emmett + PostgreSQL",
        program="emmett.mjs",
        server="postgres",
        package="@event-driven-io/emmett-postgresql",
        durability=FSYNC_POSTGRES,
        written="last states, a Pongo projection",
    ),
    Peer(
        name="umadb",
        title="UmaDB",
        program="umadb_store.py",
        server="umadb",
        package="umadb",
        durability="synced (always)",
        read="read, folded",
    ),
    Peer(
        name="nats",
        title="NATS JetStream by itself, nats-py",
        program="raw_nats.py",
        server="nats",
        package="nats-py",
        durability=FSYNC_NATS,
        variant="fsync",
        read="pull consumer, folded",
    ),
    Peer(
        name="nats-os",
        title="NATS by itself with its default, nats-py",
        program="raw_nats.py",
        server="nats",
        package="nats-py",
        durability="NOT durable (sync_interval 2m)",
        variant="os",
        read="pull consumer, folded",
    ),
)
