"""The peers' own environments: a venv and an npm folder outside the repository, made again when the pins change."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
PACKAGE = HERE / "package.json"


def install(home: Path) -> None:
    """Install what `requirements.txt` and `package.json` name."""
    home.mkdir(parents=True, exist_ok=True)
    python = home / "venv/bin/python"
    if _is_stale(home, REQUIREMENTS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home / "venv")], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)], check=True)
        shutil.copy(REQUIREMENTS, home)
    install_npm(home)


def install_npm(home: Path) -> Path:
    """Install what `package.json` names; return its folder."""
    made = home / "npm"
    if _is_stale(home, PACKAGE):
        npm = shutil.which("npm") or sys.exit("the peers in JavaScript need Node 20 or newer, with npm")
        made.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE, made)
        subprocess.run([npm, "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=made, check=True)
        shutil.copy(PACKAGE, home)
    return made


def versions() -> dict[str, str]:
    """Return the pinned versions by package, and Refold's own."""
    pinned = re.findall(r"^([\w-]+)(?:\[.*\])?==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
    packages = json.loads(PACKAGE.read_text())["dependencies"]
    return {**dict(pinned), **packages, "refold": _refold_version()}


def _refold_version() -> str:
    """Return the last commit of the program itself, not of its results."""
    git = shutil.which("git")
    if git is None or not (HERE.parents[2] / ".git").exists():
        return version("refold")

    def ask(*words: str) -> str:
        asked = [git, *words, "--", "services"]
        return subprocess.run(asked, cwd=HERE.parents[2], capture_output=True, text=True, check=True).stdout

    changed = "+" if ask("status", "--porcelain") else ""
    return f"{version('refold')} {ask('log', '-1', '--format=%h').strip()}{changed}"


def _is_stale(home: Path, pins: Path) -> bool:
    installed = home / pins.name
    return not installed.exists() or installed.read_bytes() != pins.read_bytes()
