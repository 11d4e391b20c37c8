from tests.checkpoints.conftest import tied, untied  # noqa: F401
