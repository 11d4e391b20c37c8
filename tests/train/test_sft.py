"""Fine-tuning fits the likelihood itself, whatever temperature a run would sample at."""

from types import SimpleNamespace

import pytest

from examples.digits.model import make_model
from megatron_eureka.data.prompts import PromptSet
from megatron_eureka.families.source import ModelSource
from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.train.setup import open_run
from megatron_eureka.train.sft import fit
from tests.model.reference import CASES, config_for, hf_reference, pixels
from tests.ranks import run_ranks


def _first_loss(rank, world, model):
    layout = Layout()
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    config = config_for(model, layout, rollout={"temperature": 0.5})
    data = SimpleNamespace(store=SimpleNamespace(pixels=pixels))
    run = open_run(config, ModelSource.open(model), None, data, layout, process_groups)
    pairs = [(case.prompt(run.policy.info, i), response) for i, case in enumerate(CASES) for response in case.responses]
    prompts, responses = zip(*pairs, strict=True)
    loss = fit(run, PromptSet(prompts, responses, {}), range(len(pairs)))["sft/loss"]
    groups.stop()
    return loss


def test_the_loss_is_that_of_transformers_at_temperature_one(tmp_path):
    model = str(make_model(tmp_path / "hf", num_layers=2, std=0.06, seed=1))
    (loss,) = run_ranks(1, _first_loss, model)
    assert loss == pytest.approx(hf_reference(model)["loss"], rel=1e-5)  # float32 sums
    assert abs(loss - hf_reference(model, temperature=0.5)["loss"]) > 1e-2  # which would be another one
