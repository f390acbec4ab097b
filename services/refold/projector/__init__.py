"""The projector folds the log into a store.

What others need of it without its code is here: the stages, which the gateway reads, and a default of the settings.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Stage(Enum):
    """What a projector is doing."""

    starting = "starting"
    standby = "standby"
    working = "working"
    waiting = "waiting"
    stopped = "stopped"


FOLDING: Final = frozenset({Stage.working, Stage.standby})
"""Events are folded, by this projector or by the one that holds the lease."""

COMMIT_INTERVAL_SECONDS: Final = 0.02
"""Time between the starts of two live commits, unless a reader waits or the buffer is full."""
