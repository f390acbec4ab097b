"""One event as the log keeps it, and where its subject says it belongs.

Read by everyone who folds, chains or stores events.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from refold.core.errors import Refused
from refold.core.limits import NAME_CHARS_MAX, PARTITIONS

SYSTEM_NAMESPACE: Final = "_refold"
GENESIS_DOCUMENT: Final = "log"
FOLD_DOCUMENT: Final = "fold"
SYSTEM_DOCUMENTS: Final = (GENESIS_DOCUMENT, FOLD_DOCUMENT)
"""Those that say which fold is in force."""

_NAME: Final = re.compile(rf"[A-Za-z0-9_\-:=@+~]{{1,{NAME_CHARS_MAX}}}", re.ASCII)
_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


class Record(NamedTuple):
    """One stored event.

    `time` is the broker's clock in nanoseconds, `subject` the bytes as stored (anyone can publish any),
    `headers` the stored lines, each `Name: value` ending in CRLF, `body` the payload.
    """

    sequence: int
    time: int
    subject: bytes
    headers: bytes
    body: bytes


class Place(NamedTuple):
    """Where an event belongs: its partition and its document, or the reason why its names make none."""

    partition: int
    namespace: str
    document: str
    reason: str = ""


def place(subject: bytes) -> Place:
    """Read partition and names from a subject's last two tokens; invalid names make no document."""
    namespace, document = _last_two_tokens(subject)
    partition = partition_of(namespace, document)
    try:
        names = namespace.decode("ascii"), document.decode("ascii")
    except UnicodeDecodeError:
        return Place(partition, "", "", "bad_name")
    if not all(map(_NAME.fullmatch, names)):
        return Place(partition, "", "", "bad_name")
    if names[0].startswith("_") and names[0] != SYSTEM_NAMESPACE:
        return Place(partition, "", "", "reserved_namespace")
    return Place(partition, *names)


def partition_of(namespace: bytes, document: bytes) -> int:
    """FNV-1a-32 over both names, modulo the number of partitions, as the broker's `partition()` has it."""
    hashed = _FNV_OFFSET
    for byte in namespace + document:
        hashed = (hashed ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return hashed % PARTITIONS


def stored_subject(partition: int, namespace: str, document: str) -> bytes:
    """Name the subject under which the stream keeps a document's events."""
    return f"log.{partition}.{namespace}.{document}".encode()


def author_headers(headers: bytes) -> bytes:
    """Leave out the broker's own lines, whose names begin with `Nats-`; nothing but CRLF ends a line."""
    if b"Nats-" not in headers:
        return headers
    # Most events carry what their batch needed, and nothing else: every line begins so.
    ends = headers.count(b"\r\n")
    if headers.startswith(b"Nats-") and headers.count(b"\r\nNats-") + 1 == ends and headers.endswith(b"\r\n"):
        return b""
    return b"\r\n".join([line for line in headers.split(b"\r\n") if not line.startswith(b"Nats-")])


def check_name(name: str, field: str) -> str:
    """Return the name, or refuse it with the rule."""
    if _NAME.fullmatch(name):
        return name
    message = f"a name is 1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 _ - : = @ + ~"
    raise Refused("bad_name", message, field=field, shape=f"string of {len(name)} characters: {name[:40]!r}")


def check_namespace(namespace: str) -> str:
    """Return a namespace that an author may write to, or refuse it with the rule."""
    check_name(namespace, "namespace")
    if namespace.startswith("_"):
        message = "names that begin with _ are the system's own"
        raise Refused("reserved_namespace", message, field="namespace", shape=repr(namespace))
    return namespace


def _last_two_tokens(subject: bytes) -> tuple[bytes, bytes]:
    tokens = subject.rsplit(b".", 2)
    return (tokens[-2], tokens[-1]) if len(tokens) > 1 else (b"", tokens[-1])
