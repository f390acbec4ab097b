"""How values are stored: their codec, made of the settings, and the settings that a command shares with the services.

Used by `refold.wiring.stores`, which opens stores with the codec, and by the commands that rewrite or compare values.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from refold.core.errors import Refused
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.layers.encryption import Encryption
from refold.store.layers.keyring import KeyCommand, KeyFile, Keyring, KeySource
from refold.telemetry import HIDDEN
from refold.wiring.settings import Settings, environment_without
from refold.wiring.store_url import StoreUrl


def row_codec(settings: Settings, log_id: str) -> RowCodec:
    """Return how a store's values become the bytes of its rows. Raises `Refused` for keys that cannot be used."""
    compression = Compression.of(settings.compression, bytes_min=settings.compression_bytes_min)
    source = key_source(settings)
    if source is not None:
        is_encrypting = settings.encrypt != "none"
        return Encryption(compression, Keyring(source), log_id, is_encrypting=is_encrypting)
    if settings.encrypt in {"history", "all"}:
        rule = "needs REFOLD_KEYS or REFOLD_KEYS_COMMAND"
        raise Refused("bad_setting", rule, field="REFOLD_ENCRYPT", shape="no keys")
    return compression


def key_source(settings: Settings) -> KeySource | None:
    """Return where the keys come from; None where there are none."""
    if settings.keys is not None:
        return KeyFile(settings.keys)
    if settings.keys_command is not None:
        return _key_command(settings.keys_command.get_secret_value())
    return None


@cache
def _key_command(command: str) -> KeyCommand:
    """Return one for all stores: the event loop waits while it runs, and a store may be opened again and again."""
    return KeyCommand(command, environment_without())


def storage_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that say how values are stored, for the endpoints of a running system; a secret is hidden."""
    return {
        "keys": None if settings.keys is None else str(settings.keys.absolute()),
        "keys_command": HIDDEN if settings.keys is None and settings.keys_command is not None else None,
        "encrypt": settings.encrypt,
        "compression": settings.compression,
        "compression_bytes_min": settings.compression_bytes_min,
    }


def storage_flags(settings: Settings, running: Mapping[str, object]) -> dict[str, object]:
    """Return the flags by which a command stores values as the running system does, whose settings are `running`.

    Raises `Refused` where a variable says otherwise, and where only a variable can say it: the command of the keys.
    """
    ours = {**storage_settings(settings), "encrypt": _level(settings.encrypt, running)}
    theirs = {**running, "encrypt": _level(running.get("encrypt"), running)}
    for name in running:
        if name in settings.model_fields_set and not _is_same(name, ours[name], theirs[name]):
            has = "it is not set there" if running[name] is None else f"it is {theirs[name]} there"
            rule = f"is not as in the running system ({has}): unset it, or start the system again with it"
            raise Refused("bad_setting", rule, field=f"REFOLD_{name.upper()}")
    if running.get("keys_command") and settings.keys_command is None:
        rule = "must be set as for the running system, which has its keys from a command"
        raise Refused("bad_setting", rule, field="REFOLD_KEYS_COMMAND", shape="nothing")
    return {name: value for name, value in running.items() if name != "keys_command"}


def _level(encrypt: object, running: Mapping[str, object]) -> object:
    """Return what is encrypted where the setting is that, or None."""
    return encrypt or ("history" if running.get("keys") or running.get("keys_command") else "none")


def _is_same(name: str, ours: object, theirs: object) -> bool:
    if name == "keys" and ours is not None and theirs is not None:
        return Path(str(ours)).resolve() == Path(str(theirs)).resolve()
    # Where there is a file, a command is not used.
    return ours == theirs or (name == "keys_command" and ours is None)


def encoding_of(store: StoreUrl, settings: Settings) -> str:
    """Return how a store's values are written, as people read it: `zstd:1`, with `encrypted` where they are."""
    has_keys = settings.keys is not None or settings.keys_command is not None
    if not has_keys or settings.encrypt == "none":
        return settings.compression
    is_all = store.kind != "postgres" or settings.encrypt == "all"
    return f"{settings.compression}, {'' if is_all else 'history '}encrypted"
