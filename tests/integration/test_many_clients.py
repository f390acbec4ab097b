"""Clients that keep connections, waits or bodies open, over raw sockets, on a gateway of their own."""

from __future__ import annotations

import http.client
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest

from support.system import Service, System, free_port, start_service, wait_ready

DEADLINE_SECONDS = 30
CONNECTIONS = 1_100
"""More connections than an earlier gateway accepted in total."""

SETTINGS = {
    "http_idle_seconds": "20",
    "http_body_seconds": "1",
    "http_waiting_max": "1250",
    "http_waiting_per_client_max": "1200",
}
NDJSON = b"Content-Type: application/x-ndjson\r\n"


class ManyClients(NamedTuple):
    """A gateway with small bounds, and a namespace of the test's own."""

    port: int
    namespace: str
    service: Service

    def get(self, path: str) -> tuple[int, bytes]:
        """Send a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def open(self, sent: bytes, address: str = "127.0.0.1") -> socket.socket:
        """Open a connection from an address and send bytes on it."""
        opened = socket.create_connection(
            ("127.0.0.1", self.port), timeout=DEADLINE_SECONDS, source_address=(address, 0)
        )
        opened.sendall(sent)
        return opened

    def put(self, document: str, headers: bytes, body: bytes) -> bytes:
        """Return the bytes of a PUT."""
        path = f"/v1/{self.namespace}/{document}".encode()
        head = b"PUT " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return head + headers + b"\r\n" + body

    def append(self, headers: bytes, body: bytes) -> bytes:
        """Return the bytes of a bulk request."""
        path = f"/v1/{self.namespace}/events".encode()
        return b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + NDJSON + headers + b"\r\n" + body

    def wait_for(self, version: int) -> bytes:
        """Return the bytes of a read that waits."""
        path = f"/v1/{self.namespace}/d?min_version={version}&timeout=300".encode()
        return b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def waiting(self) -> int:
        """Return the number of waiting requests from the metrics."""
        lines = self.get("/metrics")[1].decode().splitlines()
        (line,) = (line for line in lines if line.startswith("refold_http_requests_waiting "))
        return int(float(line.split()[1]))

    def until_waiting(self, count: int) -> None:
        """Wait until so many requests wait."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := self.waiting()) != count:
            assert time.monotonic() < deadline, f"{found} requests wait, not {count}"
            time.sleep(0.05)

    def assert_answers(self) -> None:
        """Send the requests that must always be answered."""
        for path in (f"/v1/{self.namespace}/d", "/healthz", "/readyz", "/metrics"):
            assert self.get(path)[0] == 200, path


@pytest.fixture(scope="module")
def gateway(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManyClients]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    port, namespace = free_port(), system.namespace()
    given = {
        f"REFOLD_{name.upper()}": value for name, value in {**SETTINGS, "http": f"127.0.0.1:{port}"}.items()
    }
    log = tmp_path_factory.mktemp("many-clients") / "gateway.log"
    service = start_service("gateway", {**system.gateway_environment, **given}, log)
    try:
        wait_ready(f"http://127.0.0.1:{port}", {"gateway": service})
        clients = ManyClients(port, namespace, service)
        with clients.open(clients.put("d", b"Content-Length: 2\r\n", b"{}")) as opened:
            assert received(opened)[0] == 201
        yield clients
    finally:
        service.process.kill()
        service.process.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def received(opened: socket.socket) -> tuple[int, bytes]:
    """Read one answer."""
    answer = http.client.HTTPResponse(opened)
    answer.begin()
    return answer.status, answer.read()


def problem(opened: socket.socket) -> tuple[int, str]:
    """Read an answer that is a problem: its status and code."""
    status, body = received(opened)
    return status, str(orjson.loads(body)["code"])


def ends(opened: socket.socket) -> bool:
    """Read until the peer closes."""
    while opened.recv(65_536):
        pass
    return True


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /v1", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["silent", "half a request line", "kept alive"],
)
def test_idle_connections_do_not_block_other_clients(gateway: ManyClients, sent: bytes) -> None:
    with ExitStack() as connections:
        for _ in range(CONNECTIONS):
            connections.enter_context(gateway.open(sent))
        gateway.assert_answers()


def test_half_sent_bodies_do_not_block_other_clients(gateway: ManyClients) -> None:
    with ExitStack() as connections:
        for _ in range(CONNECTIONS):
            connections.enter_context(gateway.open(gateway.put("e", b"Content-Length: 9\r\n", b"1")))
        gateway.assert_answers()
    gateway.until_waiting(0)


def test_waiting_reads_do_not_block_other_clients_and_end_when_their_clients_disconnect(
    gateway: ManyClients,
) -> None:
    with ExitStack() as connections:
        for _ in range(CONNECTIONS):
            connections.enter_context(gateway.open(gateway.wait_for(99)))
        gateway.until_waiting(CONNECTIONS)
        gateway.assert_answers()
    gateway.until_waiting(0)


