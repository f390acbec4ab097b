"""Events for tests of fold numbers: a log that starts under fold 1 continues under fold 2, in every shard."""

from __future__ import annotations

from typing import Any

from refold.core.fold import RULES

NUMBER = 2

FOLD_2 = RULES[NUMBER]


def inc(path: str = "/n", by: int = 1, **fields: Any) -> dict[str, Any]:
    """Return an event that fold 1 rejects, and fold 2 applies."""
    return {"patch": [{"op": "inc", "path": path, "inc": by}], **fields}


MOVE_ON: dict[str, Any] = {"put": {"fold": NUMBER}}
