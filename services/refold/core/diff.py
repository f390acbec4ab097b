"""A small JSON Patch between two states: not the smallest at any price, but small and quick.

For history, the client and the import.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import inf

import orjson

from refold.core.align import Pair, longest_rising, pair_by_turns, pair_equal
from refold.core.canonical import Json, dumps, identical, size
from refold.core.limits import COPY_BYTES_MAX, OPERATIONS_MAX, SHIFTS_MAX, STATE_BYTES_MAX
from refold.core.pointer import escape


def diff(a: Json, b: Json) -> list[dict[str, Json]]:
    """Return a patch that turns `a` into `b`, to the byte: 1 and 1.0 differ, and so do 1 and true.

    Neither is changed. The patch's values are `b`'s own: write it out, or copy it, before it is applied here.
    """
    draft = _Draft()
    _compare(draft, "", a, b)
    if draft.is_within_limits(size(a)):
        return draft.operations
    return [{"op": "replace", "path": "", "value": b}]
