"""The names of keys. All share one hash tag; names carry their length, because they may contain colons.

Part of the Redis adapter.
"""

from __future__ import annotations

import re
from typing import Final

from refold.core.errors import Refused
from refold.store import Key

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)


class Keys:
    """The keys of one projection; `all` is what they begin with.

    Of the whole: `log` the log's id and the format, `run` the server's run whose file is whole, `owner` a shard's
    lease, `checkpoints` a hash by partition, `groups` the group of each partition, `shard` the position of a group,
    `counts` a hash of counts by namespace, `clock` a hash of ranges of events by their first sequence and time,
    `checks` a hash of check values by the number of a key that encrypts,
    `dictionaries` a hash by number.
    Of a document: `head` its row and state, `ids` its dedup window, `open`, `last` and `before` its last segments.
    Of a namespace, sorted sets: `present` its documents, `names` all that ever had a version, `rejections` by
    sequence; and the hash `unresolved` of the rejections that are open.
    """

    def __init__(self, schema: str) -> None:
        if not _SCHEMA.fullmatch(schema):
            rule = "a schema's name is of a-z, 0-9 and _, at most 63, and begins with no digit"
            raise Refused("bad_schema", rule, field="schema", shape=repr(schema[:80]))
        self._tag = self.all = tag = b"{refold:%b}:" % schema.encode()
        self.log = tag + b"log"
        self.checkpoints = tag + b"checkpoints"
        self.groups = tag + b"groups"
        self.counts = tag + b"counts"
        self.clock = tag + b"clock"
        self.checks = tag + b"checks"
        self.dictionaries = tag + b"dictionaries"
        self.run = tag + b"run"

    def owner(self, shard: str) -> bytes:
        return self._tag + b"owner:" + shard.encode()

    def shard(self, group: int) -> bytes:
        return self._tag + b"shard:%d" % group

    def head(self, key: Key) -> bytes:
        return self._tag + b"h:" + _names(key)

    @property
    def heads(self) -> bytes:
        """What the keys of all heads begin with."""
        return self._tag + b"h:"

    def document_of(self, head: bytes) -> Key:
        """Return the document of a head's key."""
        length, _, rest = head.removeprefix(self.heads).partition(b":")
        namespace, rest = rest[: int(length)], rest[int(length) + 1 :]
        return namespace.decode(), rest.partition(b":")[2].decode()

    def ids(self, key: Key) -> bytes:
        return self._tag + b"i:" + _names(key)

    def open(self, key: Key) -> bytes:
        return self._tag + b"r:" + _names(key)

    def last(self, key: Key) -> bytes:
        return self._tag + b"r1:" + _names(key)

    def before(self, key: Key) -> bytes:
        return self._tag + b"r2:" + _names(key)

    def present(self, namespace: str) -> bytes:
        return self._tag + b"p:" + namespace.encode()

    def names(self, namespace: str) -> bytes:
        return self._tag + b"n:" + namespace.encode()

    def rejections(self, namespace: str) -> bytes:
        return self._tag + b"x:" + namespace.encode()

    def unresolved(self, namespace: str) -> bytes:
        return self._tag + b"u:" + namespace.encode()


def _names(key: Key) -> bytes:
    namespace, document = key[0].encode(), key[1].encode()
    return b"%d:%b:%d:%b" % (len(namespace), namespace, len(document), document)
