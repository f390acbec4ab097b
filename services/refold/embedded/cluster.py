"""PostgreSQL's cluster in the data folder: made once, whole. Only `refold.embedded.postgres` may use it.

As root, the server runs as another user (`refold.embedded.identity`), who may not be able to walk down to
the data folder. So its working folder is the cluster, and it is told to find itself there: that needs no
right on the folders above.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from refold.embedded import binaries
from refold.embedded.child import Command
from refold.embedded.folder import DataFolder, write_private
from refold.embedded.identity import Identity, reachable_postgres, unprivileged

USER: Final = "refold"

_HERE: Final = "/proc/self/cwd"
_MADE: Final = "cluster"
_MAKING: Final = "cluster.new"
_PASSWORD: Final = "password"  # noqa: S105 - the name of a file.


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A cluster, the programs that run it, and whom they run as."""

    home: Path
    install: Path
    identity: Identity | None

    def command(self, program: str, *arguments: str, within: str = _MADE) -> Command:
        """Give one of PostgreSQL's programs, to be run in the cluster and on it."""
        folder = self.home / within
        place = _HERE if self.identity and sys.platform == "linux" else str(folder)
        path = binaries.postgres_bin(program, install=self.install)
        return Command(
            name=program,
            arguments=(str(path), "-D", place, *arguments),
            folder=folder,
            logs=(self.home / f"{program}.log",),
            identity=self.identity,
        )


async def open_cluster(folder: DataFolder) -> Cluster:
    """Give the data folder's cluster, made if there is none; no server may be running on it."""
    home = folder.path / "postgres"
    home.mkdir(mode=0o700, exist_ok=True)
    made = home / _MADE
    identity = unprivileged(made if made.exists() else folder.path)
    cluster = Cluster(home=home, install=reachable_postgres(identity), identity=identity)
    if not made.exists():
        await _make(folder, cluster)
    # We hold the servers' lock: a pid file is a killed server's. Another process may have its pid by now, and
    # PostgreSQL would not start.
    (made / "postmaster.pid").unlink(missing_ok=True)
    return cluster


async def _make(folder: DataFolder, cluster: Cluster) -> None:
    making = cluster.home / _MAKING
    password = cluster.home / _PASSWORD
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    write_private(password, folder.passwords["postgres"].encode())
    if cluster.identity:
        for path in (cluster.home, making, password):
            os.chown(path, cluster.identity.uid, cluster.identity.gid)
    child = folder.start(cluster.command("initdb", *_choices(), within=_MAKING))
    try:
        if await child.ended():
            raise child.failure("could not make the database cluster")
    finally:
        await child.stop()
        password.unlink()
    making.rename(cluster.home / _MADE)
    _sync(cluster.home)


def _choices() -> tuple[str, ...]:
    return (
        f"--username={USER}",
        f"--pwfile=../{_PASSWORD}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # The same order and case rules on every machine, whatever its C library.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    )


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
