"""What a document was and how it came to be: versions, times, changes, diffs, outcomes, rejections.

Reads the store alone; wiring hands it to the gateway, which sees that the store is fresh enough.
"""

from refold.history.history import History, state_at

__all__ = ["History", "state_at"]
