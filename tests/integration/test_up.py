"""`refold up` as a process: it starts, restarts and drains its services and reports errors."""

import asyncio
import json
import signal
import socket
import stat
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from refold.client import Refold
from refold.core.errors import RefoldError
from refold.embedded import read_endpoints, running_settings
from support.contracts import contract
from support.metrics import SEVERAL_STORES, check_metrics
from support.system import free_port
from support.up import Up, run_refold, until


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up.start(tmp_path_factory.mktemp("up") / "data")
    yield running
    if running.process.poll() is None:
        running.stop()


async def written(url, document, state):
    """Write until it is folded: a restarting service may refuse or delay meanwhile."""
    async with Refold(url) as refold, asyncio.timeout(60):
        while True:
            with suppress(RefoldError):
                outcome = await refold.put("acme", document, state)
                if outcome.is_effective:
                    return outcome
            await asyncio.sleep(0.05)


def test_up_prints_a_line_per_service_and_then_the_addresses(up):
    lines = up.said().splitlines()
    assert [line.split()[0] for line in lines] == [
        "postgres",
        "nats",
        "log",
        "projector",
        "gateway",
        "commands",
        "ready",
    ]
    assert f"--data {up.data}" in lines[-2]
    assert f"REFOLD_DATA={up.data}" in lines[-2]
    endpoints = up.endpoints()
    assert endpoints["http"] in lines[-1]
    assert endpoints["nats"] in lines[-1]
    addresses = {"http", "nats", "nats_monitor", "postgres", "probe", "services", "stores"}
    assert set(endpoints) == addresses | {"storage"}


def test_a_first_start_logs_no_warning(up):
    found = run_refold("logs", "--data", str(up.data), "--level", "warning")
    slow = ("append_slow", "commit_slow", "read_slow", "loop_blocked")
    assert [line for line in found.stdout.splitlines() if not any(name in line for name in slow)] == []
    assert found.returncode == 0


def test_every_service_answers_its_probes_and_metrics_where_up_says(up):
    endpoints = up.endpoints()
    services = endpoints["services"]
    assert services == {"projector": endpoints["probe"], "gateway": endpoints["http"]}
    for url in services.values():
        assert f"{url}/metrics" in up.said()
        for path in ("/healthz", "/readyz", "/metrics"):
            assert httpx.get(url + path, trust_env=False).status_code == 200
    check_metrics(services, missing=SEVERAL_STORES)
    monitor = f"{endpoints['nats_monitor']}/varz"
    assert monitor in up.said()
    assert httpx.get(monitor, trust_env=False).json()["port"] == urlsplit(endpoints["nats"]).port


def test_no_output_command_line_or_log_contains_a_password(up):
    password = up.endpoints()["postgres"].split(":")[2].split("@")[0]
    assert password not in up.said()
    for process in up.children():
        assert password not in " ".join(process.cmdline())
    for name in ("projector.log", "gateway.log"):
        assert password not in (up.data / name).read_text()
    assert stat.S_IMODE((up.data / "endpoints.json").stat().st_mode) == 0o600


