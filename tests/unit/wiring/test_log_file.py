"""The log file of a service: what the disk does not take is counted, and blocks nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refold.wiring import service_process as module
from refold.wiring.service_process import LogFile

LINE = b'{"event":"x"}\n'


class Disk:
    """Takes so many bytes, then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        disk = self

        class File(module.FileIO):
            def write(self, data: Any) -> int:
                taken = min(len(data), disk.room)
                if not taken:
                    raise OSError(28, "No space left on device")
                disk.room -= taken
                return super().write(data[:taken])

        monkeypatch.setattr(module, "FileIO", File)


def test_lines_that_do_not_fit_are_counted_and_told_of_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, room=len(LINE) + 5)
    log = LogFile(tmp_path / "gateway.log")
    for _ in range(4):
        log.write(LINE)
    disk.room = 10_000
    log.write(LINE)
    log.close()
    lines = (tmp_path / "gateway.log").read_bytes().splitlines()
    assert lines[0] == LINE.strip()
    assert lines[1] == LINE[:5]
    assert json.loads(lines[2]) == {
        "event": "log_lines_dropped",
        "level": "error",
        "bytes": 3 * len(LINE) - 5,
    }
    assert lines[3] == LINE.strip()
    assert len(lines) == 4


def test_a_note_that_does_not_fit_either_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, room=0)
    log = LogFile(tmp_path / "gateway.log")
    log.write(LINE)
    disk.room = 7
    log.write(LINE)
    disk.room = 10_000
    log.write(LINE)
    log.close()
    noted = [
        json.loads(line)
        for line in (tmp_path / "gateway.log").read_bytes().splitlines()
        if b"dropped" in line
    ]
    assert noted == [{"event": "log_lines_dropped", "level": "error", "bytes": 2 * len(LINE)}]


def test_a_folder_that_cannot_be_written_drops_lines_and_keeps_the_last_in_memory(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "missing" / "gateway.log")
    log.write(LINE)
    assert log.tail == LINE
    (tmp_path / "missing").mkdir()
    log.write(LINE)
    log.close()
    assert (tmp_path / "missing/gateway.log").read_bytes().endswith(LINE)
