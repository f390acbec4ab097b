"""`refold logs` reads the files of a data folder: every line once, by time, whatever wrote it or tore it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from refold.cli import app
from refold.core.errors import Refused
from refold.embedded.logs import LogLine, SystemLogs
from refold.embedded.process import LogFile

NATS = "[18] 2026/11/30 12:00:02.500000 [WRN] slow consumer nats://u:secret@h\n"
POSTGRES = (
    "2026-11-30 12:00:01.057 UTC [7] ERROR:  deadlock detected\n"
    "2026-11-30 12:00:01.058 UTC [7] DETAIL:  Process 7 waits\n"
    "\tfor process 8\n"
)


def line(second: float, event: str, level: str = "info", service: str = "gateway", **fields: object) -> str:
    time = f"2026-11-30T12:00:{second:09.6f}Z"
    known = {"time": time, "level": level, "service": service, "instance": "h:1", "event": event}
    return json.dumps(known | fields, separators=(",", ":")) + "\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("nats", "postgres"):
        (tmp_path / name).mkdir()
    (tmp_path / "gateway.log").write_text(line(3, "third", n=1) + line(5, "fifth", "error", exception="a\nb"))
    (tmp_path / "gateway.log.1").write_text(line(0, "first").replace("00.000000Z", "00Z"))
    (tmp_path / "projector-files.log").write_text(line(4, "fourth", service="projector"))
    (tmp_path / "nats/server.log").write_text(NATS)
    (tmp_path / "postgres/postgres.log").write_text(POSTGRES)
    (tmp_path / "postgres/initdb.log").write_text("creating\n")
    (tmp_path / "log.json").write_text("{}")
    (tmp_path / "servers.lock").touch()
    return tmp_path


def run(data: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["logs", "--data", str(data), *options])


def events(lines: object) -> list[str]:
    return [each.fields["event"] for each in lines if isinstance(each, LogLine)]  # type: ignore[attr-defined]


def shown(data: Path, *options: str) -> list[str]:
    return [json.loads(each)["event"] for each in run(data, "--json", *options).stdout.splitlines()]


FOREIGN = ["deadlock detected", "Process 7 waits", "\tfor process 8", "slow consumer nats://u:***@h"]


def test_the_lines_of_all_files_come_by_time(data: Path) -> None:
    found = run(data).stdout.splitlines()
    assert found[0] == "2026-11-30T12:00:00.000Z  gateway     info      first"
    assert found[1] == "2026-11-30T12:00:01.057Z  postgres    error     deadlock detected"
    assert found[4] == "2026-11-30T12:00:02.500Z  nats        warning   slow consumer nats://u:***@h"
    assert found[5] == "2026-11-30T12:00:03.000Z  gateway     info      third  n=1"
    assert found[6].split()[1:] == ["projector-files", "info", "fourth"]
    head = "2026-11-30T12:00:05.000Z  gateway     error   "
    assert found[7:] == [f"{head}  fifth", f"{head}      a", f"{head}      b"]
    lines = [json.loads(each) for each in run(data, "--json").stdout.splitlines()]
    assert [each["event"] for each in lines] == ["first", *FOREIGN, "third", "fourth", "fifth"]
    assert all({"time", "level", "service"} <= each.keys() for each in lines)
    assert [each["level"] for each in lines[1:4]] == ["error"] * 3, "details belong to what they explain"


def test_lines_are_chosen_by_service_event_level_and_time(data: Path) -> None:
    assert shown(data, "--service", "projector-files") == shown(data, "--event", "fourth") == ["fourth"]
    assert shown(data, "--service", "nats") == FOREIGN[-1:]
    assert shown(data, "--level", "error") == [*FOREIGN[:3], "fifth"]
    assert shown(data, "--since", "2026-11-30T12:00:04Z") == ["fourth", "fifth"]
    (data / "gateway.log.1").write_text(line(0, "old").replace("2026", "1990"))
    for since in ("10m", "10min", "1.5h", "30 s", "5m ago"):
        assert "old" not in shown(data, "--since", since), since
    for level in ("WARNING", "warn", "Warning"):
        assert shown(data, "--level", level) == shown(data, "--level", "warning") != shown(data), level


@pytest.mark.parametrize(
    "text",
    [
        "Plaintext passwords detected, use nkeys or bcrypt",
        'Healthcheck failed: "failed to be ready for connections after 1ms: server"',
    ],
)
def test_a_warning_of_a_start_has_the_level_info(data: Path, text: str) -> None:
    (data / "nats/server.log").write_text(f"[18] 2026/11/30 12:00:02.500000 [WRN] {text}\n")
    assert text in shown(data)
    assert text not in shown(data, "--level", "warning")


def test_what_cannot_be_shown_is_an_error(data: Path, tmp_path: Path) -> None:
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    for folder in (empty, foreign):
        folder.mkdir()
    (empty / "servers.lock").touch()
    (foreign / "build.log").write_text("of another program\n")
    for options, text in (
        (["--data", str(empty)], "holds no log files"),
        (["--data", str(foreign)], "is no data folder of `refold up`"),
        (["--since", "10"], "write 10s, 10m"),
        (["--level", "loud"], "loud is none of debug, info"),
        (["--service", "notary"], "there are gateway, nats, postgres, projector-files"),
    ):
        found = run(data, *options)
        assert isinstance(found.exception, Refused)
        assert text in str(found.exception)


def test_torn_lines_and_texts_in_the_file_of_a_service_are_errors(data: Path) -> None:
    torn = line(6, "torn")[:40]
    crash = "Fatal Python error: Segmentation fault\n"
    (data / "gateway.log").write_text(f"{torn}{line(7, 'next')}{crash}[1]\n{line(8, 'last')[:-5]}")
    with SystemLogs(data) as logs:
        found = [each.fields for each in logs.read() if each.part == "gateway"][1:]
    assert [each["event"] for each in found] == [torn, "next", crash[:-1], "[1]", line(8, "last")[:-5]]
    assert [each["level"] for each in found] == ["error", "info", "error", "error", "error"]
    assert found[2]["time"] == "2026-11-30T12:00:07.000000000Z", "the time of the line before"


def test_every_line_is_read_once_while_the_files_grow_and_are_renamed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.embedded.process.LOG_BYTES_MAX", 2_000)
    (data / "gateway.log.1").unlink()
    log, read = LogFile(data / "gateway.log"), []
    with SystemLogs(data) as logs:
        assert len(events(logs.read(is_growing=True))) == 7
        for number in range(200):
            text = line(6, str(number)).encode()
            log.write(text[:20])
            if number % 3 == 0:
                read += events(logs.read(is_growing=True))
            log.write(text[20:])
            if number % 5 == 0:
                read += events(logs.read(is_growing=True))
        log.close()
        (data / "usage.log").write_text(line(9, "a new part", service="usage"))
        read += events(logs.read())
    assert read == [*map(str, range(200)), "a new part"]
    assert (data / "gateway.log.1").exists()
