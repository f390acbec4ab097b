"""Settings: flags override variables and defaults; secrets are never shown; errors name the setting."""

import json

import pytest

from refold.cli import alerts, serve
from refold.cli.options import make_command
from refold.core.errors import Refused
from refold.wiring.settings import (
    Settings,
    described,
    environment_without,
    handed_on,
    load,
    unknown_variables,
)

NOT_A_SERVICE_FLAG = {"url", "log_key", "log_key_before", "keys", "keys_command", "encrypt"}
"""Keys are no flags: everyone can read the arguments of a process."""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"REFOLD_{name.upper()}", raising=False)


def test_flags_override_variables_and_variables_override_defaults(monkeypatch):
    assert load().nats_port == 4222
    monkeypatch.setenv("REFOLD_NATS_PORT", "5000")
    assert load(nats_port=None).nats_port == 5000
    assert load(nats_port=6000).nats_port == 6000


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("REFOLD_NATS_PORT", "")
    assert load().nats_port == 4222


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REFOLD_HTTP", "8080"),
        ("REFOLD_HTTP", "127.0.0.1:99999"),
        ("REFOLD_NATS_PORT", "many"),
        ("REFOLD_NATS_URL", "http://h"),
        ("REFOLD_NATS_URL", "nats://a,http://b"),
        ("REFOLD_NATS_REPLICAS", "0"),
        ("REFOLD_POSTGRES_SCHEMA", "drop table"),
        ("REFOLD_CACHE_BYTES_MAX", "12"),
        ("REFOLD_DURABILITY", "maybe"),
        ("REFOLD_STATE_LAG_BYTES", "-1"),
        ("REFOLD_STATE_LAG_SECONDS", "-0.1"),
        ("REFOLD_STATE_LAG_SECONDS", "nan"),
    ],
)
def test_a_bad_variable_is_named_with_its_rule(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refused) as refused:
        load()
    assert refused.value.reason == "bad_setting"
    assert refused.value.field == variable


@pytest.mark.parametrize("name", ["nats_url", "nats_admin_url", "nats_reply_url"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_address_is_refused_as_the_client_refuses_it(name, scheme):
    with pytest.raises(Refused, match="must begin with nats:// or tls://"):
        load(**{name: f"nats://a:4222,{scheme}://b:443"})


def test_a_bad_flag_is_named_as_a_flag():
    with pytest.raises(Refused) as refused:
        load(http="8080")
    assert refused.value.field == "--http"


def test_a_bad_secret_is_not_repeated_in_the_error(monkeypatch):
    monkeypatch.setenv("REFOLD_POSTGRES_URL", "mysql://u:s3cret@h/db")
    with pytest.raises(Refused) as refused:
        load()
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in repr(refused.value.__cause__)


def test_settings_in_force_are_listed_with_source_and_without_secrets(monkeypatch):
    monkeypatch.setenv("REFOLD_NATS_URL", "nats://projector:s3cret@h:4222")
    monkeypatch.setenv("REFOLD_LOG_KEY", "s3cret" * 8)
    rows = {row["setting"]: (row["value"], row["from"]) for row in described(load())}
    assert rows["log_key"] == ("***", "REFOLD_LOG_KEY")
    assert rows["nats_url"] == ("nats://projector:***@h:4222", "REFOLD_NATS_URL")
    assert rows["http"] == ("127.0.0.1:8080", "default")


def test_the_source_of_a_setting_is_the_command_line_its_variable_or_the_default(monkeypatch):
    monkeypatch.setenv("REFOLD_DATA", "/d")
    monkeypatch.setenv("REFOLD_NATS_PORT", "1")
    monkeypatch.setenv("REFOLD_LOG_LEVEL", "error")
    # The commands pass REFOLD_DATA on as a flag.
    settings = load(data="/d", nats_port="2", wait_seconds="3", http=None)
    sources = {row["setting"]: row["from"] for row in described(settings)}
    names = ("data", "nats_port", "wait_seconds", "log_level", "http")
    expected = ["REFOLD_DATA", "command line", "command line", "REFOLD_LOG_LEVEL", "default"]
    assert [sources[name] for name in names] == expected


def test_settings_themselves_never_print_a_secret():
    assert "s3cret" not in repr(load(postgres_url="postgres://u:s3cret@h/db"))


def test_a_missing_address_is_named_by_its_variable():
    with pytest.raises(Refused, match="REFOLD_NATS_URL: must be set"):
        load().required("nats_url")


def test_a_misspelt_variable_is_found_with_the_nearest_setting(monkeypatch):
    monkeypatch.setenv("REFOLD_NATS_ULR", "nats://h")
    monkeypatch.setenv("REFOLD_XYZZY", "1")
    unknown = unknown_variables()
    assert (unknown["REFOLD_NATS_ULR"], unknown["REFOLD_XYZZY"]) == ("REFOLD_NATS_URL", "")


def test_a_child_process_receives_the_settings_with_changes(monkeypatch):
    admin = "nats://administrator:x@h"
    settings = load(
        postgres_url="postgres://u:s3cret@h/db", commit_events_max=77, data="/d", nats_admin_url=admin
    )
    given = handed_on(settings, nats_url="nats://gateway:x@h", nats_admin_url=None)
    copied = load(**json.loads(json.dumps(given)))
    assert copied.commit_events_max == 77
    assert copied.required("postgres_url") == "postgres://u:s3cret@h/db"
    assert copied.required("nats_url") == "nats://gateway:x@h"
    assert str(copied.data) == "/d"
    assert copied.nats_admin_url is None


def test_a_child_process_inherits_no_refold_variables(monkeypatch):
    monkeypatch.setenv("REFOLD_NATS_URL", "nats://u:s3cret@h")
    monkeypatch.setenv("ANOTHER", "kept")
    given = environment_without()
    assert given["ANOTHER"] == "kept"
    assert not any(name.startswith("REFOLD_") for name in given)


def test_every_setting_is_an_option_of_a_service():
    services = (serve.up, serve.projector, serve.gateway, alerts.engine)
    offered = {name for service in services for name in make_command(service).__signature__.parameters}
    assert set(Settings.model_fields) - offered == NOT_A_SERVICE_FLAG


def test_an_option_of_a_service_has_the_description_of_its_setting():
    option = make_command(serve.up).__signature__.parameters["commit_events_max"].annotation.__metadata__[0]
    setting = Settings.model_fields["commit_events_max"]
    assert option.help == f"{setting.description} Default: {setting.default}"
