"""Logging, metrics and traces: the name of this process in them, and the redaction of secrets from what is shown.

For every package above the core. This module, the name and the redaction, imports only the standard library.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "***"

_SECRET_KEY: Final = re.compile(
    r"(?i)pass(word|wd|phrase)?$|pwd$|secret|token|dsn$|credential|authorization|api_?key|private_?key|cookie|(^|_)seed$"
)
_URL_PASSWORD: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/?#@:]*):[^\s/?#]*@")
_URL_TOKEN: Final = re.compile(r"(?i)\b(nats|tls|wss?)://[^\s/?#@:]+@")
_ASSIGNED: Final = re.compile(
    r"""(?i)\b(password|passwd|pwd|secret|token)(["']?\s*[=:]\s*)(["']?)[^\s"'&,;]+\3"""
)


def instance() -> str:
    """Return this process's name, `HOST:PID`: also a token of a NATS subject, so the host's dots are underscores."""
    return f"{re.sub('[^A-Za-z0-9_-]', '_', socket.gethostname())}:{os.getpid()}"


def redacted(value: Any, key: str = "") -> Any:
    """Return the value without secrets, at any depth: members named like a secret, passwords in URLs and texts."""
    if _SECRET_KEY.search(key) and value is not None:
        return HIDDEN
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {name: redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    if isinstance(value, bytes):
        return redacted_text(value.decode(errors="backslashreplace"))
    return value if isinstance(value, int | float | bool | None) else redacted_text(str(value))


def redacted_text(text: str) -> str:
    """Return a text without the passwords and tokens of its URLs, and without what follows `password=` and the like."""
    if "@" in text:
        text = _URL_TOKEN.sub(rf"\1://{HIDDEN}@", _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text))
    return _ASSIGNED.sub(rf"\1\2{HIDDEN}", text)
