"""The addresses of stores, as they are set: kinds, options in the query, names.

Read by the settings, and used by `refold.wiring.stores`, which opens them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from refold.telemetry import redacted_text

Kind = Literal["postgres", "files", "redis"]

STORES_MAX: Final = 8
"""Each is folded into by a process of its own."""

WORDS: Final[tuple[Kind, ...]] = ("postgres", "files")
"""The stores of a data folder, which only `refold up` starts."""

_KINDS: Final[Mapping[str, Kind]] = {
    "postgres": "postgres",
    "postgresql": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "file": "files",
}
_OPTIONS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "postgres": ("pool", "connect", "command", "retries"),
    "redis": ("pool", "connect", "command", "retries"),
    "files": ("retries",),
}
_DRIVER_OPTIONS: Final[Mapping[Kind, frozenset[str]]] = {
    # What asyncpg itself reads of an address, other names being settings of the session.
    "postgres": frozenset(
        {
            "dbname",
            "database",
            "host",
            "passfile",
            "port",
            "sslcert",
            "sslcrl",
            "sslkey",
            "sslmode",
            "sslrootcert",
            "target_session_attrs",
        }
    ),
    "redis": frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}),
    "files": frozenset(),
}
_PORTS: Final[Mapping[Kind, int]] = {"postgres": 5432, "redis": 6379}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_POOL_MAX: Final = 1_000
_RETRIES_MAX: Final = 10
_SECONDS_MAX: Final = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUrl:
    """Where a store is. `url` is for its driver, without the options of Refold, and is a secret.

    A store of the data folder has no `url` before it is started. Options that are None are the adapter's own.
    """

    kind: Kind
    url: str = field(default="", repr=False)
    name: str = ""
    pool: int | None = None
    """Connections that one process reads through."""
    connect_seconds: float | None = None
    command_seconds: float | None = None
    retries: int | None = None
    """How often a gateway tries a read again that failed, where there are several stores."""
    is_fresh: bool = False
    """The files that a rebuild fills, beside the live ones."""

    @property
    def address(self) -> str:
        """The address without the password."""
        return redacted_text(self.url) or self.kind

    @property
    def folder(self) -> Path:
        """The folder of a store of files."""
        return Path(unquote(urlsplit(self.url).path))

    @property
    def place(self) -> tuple[object, ...]:
        """What two addresses of one store have in common: host, port and database, or the folder."""
        if not self.url:
            return (self.kind,)
        if self.kind == "files":
            return (self.kind, self.folder.resolve())
        split = urlsplit(self.url)
        given = dict(parse_qsl(split.query))
        hosts = tuple(
            ("localhost" if host in _LOOPBACK else host, port or _PORTS[self.kind])
            for host, port in _hosts(split)
        )
        database = unquote(split.path.strip("/")) or given.get("dbname") or given.get("database")
        if self.kind == "redis":
            return (self.kind, hosts, int(database or 0))
        return (self.kind, hosts, database or split.username)

    @property
    def server(self) -> tuple[str, int, int]:
        """Host, port and database of Redis."""
        split = urlsplit(self.url)
        port = split.port or _PORTS[self.kind]
        return split.hostname or "", port, int(split.path.strip("/") or 0)

    @property
    def text(self) -> str:
        """The address with its options, as it is set: a secret."""
        given = (
            ("pool", self.pool),
            ("connect", self.connect_seconds),
            ("command", self.command_seconds),
            ("retries", self.retries),
        )
        options = urlencode([(name, value) for name, value in given if value is not None])
        return self.url + (("&" if "?" in self.url else "?") + options if options else "")


def file_url(folder: Path) -> str:
    """Return the address of a store of files."""
    return f"file://{quote(str(folder.absolute()))}"


def read_stores(text: str) -> tuple[StoreUrl, ...]:
    """Read addresses with spaces between them. Raises `ValueError`, which repeats no secret."""
    stores = [_read(part) for part in text.split()]
    if not 1 <= len(stores) <= STORES_MAX:
        raise ValueError(f"must be 1 to {STORES_MAX} stores")
    if len(stores) == 1 and stores[0].retries is not None:
        raise ValueError("must have the option retries only where there are several stores")
    counts: Counter[str] = Counter()
    named = []
    for store in stores:
        counts[store.kind] += 1
        number = counts[store.kind]
        named.append(replace(store, name=store.kind if number == 1 else f"{store.kind}-{number}"))
    places: dict[tuple[object, ...], str] = {}
    for store in named:
        if (other := places.setdefault(store.place, store.name)) != store.name:
            rule = f"must be different stores: one is named twice, {other} and {store.name} are the same"
            raise ValueError(rule)
    return tuple(named)


def _read(text: str) -> StoreUrl:
    if text in WORDS:
        return StoreUrl(kind=text)
    scheme, colon, _ = text.partition("://")
    kind = _KINDS.get(scheme) if colon else None
    if kind is None:
        raise ValueError(
            "must be addresses that begin with postgres://, redis://, rediss://, valkey:// or file:///, "
            "with spaces between them; `refold up` also knows postgres and files"
        )
    split = check_address(text, kind)
    if kind == "files" and (split.netloc or not split.path.startswith("/") or split.path == "/"):
        raise ValueError("must name a folder of this machine as file:///FOLDER")
    given = parse_qsl(split.query, keep_blank_values=True)
    own = {name: value for name, value in given if name in _OPTIONS[kind]}
    rest = [(name, value) for name, value in given if name not in own]
    _refuse_unknown(kind, rest)
    url = f"file://{split.path}"
    if kind != "files":
        # Not `geturl`, which leaves out the slashes before an empty host.
        query = f"?{urlencode(rest)}" if rest else ""
        url = f"{'redis' if scheme == 'valkey' else scheme}://{split.netloc}{split.path}{query}"
    return StoreUrl(
        kind=kind,
        url=url,
        pool=_count(kind, own, "pool", 1, _POOL_MAX),
        connect_seconds=_seconds(kind, own, "connect"),
        command_seconds=_seconds(kind, own, "command"),
        retries=_count(kind, own, "retries", 0, _RETRIES_MAX),
    )


def check_address(text: str, kind: Kind) -> SplitResult:
    """Return an address in its parts. Raises `ValueError` for a host, port or database that no driver could use."""
    example = f"{kind}://HOST:{_PORTS.get(kind, '')}"
    rule = (
        f"must have a host and, if any, a port from 1 to 65535, as in {example}; "
        "a password has / ? # @ as %2F %3F %23 %40"
    )
    try:
        split = urlsplit(text)
        hosts = [] if kind == "files" else _hosts(split)
    except ValueError:
        # Its own message may repeat the password.
        raise ValueError(rule) from None
    ports = (port for _, port in hosts if port is not None)
    if split.fragment or not all(host for host, _ in hosts) or not all(1 <= it <= 65_535 for it in ports):
        raise ValueError(rule)
    database = split.path.removeprefix("/")
    if kind == "redis" and database and not (database.isascii() and database.isdigit()):
        raise ValueError(f"must name the database of Redis by its number, as in {example}/3")
    return split


def _hosts(split: SplitResult) -> list[tuple[str, int | None]]:
    """Return hosts and ports; PostgreSQL may have several, and may have them in the query."""
    given = dict(parse_qsl(split.query))
    hosts = split.netloc.rpartition("@")[2] or given.get("host", "")
    if hosts.startswith("/"):
        return [(hosts, int(given.get("port", "0")) or None)]
    parts = [urlsplit(f"//{part}") for part in hosts.split(",")]
    ports = given.get("port", "").split(",")
    return [
        (part.hostname or "", int(ports[-1]) if part.port is None and ports[-1] else part.port)
        for part in parts
    ]


def _refuse_unknown(kind: Kind, options: Sequence[tuple[str, str]]) -> None:
    for name, _ in options:
        if name not in _DRIVER_OPTIONS[kind]:
            known = ", ".join((*_OPTIONS[kind], *sorted(_DRIVER_OPTIONS[kind]))) or "none"
            raise ValueError(f"must not have the option {name[:40]!r}: {kind} has {known}")


def _count(kind: Kind, own: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    return None if name not in own else int(_number(kind, name, own[name], least, most, is_whole=True))


def _seconds(kind: Kind, own: Mapping[str, str], name: str) -> float | None:
    return None if name not in own else _number(kind, name, own[name], 0.1, _SECONDS_MAX)


def _number(kind: Kind, name: str, text: str, least: float, most: float, *, is_whole: bool = False) -> float:
    number = int(text) if text.isascii() and text.isdigit() else None
    if number is None and not is_whole:
        try:
            number = float(text)  # type: ignore[assignment]
        except ValueError:
            number = None
    if number is None or not least <= number <= most:
        raise ValueError(f"must have an option {name} of {kind} from {least:g} to {most:g}")
    return number
