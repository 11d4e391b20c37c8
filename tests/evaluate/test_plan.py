"""What an evaluation does with its options: benchmarks, sampling, the prompts' turns and what a resume compares."""

import pytest

from megatron_eureka.config.schema import Config
from megatron_eureka.engines.protocol import SamplingOptions
from megatron_eureka.evaluate.plan import folder_digest, pass_ks, sampling, sources, turns
from tests.evaluate.items import item

IMAGE = {"type": "image", "image": "/p.png"}
TURN = ({"role": "user", "content": [IMAGE, {"type": "text", "text": "Ours?"}]},)


def config(**evaluation):
    return Config.model_validate({"evaluation": evaluation, "rollout": {"top_p": 0.9, "max_response_tokens": 7}})


def test_benchmarks_by_name():
    found = sources(config(benchmarks=["k12=a=b.json", "jsonl=c"]).evaluation)
    assert [(source.name, str(source.path)) for source in found] == [("k12", "a=b.json"), ("jsonl", "c")]


@pytest.mark.parametrize("entry", ["k12", "k12=", "=path", "gsm8k=path"])
def test_other_entries_are_refused(entry):
    with pytest.raises(ValueError, match=f"'{entry}' is not NAME=PATH with a NAME of mathvista"):
        sources(config(benchmarks=[entry]).evaluation)


def test_a_benchmark_stands_once():
    with pytest.raises(ValueError, match="k12 twice"):
        sources(config(benchmarks=["k12=a", "k12=b"]).evaluation)


def test_one_sample_is_greedy_and_several_need_a_temperature():
    def drawn(**options):
        return sampling(config(**options).evaluation, config().rollout)

    assert drawn() == SamplingOptions(temperature=0.0, max_tokens=7)
    assert drawn(samples=4, temperature=0.6) == SamplingOptions(0.6, 0.9, -1, 7)
    for options in ({"samples": 2}, {"samples": 2, "temperature": 0.0}):
        with pytest.raises(ValueError, match="evaluation.samples = 2 needs a temperature"):
            drawn(**options)


def test_k():
    assert pass_ks(config().evaluation) == (1,)
    assert pass_ks(config(samples=8).evaluation) == (1, 8)
    assert pass_ks(config(samples=8, pass_k=[4, 1, 4]).evaluation) == (1, 4)
    for wrong in ([0], [9], [1, -1]):
        with pytest.raises(ValueError, match="does not fit evaluation.samples = 8"):
            pass_ks(config(samples=8, pass_k=wrong).evaluation)


def test_turns_in_each_style():
    question = item("3", "integer", messages=TURN, query="Theirs?")
    think = turns(question, config(system_prompt="Think."))
    assert think == ({"role": "system", "content": "Think."}, *TURN)
    assert turns(question, config(prompt="plain")) == TURN
    official = turns(question, config(prompt="official"))
    assert official == ({"role": "user", "content": [IMAGE, {"type": "text", "text": "Theirs?"}]},)
    assert turns(item("3", "integer", messages=TURN), config(prompt="official")) == TURN  # it has no own words


def test_the_training_format_stays_as_in_training():
    question = item("3", "free", messages=TURN, as_trained=True)
    assert turns(question, config()) == TURN
    trained = Config.model_validate({"data": {"system_prompt": "As trained."}})
    assert turns(question, trained) == ({"role": "system", "content": "As trained."}, *TURN)


def test_a_changed_model_has_another_fingerprint(tmp_path):
    (tmp_path / "a").mkdir()
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(bytes(3 << 20))
    before = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == before
    weights.write_bytes(bytes((3 << 20) - 1) + b"1")
    assert folder_digest(tmp_path) != before
    (tmp_path / "b").touch()
    assert len({folder_digest(tmp_path), before}) == 2
