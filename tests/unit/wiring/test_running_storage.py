"""A command stores values as the system of the folder does, and is refused where a variable says otherwise."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from refold.core.errors import Refused
from refold.wiring.settings import load
from refold.wiring.storage import row_codec, storage_flags, storage_settings


def test_what_no_variable_says_is_as_in_the_running_system(tmp_path: Path) -> None:
    running = storage_settings(load(keys=tmp_path / "k.json", encrypt="all", compression="none"))
    found = load(**storage_flags(load(), running))
    assert (found.keys, found.encrypt, found.compression) == (tmp_path / "k.json", "all", "none")


@pytest.mark.parametrize(
    ("given", "running", "field"),
    [
        ({"keys": "k.json"}, {}, "REFOLD_KEYS"),
        ({"keys": "other.json"}, {"keys": "k.json"}, "REFOLD_KEYS"),
        ({"keys": "k.json"}, {"keys_command": "print-keys"}, "REFOLD_KEYS"),
        ({"keys_command": "print-keys"}, {"keys": "k.json"}, "REFOLD_KEYS_COMMAND"),
        ({}, {"keys_command": "print-keys"}, "REFOLD_KEYS_COMMAND"),
        ({"encrypt": "history"}, {"keys": "k.json", "encrypt": "all"}, "REFOLD_ENCRYPT"),
        ({"encrypt": "history"}, {}, "REFOLD_ENCRYPT"),
        ({"compression": "none"}, {}, "REFOLD_COMPRESSION"),
        ({"compression_bytes_min": "7"}, {}, "REFOLD_COMPRESSION_BYTES_MIN"),
    ],
)
def test_a_variable_that_says_otherwise_is_named(
    given: dict[str, str], running: dict[str, str], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = storage_settings(load(**running))
    for name, value in given.items():
        monkeypatch.setenv(f"REFOLD_{name.upper()}", value)
    with pytest.raises(Refused) as refused:
        storage_flags(load(), theirs)
    assert refused.value.field == field
    assert "print-keys" not in str(refused.value)


def test_a_variable_may_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = storage_settings(load(keys=tmp_path / "k.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFOLD_KEYS", "k.json")
    monkeypatch.setenv("REFOLD_ENCRYPT", "history")
    found = load(**storage_flags(load(), running))
    assert (found.keys, found.encrypt) == (tmp_path / "k.json", "history")


def test_the_command_of_the_keys_is_run_once_however_many_stores_are_opened(tmp_path: Path) -> None:
    runs, key = tmp_path / "runs", base64.b64encode(bytes(32)).decode()
    printed = json.dumps({"keys": {"1": key}})
    settings = load(keys_command=f"sh -c 'echo run >> {runs}; echo \"$0\"' '{printed}'")
    codecs = [row_codec(settings, "log") for _ in range(3)]
    assert runs.read_text() == "run\n"
    assert len({id(codec) for codec in codecs}) == 3
