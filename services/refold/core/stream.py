"""The log as a stream of records: routing to partitions, the hash chain, and checkpoints.

Read by all code that folds, chains, verifies or stores events.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple, Self, TypeAlias
from urllib.parse import quote, unquote

from refold.core.errors import Refused

PARTITIONS: Final = 64
NAME_CHARS_MAX: Final = 128
"""A namespace, or the token of a document id."""

NAME_RULE: Final = f"1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 _ - : = @ + ~"

SYSTEM_NAMESPACE: Final = "_refold"
GENESIS_DOCUMENT: Final = "log"
FOLD_DOCUMENT: Final = "fold"
SYSTEM_DOCUMENTS: Final = (GENESIS_DOCUMENT, FOLD_DOCUMENT)
"""Those that say which fold is in force."""

ESCAPED_NAMES_FOLD: Final = 2
"""The first fold number under which a document id may hold other characters, percent-escaped in its token."""

_NAME_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-:=@+~")
_SHARD: Final = re.compile(r"(\d{1,2})-(\d{1,2})", re.ASCII)
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


RecordFields: TypeAlias = tuple[int, int, bytes, bytes, bytes]
"""A record's fields in their order: a plain tuple takes a third of the time."""


class Route(NamedTuple):
    """Where an event belongs: its partition and its document, or the reason why its names make none.

    `is_usual`: the subject is the one under which the stream keeps the document's events.
    """

    partition: int
    namespace: str
    document: str
    reason: str = ""
    is_usual: bool = False

    @classmethod
    def of(cls, namespace: str, document: str) -> Self:
        """Return the route of a document, given valid names."""
        partition = partition_of(namespace.encode(), token_of(document).encode())
        return cls(partition, namespace, document, "", True)

    @property
    def subject(self) -> bytes:
        """Return the subject under which the stream keeps the document's events."""
        return stored_subject(self.partition, self.namespace, self.document)


def route(subject: bytes, fold: int = 1) -> Route:
    """Read partition and names from a subject's last two tokens; invalid names make no document.

    `fold` is the number in force at the event: which names are valid depends on it. The partition does not.
    """
    tokens = [b"", *subject.rsplit(b".", 2)][-2:]
    partition = partition_of(*tokens)
    # Latin-1 decodes all bytes, and no token has what is not ASCII.
    namespace, token = (token.decode("latin-1") for token in tokens)
    document = document_of(token, fold)
    if not _is_plain(namespace) or document is None:
        return Route(partition, "", "", "bad_name")
    if namespace.startswith("_") and namespace != SYSTEM_NAMESPACE:
        return Route(partition, "", "", "reserved_namespace")
    is_usual = subject == stored_subject(partition, namespace, document)
    return Route(partition, namespace, document, "", is_usual)


def partition_of(namespace: bytes, document: bytes) -> int:
    """Hash both names with FNV-1a-32, modulo the number of partitions, as the broker's `partition()` does."""
    hashed = _FNV_OFFSET
    for byte in namespace + document:
        hashed = (hashed ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return hashed % PARTITIONS


def parse_shard(text: str) -> range:
    """Read the partitions of a shard, `FIRST-LAST` as in `0-63`. Raises `Refused`."""
    found = _SHARD.fullmatch(text)
    if found is None or not int(found[1]) <= int(found[2]) < PARTITIONS:
        rule = f"FIRST-LAST, two partitions from 0 to {PARTITIONS - 1}, such as 0-31"
        raise Refused("bad_shard", rule, field="shard", shape=repr(text[:40]))
    return range(int(found[1]), int(found[2]) + 1)


def stored_subject(partition: int, namespace: str, document: str) -> bytes:
    """Return the subject under which the stream keeps a document's events."""
    return f"log.{partition}.{namespace}.{token_of(document)}".encode()


def token_of(document: str) -> str:
    """Return the token of a subject that stands for a document id: what is not plain is percent-escaped UTF-8."""
    if _NAME_CHARS.issuperset(document):
        return document
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], document.encode()).decode()


def document_of(token: str, fold: int) -> str | None:
    """Return the document id that a token of a subject stands for; None where it stands for none."""
    if _is_plain(token):
        return token
    if fold < ESCAPED_NAMES_FOLD or not 1 <= len(token) <= NAME_CHARS_MAX or "%" not in token:
        return None
    try:
        document = unquote(token, errors="strict")
    except UnicodeDecodeError:
        return None
    # There is one token for each id: any other escaping is none.
    return document if is_document_id(document) and token_of(document) == token else None


def is_document_id(document: str) -> bool:
    """Tell whether a text may be a document id from `ESCAPED_NAMES_FOLD` on: printable, at most 128 bytes escaped.

    Not `.` and `..`, which have a meaning of their own in the path of a URL, however they are written there.
    """
    if document in {"", ".", ".."} or not is_printable(document):
        return False
    return len(document) <= NAME_CHARS_MAX and len(token_of(document)) <= NAME_CHARS_MAX


