"""Run one command, and say how long it took, how much processor time, and how much memory."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Usage:
    """What one process used."""

    seconds: float
    cpu_s: float
    peak_rss_mib: float
    output: str = ""  # what it printed


def print_usage_of_command() -> None:
    """Run the command of sys.argv and print what it used as JSON; the command's own output goes to stderr.

    `run_child` runs this function's source in a bare interpreter, hence the imports. A process starts with the peak RSS
    of the one that spawned it: spawned by the benchmark itself, which has torch loaded, `cp` would show 300 MiB.
    """
    import json
    import os
    import sys
    import threading
    import time

    def pss_kib() -> list[int]:
        sizes, session = [], os.getpid()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(pid) == session or os.getsid(int(pid)) != session:
                    continue
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    sizes += [int(line.split()[1]) for line in file if line.startswith("Pss:")]
            except OSError:  # it has ended
                continue
        return sizes

    def sample() -> None:
        while not done.wait(0.05):
            sizes = pss_kib()
            if len(sizes) > 1:
                peaks_kib.append(sum(sizes))

    peaks_kib, done = [0], threading.Event()
    threading.Thread(target=sample, daemon=True).start()
    start = time.perf_counter()
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    done.set()
    peak_mib = max(usage.ru_maxrss, *peaks_kib) / 1024
    used = {"seconds": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_mib": peak_mib}
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "usage": used}))


LAUNCHER = inspect.getsource(print_usage_of_command) + "\nprint_usage_of_command()\n"


def run_child(command: tuple[str, ...], timeout_s: float) -> Usage:
    """Run a command in the repository's root and measure it. What it started is killed when the time is up.

    Raises:
        RuntimeError: it failed, with the end of its output; or it took longer than `timeout_s`.
    """
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(launcher, env=environment, cwd=ROOT, **pipes) as process:
        try:
            result, output = process.communicate(timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the launcher leads a session of its own
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"{' '.join(command)} took longer than {timeout_s:.0f} s.") from error
            raise
    end = "\n".join(output.strip().splitlines()[-15:])
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} could not be run:\n{end}")
    done = json.loads(result)
    if done["code"]:
        raise RuntimeError(f"{' '.join(command)} gave exit code {done['code']}:\n{end}")
    return Usage(**done["usage"], output=output)
