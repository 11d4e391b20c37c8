"""Imports the package first, for an environment that `tools/setup/venv.sh` did not make: on CPU it makes CUDA-linked
wheels importable, as a file of that script's does in every interpreter."""

import megatron_eureka  # noqa: F401
