"""The examples of the README run unchanged against a real system."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.system import System

README = Path(__file__).parents[2] / "README.md"
SHOWN_URL = "http://127.0.0.1:8080"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def _here(text: str, system: System) -> str:
    """Point an example to the test's system, in a namespace of its own."""
    return text.replace(SHOWN_URL, system.url).replace("acme", "readme")


def test_the_python_example_prints_what_its_comments_promise(system: System) -> None:
    (example,) = _blocks("python")
    run = subprocess.run(
        [sys.executable, "-c", _here(example, system)], capture_output=True, text=True, check=True, timeout=60
    )
    printed = run.stdout.splitlines()
    promised = re.findall(r"# (.+)$", example, re.MULTILINE)
    assert len(printed) == len(promised) == 3
    for line, promise in zip(printed, promised, strict=True):
        assert line.startswith(promise.partition("…")[0].strip()), (line, promise)


def test_the_shell_example_writes_strictly_and_reads_the_past(system: System) -> None:
    shell = next(block for block in _blocks("sh") if "curl" in block)
    commands = _here(shell.replace("\\\n", " "), system).splitlines()
    answers = [
        subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60).stdout
        for command in commands
        if command.startswith("curl")
    ]
    assert '"version":1' in answers[0]
    assert '"version":2' in answers[1]
    assert answers[2] == '{"total":5}'
    assert len(httpx.Response(200, text=answers[3]).json()["items"]) == 2


@pytest.mark.parametrize("name", ["refold demo --once", "pytest"])
def test_each_of_the_two_commands_fits_on_one_line(name: str) -> None:
    begin = "python3 -m venv .venv && .venv/bin/pip install "
    assert any(block.startswith(begin) and block.strip().endswith(name) for block in _blocks("sh"))


def test_every_link_target_of_the_readme_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
