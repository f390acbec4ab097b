"""Which stores there are, and how each is opened, audited and put aside: the one place that knows the adapters.

Used by every composition. The order of the stores is the order of preference for reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, cast

from pydantic import SecretStr

from refold.core.errors import (
    HistoryElsewhere,
    KeyUnknown,
    KeyWrong,
    Refused,
    StoreDiffers,
    StoreError,
    StoreUnreadable,
)
from refold.store import Depth
from refold.store.keyed import KeyedStore, check_keys
from refold.store.layers import RowCodec
from refold.store.layers.encryption import Encryption
from refold.store.ports import Connected, SnapshotStore, Store
from refold.store.postgres import PostgresStore
from refold.store.postgres import schema as postgres_schema
from refold.store.postgres.audit import PostgresSchemaSwap
from refold.store.postgres.states import StateLag
from refold.store.redis import RedisStore
from refold.store.redis import schema as redis_schema
from refold.store.sqlite import SqliteStore
from refold.store.sqlite import schema as sqlite_schema
from refold.store.sqlite.swap import SqliteSchemaSwap
from refold.telemetry import redacted_text
from refold.telemetry.logging import get_logger
from refold.wiring.settings import Settings
from refold.wiring.storage import row_codec
from refold.wiring.store_url import StoreUrl, read_stores

OPEN_SECONDS: Final = 1.0
"""Pause before one of several stores that could not be opened is tried again."""

COMMAND_SECONDS: Final = 10.0
"""How long a command line waits for one answer of Redis, where the address does not say; services wait longer."""


class ConnectedStore(Store, Connected, KeyedStore, Protocol):
    """A store that is open, of whatever kind."""

    async def migrations(self) -> tuple[int, int]:
        """Return the newest migration that was applied, and the newest that this program knows; in Redis, formats."""


def store_urls(settings: Settings) -> tuple[StoreUrl, ...]:
    """Return the stores that a service uses. Raises `Refused` where none is set, or one that only `refold up` knows."""
    if settings.stores is None:
        return (StoreUrl(kind="postgres", url=settings.required("postgres_url"), name="postgres"),)
    stores = _read(settings)
    for store in stores:
        if not store.url:
            rule = f"{store.kind} without an address is the data folder's, which only `refold up` starts"
            raise Refused("bad_setting", rule, field="REFOLD_STORES", shape=store.kind)
    return stores


def own_stores(settings: Settings) -> tuple[StoreUrl, ...]:
    """Return the stores of `refold up`; those of the data folder have no address yet.

    Without a setting it is PostgreSQL, or the files of a folder that has only these.
    """
    if settings.stores is not None:
        return _read(settings)
    has_only_files = files_folder(settings.data).exists() and not (settings.data / "postgres").exists()
    return read_stores("files" if has_only_files else "postgres")


def _read(settings: Settings) -> tuple[StoreUrl, ...]:
    """Read the stores: those of the data folder have got addresses since the setting was read."""
    try:
        return read_stores(settings.required("stores"))
    except ValueError as error:
        raise Refused("bad_setting", str(error), field="REFOLD_STORES") from error


def has_postgres(settings: Settings) -> bool:
    """Return whether `refold up` starts PostgreSQL."""
    return any(store.kind == "postgres" and not store.url for store in own_stores(settings))


def files_folder(data: Path) -> Path:
    """Return where the files of a data folder's store are."""
    return data / "files"


def projected_store(settings: Settings) -> StoreUrl:
    """Return the store that a projector folds into. Raises `Refused` where there are several and none is chosen."""
    stores = store_urls(settings)
    name = settings.projector_store
    if name is not None:
        return store_named(stores, name, field="REFOLD_PROJECTOR_STORE")
    if len(stores) > 1:
        rule = f"must be one of {_names(stores)}: each store has a projector of its own"
        raise Refused("bad_setting", rule, field="REFOLD_PROJECTOR_STORE", shape="nothing")
    return stores[0]


def store_named(stores: Sequence[StoreUrl], name: str, *, field: str = "--store") -> StoreUrl:
    """Return a store by its name. Raises `Refused`."""
    for store in stores:
        if store.name == name:
            return store
    raise Refused("bad_usage", f"there is no such store; there are {_names(stores)}", field=field, shape=name)


