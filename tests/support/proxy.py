"""A TCP proxy between a client and a real server that loses bytes and cuts connections on demand.

It runs in threads of its own, so that a fixture of a whole module may hold it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """One listening port; every connection to it is forwarded to the server."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._is_deaf = False
        self._is_mute = False
        self._left_bytes: int | None = None
        self._lost_bytes = 0
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        """Forward to the server but not back; finally cut the connections."""
        self._is_deaf = True
        try:
            yield
        finally:
            self.cut()

    @contextmanager
    def losing_requests(self) -> Iterator[None]:
        """Forward nothing to the server; finally cut the connections."""
        self._is_mute = True
        try:
            yield
        finally:
            self.cut()

    def cut_after(self, count_bytes: int) -> None:
        """Forward `count_bytes` more bytes to the server, then cut the connections."""
        self._left_bytes = count_bytes

    def cut(self) -> None:
        """Cut every connection; new ones work."""
        with self._changed:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._sockets.clear()
            self.heal()

    def heal(self) -> None:
        """Forward everything from now on, and cancel a fault that has not happened yet."""
        self._is_deaf = self._is_mute = False
        self._left_bytes = None
        self._lost_bytes = 0

    def until_lost(self, count_bytes: int, seconds: float) -> None:
        """Wait until so many bytes have been lost on their way to the server."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._lost_bytes >= count_bytes, seconds)

    def close(self) -> None:
        """Stop listening."""
        # Closing alone would leave `accept` waiting.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._server)
        except OSError:
            client.close()
            return
        with self._changed:
            self._sockets |= {client, server}
        for source, sink, carry in ((client, server, self._request), (server, client, self._answer)):
            threading.Thread(target=self._pump, args=(source, sink, carry), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, carry: object) -> None:
        assert callable(carry)
        with suppress(OSError):
            while data := source.recv(65_536):
                carry(sink, data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()

    def _answer(self, sink: socket.socket, data: bytes) -> None:
        if not self._is_deaf:
            sink.sendall(data)

    def _request(self, sink: socket.socket, data: bytes) -> None:
        with self._changed:
            if self._is_mute:
                self._lost_bytes += len(data)
                self._changed.notify_all()
                return
            left_bytes = self._left_bytes
            if left_bytes is not None:
                self._left_bytes = max(0, left_bytes - len(data))
        sink.sendall(data[:left_bytes])
        if left_bytes is not None and left_bytes <= len(data):
            self.cut()
