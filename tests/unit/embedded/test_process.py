"""A child process: its log is always drained, its log file is bounded, a port is chosen."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from refold.core.errors import PortTaken
from refold.embedded import process as module
from refold.embedded.folder import open_folder
from refold.embedded.process import LOOPBACK, Command, LogFile, Process, choose_port

LOGGING = "import sys; sys.stdin.read(); sys.stderr.write('a line\\n' * 100_000)"


def child(code=LOGGING):
    return Process(
        Command(name="gateway", arguments=(sys.executable, "-c", code), environment=dict(os.environ))
    )


async def test_a_service_that_logs_more_than_a_pipe_holds_ends_while_its_log_cannot_be_written():
    process = child()
    process.hand(b"{}", Path("/dev/full"))
    assert await asyncio.wait_for(process.ended(), 30) == 0
    assert "a line" in process.failure("ended").message


async def test_a_service_whose_log_cannot_even_be_opened_runs():
    process = child()
    process.hand(b"{}", Path("/no folder/gateway.log"))
    assert await asyncio.wait_for(process.ended(), 30) == 0


async def test_a_child_that_exits_before_it_reads_its_input_is_reported():
    process = child("import sys; sys.exit(3)")
    assert await asyncio.wait_for(process.ended(), 30) == 3
    process.hand(b"{}" * 100_000, Path("/dev/null"))
    assert await asyncio.wait_for(process.ended(), 30) == 3


async def test_a_child_that_ignores_its_signal_is_killed():
    process = child("import signal, sys, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)")
    await process.stop(wait_seconds=0.5)
    assert process.exit_code is not None


def test_a_full_log_file_is_rotated_and_one_old_file_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_BYTES_MAX", 10)
    path = tmp_path / "gateway.log"
    log = LogFile(path)
    for chunk in (b"first line\n", b"second\n", b"third, not", b" ended yet\n", b"last\n"):
        log.write(chunk)
    log.close()
    assert path.read_bytes() == b"last\n"
    assert path.with_name("gateway.log.1").read_bytes() == b"second\nthird, not ended yet\n"
    assert log.tail.endswith(b"last\n")


def test_a_chosen_port_is_free_and_a_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            choose_port("127.0.0.1", port)


def test_no_outgoing_connection_takes_a_chosen_port():
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first, last = map(int, outgoing.read_text().split()) if outgoing.exists() else (32_768, 65_535)
    ports = {choose_port("127.0.0.1") for _ in range(20)}
    assert len(ports) > 1
    assert not any(first <= port <= last for port in ports)


async def test_a_port_of_the_last_start_is_chosen_again_where_it_is_free(tmp_path):
    with await open_folder(tmp_path) as folder:
        ports = {name: folder.choose_port(name, LOOPBACK) for name in "ab"}
        assert folder.choose_port("a", LOOPBACK, port=ports["b"]) == ports["b"], "a given port is not changed"
    with await open_folder(tmp_path) as folder, socket.create_server((LOOPBACK, ports["a"])):
        assert folder.choose_port("b", LOOPBACK) == ports["b"]
        assert folder.choose_port("a", LOOPBACK) not in ports.values()


def test_a_host_that_is_not_local_is_refused_with_the_reason():
    with pytest.raises(PortTaken, match="cannot listen"):
        choose_port("192.0.2.1", 8080)