def _names(stores: Sequence[StoreUrl]) -> str:
    return ", ".join(store.name for store in stores)


def audited_store(settings: Settings, name: str | None, *, is_rebuilt: bool = False) -> StoreUrl:
    """Return the store of that name, by default the first that keeps every version.

    Raises `Refused`, and `HistoryElsewhere` for one of recent depth: it cannot be compared with the whole log.
    """
    stores = store_urls(settings)
    full = [store for store in stores if store.kind != "redis"]
    store = store_named(stores, name) if name is not None else (full or stores)[0]
    if store in full:
        return store
    others = [other.name for other in (*full, *stores) if other != store]
    compare = f"`refold store compare {store.name} {others[0]}` checks it" if others else _ONLY
    lacks = f"{store.name} keeps only what is recent"
    if is_rebuilt:
        raise HistoryElsewhere(f"{lacks}, so no rebuild replaces it: {repair_of(store, settings)}; {compare}")
    raise HistoryElsewhere(f"{lacks}, so it cannot be compared with the whole log: {compare}")


_ONLY: Final = "beside a second store (such as --store files), `refold store compare` checks it"


def store_flag(store: StoreUrl, settings: Settings) -> str:
    """Return the flag by which a command names a store, after a space; empty where there is one store."""
    return f" --store {store.name}" if len(store_urls(settings)) > 1 else ""


def repair_of(store: StoreUrl, settings: Settings) -> str:
    """Say what makes a store again from the log, whatever it holds."""
    if store.kind != "redis":
        which = store_flag(store, settings)
        return f"`refold rebuild --from-nothing{which}` rebuilds the projection from the log"
    host, port, database = store.server
    empty = f"`redis-cli -h {host} -p {port} -n {database} FLUSHDB`"
    keys = f"{{refold:{settings.postgres_schema}}}:*"
    return f"empty it by {empty} (or delete its keys {keys}), and its projector folds it again from the log"


@contextmanager
def naming_repair(store: StoreUrl, settings: Settings) -> Iterator[None]:
    """Raise errors of content that cannot be read with the command that repairs this store."""
    try:
        yield
    except StoreUnreadable as error:
        raise type(error)(error.what, repair=repair_of(store, settings), **error.facts) from error


def for_commands(settings: Settings) -> Settings:
    """Return the settings of a command line, which does not wait long for a Redis that is frozen."""
    if settings.stores is None:
        return settings
    stores = [
        replace(store, command_seconds=store.command_seconds or COMMAND_SECONDS)
        if store.kind == "redis"
        else store
        for store in _read(settings)
    ]
    text = " ".join(store.text or store.kind for store in stores)
    return settings.model_copy(update={"stores": SecretStr(text)})


def dictionary_store(settings: Settings, name: str | None) -> StoreUrl:
    """Return the store of that name, by default the first that keeps dictionaries. Raises `Refused`."""
    stores = store_urls(settings)
    others = (store for store in stores if store.kind != "postgres")
    found = store_named(stores, name) if name is not None else next(others, stores[0])
    if found.kind == "postgres":
        rule = (
            "has states as plain JSON, which no dictionary compresses: only files and Redis keep dictionaries"
        )
        raise Refused("bad_usage", rule, field="--store", shape=found.name)
    return found


def auditable(store: ConnectedStore) -> SnapshotStore:
    """Return a store that is known to be of full depth (`audited_store`)."""
    assert store.capabilities.depth is Depth.full
    return cast("SnapshotStore", store)


async def open_store(
    store: StoreUrl, settings: Settings, log_id: str, *, shard: str = "", readers_max: int | None = None
) -> ConnectedStore:
    """Open a store of this log; its own options precede `readers_max`.

    Raises `StoreUnavailable`, `StoreDiffers`; `KeyUnknown`, `KeyWrong` where the keys are not those of its values.
    """
    codec = row_codec(settings, log_id)
    with naming_repair(store, settings):
        opened = await _open(store, settings, codec, shard=shard, readers_max=readers_max)
        try:
            await check_keys(opened, codec, log_id)
        except BaseException:
            await opened.close()
            raise
        return opened


