"""One small job for the whole session: a random model, a hundred questions, a reward that random text differs in."""

import shutil

import pytest

from examples.digits.data import corpus, write_data
from examples.digits.model import make_model
from tests.train.runs import REWARD, Job, run

KEPT = {"train.jsonl": 40, "sft.jsonl": 64, "heldout.jsonl": 16}


@pytest.fixture(scope="session")
def job(tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    write_data(folder / "data", seed=0)
    for name, count in KEPT.items():
        file = folder / "data" / name
        file.write_text("".join(line + "\n" for line in file.read_text("utf-8").splitlines()[:count]), "utf-8")
    make_model(folder / "model", num_layers=4, seed=0, std=0.06, corpus=corpus())
    (folder / "reward.py").write_text(REWARD, "utf-8")
    yield Job(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> Job:
    """The demo's data, and a model after 200 of its 320 steps of fine-tuning, which answers some of it right."""
    folder = tmp_path_factory.mktemp("taught")
    write_data(folder / "data", seed=0)
    make_model(folder / "untaught", num_layers=4, seed=0, corpus=corpus())
    (folder / "reward.py").write_text(REWARD, "utf-8")
    job = Job(folder)
    changes = {"model__path": folder / "untaught", "train__steps": 200, "train__samples_per_update": 64}
    result = run("sft", job.sft_options("sft", checkpoint__export="true", **changes), timeout=400)
    assert result.returncode == 0, result.stderr
    (job.run_folder("sft") / "export").rename(folder / "model")
    yield job
    shutil.rmtree(folder, ignore_errors=True)
