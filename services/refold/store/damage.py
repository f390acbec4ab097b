"""Stored content that does not decode, raised as `StoreDamaged` with the document's name.

Used where an adapter or the history takes stored bytes apart. What was stored was checked before: nobody's input is
at fault.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from zstandard import ZstdError

from refold.core.errors import Refused, StoreDamaged

DAMAGES: Final = (
    Refused,
    ZstdError,
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
"""What taking damaged content apart may raise."""


@contextmanager
def reading_stored(namespace: str, document: str) -> Iterator[None]:
    """Raise what decoding a document's stored content raises as `StoreDamaged`."""
    try:
        yield
    except DAMAGES as error:
        cause = f"{type(error).__name__}: {error}"
        raise damaged(namespace, document, "its stored content cannot be read", cause=cause) from error


def damaged(namespace: str, document: str, what: str, **facts: object) -> StoreDamaged:
    """Make the error that names a document."""
    return StoreDamaged(f"{namespace}/{document}: {what}", namespace=namespace, document=document, **facts)
