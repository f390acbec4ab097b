"""The servers that peers need, each fresh in a folder of its own: the PostgreSQL and the NATS that Refold embeds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from registry import Peer

from refold.embedded.folder import open_folder
from refold.embedded.nats import start_nats
from refold.embedded.postgres import start_postgres
from refold.embedded.process import LOOPBACK, choose_port
from refold.wiring.settings import load
from refold.wiring.system import running_system

START_SECONDS = 30


@asynccontextmanager
async def serving(peer: Peer, folder: Path, home: Path) -> AsyncIterator[str]:
    """Start what a peer needs; yield the address for its program."""
    if peer.server == "refold":
        settings = load(data=folder, http="127.0.0.1:0", nats_port=0)
        async with running_system(settings, lambda _: None):
            yield str(folder)
    elif peer.server == "umadb":
        async with _umadb(folder, home) as address:
            yield address
    else:
        with await open_folder(folder) as opened:
            if peer.server == "postgres":
                server = await start_postgres(opened)
                address = server.dsn
            else:
                server = await start_nats(opened, sync="fsync" if peer.variant == "fsync" else "os")
                address = server.url("administrator")
            try:
                yield address
            finally:
                await server.stop()


@asynccontextmanager
async def _umadb(folder: Path, home: Path) -> AsyncIterator[str]:
    port = choose_port(LOOPBACK)
    folder.mkdir()  # noqa: ASYNC240 - nothing else waits.
    command = ("--listen", f"{LOOPBACK}:{port}", "--db-path", str(folder / "uma.db"))
    with (folder / "umadb.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(home / "venv/bin/umadb"), *command, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not _answers(port):  # noqa: ASYNC110 - nothing tells of it.
                await asyncio.sleep(0.05)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        process.terminate()
        await process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
