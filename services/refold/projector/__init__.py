"""The projector folds the log into a store.

Its stages are here because the gateway reads them in the answers of the control subject, without the projector's code.
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
