"""What this gateway has received about documents before the projection has committed it.

`Announced` makes reads wait for it (`Consistency`); `PutStates` answers those of a document's head that need not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final, NamedTuple, Self

from refold.core.stream import PARTITIONS, Route
from refold.store import Key

KEYS_CACHED_MAX: Final = 100_000
"""Documents whose partitions are remembered: computing one takes 2 to 3 microseconds."""


PUT_STATES_MAX: Final = 1_000
PUT_STATE_BYTES_MAX: Final = 16 * 1024
"""Larger states are read from the store, after their commit."""


@lru_cache(KEYS_CACHED_MAX)
def partition_of_key(key: Key) -> int:
    """Return a document's partition, from a cache."""
    return Route.of(*key).partition


class Announced:
    """The highest sequence of each document of which an outcome or a change has come before its commit, by partition.

    It holds no more than what the projector has folded and not committed, which is bounded there.
    """

    def __init__(self) -> None:
        # A partition's documents in the order of their sequences.
        self._documents: list[dict[Key, int]] = [{} for _ in range(PARTITIONS)]
        self._last = [0] * PARTITIONS

    def note(self, partition: int, key: Key, sequence: int) -> None:
        """Remember a sequence, unless a higher one of the document is known."""
        documents = self._documents[partition]
        if sequence > documents.get(key, 0):
            documents.pop(key, None)
            documents[key] = sequence
            self._last[partition] = max(sequence, self._last[partition])

    def forget(self, partition: int, sequence: int) -> None:
        """Forget what is committed: up to a sequence."""
        documents = self._documents[partition]
        if self._last[partition] <= sequence:
            documents.clear()
        else:
            for key, _ in list(takewhile(lambda noted: noted[1] <= sequence, documents.items())):
                del documents[key]

    def of_document(self, partition: int, key: Key) -> int:
        """Return a document's sequence; 0 where none is left."""
        return self._documents[partition].get(key, 0)

    def of_namespace(self, namespace: str | None) -> list[tuple[int, int]]:
        """Return the highest sequence of a namespace's documents, or of all, by partition."""
        if namespace is None:
            return list(enumerate(self._last))
        return [
            (partition, max((last for key, last in documents.items() if key[0] == namespace), default=0))
            for partition, documents in enumerate(self._documents)
        ]


class PutState(NamedTuple):
    """A whole state that this gateway has put, with what its outcome says of the version."""

    version: int
    sequence: int
    recorded_at: str
    occurred_at: str
    state: bytes

    @classmethod
    def of(cls, outcome: Mapping[str, Any], state: bytes) -> Self:
        """Make it of the outcome of the PUT of a state, which is canonical bytes."""
        about = outcome["version"], outcome["sequence"], outcome["recorded_at"], outcome["occurred_at"]
        return cls(*about, state)


class PutStates(dict[Key, PutState]):
    """The states that were put last. One is exact while its outcome is the last that was received of the document."""

    def put(self, key: Key, put: PutState) -> None:
        """Remember a state, if it is small."""
        self.pop(key, None)
        if len(put.state) <= PUT_STATE_BYTES_MAX:
            self[key] = put
            if len(self) > PUT_STATES_MAX:
                del self[next(iter(self))]