def test_waiting_reads_are_bounded_per_client_and_in_total(gateway: ManyClients) -> None:
    with ExitStack() as connections:
        for number in range(1_250):
            address = "127.0.0.1" if number < 1_200 else "127.0.0.2"
            connections.enter_context(gateway.open(gateway.wait_for(99), address))
        gateway.until_waiting(1_250)
        with gateway.open(gateway.wait_for(99)) as opened:
            answer = http.client.HTTPResponse(opened)
            answer.begin()
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert orjson.loads(answer.read())["code"] == "too_many_waiting"
        with gateway.open(gateway.wait_for(99), "127.0.0.2") as opened:
            assert problem(opened) == (503, "busy")
        gateway.assert_answers()
    gateway.until_waiting(0)


def test_a_waiting_read_is_answered_when_its_version_exists(gateway: ManyClients) -> None:
    with ExitStack() as connections:
        waiting = [connections.enter_context(gateway.open(gateway.wait_for(2))) for _ in range(50)]
        gateway.until_waiting(50)
        with gateway.open(gateway.put("d", b"Content-Length: 2\r\n", b"{}")) as opened:
            assert received(opened)[0] == 200
        assert [received(opened) for opened in waiting] == [(200, b"{}")] * 50


def test_a_stalled_body_is_aborted_and_a_slow_steady_one_is_not(gateway: ManyClients) -> None:
    with gateway.open(gateway.put("e", b"Content-Length: 9\r\n", b"1")) as opened:
        assert problem(opened) == (408, "body_timeout")
        assert ends(opened)
    with gateway.open(gateway.put("e", b"Content-Length: 5\r\n", b"")) as opened:
        for digit in b"12345":
            # Each pause is below the bound; their sum is above it.
            time.sleep(0.25)
            opened.sendall(bytes([digit]))
        assert received(opened)[0] == 201


def test_stalled_bulk_uploads_are_aborted_and_others_admitted(gateway: ManyClients) -> None:
    line = b'{"doc":"bulk","put":1}\n'
    with ExitStack() as connections:
        stalled = [
            connections.enter_context(
                gateway.open(gateway.append(b"Content-Length: 999\r\n", line if number else b""))
            )
            for number in range(40)
        ]
        with gateway.open(gateway.append(b"Content-Length: %d\r\n" % len(line), line)) as opened:
            status, body = received(opened)
            assert (status, orjson.loads(body)["status"]) == (200, "applied")
        assert problem(stalled[0]) == (408, "body_timeout")
        status, body = received(stalled[1])
        first, last = (orjson.loads(line) for line in body.splitlines())
        assert (status, first["status"]) == (200, "applied")
        assert (last["line"], last["status"], last["reason"]) == (2, "refused", "body_timeout")


def test_a_connection_that_sends_no_headers_is_closed(
    gateway: ManyClients, system: System, tmp_path: Path
) -> None:
    port = free_port()
    given = {"REFOLD_HTTP": f"127.0.0.1:{port}", "REFOLD_HTTP_IDLE_SECONDS": "1"}
    service = start_service("gateway", {**system.gateway_environment, **given}, tmp_path / "gateway.log")
    try:
        wait_ready(f"http://127.0.0.1:{port}", {"gateway": service})
        short = ManyClients(port, gateway.namespace, service)
        with ExitStack() as connections:
            silent = {
                sent: connections.enter_context(short.open(sent))
                for sent in (b"", b"GET /v1", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            }
            for sent, opened in silent.items():
                assert ends(opened), sent
    finally:
        service.process.kill()
        service.process.wait()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 9\r\n", b"1"),
        (b"Content-Length: 9\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n12"),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n12\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"1\r\n1\r\nzz\r\n"),
    ],
)
def test_a_truncated_or_malformed_body_is_400_and_publishes_nothing(
    gateway: ManyClients, headers: bytes, body: bytes
) -> None:
    with gateway.open(gateway.put("cut", headers, body)) as opened:
        opened.shutdown(socket.SHUT_WR)
        assert problem(opened) == (400, "body_incomplete")
    assert gateway.get(f"/v1/{gateway.namespace}/cut")[0] == 404


def test_a_truncated_bulk_request_is_answered_up_to_its_end(gateway: ManyClients) -> None:
    with gateway.open(gateway.append(b"Content-Length: 99\r\n", b'{"doc":"d2","put":1}\n{"doc')) as opened:
        opened.shutdown(socket.SHUT_WR)
        _, body = received(opened)
    first, last = (orjson.loads(line) for line in body.splitlines())
    assert first["status"] == "applied"
    assert (last["line"], last["status"], last["reason"]) == (2, "refused", "body_incomplete")


def test_a_connection_serves_several_requests(gateway: ManyClients) -> None:
    with gateway.open(b"") as opened:
        for number in range(3):
            opened.sendall(gateway.put("kept", b"Content-Length: 1\r\n", b"%d" % number))
            assert received(opened)[0] in (200, 201)


def test_clients_that_disconnect_during_a_request_log_no_traceback(gateway: ManyClients) -> None:
    for _ in range(20):
        gateway.open(gateway.put("left", b"Content-Length: 9\r\n", b"1")).close()
        gateway.open(gateway.append(b"Content-Length: 99\r\n", b'{"doc"')).close()
        gateway.open(gateway.wait_for(99)).close()
    gateway.until_waiting(0)
    lines = [orjson.loads(line) for line in gateway.service.log.read_bytes().splitlines()]
    assert not [line for line in lines if line["level"] in ("error", "critical") or "exception" in line]
