"""Fold 2 with longer patches, for tests of what a fold number selects.

It tests fold numbers: a log that starts under one continues under the next, in every shard and every replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from refold.core import json_text
from refold.core.fold import RULES, genesis, v2

NUMBER = 2

FOLD_2 = replace(v2.RULES, limits=replace(v2.RULES.limits, operations=20_000))


@contextmanager
def known_fold_2() -> Iterator[None]:
    """Make number 2 known to this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(RULES, NUMBER, FOLD_2)
        yield


def inc(path: str = "/n", by: int = 1, **fields: Any) -> dict[str, Any]:
    """Return an event that fold 1 rejects, and fold 2 applies."""
    return {"patch": [{"op": "inc", "path": path, "inc": by}], **fields}


MOVE_ON: dict[str, Any] = {"put": {"fold": NUMBER}}
GENESIS_2 = json_text.dumps(genesis("log-2", FOLD_2))