def test_up_listens_only_on_loopback(up):
    addresses = {
        connection.laddr.ip
        for process in [*up.children(), psutil.Process(up.process.pid)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["gateway", "projector", "nats-server", "postgres"])
async def test_a_killed_service_is_restarted_and_nothing_is_lost(up, name):
    before = await written(up.url, "survivor", {"before": name})
    killed = up.child(name)
    killed.kill()
    until(lambda: not killed.is_running())
    until(lambda: any(it.pid != killed.pid and name in str(it.cmdline()) for it in up.children()))
    after = await written(up.url, "survivor", {"after": name})
    assert after.version > before.version
    async with Refold(up.url) as refold:
        assert (await refold.get("acme", "survivor", version=before.version)).state == {"before": name}


def test_a_second_up_in_the_same_folder_is_refused(up):
    # Its ports are in use too, but the folder is the reported reason.
    port = up.endpoints()["nats"].rpartition(":")[2]
    found = run_refold("up", "--data", str(up.data), "--http", urlsplit(up.url).netloc, "--nats-port", port)
    assert found.returncode == 1
    assert "data_folder_in_use" in found.stderr
    assert str(up.process.pid) in found.stderr


def test_a_data_folder_that_is_a_file_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.touch()
    found = run_refold("up", "--data", str(path), "--http", "127.0.0.1:0", "--nats-port", "0")
    assert found.returncode == 1
    assert "the data folder cannot be used: it is not a folder" in found.stderr
    assert "Errno" not in found.stderr


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """Return a data folder for one system after another, whose database is made only once."""
    return tmp_path_factory.mktemp("used") / "data"


@pytest.mark.parametrize("flag", ["--http", "--probe", "--nats-port", "--postgres-port"])
def test_a_port_in_use_is_a_clear_error(used, flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--http": "127.0.0.1:0", "--nats-port": "0"}
        ports[flag] = f"127.0.0.1:{port}" if flag in {"--http", "--probe"} else str(port)
        arguments = [text for pair in ports.items() for text in pair]
        found = run_refold("up", "--data", str(used), *arguments)
    assert found.returncode == 1
    assert "port_taken" in found.stderr
    assert str(port) in found.stderr


def test_every_log_line_is_of_a_described_event_with_its_fields(up):
    described = {each["event"]: each for each in contract("log.json")["events"]}
    always = contract("log.json")["always"].keys()
    lines = [
        json.loads(line)
        for name in ("projector.log", "gateway.log", "up.log")
        for line in (up.data / name).read_text().splitlines()
    ]
    assert {"listening", "projector_working", "broker_disconnected"} <= {line["event"] for line in lines}
    for line in lines:
        assert always <= line.keys()
        if "library" not in line:
            fields = {*described[line["event"]]["fields"], *contract("log.json")["of_request"]}
            assert line.keys() - always <= fields, line
            assert line["level"] in described[line["event"]]["levels"], line


def test_the_log_is_printed_beside_the_running_system(up):
    found = run_refold("logs", "--data", str(up.data), "--json")
    assert found.returncode == 0
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert {line["service"] for line in lines} == {"gateway", "nats", "postgres", "projector", "up"}
    events = {(line["service"], line["event"]) for line in lines}
    assert {("projector", "listening"), ("gateway", "listening"), ("nats", "Server is ready")} <= events
    assert None not in {line["time"] for line in lines}
    assert [line["time"][:22] for line in lines] == sorted(line["time"][:22] for line in lines)


def own_log(up):
    """What `refold up` itself has logged: event and part of each line, and the line."""
    lines = [json.loads(line) for line in (up.data / "up.log").read_text().splitlines()]
    return [((line["event"], line.get("part")), line) for line in lines]


def test_the_start_and_what_was_restarted_and_why_are_in_the_log(up):
    lines = own_log(up)
    events = [event for event, _ in lines]
    assert events[0] == ("system_starting", None)
    parts = ["postgres", "nats", "projector", "gateway"]
    assert events[1:6] == [*(("part_started", part) for part in parts), ("system_ready", None)]
    for part in parts:
        (reason,) = [line["reason"] for event, line in lines if event == ("part_ended", part)]
        assert reason == "ended (signal 9)"
        assert events.count(("part_started", part)) == 2
    assert lines[5][1]["http"] == up.url
    found = run_refold("logs", "--data", str(up.data), "--service", "up", "--event", "part_ended")
    assert "up          warning   part_ended  part=gateway" in found.stdout


async def test_a_stop_leaves_nothing_running_and_a_restart_has_all_data(up):
    outcome = await written(up.url, "kept", {"a": 1})
    children, endpoints = up.children(), up.endpoints()
    assert up.stop(signal.SIGINT) == 0
    assert up.said().splitlines()[-1] == "stopped"
    assert own_log(up)[-1][0] == ("system_stopped", None)
    assert [child for child in children if child.is_running()] == []
    assert not (up.data / "endpoints.json").exists()
    again = Up.start(up.data, "--durability", "os")
    assert "durability os" in again.said()
    assert again.endpoints() == endpoints, "all ports are those of the start before"
    async with Refold(again.url) as refold:
        found = await refold.get("acme", "kept")
    assert (found.state, found.version) == ({"a": 1}, outcome.version)
    children = again.children()
    again.kill()
    until(lambda: not any(child.is_running() for child in children))
    assert (up.data / "endpoints.json").exists()
    assert read_endpoints(up.data) == {}, "the endpoints of a killed run are stale"
    after_kill = Up.start(up.data)
    assert after_kill.stop() == 0


def test_commands_find_a_running_system_and_sighup_ends_it(used):
    port = free_port()
    running = Up.start(used, "--durability", "os", "--postgres-port", str(port))
    assert urlsplit(running.endpoints()["postgres"]).port == port
    assert read_endpoints(running.data) == running.endpoints()
    found = run_refold("config", "--running", "--data", str(running.data), "--json")
    assert json.loads(found.stdout) == running_settings(running.data)
    found = run_refold("psql", "--", "-Atc", "SELECT 40 + 2", REFOLD_DATA=str(running.data))
    assert (found.returncode, found.stdout) == (0, "42\n"), found.stderr
    shown = {row["setting"]: (row["value"], row["from"]) for row in running_settings(running.data)}
    assert shown["postgres_port"] == (str(port), "command line")
    assert shown["durability"] == ("os", "command line")
    assert shown["log_level"][1] == "default"
    status = run_refold("status", "--data", str(running.data)).stdout.splitlines()
    assert f"nats    {running.endpoints()['nats']}" in status
    assert running.stop(signal.SIGHUP) == 0
    assert not (running.data / "endpoints.json").exists()
    assert not (running.data / "settings.json").exists()


def test_up_exits_and_names_a_service_that_keeps_dying(used):
    running = Up.start(used, "--durability", "os")
    for _ in range(5):
        gateway = until(lambda: _child(running, "gateway"))
        gateway.kill()
        until(lambda killed=gateway: not killed.is_running())
    assert running.process.wait(60) == 1
    assert "gateway died 5 times" in running.said()
    *_, (_, ended), (stopped, _) = own_log(running)
    assert (ended["event"], ended["level"], ended["code"]) == ("service_ended", "critical", "child_failed")
    assert "gateway died 5 times" in ended["error"]
    assert stopped == ("system_stopped", None)
    assert not (running.data / "endpoints.json").exists()


def _child(running, name):
    try:
        return running.child(name)
    except (ValueError, psutil.NoSuchProcess):
        return None
