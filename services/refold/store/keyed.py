"""The keys of a store that keeps encrypted values: what shows that a key is still the same, and which one commits use.

Adapters implement `KeyedStore` and ask a `CommitKey` before each commit; the wiring opens a store by `check_keys`.
"""

from __future__ import annotations

from typing import Final, Protocol

from refold.core.errors import StoreUnavailable
from refold.store.layers import RowCodec
from refold.store.layers.encryption import Encryption
from refold.store.layers.keyring import compare_checks

KEY_CHANGES_MAX: Final = 10
"""How often the used key may change while its check value is being stored."""


class KeyedStore(Protocol):
    """A store that keeps a check value for each key that its values are encrypted with.

    A commit requires, in its own transaction, the check value of its key: once it is removed, no value is stored under
    that key any more.
    """

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        """Read the check values by the keys' numbers; none where the store is of another log, or of none yet."""

    async def add_key_check(self, number: int, check: bytes) -> None:
        """Store a key's check value, unless the key has one."""

    async def remove_key_check(self, number: int) -> None:
        """Remove a key's check value."""


async def check_keys(store: KeyedStore, codec: RowCodec, log_id: str) -> None:
    """Raise `KeyUnknown` where a codec lacks a key of the store's values, `KeyWrong` where it has another one."""
    keyring = codec.keyring if isinstance(codec, Encryption) else None
    compare_checks(await store.key_checks(log_id), keyring, log_id)


class CommitKey:
    """The key of a store's commits: the one that the keyring uses, once the store has its check value."""

    def __init__(self, codec: RowCodec) -> None:
        self._encryption = codec if isinstance(codec, Encryption) and codec.is_encrypting else None

    async def prepare(self, store: KeyedStore) -> int | None:
        """Return the number of the key that the next commit encrypts with; None where it encrypts nothing.

        Raises `KeyWrong`, and what the store raises.
        """
        encryption = self._encryption
        if encryption is None:
            return None
        if encryption.number != encryption.keyring.used:
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
            number = keyring.used
            check = keyring.check(number, log_id)
            await store.add_key_check(number, check)
            found = (await store.key_checks(log_id)).get(number, check)
            compare_checks({number: found}, keyring, log_id)
            # `refold keys retire` compares the file before it removes a check value, so the file is read after adding.
            keyring.refresh()
            if keyring.used == number:
                return number
            await store.remove_key_check(number)
        raise StoreUnavailable("the used key changed all the time")
