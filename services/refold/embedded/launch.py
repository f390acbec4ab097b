"""Becomes a child's program after giving up what it must not keep. Run by `refold.embedded.process`, never imported.

Arguments: parent's pid, death signal, uid and gid (-1: keep), bytes of private memory that a process may have
(0: no bound), then the command. A program of its own, because none of this is safe between fork and exec in a process
that has threads.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Drop privileges, arrange to end with the parent, then execute the command."""
    parent, death_signal, uid, gid, bytes_max = (int(argument) for argument in sys.argv[1:6])
    command = sys.argv[6:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        # A shell's background job ignores SIGINT, and that would be inherited.
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if bytes_max and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (bytes_max, bytes_max))
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it.
    _end_with(parent, death_signal)
    os.execv(command[0], command)  # noqa: S606 - its purpose.


def _end_with(parent: int, death_signal: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        # The parent ended before the death signal was set.
        sys.exit(1)


if __name__ == "__main__":
    main()
