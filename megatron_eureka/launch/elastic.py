"""Start a job's ranks on this machine with torch's elastic agent, and name the rank that failed first when it fails."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_eureka.files import write_atomically
from megatron_eureka.log import logger

ERRORS = "MEGATRON_EUREKA_ERRORS"  # folder for the ranks' last words
PARENT = "MEGATRON_EUREKA_PARENT"  # pid of the launcher, with which its ranks end
BAD_INPUT, FAILED = 2, 1  # exit codes
SHUTDOWN_S = 5  # between asking ranks to end and ending them


def is_rank() -> bool:
    """Whether torchrun, srun or `launch_ranks` started this process as a rank; srun's variables become torch's.

    A step of one task that nobody set a meeting point for is a shell, such as that of `srun --pty bash`: no rank.

    Raises:
        ValueError: srun started several tasks without MASTER_ADDR and MASTER_PORT.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return True
    if "SLURM_STEP_ID" not in os.environ or "SLURM_PROCID" not in os.environ:
        return False
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        if os.environ["SLURM_NTASKS"] == "1":
            return False
        raise ValueError(
            f"srun started {os.environ['SLURM_NTASKS']} tasks without MASTER_ADDR and MASTER_PORT. Export the first "
            "node's address and a free port of it before srun, as examples/qwen2_5_vl_7b/multi_node.sbatch does."
        )
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    os.environ.update({ours: os.environ[slurm] for ours, slurm in names.items()})
    return True


def launch_ranks(arguments: Sequence[str], num_ranks: int, module: str = "megatron_eureka") -> int:
    """Run `python -m MODULE ARGUMENTS` on `num_ranks` ranks of this machine and wait for them.

    Returns:
        the exit code: 0, or that of the failure, whose cause has been written to standard error.
    """
    logger.info("starting %d ranks", num_ranks)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.launcher", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the cause is said below, once
    with tempfile.TemporaryDirectory(prefix="megatron_eureka_") as errors:
        os.environ.update({ERRORS: errors, PARENT: str(os.getpid())})
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the causes that it warns of are said by Python
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id=f"megatron_eureka_{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,  # a failed run is resumed by the same command, not by itself
            monitor_interval=0.2,
            shutdown_timeout=SHUTDOWN_S,
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except ChildFailedError as error:
            code, text = first_failure(
                {rank: failure.exitcode for rank, failure in error.failures.items()}, Path(errors)
            )
            sys.stderr.write(text)
            return code
        except SignalException as error:
            sys.stderr.write(f"stopped by {signal.Signals(error.sigval).name}; all ranks have ended\n")
            return 128 + error.sigval
    return 0


def first_failure(exit_codes: dict[int, int], errors: Path) -> tuple[int, str]:
    """The exit code and the message of a failed job, the culprit first.

    A rank that a signal ended comes before one that raised: what the others raised then are its missing answers. Among
    those that raised, the first one counts.
    """
    records = sorted((json.loads(path.read_text("utf-8")) for path in errors.glob("*.json")), key=lambda r: r["time"])
    killed = [rank for rank, code in exit_codes.items() if code < 0 and code != -signal.SIGTERM]
    lines = [f"rank {rank} was ended by {signal.Signals(-exit_codes[rank]).name}" for rank in killed]
    first = records[0] if records else None
    if not killed and first is not None:
        lines.append(f"rank {first['rank']} failed: {first['message']}")
        if first["code"] != BAD_INPUT:
            lines.append(first["traceback"].rstrip())
    if not lines:
        lines = [f"rank {rank} exited with code {code}" for rank, code in exit_codes.items()]
    others = [r for r in records[0 if killed else 1 :] if r["message"] != (first or {}).get("message") or killed]
    lines += [f"then rank {record['rank']}: {record['message'].splitlines()[0]}" for record in others]
    code = first["code"] if first is not None and not killed else FAILED
    return code, "error: " + "\n".join(lines) + "\n"


def run_rank(body: Callable[[], None]) -> int:
    """Run a rank's body; what it raises is left for the launcher, or said here when there is none.

    The process ends at once after a failure: threads and groups that wait for other ranks would keep it alive.
    """
    _end_with_launcher()
    try:
        body()
    except Exception as error:  # the last place where a failure can be given a name
        code = BAD_INPUT if isinstance(error, ValueError) else FAILED
        _leave_word(error, code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0


def _leave_word(error: Exception, code: int) -> None:
    rank = int(os.environ.get("RANK", "0"))
    message = str(error) if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {error}"
    record = {
        "rank": rank,
        "time": time.time(),
        "code": code,
        "message": message or type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }
    folder = os.environ.get(ERRORS)
    if folder and Path(folder).is_dir():
        write_atomically(Path(folder) / f"{rank}.json", json.dumps(record), sync=False)
    else:
        detail = "" if code == BAD_INPUT else "\n" + record["traceback"]
        sys.stderr.write(f"error: rank {rank} failed: {record['message']}{detail}\n")


def _end_with_launcher() -> None:
    """Ranks that `launch_ranks` started end when it dies, and leave Ctrl-C to it: it ends them in order."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the call
        os._exit(FAILED)