async def _open(
    store: StoreUrl, settings: Settings, codec: RowCodec, *, shard: str, readers_max: int | None
) -> SqliteStore | RedisStore | PostgresStore:
    if store.kind == "files":
        return await SqliteStore.open(store.folder, shard=shard, is_rebuild=store.is_fresh, codec=codec)
    pool = _given(
        readers_max=store.pool or readers_max,
        connect_seconds=store.connect_seconds,
        command_seconds=store.command_seconds,
    )
    schema = settings.postgres_schema
    if store.kind == "redis":
        return await RedisStore.open(store.url, schema=schema, shard=shard, codec=codec, **pool)
    is_encrypted = isinstance(codec, Encryption) and codec.is_encrypting
    return await PostgresStore.open(
        store.url,
        schema=schema,
        shard=shard,
        where_seconds=settings.statement_timeout_seconds,
        state_lag=StateLag(bytes_min=settings.state_lag_bytes, seconds=settings.state_lag_seconds),
        codec=codec,
        is_history_encrypted=is_encrypted,
        are_states_encrypted=is_encrypted and settings.encrypt == "all",
        **pool,
    )


def open_swap(
    store: StoreUrl, settings: Settings, log_id: str, *, fresh_schema: str, is_kept: bool
) -> AbstractAsyncContextManager[PostgresSchemaSwap | SqliteSchemaSwap]:
    """Open a live projection and the fresh one that replaces it; `is_kept`: the live one is damaged, and is kept."""
    live, codec = settings.postgres_schema, row_codec(settings, log_id)
    if store.kind == "files":
        kept = postgres_schema.name_to_keep("refold", "damaged") if is_kept else ""
        return SqliteSchemaSwap.open(store.folder, keep_as=kept, codec=codec)
    kept = postgres_schema.name_to_keep(live, "damaged") if is_kept else ""
    return PostgresSchemaSwap.open(store.url, live=live, fresh=fresh_schema, keep_as=kept, codec=codec)


async def open_when_there(
    store: StoreUrl,
    settings: Settings,
    log_id: str,
    *,
    shard: str = "",
    when_not: Callable[[str], None] = lambda _: None,
) -> ConnectedStore:
    """Open one of several stores as soon as it can be; `when_not` gets the reason while it cannot.

    Raises `KeyUnknown` and `KeyWrong`: a store with other keys is not to be waited for.
    """
    while True:
        try:
            return await open_store(store, settings, log_id, shard=shard)
        except (KeyUnknown, KeyWrong):
            raise
        except StoreError as error:
            problem = redacted_text(str(error))
            when_not(problem)
            get_logger().warning("store_not_opened", store=store.name, code=error.code, error=problem)
            await asyncio.sleep(OPEN_SECONDS)


async def bound_log(store: StoreUrl, settings: Settings) -> str | None:
    """Return the id of the log that a store projects; None where it projects none. Raises `StoreUnavailable`."""
    if store.kind == "files":
        return sqlite_schema.bound_log(store.folder)
    if store.kind == "redis":
        return await redis_schema.bound_log(store.url, settings.postgres_schema)
    return await postgres_schema.bound_log(store.url, settings.postgres_schema)


def check_bound(store: StoreUrl, bound: str | None, log_id: str) -> None:
    """Raise `StoreDiffers` where the log to which a store is bound is not this one."""
    if bound != log_id:
        raise StoreDiffers(f"{store.name} is not a projection of the log", expected=log_id, found=bound)


async def put_aside(store: StoreUrl, settings: Settings) -> str | None:
    """Keep a projection under another name; return what it is called then, None where there is none."""
    if store.kind == "files":
        return put_file_aside(store.folder)
    if store.kind == "redis":
        kept_as = postgres_schema.name_to_keep(settings.postgres_schema, "lost")
        is_kept = await redis_schema.put_aside(store.url, settings.postgres_schema, kept_as)
        return f"schema {kept_as} in {store.name}" if is_kept else None
    kept = await postgres_schema.put_aside(store.url, settings.postgres_schema)
    return None if kept is None else f"schema {kept}"


def put_file_aside(path: Path) -> str | None:
    """Rename a folder, or a file of SQLite with its log; no process may use it. None where it is not there."""
    if not path.exists():
        return None
    kept = path.with_name(postgres_schema.name_to_keep(path.name, "lost"))
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        log.rename(path.with_name(f"{kept.name}-wal"))
    path.rename(kept)
    return str(kept)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
