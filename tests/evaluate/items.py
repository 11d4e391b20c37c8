"""Questions for tests, with what the test is about and defaults for the rest."""

from megatron_eureka.evaluate.item import BenchmarkItem


def item(gold: str | tuple[str, ...], kind: str, **more: object) -> BenchmarkItem:
    """A question without a picture."""
    turns = ({"role": "user", "content": [{"type": "text", "text": "How many?"}]},)
    values = {"id": "q", "place": "file:0", "messages": turns, **more}
    return BenchmarkItem(gold=(gold,) if isinstance(gold, str) else gold, kind=kind, **values)
