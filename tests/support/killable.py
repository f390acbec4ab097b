"""Both embedded servers, killed as by a power cut and restarted in place."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from refold.embedded.nats import start_nats
from refold.embedded.postgres import start_postgres
from refold.wiring.servers import Servers


class KillableServers:
    """The running servers by name, and how long each restart took."""

    def __init__(self, servers: Servers) -> None:
        folder, nats_port, postgres_port = servers.folder, servers.nats.port, servers.postgres.port
        self.restart_seconds: dict[str, list[float]] = {"nats": [], "postgres": []}
        self._running: dict[str, Any] = {"nats": servers.nats, "postgres": servers.postgres}
        self._start: dict[str, Callable[[], Awaitable[Any]]] = {
            "nats": lambda: start_nats(folder, port=nats_port),
            "postgres": lambda: start_postgres(folder, port=postgres_port),
        }

    async def kill(self, name: str) -> None:
        """Kill one and start it again."""
        started_at = time.monotonic()
        self._running[name].child.kill()
        self._running[name] = await self._start[name]()
        self.restart_seconds[name].append(time.monotonic() - started_at)

    def pid(self, name: str) -> int:
        """Return the process id of one, as it runs now."""
        return int(self._running[name].child.pid)

    async def stop(self) -> None:
        """End both cleanly."""
        for server in self._running.values():
            await server.stop()
