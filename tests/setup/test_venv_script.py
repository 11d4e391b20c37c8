"""What the set-up script says within seconds when a machine lacks something, and that it leaves nothing half-made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands for python3.11: makes a fake environment, and answers pip's question with the version that the test wants.
PYTHON = """#!/bin/bash
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin .venv/lib/python3.11/site-packages; cp "$0" .venv/bin/python ;;
  *--report*) echo '{{"install": [{{"metadata": {{"version": "{version}"}}}}]}}' ;;
  *"pip install"*) echo "$*" >> installed.txt ;;
  *) exec {real} "$@" ;;
esac
"""
PTH = "megatron_eureka_cpu_wheels.pth"
DF = "#!/bin/bash\necho 'Filesystem 1024-blocks Used Available'\necho 'disk 1 1 {free_kib} 1% /'\n"


@pytest.fixture
def machine(tmp_path):
    """Runs the script in a copy of what it reads, on a machine with the given Python and disk."""

    def run(version="2.13.0+cpu", free_gb=50, python=True, **environment):
        tools = tmp_path / "bin"
        tools.mkdir(exist_ok=True)
        for name in ("bash", "dirname", "sed", "awk", "rm", "mkdir", "cp", "touch", "uname", "cat", "env"):
            link = tools / name
            link.exists() or link.symlink_to(shutil.which(name))
        script(tools / "df", DF.format(free_kib=free_gb << 20))
        if python:
            script(tools / "python3.11", PYTHON.format(version=version, real=sys.executable))
        (tmp_path / "tools" / "setup").mkdir(parents=True, exist_ok=True)
        for name in ("venv.sh", PTH):
            shutil.copy(ROOT / "tools" / "setup" / name, tmp_path / "tools" / "setup")
        shutil.copy(ROOT / "setup.py", tmp_path)
        command = [str(tools / "bash"), str(tmp_path / "tools" / "setup" / "venv.sh")]
        values = {"PATH": str(tools), "HOME": os.environ.get("HOME", "/"), **environment}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=values, cwd=tmp_path)

    def script(path, text):
        path.write_text(text)
        path.chmod(0o755)

    return run


def test_it_installs_torch_first_and_then_the_package(machine, tmp_path):
    result = machine()
    assert result.returncode == 0, result.stderr
    assert (tmp_path / ".venv" / ".ready").exists()
    assert (tmp_path / ".venv" / "lib" / "python3.11" / "site-packages" / PTH).is_file()
    calls = (tmp_path / "installed.txt").read_text().splitlines()
    assert len(calls) == 2 and calls[0].endswith("torch==2.13.0") and calls[1].endswith("-e .[cpu,demo,dev]")


@pytest.mark.parametrize(
    "lack, message",
    [
        ({"python": False}, "Python 3.11 or 3.12 is needed"),
        ({"free_gb": 3}, "3 GB are free here, 7 GB are needed"),
        ({"version": "2.13.0"}, "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo"),
    ],
    ids=["python", "disk", "cpu build of torch"],
)
def test_what_is_missing_is_said_and_nothing_is_left(machine, tmp_path, lack, message):
    result = machine(**lack, MAKECMDGOALS="demo")
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / ".venv").exists() and not (tmp_path / "installed.txt").exists()
