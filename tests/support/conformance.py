"""Runs schemathesis, a program of its own, against a running gateway, every check on. Reports its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from support.sources import ROOT

_CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """The result of one run; `said` is its output."""

    exit_code: int
    seconds: float
    operations: int
    cases: int
    failures: int
    errors: int
    accepted: int
    said: str


def hold_to_openapi(
    url: str, *, examples: int, seed: int, phases: str = "coverage,fuzzing,stateful"
) -> Conformance:
    """Try every operation that the document served there names; `examples` a phase and operation."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIGURATION)),
            *("run", f"{url}/openapi.json", "--phases", phases),
            *("--max-examples", str(examples), "--seed", str(seed)),
            *("--report", "json", "--report-json-path", str(report)),
        ]
        given = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "NO_PROXY": "*"}
        done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)
        assert report.exists(), done.stdout + done.stderr
        found = json.loads(report.read_bytes())
    rates = [rate for phases in found["valid_rates"].values() for rate in phases.values()]
    return Conformance(
        exit_code=done.returncode,
        seconds=found["running_time"],
        operations=found["operations"]["tested"],
        cases=found["test_cases"]["generated"],
        failures=len(found["failures"]),
        errors=len(found["errors"]),
        accepted=sum(rate["accepted"] for rate in rates),
        said=done.stdout,
    )
