"""Runs one service as a child of `refold up`: it ends when its parent does, however that ends.

`python -m refold.wiring.attached SERVICE PARENT_PID`; on stdin it is handed its settings, in one line of JSON, else
it has those of its environment. Other children end with their parent by `die_with`, too.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from typing import Final

from refold.core import canonical
from refold.core.errors import RefoldError
from refold.wiring.service import start

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Tie our life to the parent's, then be the service."""
    service, parent = sys.argv[1], int(sys.argv[2])
    die_with(parent)
    run = importlib.import_module(f"refold.wiring.{service}").run
    handed = sys.stdin.buffer.readline()
    try:
        start(service, run, **(canonical.loads(handed) if handed else {}))
    except RefoldError:
        # Its last log line has said why.
        sys.exit(1)


def die_with(parent: int) -> None:
    """Be ended by the kernel when the parent is gone (Linux); the parent may just have gone."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
