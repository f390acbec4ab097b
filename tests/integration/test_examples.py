"""Every example runs unchanged and prints what it promises."""

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from support.prometheus import program
from support.up import Up, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "quickstart.py": ("http", "applied is version 3"),
    "publish_with_nats.py": ("nats", "'status': 'applied'"),
    "time_travel.py": ("http", "in 2000 it was 1.0"),
    "strict_write.py": ("http", "conflict"),
    "bulk.py": ("http", "1000 of 1000 took a version"),
    "follow_changes.py": ("http", "version 3 by example"),
    "read_model.py": ("http", "order-1 is at version 2 with a total of 12"),
}
SCRIPTS = ("01_basic_state_sync/main.py", "02_collaborative_editing/main.py")
"""Examples that start a system of their own."""
STORAGE = "05_storage_backends/main.py"
HANDLERS = "07_enhanced_event_handlers/main.py"
PERFORMANCE = "08_performance_optimization/main.py"
MONITORING = "06_monitoring_observability/main.py"
MEASURING = "03_realtime_dashboard/main.py"


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up.start(tmp_path_factory.mktemp("examples") / "data", "--durability", "os")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module", autouse=True)
def measuring():
    """Start the example that records for seconds, beside the others."""
    command = [sys.executable, str(EXAMPLES / MEASURING)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as process:
        yield process
        process.kill()


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == SHOWN.keys()
    assert {path.parent.name for path in EXAMPLES.glob("0*/*")} == {
        name.split("/")[0] for name in (*SCRIPTS, MEASURING, STORAGE, MONITORING, HANDLERS, PERFORMANCE)
    }


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_promises(up, name):
    endpoint, promised = SHOWN[name]
    assert promised in run(name, up.endpoints()[endpoint])


def test_the_read_model_continues_where_it_ended_and_begins_again_with_another_log(up, tmp_path):
    file, url = tmp_path / "model.db", up.endpoints()["http"]
    versions = []
    for before in ("", "", "UPDATE position SET cursor = '00000000@1'; UPDATE documents SET version = 1000"):
        with closing(sqlite3.connect(file)) as rows:
            rows.executescript(before)
        versions.append(int(run("read_model.py", url, str(file)).split()[4]))
    assert versions == [versions[0], versions[0] + 2, versions[0] + 4]


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_with_its_own_system_prints_what_its_readme_shows(name):
    assert f"```\n{run(name).strip()}\n```\n" in readme_of(name)


def test_an_example_that_measures_prints_what_its_readme_shows_but_for_the_figures(measuring):
    printed, errors = measuring.communicate(timeout=120)
    assert measuring.returncode == 0, errors
    assert f"```\n{without_figures(printed).strip()}\n```\n" in without_figures(readme_of(MEASURING))


@pytest.mark.slow
def test_the_stores_example_prints_what_its_readme_shows_but_for_the_figures():
    if shutil.which("redis-server") is None:
        pytest.skip("capability: the server is not installed")
    assert f"```\n{without_figures(run(STORAGE)).strip()}\n```\n" in without_figures(readme_of(STORAGE))


@pytest.mark.slow
def test_the_monitoring_example_prints_what_its_readme_shows_but_for_what_commands_find():
    """It also checks that the metrics have the clients' counts, and that each alert fires and resolves once."""
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    shown = without_findings(run(MONITORING).strip() + "\n")
    assert f"```\n{shown}```\n" in without_findings(readme_of(MONITORING))


@pytest.mark.slow
@pytest.mark.parametrize("name", [HANDLERS, PERFORMANCE])
def test_a_long_example_prints_what_its_readme_shows_but_for_the_figures(name):
    """That of the handlers also checks that every acknowledged change is there, once."""
    assert f"```\n{without_figures(run(name)).strip()}\n```\n" in without_figures(readme_of(name))


@pytest.mark.slow
def test_the_stores_example_says_what_it_leaves_out_where_no_redis_is_installed(tmp_path):
    shown = run(STORAGE, PATH=str(tmp_path))
    assert "Redis is left out: neither redis-server nor valkey-server is installed" in shown
    assert "into 2 stores" in shown


def without_figures(text):
    return re.sub(" {2,}", "  ", re.sub(r" *\d[\d.,]*", " 0", re.sub("[▁-█]+", "▁", text)))


def without_findings(text):
    """Leave out what commands print that look at a moment, and figures."""
    commands = r"(\$ refold (?:logs|top|profile|status)\b.*\n)(?: {4}.*\n)*"
    return without_figures(re.sub(commands, r"\1", text))


def readme_of(name):
    return (EXAMPLES / name).with_name("README.md").read_text()


def run(name, *arguments, **variables):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    found = subprocess.run(
        command, capture_output=True, text=True, env=environment(**variables), timeout=600, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout
