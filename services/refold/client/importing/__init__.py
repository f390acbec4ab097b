"""Bringing a history from a file into a running Refold, line by line. For the commands and for anyone's own code.

`import_file(refold, namespace, path, listener)`; run again after any interruption, it goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path

from refold.client.importing.file import LinesFile
from refold.client.importing.run import Import, Listener, Tally
from refold.client.refold import Refold

__all__ = ["Listener", "Tally", "import_file"]


async def import_file(refold: Refold, namespace: str, path: Path, listener: Listener) -> Tally:
    """Import a file's lines into a namespace; lines that are refused are told to the listener, and the rest goes on."""
    return await Import(refold, namespace, LinesFile(path), listener).run()
