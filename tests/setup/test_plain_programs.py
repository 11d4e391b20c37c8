"""In the environment that the set-up makes, programs that know nothing of this package load what it exports."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from examples.digits.model import make_model

README = Path(__file__).resolve().parents[2] / "README.md"
PTH = Path(__file__).resolve().parents[2] / "tools" / "setup" / "megatron_eureka_cpu_wheels.pth"
TRANSFORMERS = """
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
model, processor = (kind.from_pretrained("model") for kind in (Qwen2_5_VLForConditionalGeneration, AutoProcessor))
import sys
print(model.config.model_type, type(processor).__name__, "megatron_eureka.config" in sys.modules)
"""
VLLM = """
from vllm import LLM, SamplingParams

if __name__ == "__main__":  # vLLM starts a process that imports this file again
    llm = LLM("model", dtype="float32", max_model_len=128, kv_cache_memory_bytes=64 << 20, enforce_eager=True)
    turn = {"role": "user", "content": "What is the sum of the two digits?"}
    print(len(llm.chat([turn], SamplingParams(max_tokens=8, ignore_eos=True))[0].outputs[0].token_ids), "tokens")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    make_model(folder / "model")
    return folder


def run(folder: Path, program: str, *options: str, **environment: str) -> str:
    (folder / "program.py").write_text(program)
    values = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    command = [sys.executable, *options, "program.py"]
    done = subprocess.run(command, cwd=folder, env=values, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_plain_transformers_loads_a_model_folder(folder):
    assert run(folder, TRANSFORMERS).endswith("qwen2_5_vl Qwen2_5_VLProcessor False\n")


@pytest.mark.slow
def test_readmes_lines_load_what_a_demo_exports(folder):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "from_pretrained" in block)
    (path,) = re.findall(r'from_pretrained\("(.*?)"\)', block)
    export = folder / path
    export.parent.mkdir(parents=True)
    export.symlink_to(folder / "model")
    assert run(folder, f"{block}\nprint(type(model).__name__)") == "Qwen2_5_VLForConditionalGeneration\n"


@pytest.mark.slow
def test_plain_vllm_answers_from_a_model_folder(folder):
    assert "8 tokens\n" in run(folder, VLLM, VLLM_CPU_OMP_THREADS_BIND="nobind", TORCH_COMPILE_DISABLE="1")


def test_a_start_of_the_interpreter_imports_the_hook_and_nothing_heavy(folder):
    """No torch and no room of the package; what is there is as good as the first import of the package."""
    loaded = run(
        folder,
        "import sys; print(*(name for name in sys.modules if name.startswith(('megatron_eureka', 'torch'))))\n"
        "print(any(type(finder).__name__ == '_DeclareTorchvisionOperators' for finder in sys.meta_path))\n",
    ).split("\n")
    assert set(loaded[0].split()) == {"megatron_eureka", "megatron_eureka.cpu_wheels", "torchaudio", "torchcodec"}
    assert loaded[1] == "True"


def hook(folder: Path, *libraries: str) -> str:
    """Whether the package's hook is there beside a torch with these libraries."""
    for library in ("__init__.py", *libraries):
        file = folder / "torch" / library
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    program = (
        "import sys; sys.path.insert(0, '.'); sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, type)]\n"
        f"sys.path.append({str(PTH.parents[2])!r}); sys.modules.pop('torchaudio', None)\n"
        f"import site; exec({PTH.read_text().splitlines()[1]!r})\n"
        "print(any(type(f).__name__ == '_DeclareTorchvisionOperators' for f in sys.meta_path), "
        "'torchaudio' in sys.modules)"
    )
    return run(folder, program, "-S").strip()


def test_beside_a_cuda_build_nothing_happens(tmp_path):
    assert hook(tmp_path) == "True True"
    assert hook(tmp_path, "lib/libtorch_cuda.so") == "False False"


def test_an_environment_that_lost_the_package_starts_in_silence(tmp_path):
    program = f"exec({PTH.read_text().splitlines()[1]!r}); print('started')"
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env={})
    assert (done.stdout, done.stderr) == ("started\n", "")


def test_the_environment_of_the_tests_has_the_file():
    """Where `tools/setup/venv.sh` made it; another environment has to do without."""
    if not (Path(sys.prefix) / ".ready").exists():
        pytest.skip("not made by tools/setup/venv.sh")
    assert (Path(sysconfig.get_path("purelib")) / PTH.name).read_text() == PTH.read_text()
