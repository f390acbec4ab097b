"""A keyring of fixed keys, and codecs that encrypt by it."""

from __future__ import annotations

from collections.abc import Mapping

from refold.store.layers.compression import Compression
from refold.store.layers.encryption import Encryption
from refold.store.layers.keyring import Keyring, Keys


class FixedKeys:
    """A source of keys that changes when `change` is called."""

    def __init__(self, keys: Mapping[int, bytes], used: int) -> None:
        self._changes = 0
        self._keys = Keys(used=used, keys=keys)

    def change(self, keys: Mapping[int, bytes], used: int) -> None:
        """Replace the keys."""
        self._changes += 1
        self._keys = Keys(used=used, keys=keys)

    def stamp(self) -> object:
        """Return how often they have changed."""
        return self._changes

    def read(self) -> Keys:
        """Return them."""
        return self._keys


ONE, TWO = bytes(range(32)), bytes(range(32, 64))


def keyring(keys: Mapping[int, bytes] | None = None, used: int = 1) -> Keyring:
    """Return a keyring, by default of one key."""
    return Keyring(FixedKeys(keys or {1: ONE}, used))


def encryption(log_id: str, ring: Keyring | None = None) -> Encryption:
    """Return a codec that compresses with zstd, then encrypts."""
    return Encryption(Compression(), ring or keyring(), log_id)
