"""The keys that stores are encrypted with: their file, and the values that need them. Used by `refold keys`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pydantic import SecretStr

from refold.core.errors import KeyNeeded, KeyUnknown, Refused, StoreError
from refold.embedded import read_endpoints
from refold.store import keyed
from refold.store.keyed import KeyCount, encryption_of
from refold.store.layers.keyring import KEY_BYTES, KEY_NUMBER_MAX, KeyFile, Keyring, Keys
from refold.telemetry import redacted_text
from refold.wiring.servers import log_info
from refold.wiring.settings import Settings
from refold.wiring.storage import key_source, row_codec
from refold.wiring.store_url import StoreUrl
from refold.wiring.stores import ConnectedStore, bound_log, check_bound, open_store, store_named, store_urls

Report = Callable[[str, int, int], None]
"""Gets a store's name, how many of its values were written, and about how many there are to write."""


def add_key(settings: Settings, *, is_used: bool = True) -> Keys:
    """Add a random key to the file, or make the file; return the keys as they are then.

    It is used at once, unless another one than the newest was chosen before. Raises `Refused`.
    """
    file, key = _key_file(settings), secrets.token_bytes(KEY_BYTES)
    if not file.path.exists():
        made = Keys(used=1, keys={1: key})
        file.make(made)
        return made
    with file.held() as keys:
        number = keys.newest + 1
        if number > KEY_NUMBER_MAX:
            rule = f"numbers end at {KEY_NUMBER_MAX}"
            raise Refused("bad_usage", rule, field="REFOLD_KEYS", shape=str(keys.newest))
        used = number if is_used and keys.used == keys.newest else keys.used
        changed = Keys(used=used, keys={**keys.keys, number: key})
        file.write(changed)
    return changed


async def refuse_first_key(settings: Settings) -> None:
    """Refuse to make a file of keys where stores that can be reached need other ones: it is lost, and not new.

    They are those of `REFOLD_STORES`, else of the system that runs on the data folder. Raises `Refused`.
    """
    file = _key_file(settings)
    if file.path.exists() or not (found := _reachable(settings)):
        return
    # Without keys, a store is not opened that needs one.
    plain = found.model_copy(update={"keys": None, "keys_command": None, "encrypt": None})
    for store in store_urls(plain):
        try:
            if log_id := await bound_log(store, plain):
                async with _opened(plain, store, log_id):
                    continue
        except KeyUnknown as error:
            rule = f"{file.path} is not there, but {store.name} has values that need key {error.facts['key']}"
            raise Refused("bad_setting", f"{rule}: restore the file", field="REFOLD_KEYS") from error
        except StoreError:
            continue


def _reachable(settings: Settings) -> Settings | None:
    if settings.reaches_stores:
        return settings
    stores = read_endpoints(settings.data).get("stores")
    return settings.model_copy(update={"stores": SecretStr(stores)}) if stores else None


def use_key(settings: Settings, number: int) -> Keys:
    """Have new values encrypted with a key; return the keys. Raises `Refused`."""
    file = _key_file(settings)
    with file.held() as keys:
        _refuse_unknown(keys, number)
        changed = Keys(used=number, keys=keys.keys)
        file.write(changed)
    return changed


async def retire_key(settings: Settings, number: int) -> Keys:
    """Remove a key from the file when no value of any store needs it; return the keys.

    Raises `Refused` for the key that is used and for the newest, `KeyNeeded` with the numbers of values by store.
    """
    file = _key_file(settings)
    with file.held() as keys:
        _refuse_unknown(keys, number)
        if number == keys.used:
            raise Refused(
                "key_used", "is used: `refold keys use` another first", field="KEY", shape=str(number)
            )
        if number == keys.newest:
            rule = "is the newest, and numbers are not used twice: `refold keys add` another first"
            raise Refused("key_used", rule, field="KEY", shape=str(number))
        needed = await _retire(settings, number)
        if needed:
            counts = ", ".join(f"{count:,} of {name}" for name, count in needed.items())
            message = (
                f"values are encrypted with key {number} ({counts}): `refold keys reencrypt` rewrites them"
            )
            raise KeyNeeded(message, key=number, **needed)
        changed = Keys(used=keys.used, keys={at: key for at, key in keys.keys.items() if at != number})
        file.write(changed)
    return changed


