"""The keys of encryption at rest: where they come from, which one is used, and the subkeys derived from them.

Used by `refold.store.layers.encryption` and by `refold keys`. A key has 32 random bytes, and a number that values name.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from refold.core import json_text
from refold.core.errors import KeyUnknown, KeyWrong, Refused

KEY_BYTES: Final = 32
KEY_NUMBER_MAX: Final = 2**32 - 1
KEYS_MAX: Final = 1_000
"""Keys of a keyring."""

KEYS_BYTES_MAX: Final = 256 * 1024
"""A keyring is not larger as JSON."""

COMMAND_SECONDS: Final = 30.0
"""How long the command that prints the keys may take."""

REFRESH_SECONDS: Final = 1.0
"""A running service uses another key of a changed file after this time, at the latest."""

CHECK_BYTES: Final = 16
_CHECK_INFO: Final = b"refold key check"
_OTHERS: Final = 0o077
"""Rights of a file that others than its owner have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """The keys by number, and the number of the one that encrypts: the one that `use` names, else the newest."""

    used: int
    keys: Mapping[int, bytes] = field(repr=False)

    @property
    def newest(self) -> int:
        """The greatest number, which is used unless `use` names another."""
        return max(self.keys)


class KeySource(Protocol):
    """Where keys come from."""

    def stamp(self) -> object:
        """Return what changes when the keys may have changed."""

    def read(self) -> Keys:
        """Read the keys. Raises `Refused`."""


