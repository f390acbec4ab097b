"""The keys of a store that keeps encrypted values: what shows that a key is the same, and which values need it.

Adapters implement `KeyedStore` and ask a `CommitKey` before each commit; the wiring calls `check_keys` when it opens a
store, and `reencrypt` for `refold keys`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol

from refold.core.errors import FenceLost, Refused, StoreUnavailable
from refold.store.layers import RowCodec
from refold.store.layers.encryption import Encryption
from refold.store.layers.keyring import compare_checks

PASSES_MAX: Final = 20
"""How often all values are looked at, at most."""

KEY_CHANGES_MAX: Final = 10
"""How often the used key may change while its check value is being stored."""


class KeyedStore(Protocol):
    """A store that keeps a check value for each key that its values are encrypted with.

    A commit requires, in its own transaction, the check value of its key: once it is removed, no value is stored under
    that key any more.
    """

    @property
    def key_problem(self) -> str | None:
        """What an operator should do about the keys; the store works meanwhile."""

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        """Read the check values by the keys' numbers; none where the store is of another log, or of none yet."""

    async def add_key_check(self, number: int, check: bytes) -> None:
        """Store a key's check value, unless the key has one."""

    async def remove_key_check(self, number: int) -> None:
        """Remove a key's check value."""

    async def count_keys(self) -> list[KeyCount]:
        """Count values by part and key, by the bytes that they begin with."""

    def reencrypt(self) -> AsyncGenerator[Rewritten]:
        """Look once at all values, and rewrite those that the codec would store otherwise; yield after each batch.

        A value is replaced only where it is still the one that was read, in a transaction of its own or with few
        others, so that commits go on meanwhile. Raises `StoreDamaged` for a value that cannot be read.
        """

    async def retire_key(self, number: int, check: bytes) -> int:
        """Remove a key's check value unless values need the key; return how many do.

        With 0, no commit stores a value under the key any more, and a crash brings none back.
        """


class KeyCount(NamedTuple):
    """How many values of a part are encrypted with a key; None: not encrypted."""

    part: str
    key: int | None
    values: int


class Rewritten(NamedTuple):
    """How many values of a batch were rewritten, and how many had been replaced or removed meanwhile."""

    values: int
    missed: int


async def check_keys(store: KeyedStore, codec: RowCodec, log_id: str) -> None:
    """Raise `KeyUnknown` where a codec lacks a key of the store's values, `KeyWrong` where it has another one."""
    keyring = codec.keyring if isinstance(codec, Encryption) else None
    compare_checks(await store.key_checks(log_id), keyring, log_id)


async def reencrypt(
    store: KeyedStore,
    *,
    rate: float,
    report: Callable[[int], None],
    timer: Callable[[], float] = time.monotonic,
) -> int:
    """Write all values as the codec stores them now, at most `rate` a second; return how many were written.

    `report` gets that number after each batch. Commits under the former key may come in between, so all values are
    looked at until there is nothing to do. Raises `StoreUnavailable` where that does not come about.
    """
    started_at, written = timer(), 0
    for _ in range(PASSES_MAX):
        found = 0
        try:
            async with aclosing(store.reencrypt()) as batches:
                async for batch in batches:
                    found += batch.values + batch.missed
                    written += batch.values
                    report(written)
                    await asyncio.sleep(max(0.0, started_at + written / rate - timer()))
        except FenceLost:
            # A rebuild has replaced the projection, or the key was retired before it was known that another is used.
            found += 1
        if not found:
            return written
    message = (
        "values in another form are written all the time: do all writers have the same keys and settings?"
    )
    raise StoreUnavailable(message, passes=PASSES_MAX)


def encryption_of(codec: RowCodec) -> Encryption:
    """Return a codec that has keys. Raises `Refused`."""
    if not isinstance(codec, Encryption):
        raise Refused("bad_setting", "must name the file of the keys", field="REFOLD_KEYS", shape="nothing")
    return codec


class CommitKey:
    """The key of a store's commits: the one that the keyring uses, once the store has its check value."""

    def __init__(self, codec: RowCodec) -> None:
        self._codec = codec
        self._encryption = codec if isinstance(codec, Encryption) and codec.is_encrypting else None
        self._changes = 0

    @property
    def problem(self) -> str | None:
        """What an operator should do about the keys."""
        return self._codec.problem if isinstance(self._codec, Encryption) else None

    async def prepare(self, store: KeyedStore) -> int | None:
        """Return the number of the key that the next commit encrypts with; None where it encrypts nothing.

        Raises `KeyWrong`, and what the store raises.
        """
        encryption = self._encryption
        if encryption is None:
            return None
        if encryption.number != encryption.keyring.used or self._changes != encryption.keyring.changes:
            encryption.number = await self._store_check(store, encryption)
        return encryption.number

    def forget(self) -> None:
        """Forget what the store has: it may have been emptied, or a check value removed."""
        if self._encryption is not None:
            self._encryption.number = None

    async def _store_check(self, store: KeyedStore, encryption: Encryption) -> int:
        keyring, log_id = encryption.keyring, encryption.log_id
        for _ in range(KEY_CHANGES_MAX):
            keyring.refresh()
            number, self._changes = keyring.used, keyring.changes
            stored = await store.key_checks(log_id)
            if keyring.go_back(stored):
                continue
            if number not in stored:
                await store.add_key_check(number, keyring.check(number, log_id))
                # `refold keys retire` reads the file before it removes a check value: one that was retired meanwhile is
                # not used any more.
                keyring.refresh()
                if keyring.used != number:
                    await store.remove_key_check(number)
                    continue
                stored = await store.key_checks(log_id)
            compare_checks({at: check for at, check in stored.items() if at == number}, keyring, log_id)
            return number
        raise StoreUnavailable("the used key changed all the time")
