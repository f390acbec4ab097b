"""Whom PostgreSQL runs as when we are root, and what he can reach. Only `refold.embedded` may use it.

No mode of a folder that is not ours is changed: what cannot be reached is copied to where it can.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from refold.core.errors import EmbeddedError
from refold.embedded import binaries

COPIES = Path("/var/cache/refold")
"""Where root's copies of unreachable programs are kept."""

_UNPRIVILEGED = "nobody"
_LIBRARIES_SUFFIX = ".libs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A user and his group."""

    uid: int
    gid: int


def unprivileged(folder: Path) -> Identity | None:
    """Give whom to run as: None unless we are root; then the folder's owner, or `nobody` for root's own."""
    if os.geteuid() != 0:
        return None
    owner = folder.stat()
    if owner.st_uid != 0:
        return Identity(uid=owner.st_uid, gid=owner.st_gid)
    try:
        nobody = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        message = f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED} to run as"
        raise EmbeddedError(message) from error
    return Identity(uid=nobody.pw_uid, gid=nobody.pw_gid)


def reachable_postgres(identity: Identity | None) -> Path:
    """Give the folder PostgreSQL is installed in, or a copy of it where the user could not get there."""
    install = binaries.postgres_install()
    program = binaries.postgres_bin("postgres", install=install)
    if identity is None or can_run(program, identity):
        return install
    return _copy(install.parent, COPIES / f"postgres-{binaries.postgres_release()}") / install.name


def can_run(program: Path, identity: Identity) -> bool:
    """Say whether the user may go down to a program, read it and run it."""
    may_read_and_run = stat.S_IROTH | stat.S_IXOTH
    return _allowed(program, identity, may_read_and_run) and all(
        _allowed(folder, identity, stat.S_IXOTH) for folder in program.parents
    )


def _allowed(path: Path, identity: Identity, bits: int) -> bool:
    state = path.stat()
    if state.st_uid == identity.uid:
        bits <<= 6
    elif state.st_gid == identity.gid:
        bits <<= 3
    return state.st_mode & bits == bits


def _copy(package: Path, target: Path) -> Path:
    """Copy the wheel's package with the libraries beside it; whole or not at all."""
    copied = target / package.name
    if copied.is_dir():
        return copied
    making = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        for source in (package, package.with_name(package.name + _LIBRARIES_SUFFIX)):
            if source.is_dir():
                shutil.copytree(source, making / source.name, symlinks=True)
        _open_to_all(making)
        if not copied.is_dir():
            making.rename(target)
    except OSError as error:
        message = (
            f"the user that PostgreSQL runs as cannot reach {package}, and it could not be copied: {error}"
        )
        raise EmbeddedError(message, target=str(target)) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return copied


def _open_to_all(folder: Path) -> None:
    """Let everyone read and run what we have copied: installed under a strict umask, it may not be."""
    for path in (folder.parent, folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
