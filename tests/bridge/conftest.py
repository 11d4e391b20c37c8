"""The checkpoints of the weight tests."""

from tests.checkpoints.conftest import tied, untied  # noqa: F401