class KeyFile:
    """Keys in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> object:
        """Return the file's identity and time; None if there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def read(self) -> Keys:
        """Read the file. Raises `Refused`."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                if mode & _OTHERS:
                    rule = f"others can read it (mode {mode:04o}): chmod 600 {self.path}"
                    raise _refused("REFOLD_KEYS", rule)
                text = file.read(KEYS_BYTES_MAX + 1)
        except FileNotFoundError:
            rule = f"{self.path} is not there: `refold keys add` makes it; with encrypted values, restore it"
            raise _refused("REFOLD_KEYS", rule) from None
        except OSError as error:
            rule = f"{self.path} cannot be read: {error.strerror}"
            raise _refused("REFOLD_KEYS", rule) from None
        return parse_keys(text, "REFOLD_KEYS")

    @contextmanager
    def held(self) -> Iterator[Keys]:
        """Read the file, and keep other processes from changing it for the block. Raises `Refused`."""
        while True:
            read = self.read()
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # Another process may have replaced it while the lock was waited for.
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()) and self.read() == read:
                    yield read
                    return

    def make(self, keys: Keys) -> None:
        """Make the file where there is none. Raises `Refused`."""
        with self._written(keys) as made:
            try:
                self.path.hardlink_to(made)
            except FileExistsError:
                raise _refused("REFOLD_KEYS", f"{self.path} has been made meanwhile") from None

    def write(self, keys: Keys) -> None:
        """Replace the file. Its owner stays the same. Raises `Refused`."""
        with self._written(keys) as made:
            if self.path.exists():
                owner = self.path.stat()
                os.chown(made, owner.st_uid, owner.st_gid)
            made.replace(self.path.resolve())

    @contextmanager
    def _written(self, keys: Keys) -> Iterator[Path]:
        """Write another file in the same folder, on the disk when the block begins."""
        path = self.path.resolve()
        encoded = {str(number): base64.b64encode(key).decode() for number, key in sorted(keys.keys.items())}
        use = {} if keys.used == keys.newest else {"use": keys.used}
        made = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        try:
            file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(file, "wb") as writing:
                    writing.write(json_text.dumps({**use, "keys": encoded}) + b"\n")
                    writing.flush()
                    os.fsync(writing.fileno())
                yield made
            finally:
                made.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _refused("REFOLD_KEYS", f"{path} cannot be written: {error.strerror}") from None


class KeyCommand:
    """Keys that a command prints, such as a KMS client's. It is run once, so a change needs a restart."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        """Split the command as a shell does, without one; `environment` is all that it gets."""
        self._command = command
        self._environment = dict(environment)
        self._keys: Keys | None = None

    def stamp(self) -> object:
        """Return always the same."""
        return "command"

    def read(self) -> Keys:
        """Run the command, unless it has printed the keys before. Raises `Refused`, without anything that it prints."""
        if self._keys is None:
            self._keys = self._run()
        return self._keys

    def _run(self) -> Keys:
        name = "REFOLD_KEYS_COMMAND"
        try:
            done = subprocess.run(
                shlex.split(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _refused(name, f"did not end within {COMMAND_SECONDS:g} s") from None
        except (OSError, ValueError) as error:
            raise _refused(name, f"cannot be run: {error}") from None
        if done.returncode:
            raise _refused(name, f"ended with status {done.returncode}; run it by hand to see why")
        return parse_keys(done.stdout, name)


class Keyring:
    """The keys in force. A changed file is read again; a file that has become invalid changes nothing (`problem`).

    A key that was read once is kept in memory: values may be read for which the file lacks it.
    """

    def __init__(self, source: KeySource, *, timer: Callable[[], float] = time.monotonic) -> None:
        """Read the keys. Raises `Refused`."""
        self._source = source
        self._timer = timer
        self._stamp = source.stamp()
        self._keys = source.read()
        self._looked_at = timer()
        self._numbers = frozenset(self._keys.keys)
        self._former: tuple[object, Keys, frozenset[int]] | None = None
        """What was in force before changes that no store has been compared with."""
        self._refused_stamp: object = None
        self.changes = 0
        """How often a changed source was taken."""
        self.problem: str | None = None
        """Why the changed source is not used."""

    @property
    def used(self) -> int:
        """The number of the key that encrypts."""
        self.look()
        return self._keys.used

    @property
    def numbers(self) -> list[int]:
        """The numbers of all keys, oldest first."""
        return sorted(self._keys.keys)

    def has(self, number: int) -> bool:
        """Tell whether there is a key of this number, in the source as it is now."""
        if number not in self._keys.keys:
            self.refresh()
        return number in self._keys.keys

    def subkey(self, number: int, log_id: str, purpose: bytes) -> bytes:
        """Derive a key for one purpose from the key of this number. Raises `KeyUnknown`."""
        if not self.has(number):
            raise unknown_key(number, self.numbers)
        return _derive(self._keys.keys[number], log_id, purpose)

    def check(self, number: int, log_id: str) -> bytes:
        """Return what shows, without the key, whether another key is the same."""
        return self.subkey(number, log_id, _CHECK_INFO)[:CHECK_BYTES]

    def look(self) -> None:
        """Read the keys again if the source has changed, unless that was asked just now."""
        if self._timer() - self._looked_at >= REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Read the keys again if the source has changed. A key of a number that is known stays the same."""
        self._looked_at = self._timer()
        stamp = self._source.stamp()
        if stamp == self._stamp:
            self.problem = None
            return
        if stamp is None:
            self.problem = (
                "REFOLD_KEYS: the file is gone: restore it; until a restart, its keys are still used"
            )
            return
        if stamp == self._refused_stamp:
            return
        try:
            read = self._source.read()
        except Refused as refused:
            self.problem = str(refused)
            return
        known = self._keys.keys
        if changed := sorted(number for number, key in read.keys.items() if known.get(number, key) != key):
            self.problem = (
                f"key {changed[0]} of the changed keyring is another key than before: it is not used"
            )
            return
        self._former = self._former or (self._stamp, self._keys, self._numbers)
        self._numbers = frozenset(read.keys)
        self._keys = Keys(used=read.used, keys={**known, **read.keys})
        self._stamp, self.problem = stamp, None
        self.changes += 1

    def go_back(self, needed: Iterable[int]) -> bool:
        """Use the former keys again if the changed source lacks one that a store needs; return whether it does."""
        missing = sorted(set(needed) - self._numbers)
        if not missing or self._former is None:
            self._former = None
            return False
        self._refused_stamp = self._stamp
        self._stamp, self._keys, self._numbers = self._former
        self._former = None
        self.problem = f"the changed keyring lacks key {missing[0]}, which stored values need: it is not used"
        return True


def compare_checks(stored: Mapping[int, bytes], keyring: Keyring | None, log_id: str) -> None:
    """Compare a keyring with the check values that a store has.

    Raises `KeyUnknown` if the store needs a key that is not there, `KeyWrong` if the key of a number is another one.
    """
    for number, check in sorted(stored.items()):
        if keyring is None or not keyring.has(number):
            raise unknown_key(number, [] if keyring is None else keyring.numbers)
        if keyring.check(number, log_id) != check:
            message = f"key {number} is not the key {number} that the store's values are encrypted with"
            raise KeyWrong(f"{message}, so REFOLD_KEYS may be that of another system", key=number)


def unknown_key(number: int, known: list[int]) -> KeyUnknown:
    """Make the error that names a key that the keyring lacks."""
    has = f"the keyring has {', '.join(map(str, known))}" if known else "there is no keyring"
    needed = "REFOLD_KEYS or REFOLD_KEYS_COMMAND must have it"
    return KeyUnknown(f"values are encrypted with key {number}, {has}: {needed}", key=number)


def parse_keys(text: bytes, name: str) -> Keys:
    """Read `{"use": 2, "keys": {"1": BASE64, "2": BASE64}}`; without `use`, the newest is used. Raises `Refused`."""
    if len(text) > KEYS_BYTES_MAX:
        raise _refused(name, f"must have at most {KEYS_BYTES_MAX} bytes")
    value = json_text.object_in(text)
    if not value:
        raise _refused(name, 'must be JSON such as {"use": 1, "keys": {"1": "32 bytes as base64"}}')
    if unknown := sorted(set(value) - {"use", "keys"}):
        raise _refused(f"{name}.{unknown[0][:40]}", "is not known: only `use` and `keys` are")
    encoded = value.get("keys")
    if not isinstance(encoded, dict) or not 1 <= len(encoded) <= KEYS_MAX:
        raise _refused(f"{name}.keys", f"must be an object of 1 to {KEYS_MAX} keys by number")
    keys = {_number(number, name): _key(key, f"{name}.keys.{number}") for number, key in encoded.items()}
    used = value.get("use", max(keys))
    if type(used) is not int or used not in keys:
        raise _refused(f"{name}.use", "must be the number of one of the keys")
    return Keys(used=used, keys=keys)


def _number(text: str, name: str) -> int:
    number = int(text[:11]) if text.isascii() and text.isdecimal() else 0
    if str(number) == text and 1 <= number <= KEY_NUMBER_MAX:
        return number
    raise _refused(f"{name}.keys", f"must be by number, 1 to {KEY_NUMBER_MAX}")


def _key(encoded: Any, field_name: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise _refused(field_name, f"must be {KEY_BYTES} bytes as base64")
    return key


def _refused(name: str, rule: str) -> Refused:
    return Refused("bad_setting", rule, field=name)


def _derive(key: bytes, log_id: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=log_id.encode(), info=purpose).derive(key)
