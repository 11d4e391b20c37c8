"""A real SLURM of two nodes on this machine, for the time of a test session.

`start_cluster` starts munged, slurmctld and two slurmd under a temporary folder, on ports of its own, and ends them and
all that their jobs have left by process id. Both nodes say that they have 64 CPUs and 8 GPUs, so that what asks for a
real cluster's nodes can be submitted; nothing is pinned or bound.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "setpriv")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
START_S, STOP_S, COMMAND_S = 30, 10, 20  # time limits

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=64 RealMemory=64000 Gres=gpu:8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=64 RealMemory=64000 Gres=gpu:8
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here, or None where one can."""
    programs = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if programs:
        return f"{', '.join(programs)} not found: run tools/setup/debian.sh as root"
    if os.geteuid() != 0:
        return "slurmd and munged need root"
    return None


@dataclass(frozen=True)
class Cluster:
    """A running SLURM; `environment` is what its commands need."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str, check: bool = True, **more: object) -> str:
        """Standard output of a SLURM command."""
        result = subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S, **more
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)} exited with code {result.returncode}: {result.stderr}")
        return result.stdout

    def submit(self, arguments: Sequence[str], output: Path, cwd: Path, **variables: str) -> int:
        """`sbatch ARGUMENTS` with these environment variables; the id of the job, which writes to `output`."""
        environment = {**self.environment, **variables}
        result = subprocess.run(
            ["sbatch", "--parsable", f"--output={output}", *arguments],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        if result.returncode != 0:
            raise RuntimeError(f"sbatch exited with code {result.returncode}: {result.stderr}")
        return int(result.stdout.strip().split(";")[0])

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    def show(self, job: int) -> dict[str, str]:
        """What `scontrol show job` says of a job: JobState, ExitCode, Restarts and so on."""
        fields = self.command("scontrol", "--oneliner", "show", "job", str(job)).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def wait(self, job: int, timeout_s: float, until: Callable[[], bool] | None = None) -> dict[str, str]:
        """Wait for a job's end, or for `until()` before it; what `show` says then.

        Raises:
            TimeoutError: neither came in time, or the job ended before `until()`.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if until is not None and until():
                return self.show(job)
            shown = self.show(job)
            if shown["JobState"] in ENDED:
                if until is None or until():
                    return shown
                break
            time.sleep(0.2)
        raise TimeoutError(f"after {timeout_s} s job {job} is {self.show(job)}\n{self.logs()}")

    def requeue(self, job: int) -> None:
        """Requeue a job and have it start soon: SLURM itself waits two minutes, until old credentials expire."""
        self.command("scontrol", "requeue", str(job))
        self.wait(job, START_S, until=lambda: self.show(job)["JobState"] == "PENDING")
        self.command("scontrol", "update", f"JobId={job}", "StartTime=now+3")  # later than what it revokes

    def logs(self) -> str:
        return "\n".join(f"{file.name}: {file.read_text('utf-8')[-3000:]}" for file in self.folder.glob("*.log"))


@contextmanager
def start_cluster() -> Iterator[Cluster]:
    """Start a SLURM of two nodes, wait until both are idle, and end it with all its jobs afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm_"))  # short: a socket's path has at most 107 characters
    folder.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    cluster = Cluster(folder, environment)
    config = cluster.config
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_end_jobs, config)
        _write_config(config)
        _start(stack, environment, "munged", *_munge_options(folder))
        _until((folder / "munge.socket").exists, "munged has no socket", cluster)
        _start(stack, environment, "slurmctld", "-D", "-f", str(config))
        for node in ("n1", "n2"):
            _start(stack, environment, "slurmd", "-D", "-f", str(config), "-N", node)
        _until(lambda: _idle_nodes(cluster) == ["n1", "n2"], "the nodes did not become idle", cluster)
        yield cluster
        cluster.command("scancel", "--user=root", check=False)
        _until(lambda: not cluster.command("squeue", "--noheader", check=False), "jobs did not end", cluster)


def _write_config(config: Path) -> None:
    folder = config.parent
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    ports = dict(zip(("ctld_port", "port_1", "port_2"), _free_ports(3), strict=True))
    host = socket.gethostname().split(".")[0]
    config.write_text(CONFIG.format(folder=folder, host=host, **ports), "utf-8")
    for number in range(8):
        (folder / f"gpu{number}").symlink_to(os.devnull)  # what slurmd takes for the devices
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n", "utf-8")


def _munge_options(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    paths = [f"--{option}={folder / f'munge.{suffix}'}" for option, suffix in files.items()]
    return ["--foreground", "--force", f"--key-file={key}", *paths]


def _start(stack: ExitStack, environment: dict[str, str], *arguments: str) -> None:
    """Start a daemon that ends with this process, however that ends, and with `stack`."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests
    )
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=STOP_S)


def _end_jobs(config: Path) -> None:
    """Kill what is left of jobs and their managers: all that has this cluster's configuration in its environment."""
    left = [process for process, _ in processes_of(config)]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_S)


def processes_of(config: Path) -> list[tuple[psutil.Process, dict[str, str]]]:
    """Living processes of a cluster, its daemons and its jobs, each with its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # it has ended meanwhile
            continue
        if environment.get("SLURM_CONF") == str(config) and process.pid != os.getpid():
            found.append((process, environment))
    return found


def _idle_nodes(cluster: Cluster) -> list[str]:
    return cluster.command("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", check=False).split()


def _until(condition: Callable[[], bool], otherwise: str, cluster: Cluster) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} within {START_S} s\n{cluster.logs()}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
