"""Ports on this machine. Only `refold.embedded` may use it.

A look beforehand gives the clear error; what the server itself says covers the moment in between.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from refold.core.errors import ChildFailed, PortTaken

LOOPBACK: Final = "127.0.0.1"
_SAID: Final = "address already in use"


def refuse_taken(host: str, port: int) -> None:
    """Raise when a port that was asked for is taken; 0 asks for none."""
    try:
        free_port(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise port_taken(host, port) from error


def free_port(host: str, port: int = 0) -> int:
    """Give a port that is free at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the servers do: a connection that is just closing does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def port_taken(host: str, port: int) -> PortTaken:
    """Make the error."""
    return PortTaken(f"port {port} on {host} is taken", host=host, port=port)


def lost_port(error: ChildFailed) -> bool:
    """Say whether a server failed because another took its port."""
    return _SAID in error.message.lower()
