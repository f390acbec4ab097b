"""The file of the keys as `refold keys` changes it; what needs a running system is tested with one."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refold.cli import app
from refold.core.errors import Refused
from refold.store.layers.keyring import KeyFile
from refold.wiring.keys import add_key, retire_key
from refold.wiring.settings import load


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a file that is not there yet."""
    monkeypatch.setenv("REFOLD_KEYS", str(tmp_path / "keys.json"))
    return tmp_path / "keys.json"


def _keys(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["keys", *arguments, "--json"], catch_exceptions=False)
    return dict(json.loads(result.stdout))


def test_a_first_key_makes_the_file_and_later_ones_are_used(file: Path) -> None:
    assert _keys("add") == {"key": 1, "used": 1}
    assert file.stat().st_mode & 0o777 == 0o600
    assert _keys("add") == {"key": 2, "used": 2}
    assert _keys("add", "--unused") == {"key": 3, "used": 2}
    assert _keys("add") == {"key": 4, "used": 2}, "the choice of an older key stays"
    assert _keys("use", "4") == {"keys": [1, 2, 3, 4], "used": 4}
    assert _keys("add") == {"key": 5, "used": 5}
    assert len(set(KeyFile(file).read().keys.values())) == 5
    assert list(file.parent.iterdir()) == [file]


def test_keys_that_are_added_at_the_same_time_are_all_kept(file: Path) -> None:
    _keys("add")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: add_key(load()), range(16)))
    assert sorted(keys.newest for keys in made) == list(range(2, 18))
    assert KeyFile(file).read().keys.items() >= made[0].keys.items()
    assert len(set(KeyFile(file).read().keys.values())) == 17


def test_a_key_that_is_not_there_is_not_used(file: Path) -> None:
    _keys("add")
    with pytest.raises(Refused, match="there are 1"):
        _keys("use", "2")
    assert KeyFile(file).read().used == 1


@pytest.mark.parametrize(("key", "rule"), [(1, "is used"), (2, "is the newest"), (3, "there are 1, 2")])
def test_the_used_key_and_the_newest_are_not_retired(file: Path, key: int, rule: str) -> None:
    _keys("add")
    _keys("add", "--unused")
    with pytest.raises(Refused, match=rule):
        asyncio.run(retire_key(load(), key))
    assert sorted(KeyFile(file).read().keys) == [1, 2]


def test_a_file_cannot_be_changed_where_a_command_prints_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_KEYS_COMMAND", "print-keys")
    for arguments in (("add",), ("use", "1")):
        with pytest.raises(Refused) as refused:
            _keys(*arguments)
        assert refused.value.field == "REFOLD_KEYS_COMMAND"


def test_a_folder_in_place_of_the_file_is_not_to_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFOLD_KEYS", str(tmp_path))
    with pytest.raises(Refused, match=r"cannot be read: Is a directory$"):
        _keys("add")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFOLD_KEYS", str(tmp_path / "none" / "keys.json"))
    with pytest.raises(Refused, match="cannot be written: No such file"):
        _keys("add")