def is_printable(text: str) -> bool:
    """Tell whether a text has only characters that a document id may have."""
    return _UNPRINTABLE.search(text) is None


def path_segment(document: str) -> str:
    """Return a document id as one segment of a URL's path."""
    return quote(document, safe="-_:=@+~")


def author_headers(headers: bytes) -> bytes:
    """Remove the broker's own lines, whose names begin with `Nats-`; nothing but CRLF ends a line."""
    # In most events the author's lines come before the broker's.
    found = _AUTHORS_FIRST.fullmatch(headers)
    if found is not None:
        return found[1]
    return b"\r\n".join([line for line in headers.split(b"\r\n") if not line.startswith(b"Nats-")])


def check_name(name: str, field: str) -> str:
    """Return the name, or refuse it with the rule."""
    if _is_plain(name):
        return name
    message = f"a name is {NAME_RULE}"
    raise Refused("bad_name", message, field=field, shape=f"string of {len(name)} characters: {name[:40]!r}")


def check_document(document: str, field: str) -> str:
    """Return a document id that the newest fold accepts, or refuse it with the rule."""
    if _is_plain(document) or is_document_id(document):
        return document
    message = (
        f"a document id is printable Unicode, 1 to {NAME_CHARS_MAX} bytes once percent-escaped, not . or .."
    )
    shape = f"string of {len(document)} characters: {document[:40]!r}"
    raise Refused("bad_name", message, field=field, shape=shape)


def check_namespace(namespace: str) -> str:
    """Return a namespace that an author may write to, or refuse it with the rule."""
    check_name(namespace, "namespace")
    if namespace.startswith("_"):
        message = "names that begin with _ are the system's own"
        raise Refused("reserved_namespace", message, field="namespace", shape=repr(namespace))
    return namespace


def _is_plain(text: str) -> bool:
    return 1 <= len(text) <= NAME_CHARS_MAX and _NAME_CHARS.issuperset(text)


_ESCAPED: Final = re.compile(rb"[^A-Za-z0-9_:=@+~-]")
_UNPRINTABLE: Final = re.compile(
    # Controls, spaces but the usual one, soft hyphen and other formats that show nothing, separators of lines.
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # Surrogates, private use, and code points that are no characters.
    "\ud800-\uf8ff\ufdd0-\ufdef"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "\U000f0000-\U0010ffff]"
)
"""A fixed list, as `str.isprintable` changes with Unicode's version; a code point that is not assigned is printable."""
_AUTHORS_FIRST: Final = re.compile(rb"((?:(?!Nats-)[^\r]*+\r\n)*+)(?:Nats-[^\r]*+\r\n)*+")
_LINK: Final = struct.Struct(">32sQqI")
_LENGTHS: Final = struct.Struct(">II")
_LENGTH: Final = struct.Struct(">I")


def chain_seed(log_id: str, partition: int) -> bytes:
    """Return the chain before a partition's first event: SHA-256 over (length, log id, partition)."""
    name = log_id.encode()
    return sha256(_LENGTH.pack(len(name)) + name + partition.to_bytes(8, "big")).digest()


def chain_link(previous: bytes, record: Record) -> bytes:
    """Return the chain after one more event; the broker's own header lines are not part of it."""
    return author_link(previous, record._replace(headers=author_headers(record.headers)))


def author_link(previous: bytes, record: RecordFields) -> bytes:
    """Return the chain after one more event that has its author's headers only."""
    sequence, time, subject, headers, body = record
    head = _LINK.pack(previous, sequence, time, len(subject))
    if not headers:
        return sha256(b"".join((head, subject, _LENGTHS.pack(0, len(body)), body))).digest()
    length = _LENGTH.pack
    return sha256(b"".join((head, subject, length(len(headers)), headers, length(len(body)), body))).digest()


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """How far one partition has been folded.

    `read_sequence`: the whole log has been read so far. `last_sequence`: this partition's last event folded.
    `chain` is the hash chain after that event, `chain_before` the one before it, so that the event can be
    checked again. `recorded_at` is the monotone clock at `read_sequence`, `fold` the rules in force there.
    `counts` has the partition's events since the log began, by the number of their `Status`.
    """

    partition: int
    chain: bytes
    chain_before: bytes
    fold: int
    read_sequence: int = 0
    last_sequence: int = 0
    recorded_at: int = 0
    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])


class ClockRange(NamedTuple):
    """Events recorded at a later time than the broker's: an earlier event had that time, and the clock stepped back."""

    first_sequence: int
    last_sequence: int
    recorded_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheckpoint:
    """What a commit writes of a shard: what all its partitions share, and the checkpoints of those that had events.

    `partitions` are in order. The checkpoint of any other partition has no new value of its own. `clock` has the
    ranges with events of this commit; one with the same first sequence and time continues an earlier commit's.
    """

    partitions: Sequence[int]
    fold: int
    read_sequence: int
    recorded_at: int
    touched: Sequence[Checkpoint]
    clock: Sequence[ClockRange] = ()
