"""The launch script of several nodes under a real SLURM: sbatch, srun, scontrol requeue, a rank that is killed."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.launch.slurm import processes_of, start_cluster
from tests.train.runs import ROOT, leftovers

pytestmark = pytest.mark.slow

SCRIPT = "examples/qwen2_5_vl_7b/multi_node.sbatch"
CONFIG = "configs/digits/sft.yaml"
ONE_RANK_A_NODE = ["--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]
# In place of Python: writes down who it is where srun started it, then is Python, or nothing.
RECORDER = """#!/usr/bin/env bash
if [ -n "${{SLURM_STEP_ID:-}}" ]; then
  echo "$SLURMD_NODENAME $SLURM_PROCID $SLURM_LOCALID $SLURM_CPUS_PER_TASK $MASTER_ADDR $MASTER_PORT" >> {record}
fi
{then}
"""


def recorder(folder: Path, then: str) -> tuple[Path, Path]:
    """A stand-in for Python and the file that it records its ranks in."""
    program, record = folder / "python.sh", folder / "ranks.txt"
    program.write_text(RECORDER.format(record=record, then=then), "utf-8")
    program.chmod(0o755)
    return program, record


def submit(cluster, output: Path, overrides: list[str], python: object = sys.executable, nodes=ONE_RANK_A_NODE) -> int:
    return cluster.submit(
        [*nodes, SCRIPT, CONFIG, *overrides], output, ROOT, TASK="sft", PYTHON=str(python), OMP_NUM_THREADS="1"
    )


def test_two_nodes_train_to_the_end(cluster, job, tmp_path):
    """Pipeline parallel over the two nodes: neither could take a step alone."""
    python, record = recorder(tmp_path, f'exec {sys.executable} "$@"')
    output = tmp_path / "job.out"
    number = submit(cluster, output, job.sft_options("two", train__steps=3, parallel__pp=2), python)
    ended = cluster.wait(number, 120)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), output.read_text("utf-8")
    assert [line["step"] for line in job.metrics("two") if "sft/loss" in line] == [1, 2, 3]
    assert (job.run_folder("two") / "finished.json").exists()
    ranks = [line.split() for line in sorted(record.read_text("utf-8").splitlines())]
    port = str(10000 + number % 20000)
    assert ranks == [["n1", "0", "0", "1", "127.0.0.1", port], ["n2", "1", "0", "1", "127.0.0.1", port]]


def test_grpo_trains_on_two_nodes(cluster, job, tmp_path):
    """What the script runs when TASK is not given: an engine and a trainer rank on each node."""
    output = tmp_path / "job.out"
    overrides = job.options("grpo_two", train__steps=2, parallel__tp=1)
    arguments = [*ONE_RANK_A_NODE, SCRIPT, "configs/digits/grpo.yaml", *overrides]
    number = cluster.submit(arguments, output, ROOT, PYTHON=sys.executable, OMP_NUM_THREADS="1")
    ended = cluster.wait(number, 180)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), output.read_text("utf-8")
    assert [line["step"] for line in job.metrics("grpo_two") if "actor/grad_norm" in line] == [1, 2]
    assert (job.run_folder("grpo_two") / "finished.json").exists()


def test_as_shipped_it_asks_for_eight_ranks_a_node(cluster, tmp_path):
    """Nothing said to sbatch: 16 ranks in blocks of 8, 8 CPUs each, and one plan before them."""
    python, record = recorder(tmp_path, 'echo "$@"')
    output = tmp_path / "job.out"
    number = submit(cluster, output, ["a.b=c"], python, nodes=[])
    ended = cluster.wait(number, 60)
    text = output.read_text("utf-8")
    assert ended["JobState"] == "COMPLETED" and ended["Requeue"] == "1", text
    ranks = sorted((line.split()[:4] for line in record.read_text("utf-8").splitlines()), key=lambda r: int(r[1]))
    assert ranks == [[f"n{1 + rank // 8}", str(rank), str(rank % 8), "8"] for rank in range(16)]
    line = f"-m megatron_eureka sft {CONFIG} launch.ranks=8 launch.nodes=2 a.b=c"
    assert sorted(text.splitlines()) == [line] * 16 + [f"{line} --dry-run"]


def test_a_job_that_is_cut_off_goes_on(cluster, job, tmp_path):
    """Requeued by SLURM, then stopped by the loss of a rank, then submitted again: every step is there once."""
    overrides = job.sft_options("cut", train__steps=40, checkpoint__every=4)
    checkpoints = job.run_folder("cut") / "checkpoints"
    output = tmp_path / "job.out"

    number = submit(cluster, output, overrides)
    cluster.wait(number, 120, until=lambda: newest(checkpoints) > 0)
    cluster.requeue(number)
    cluster.wait(number, 120, until=lambda: cluster.show(number)["Restarts"] == "1" and living_ranks(cluster))
    kept = newest(checkpoints)
    assert kept < 40
    cluster.wait(number, 120, until=lambda: newest(checkpoints) > kept)
    started = time.monotonic()
    living_ranks(cluster)["1"].kill()
    ended = cluster.wait(number, 60)
    assert ended["JobState"] == "FAILED" and ended["ExitCode"] != "0:0", output.read_text("utf-8")
    assert time.monotonic() - started < 20
    assert not leftovers(str(job.run_folder("cut")))
    assert newest(checkpoints) < 40 and not (job.run_folder("cut") / "finished.json").exists()

    again = submit(cluster, output, overrides)
    ended = cluster.wait(again, 120)
    text = output.read_text("utf-8")
    assert ended["JobState"] == "COMPLETED", text
    assert text.count("launch:") == 3  # three plans: --open-mode=append keeps what came before
    assert [line["step"] for line in job.metrics("cut") if "sft/loss" in line] == list(range(1, 41))
    assert json.loads((job.run_folder("cut") / "finished.json").read_text("utf-8")) is not None


def newest(checkpoints: Path) -> int:
    return max((int(path.name[5:]) for path in checkpoints.glob("step_*") if path.name[5:].isdigit()), default=0)


def living_ranks(cluster) -> dict[str, psutil.Process]:
    """The ranks that srun has started, by their number."""
    tasks = [(env["SLURM_PROCID"], one) for one, env in processes_of(cluster.config) if "SLURM_STEP_ID" in env]
    return dict(reversed(tasks))  # of a rank and its children the rank: it has the lowest id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CONFIG, "train.stepz=1"], "train.stepz"),
        (["--dry-run"], "usage: TASK=train|sft sbatch"),
    ],
)
def test_bad_input_fails_the_job_at_once_and_once(cluster, tmp_path, arguments, message):
    output = tmp_path / "job.out"
    more = {"TASK": "sft", "PYTHON": sys.executable}
    number = cluster.submit([*ONE_RANK_A_NODE, SCRIPT, *arguments], output, ROOT, **more)
    ended = cluster.wait(number, 60)
    text = output.read_text("utf-8")
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), text
    assert text.count("error:") == 1 and message in text, text


@pytest.mark.usefixtures("cluster")  # it skips where there is no SLURM
def test_the_cluster_ends_with_its_jobs(tmp_path):
    """What the other tests rest on: nothing is left, whatever a job was doing."""
    output, script = tmp_path / "job.out", tmp_path / "sleep.sh"
    script.write_text("#!/bin/bash\necho here\nsrun bash -c 'trap \"\" TERM; while :; do sleep 1; done'\n", "utf-8")
    with start_cluster() as cluster:
        number = cluster.submit(["--nodes=2", str(script)], output, tmp_path)
        cluster.wait(number, 30, until=lambda: len(living_ranks(cluster)) == 2)
    assert output.read_text("utf-8").startswith("here")
    assert not processes_of(cluster.config) and not cluster.folder.exists()
