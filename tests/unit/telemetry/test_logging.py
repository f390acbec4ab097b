"""An unwritable log stops no process: lines are dropped and counted, and the count is logged later."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from refold.telemetry.logging import LossyFile


class Disk(io.RawIOBase):
    """A file on a disk that has so many free bytes."""

    def __init__(self, free_bytes):
        self.free_bytes = free_bytes
        self.content = b""

    def write(self, data):
        self._checkClosed()
        if not self.free_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = bytes(data[: self.free_bytes])
        self.free_bytes -= len(taken)
        self.content += taken
        return len(taken)

    def tell(self):
        return len(self.content)


def dropped(line):
    written = json.loads(line)
    assert (written["event"], written["level"], written["service"]) == (
        "log_lines_dropped",
        "warning",
        "gateway",
    )
    return written["lines"]


def test_unwritable_lines_are_dropped_and_counted_once_writing_works_again():
    disk = Disk(free_bytes=10)
    log = LossyFile(lambda: disk, service="gateway")
    log.write(b"1234\n")
    for _ in range(3):
        log.write(b"lost after the first bytes\n")
    log.write(b"in pieces, ")
    log.write(b"lost too\n")
    disk.free_bytes = 10_000
    log.write(b"there again\n")
    log.write(b"and again\n")
    first, torn, notice, *rest = disk.content.decode().splitlines()
    assert (first, torn) == ("1234", "lost ")
    assert dropped(notice) == 4
    assert rest == ["there again", "and again"]


def test_the_rest_of_a_partly_dropped_line_is_not_written():
    disk = Disk(free_bytes=0)
    log = LossyFile(lambda: disk, service="gateway")
    log.write(b"half of ")
    disk.free_bytes = 10_000
    log.write(b"a line\nwhole\n")
    notice, *rest = disk.content.decode().splitlines()
    assert dropped(notice) == 1
    assert rest == ["whole"]


def test_opening_an_unopenable_file_is_retried():
    disk, failures = Disk(free_bytes=10_000), [OSError(errno.ENOSPC, "no inode")]

    def opened():
        if failures:
            raise failures.pop()
        return disk

    log = LossyFile(opened, service="gateway")
    log.write(b"one\ntwo\n")
    log.write(b"three\n")
    notice, *rest = disk.content.decode().splitlines()
    assert dropped(notice) == 2
    assert rest == ["three"]


def test_a_closed_file_drops_lines_and_raises_nothing():
    disk = Disk(free_bytes=10_000)
    log = LossyFile(lambda: disk, service="gateway")
    log.write(b"one\n")
    disk.close()
    log.write(b"two\n")
    assert disk.content == b"one\n"


@pytest.mark.parametrize("stream", ["/dev/full", "closed pipe"])
def test_a_process_whose_standard_error_cannot_be_written_keeps_running(stream):
    code = (
        "from refold.telemetry.logging import configure, get_logger\n"
        "import logging\n"
        "configure('info', service='gateway')\n"
        "for n in range(1000): get_logger().error('failed', text='x' * 1000)\n"
        "logging.getLogger('library').error('failed')\n"
        "print('went on')\n"
    )
    if stream == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(stream, os.O_WRONLY)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, check=False
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stdout) == (0, b"went on\n")
