"""Questions for tests, with what the test is about and defaults for the rest."""

from megatron_eureka.answers import Question
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem


def item(gold: str | tuple[str, ...], kind: str, **more: object) -> BenchmarkItem:
    """A question without an image."""
    turns = ({"role": "user", "content": [{"type": "text", "text": "How many?"}]},)
    values = {"id": "q", "place": "file:0", "messages": turns, **more}
    asked = {name: values.pop(name) for name in ("choices", "precision", "unit", "tolerances") if name in values}
    return BenchmarkItem(gold=(gold,) if isinstance(gold, str) else gold, question=Question(kind, **asked), **values)