async def _retire(settings: Settings, number: int) -> dict[str, int]:
    """Remove a key's check values; return how many values need it, by the names of stores that have any."""
    needed: dict[str, int] = {}
    log_id = (await log_info(settings, "keys")).log_id
    check = encryption_of(row_codec(settings, log_id)).keyring.check(number, log_id)
    async for store, opened in _filled(settings, store_urls(settings), log_id):
        # Counted before: without its check value, commits under the key fail.
        counts = await opened.count_keys()
        count = sum(each.values for each in counts if each.key == number)
        count = count or await opened.retire_key(number, check)
        needed |= {store.name: count} if count else {}
    return needed


async def reencrypt(settings: Settings, name: str | None, rate: float, report: Report) -> dict[str, int]:
    """Write the values of all stores, or of the one that is named, as they are to be stored now.

    Return how many were written, by store. Raises `Refused`, `StoreDamaged`, `StoreUnavailable`.
    """
    stores = store_urls(settings)
    log_id = (await log_info(settings, "keys")).log_id
    encryption = encryption_of(row_codec(settings, log_id))
    used = encryption.keyring.used if encryption.is_encrypting else None
    written: dict[str, int] = {}
    chosen = stores if name is None else (store_named(stores, name),)
    async for store, opened in _filled(settings, chosen, log_id):
        counts = await opened.count_keys()
        if settings.encrypt is None and store.kind == "postgres":
            _refuse_encrypted_states(counts)
        total = sum(count.values for count in counts if count.key != used)
        done = partial(_report, report, store.name, total)
        written[store.name] = await keyed.reencrypt(opened, rate=rate, report=done)
        if used is None:
            # Without its check values, the store can be opened without keys.
            for number, check in (await opened.key_checks(log_id)).items():
                await opened.retire_key(number, check)
    return written


def _refuse_encrypted_states(counts: Iterable[KeyCount]) -> None:
    """Raise `Refused` where the usual level would decrypt states that services encrypt."""
    if any(count.key is not None for count in counts if count.part == "documents.state"):
        rule = "must be set as for the services: states are encrypted, which `history`, the usual level, would undo"
        raise Refused("bad_setting", rule, field="REFOLD_ENCRYPT", shape="nothing")


def _report(report: Report, name: str, total: int, done: int) -> None:
    report(name, done, max(total, done))


async def _filled(
    settings: Settings, stores: Iterable[StoreUrl], log_id: str
) -> AsyncGenerator[tuple[StoreUrl, ConnectedStore]]:
    """Open one store after the other, without those that are of no log yet. Raises `StoreDiffers` for another log's."""
    for store in stores:
        bound = await bound_log(store, settings)
        if bound is None:
            continue
        check_bound(store, bound, log_id)
        async with _opened(settings, store, log_id) as opened:
            yield store, opened


@asynccontextmanager
async def _opened(settings: Settings, store: StoreUrl, log_id: str) -> AsyncIterator[ConnectedStore]:
    opened = await open_store(store, settings, log_id, readers_max=2)
    try:
        yield opened
    finally:
        await opened.close()


async def read_status(settings: Settings) -> dict[str, Any]:
    """Return the numbers of the keys, the used one, and each store's values by part and key."""
    source = key_source(settings)
    if source is None:
        raise _no_file()
    keys = Keyring(source)
    log_id = (await log_info(settings, "keys")).log_id
    stores = [await _store_status(settings, store, log_id) for store in store_urls(settings)]
    used = None if settings.encrypt == "none" else keys.used
    return {"keys": keys.numbers, "used": used, "stores": stores}


async def _store_status(settings: Settings, store: StoreUrl, log_id: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": store.name, "values": []}
    try:
        if await bound_log(store, settings) is None:
            return {**facts, "problem": "not filled yet"}
        async with _opened(settings, store, log_id) as opened:
            counts = await opened.count_keys()
    except StoreError as error:
        return {**facts, "problem": redacted_text(str(error))}
    return {**facts, "values": [count._asdict() for count in sorted(counts, key=_position)]}


def _position(count: KeyCount) -> tuple[str, int]:
    return count.part, count.key or 0


def _key_file(settings: Settings) -> KeyFile:
    source = key_source(settings)
    if isinstance(source, KeyFile):
        return source
    if source is None:
        raise _no_file()
    rule = "prints the keys, so they are changed where it gets them; this changes only a file (REFOLD_KEYS)"
    raise Refused("bad_setting", rule, field="REFOLD_KEYS_COMMAND")


def _no_file() -> Refused:
    return Refused("bad_setting", "must name the file of the keys", field="REFOLD_KEYS", shape="nothing")


def _refuse_unknown(keys: Keys, number: int) -> None:
    if number not in keys.keys:
        known = ", ".join(map(str, sorted(keys.keys)))
        raise Refused("bad_usage", f"there is no such key; there are {known}", field="KEY", shape=str(number))
