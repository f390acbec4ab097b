"""What a service logs is read to its end whatever the disk does: a service never waits for its log."""

import asyncio
import sys
from pathlib import Path

from refold.wiring.service_process import ServiceProcess

UNUSED = ("127.0.0.1", 1)
LOGGING = "import sys; sys.stdin.read(); sys.stderr.write('a line\\n' * 100_000)"


async def test_a_service_that_logs_more_than_a_pipe_holds_ends_while_its_log_cannot_be_written():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOGGING, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    service = ServiceProcess("gateway", process)
    service.hand({}, Path("/dev/full"), UNUSED)
    assert await asyncio.wait_for(service.ended(), 30) == 0
    assert "a line" in service.failure("ended").message


async def test_a_service_whose_log_cannot_even_be_opened_runs():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOGGING, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    service = ServiceProcess("gateway", process)
    service.hand({}, Path("/no folder/gateway.log"), UNUSED)
    assert await asyncio.wait_for(service.ended(), 30) == 0
