"""The checkpoints of the weight tests."""

from tests.weights.conftest import tied, untied  # noqa: F401
