"""No secret leaves the process: redaction of values, texts and log lines."""

import io
import json
import logging

import pytest
import structlog

from refold.telemetry import HIDDEN, redacted, redacted_text
from refold.telemetry.logging import configure, get_logger


@pytest.fixture
def lines():
    stream = io.StringIO()
    configure("info", service="projector", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.basicConfig(force=True)
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://gateway:s3cret@127.0.0.1:4222", f"nats://gateway:{HIDDEN}@127.0.0.1:4222"),
        ("postgresql://u:p%40ss@h:5432/db?sslmode=off", f"postgresql://u:{HIDDEN}@h:5432/db?sslmode=off"),
        ("two: nats://a:b@h nats://c:d@h", f"two: nats://a:{HIDDEN}@h nats://c:{HIDDEN}@h"),
        ("nats://only-a-token@h:4222", f"nats://{HIDDEN}@h:4222"),
        ("host=h password=s3cret user=u", f"host=h password={HIDDEN} user=u"),
        ("http://127.0.0.1:8080/v1/acme/a@b", "http://127.0.0.1:8080/v1/acme/a@b"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_a_text_is_shown_without_its_passwords(text, shown):
    assert redacted_text(text) == shown


@pytest.mark.parametrize(
    "key", ["password", "PGPASSWORD", "secret", "api_key", "auth_token", "dsn", "cookie"]
)
def test_a_member_with_a_secret_name_is_hidden_at_any_depth(key):
    assert redacted({"outer": [{key: "s3cret"}]}) == {"outer": [{key: HIDDEN}]}


def test_other_values_are_not_redacted():
    facts = {"sequence": 7, "seconds": 0.25, "is_new": True, "why": None, "passes": "two"}
    assert redacted(facts) == facts


def test_a_log_line_never_holds_a_secret(lines):
    get_logger().info("connected", url="nats://u:s3cret@h", password="s3cret", nested={"dsn": "s3cret"})
    assert "s3cret" not in json.dumps(lines())


def test_an_exception_does_not_log_a_secret(lines):
    try:
        raise ValueError("cannot connect to postgres://u:s3cret@h/db")
    except ValueError:
        get_logger().exception("failed")
    assert lines()[0]["level"] == "error"
    assert "ValueError" in lines()[0]["exception"]
    assert "s3cret" not in json.dumps(lines())


def test_other_libraries_lines_are_json_without_secrets_too(lines):
    logging.getLogger("nats.client").warning("lost %s", "nats://u:s3cret@h")
    (line,) = lines()
    assert line["library"] == "nats.client"
    assert line["event"] == f"lost nats://u:{HIDDEN}@h"
    assert line["service"] == "projector"


def test_a_line_below_the_level_is_not_written(lines):
    get_logger().debug("detail")
    assert lines() == []


def test_a_line_begins_with_time_level_and_service(lines):
    get_logger().bind(partition=3).info("commit_written", events=12)
    (line,) = lines()
    assert list(line)[:5] == ["time", "level", "service", "instance", "event"]
    assert (line["partition"], line["events"]) == (3, 12)
