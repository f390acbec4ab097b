"""A service logs why it exited, and never a secret."""

import asyncio
import json
import logging
import os
import signal

import pytest
import structlog

from refold.core.errors import LogHole, Refused
from refold.wiring.service import hand_work, start, start_process, stop_on_signals, working


@pytest.fixture
def lines(capsys):
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.reset_defaults()
    logging.basicConfig(force=True)
    logging.captureWarnings(capture=False)


def test_a_fatal_error_is_the_last_log_line_with_code_and_facts(lines):
    async def run(settings):
        raise LogHole(sequence=7)

    with pytest.raises(LogHole):
        start("projector", run)
    last = lines()[-1]
    assert (last["event"], last["code"], last["service"]) == ("service_ended", "log_hole", "projector")
    assert "sequence=7" in last["error"]


def test_a_crash_is_logged_with_its_stack_and_without_its_secrets(lines):
    async def run(settings):
        raise RuntimeError("postgres://u:s3cret@h")

    with pytest.raises(SystemExit) as ended:
        start("gateway", run)
    assert ended.value.code == 1
    (line,) = lines()
    assert line["event"] == "service_crashed"
    assert "RuntimeError" in line["exception"]
    assert "s3cret" not in json.dumps(line)


def test_a_misspelt_variable_logs_a_warning(lines, monkeypatch):
    monkeypatch.setenv("REFOLD_NATS_ULR", "nats://h")

    async def run(settings):
        pass

    start("gateway", run)
    assert [(line["event"], line["variable"], line["nearest"]) for line in lines()] == [
        ("variable_unknown", "REFOLD_NATS_ULR", "REFOLD_NATS_URL")
    ]


def test_an_invalid_setting_prevents_the_start(monkeypatch):
    monkeypatch.setenv("REFOLD_HTTP", "nonsense")
    with pytest.raises(Refused):
        start("gateway", None)


async def test_a_service_imports_nothing_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "uvloop.py").write_text("raise RuntimeError('of the working folder')")
    monkeypatch.chdir(tmp_path)
    process = start_process("gateway")
    hand_work(process, tmp_path / "gateway.log", {"http": "nonsense"})
    assert await asyncio.wait_for(process.ended(), 30) == 1
    assert "of the working folder" not in process.failure("ended").message


async def test_the_error_of_a_crashed_service_shows_its_traceback_in_lines(tmp_path):
    process = start_process("gateway")
    hand_work(process, tmp_path / "gateway.log", {"nats_url": "nats://127.0.0.1:1"}, unknown=1)
    assert await asyncio.wait_for(process.ended(), 30) == 1
    last = (tmp_path / "gateway.log").read_text().splitlines()[-1]
    traceback = json.loads(last)["exception"].splitlines()
    said = process.failure("ended").message.splitlines()
    assert len(traceback) > 2
    assert said[-len(traceback) :] == [f"    {line}" for line in traceback]


async def test_sighup_stops_a_service_unless_nohup_ignores_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = stop_on_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stop = stop_on_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(stop.wait(), 5)
    finally:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)


async def test_work_has_ended_when_its_block_fails():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail():
        async with working(work(), stop, name="work"):
            await begun.wait()
            raise OSError("no port")

    stop = asyncio.Event()
    with pytest.raises(OSError, match="no port"):
        await fail()
    assert ended.is_set()
    assert stop.is_set()


async def test_a_block_is_stopped_when_its_work_fails():
    async def work():
        raise LogHole(sequence=7)

    stop = asyncio.Event()
    with pytest.raises(LogHole):
        async with working(work(), stop, name="work"):
            await stop.wait()
