"""Train a dictionary from the current states of one namespace, and judge it by states that it was not trained from.

Run by `refold store train`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zstandard import ZstdError, train_dictionary

from refold.core.errors import Refused
from refold.store.layers import Place
from refold.store.layers.compression import Compression
from refold.store.layers.dictionaries import (
    DICTIONARY_BYTES_MAX,
    DICTIONARY_VALUE_BYTES_MAX,
    Dictionary,
)
from refold.store.ports import LatestReader

TRAINING_NAMES_MAX: Final = 100_000
"""Documents, the first by name, of which some are chosen at random."""

TRAINING_DOCUMENTS_MAX: Final = 4_096
TRAINING_BYTES_MAX: Final = 8 * 1024 * 1024
"""The largest sample; zstd advises a hundred times the dictionary's size."""

TRAINING_DOCUMENTS_MIN: Final = 64
"""Of fewer, a dictionary would have the documents themselves."""

SAVED_SHARE_MIN: Final = 0.1
"""Of the bytes that are stored without it, a dictionary saves at least this share, or it is not kept."""

_HELD_OUT_EACH: Final = 4
_SHARE_OF_SAMPLE: Final = 8
_NAMES_EACH: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A dictionary, of how many documents, and the bytes of others: as they are, stored without it and by it."""

    content: bytes
    documents: int
    held_out: int
    plain_bytes: int
    bytes_without: int
    bytes_with: int


async def sample_states(store: LatestReader, namespace: str) -> list[bytes]:
    """Read current states that a dictionary may serve, of documents chosen at random: the same ones each time."""
    names: list[str] = []
    cursor: str | None = None
    while len(names) < TRAINING_NAMES_MAX:
        found = await store.list_names(namespace, prefix="", limit=_NAMES_EACH, cursor=cursor)
        names += [name.document for name in found.names if name.is_present]
        cursor = found.cursor
        if cursor is None:
            break
    count = min(len(names), TRAINING_DOCUMENTS_MAX)
    chosen = random.Random(namespace).sample(names, count)  # noqa: S311 - no secret
    states: list[bytes] = []
    total = 0
    for name in chosen:
        head = await store.head(namespace, name)
        state = None if head is None else head.snapshot.state
        if isinstance(state, bytes) and len(state) <= DICTIONARY_VALUE_BYTES_MAX:
            states.append(state)
            total += len(state)
            if total >= TRAINING_BYTES_MAX:
                break
    return states


def train(
    namespace: str, states: Sequence[bytes], documents: int, compression: str, bytes_min: int
) -> Trained:
    """Train of three states out of four, and compress the others as the settings say, without the dictionary and by it.

    Raises `Refused` where there are too few, or where it would save little of the namespace's `documents`.
    """
    if len(states) < TRAINING_DOCUMENTS_MIN:
        rule = (
            f"needs {TRAINING_DOCUMENTS_MIN} documents of at most {DICTIONARY_VALUE_BYTES_MAX:,} bytes: "
            "train again when there are more"
        )
        raise Refused("too_few_documents", rule, field="NAMESPACE", shape=f"{len(states)} documents")
    held_out = states[::_HELD_OUT_EACH]
    kept: list[bytes | bytearray | memoryview] = [
        state for at, state in enumerate(states) if at % _HELD_OUT_EACH
    ]
    size = min(DICTIONARY_BYTES_MAX, sum(map(len, kept)) // _SHARE_OF_SAMPLE)
    try:
        content = train_dictionary(size, kept).as_bytes()
    except ZstdError as error:
        raise Refused("saves_little", f"the documents have too little in common: {error}") from error
    codec = Compression.of(compression, bytes_min=bytes_min)
    without = _stored_bytes(codec, namespace, held_out)
    codec.dictionaries.add(Dictionary(1, namespace, content))
    trained = Trained(
        content=content,
        documents=len(kept),
        held_out=len(held_out),
        plain_bytes=sum(map(len, held_out)),
        bytes_without=without,
        bytes_with=_stored_bytes(codec, namespace, held_out),
    )
    saved = trained.bytes_without - trained.bytes_with
    if saved < SAVED_SHARE_MIN * without or saved / len(held_out) * documents < len(content):
        rule = (
            f"a dictionary of {len(content):,} bytes would make {trained.bytes_with:,} bytes of "
            f"{without:,} in {len(held_out):,} of {documents:,} documents, and not be worth its own bytes"
        )
        raise Refused("saves_little", rule, field="NAMESPACE", shape=namespace)
    return trained


def _stored_bytes(codec: Compression, namespace: str, states: Sequence[bytes]) -> int:
    place = Place("documents.state", namespace, "", 0)
    return sum(len(codec.encode(place, state)) for state in states)
