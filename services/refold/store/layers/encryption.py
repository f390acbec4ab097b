"""Encrypt a store's values, each bound to its place: AES-256-GCM around another `RowCodec`, which compresses before.

Made by the wiring where a keyring is configured; values that were stored before stay readable.
"""

from __future__ import annotations

import os
from typing import Final
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from refold.core.errors import KeyExhausted, KeyUnknown
from refold.store.layers import Place, RowCodec
from refold.store.layers.dictionaries import Dictionaries
from refold.store.layers.keyring import Keyring

ENCRYPTED: Final = 0xA5
"""The first byte of an encrypted value; then follow the key's number, the nonce and the ciphertext with its tag.

No flipped bit makes it one of the bytes before a compressed value, of which one is followed by the value as it is.
"""

SUBKEYS: Final = 64
"""Subkeys of a key for each part; the names of a value's document choose one."""

ENCRYPTIONS_MAX: Final = 2**31
"""Values that one subkey may encrypt: NIST SP 800-38D allows 2^32 with random nonces."""

_MARK: Final = bytes([ENCRYPTED])
_NONCE_BYTES: Final = 12
_NUMBER_ENDS: Final = 5
_NONCE_ENDS: Final = _NUMBER_ENDS + _NONCE_BYTES
_TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = _NONCE_ENDS + _TAG_BYTES


class Encryption:
    """A RowCodec that encrypts what another one has encoded."""

    def __init__(self, inner: RowCodec, keyring: Keyring, log_id: str, *, is_encrypting: bool = True) -> None:
        """Without `is_encrypting`, it writes as `inner` does, and reads what was encrypted before."""
        self._inner = inner
        self.log_id = log_id
        self._log = f"{len(log_id)}:{log_id}"
        self.is_encrypting = is_encrypting
        self._subkeys: dict[tuple[int, str, int], _Subkey] = {}
        self.keyring = keyring
        self.number: int | None = None
        """The key of the current commit; the one that the keyring uses where none is set."""

    @property
    def dictionaries(self) -> Dictionaries:
        return self._inner.dictionaries

    def encode(self, place: Place, plain: bytes) -> bytes:
        """Encode and encrypt a value."""
        encoded = self._inner.encode(place, plain)
        return self._encrypt(place, encoded) if self.is_encrypting else encoded

    def decode(self, place: Place, stored: bytes) -> bytes:
        """Decrypt and decode a value.

        Raises `ValueError` for one that was changed, encrypted for another place or log, or under an unknown key: which
        keys a store needs is checked when it is opened.
        """
        return self._inner.decode(place, self._decrypt(place, stored))

    def reencrypt(self, place: Place, stored: bytes) -> bytes:
        """Return a value as `encode` stores it now, without decoding what is encrypted. Raises `ValueError`."""
        encoded = self._decrypt(place, stored)
        return self._encrypt(place, encoded) if self.is_encrypting else encoded

    def _encrypt(self, place: Place, encoded: bytes) -> bytes:
        number = self.keyring.used if self.number is None else self.number
        subkey = self._subkey(number, place)
        subkey.encryptions += 1
        nonce = os.urandom(_NONCE_BYTES)
        return begin_of(number) + nonce + subkey.cipher.encrypt(nonce, encoded, self._associated(place))

    def _decrypt(self, place: Place, stored: bytes) -> bytes:
        number = key_number(stored)
        if number is None:
            return stored
        if len(stored) < OVERHEAD_BYTES:
            raise ValueError(f"an encrypted value of {len(stored)} bytes is cut off")
        nonce, encrypted = stored[_NUMBER_ENDS:_NONCE_ENDS], stored[_NONCE_ENDS:]
        try:
            cipher = self._subkey(number, place).cipher
            return cipher.decrypt(nonce, encrypted, self._associated(place))
        except KeyUnknown as error:
            raise ValueError(error.message) from error
        except InvalidTag:
            what = f"a value under key {number} was changed, or encrypted for another place"
            raise ValueError(what) from None

    def is_current(self, stored: bytes) -> bool:
        """Tell whether a value is stored as `encode` stores it now: under the used key, or not encrypted."""
        if not self.is_encrypting:
            return key_number(stored) is None
        return key_number(stored) == (self.keyring.used if self.number is None else self.number)

    @property
    def problem(self) -> str | None:
        """What an operator should do about the keys, after a look at their source."""
        self.keyring.look()
        worn = sorted(
            {key[0] for key, subkey in self._subkeys.items() if subkey.encryptions > ENCRYPTIONS_MAX}
        )
        if worn:
            return f"{KeyExhausted.code}: {KeyExhausted(key=worn[-1])}"
        return self.keyring.problem

    def _subkey(self, number: int, place: Place) -> _Subkey:
        # Not the log's partition: its hash, in Python, takes longer than the encryption.
        at = (number, place.part, crc32(f"{place.namespace}/{place.document}".encode()) % SUBKEYS)
        found = self._subkeys.get(at)
        if found is None:
            purpose = f"refold {place.part} {at[2]}".encode()
            found = _Subkey(AESGCM(self.keyring.subkey(number, self.log_id, purpose)))
            self._subkeys[at] = found
        return found

    def _associated(self, place: Place) -> bytes:
        """Return log and place, each text after its length, so that no two places have the same."""
        part, namespace, document, sequence = place
        names = f"{len(part)}:{part}{len(namespace)}:{namespace}{len(document)}:{document}"
        return f"{self._log}{names}{sequence}".encode()


class _Subkey:
    __slots__ = ("cipher", "encryptions")

    def __init__(self, cipher: AESGCM) -> None:
        self.cipher = cipher
        self.encryptions = 0


def begin_of(number: int) -> bytes:
    """Return what every value begins with that is encrypted with this key."""
    return _MARK + number.to_bytes(_NUMBER_ENDS - 1, "big")


def key_number(stored: bytes) -> int | None:
    """Return the number of the key that a value is encrypted with; None for one that is not encrypted."""
    if not stored or stored[0] != ENCRYPTED:
        return None
    return int.from_bytes(stored[1:_NUMBER_ENDS], "big")
