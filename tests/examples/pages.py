"""Pages of docs/: their code blocks, and their commands run in order in a folder that looks like a clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, content) of a page's code blocks, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)


def commands(page: str) -> list[str]:
    """The commands of all bash blocks; one that goes on after a backslash is one command."""
    scripts = [text.replace("\\\n", " ") for language, text in blocks(page) if language == "bash"]
    return [line for text in scripts for line in text.splitlines() if line.strip()]


def clone(folder: Path, *names: str) -> Path:
    """A folder with links to parts of the repository."""
    for name in names:
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_command(command: str, folder: Path, timeout_s: float = 400) -> str:
    """Run a command of a page in a folder; what it has printed, errors included. It shall end with 0."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    options = {"shell": True, "cwd": folder, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=timeout_s, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def run_commands(page: str, folder: Path) -> list[str]:
    """Run a page's commands in a folder, one after another; what each has printed."""
    return [run_command(command, folder) for command in commands(page)]
