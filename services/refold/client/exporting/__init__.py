"""Taking a namespace out as lines that an import takes back. For the commands and for anyone's own code.

`export(refold, namespace, write, listener, …)`: one line a document, or one a version with `is_history`.
"""

from __future__ import annotations

from refold.client.exporting.run import Export, Listener, Tally, Write
from refold.client.exporting.target import Target, target_file
from refold.client.refold import Refold

__all__ = ["Listener", "Tally", "Target", "Write", "export", "target_file"]


async def export(
    refold: Refold,
    namespace: str,
    write: Write,
    listener: Listener,
    *,
    at: str | None = None,
    is_history: bool = False,
) -> Tally:
    """Write a namespace as it is at one moment, or was at a time; with its history, every version up to then."""
    return await Export(refold, namespace, write, listener, at=at).run(is_history=is_history)
