"""The log's encryption by nats-server: its key, and the check before the server starts that it is the right one.

Used by `refold.embedded.nats` and `refold.wiring`. Seen with 2.15.1: under another key, or without the cipher, the
server starts, does not find the stream, and deletes its files if it is asked to create it. `LogMissing` prevents the
request; this check prevents the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson

from refold.core.errors import LogKeyWrong
from refold.embedded import write_json

FINGERPRINTS: Final = "log-key.json"
"""In the server's folder: the fingerprints of the keys, one or, while a key is replaced, two."""

KEY_VARIABLE: Final = "LOG_KEY"
KEY_BEFORE_VARIABLE: Final = "LOG_KEY_BEFORE"
"""Variables of the server's process: its configuration, which lies beside the data, only names them."""

_FINGERPRINT_CHARACTERS: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LogCipher:
    """The log's key, and the one that it replaces at the next start."""

    key: str = field(repr=False)
    before: str | None = field(default=None, repr=False)

    @property
    def configuration(self) -> str:
        """Lines of the block `jetstream` of the server's configuration."""
        before = "" if self.before is None else f"\n    prev_key: ${KEY_BEFORE_VARIABLE}"
        return f"cipher: aes\n    key: ${KEY_VARIABLE}{before}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the configuration names."""
        before = {} if self.before is None else {KEY_BEFORE_VARIABLE: _server_key(self.before)}
        return {KEY_VARIABLE: _server_key(self.key)} | before


def check_cipher(home: Path, key_files: int, block_files: int, cipher: LogCipher | None) -> None:
    """Compare a key with the log in the server's folder, before the server starts. Raises `LogKeyWrong`.

    Nothing is written but the fingerprint of a key that replaces the one before. A log whose fingerprint is missing is
    not compared: whether the server can read it shows after its start.
    """
    known = _read(home)
    if not (block_files or key_files):
        return
    if cipher is None:
        if known or key_files:
            raise LogKeyWrong("the log is encrypted: set REFOLD_LOG_KEY", fingerprints=known)
        return
    if not key_files:
        lost = "the server's key files (*.key) are missing beside it: restore them"
        other = (
            "a log is encrypted from its first event or never: `refold export` and `refold import` copy it"
        )
        raise LogKeyWrong(f"REFOLD_LOG_KEY is set, but the log is not encrypted; {lost if known else other}")
    given = fingerprint(cipher.key)
    if not known or given in known:
        return
    if cipher.before is None or fingerprint(cipher.before) not in known:
        message = "REFOLD_LOG_KEY is not the key that the log is encrypted with"
        hint = "if it is to replace that key, set the old one as REFOLD_LOG_KEY_BEFORE"
        raise LogKeyWrong(f"{message}; {hint}", fingerprint=given, fingerprints=known)
    write_json(home / FINGERPRINTS, {"fingerprints": [given, *known]})


def remember_cipher(home: Path, cipher: LogCipher | None) -> None:
    """Store the fingerprint of the key that the log has been opened with."""
    if cipher is not None and _read(home) != (found := [fingerprint(cipher.key)]):
        write_json(home / FINGERPRINTS, {"fingerprints": found})


def fingerprint(key: str) -> str:
    """Return what tells keys apart and does not contain them."""
    return sha256(f"refold log key fingerprint {key}".encode()).hexdigest()[:_FINGERPRINT_CHARACTERS]


def _server_key(key: str) -> str:
    """Return the key for the server, which reads the value of a variable as configuration: a plain word."""
    return f"k{sha256(f'refold log key {key}'.encode()).hexdigest()}"


def _read(home: Path) -> list[str]:
    path = home / FINGERPRINTS
    if not path.exists():
        return []
    try:
        return [str(found) for found in orjson.loads(path.read_bytes())["fingerprints"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        message = (
            "the fingerprint of the log's key cannot be read: delete the file if the key is certainly right"
        )
        raise LogKeyWrong(message, path=str(path), reason=str(error)) from error
