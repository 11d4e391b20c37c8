"""The receiver's book of an update: every tensor and every parameter once, none unknown, none missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set


class Manifest:
    """Counts the tensors of weight updates.

    Args:
        shapes: of every Hugging Face tensor of the model, by name.
        frozen: names that may be missing once one complete update has finished.
        parameters: names of the worker's parameters, which a complete update covers together.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], frozen: Set[str], parameters: Set[str]) -> None:
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._frozen, self._parameters = frozen, parameters
        self._received: dict[str, frozenset[str]] = {}  # tensor -> the parameters that took it
        self.complete = False  # a full update has finished, and none has failed since
        self._was_complete = False

    def start(self) -> None:
        self._received = {}
        self._was_complete, self.complete = self.complete, False

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a tensor that is unknown, misshapen or here already.

        Raises:
            ValueError: with name and shapes.
        """
        expected = self._shapes.get(name)
        if expected is None:
            raise ValueError(f"Weight update holds {name!r} of shape {list(shape)}, which the model does not have.")
        if shape != expected:
            raise ValueError(f"Weight update holds {name!r} of shape {list(shape)}, expected {list(expected)}.")
        if name in self._received:
            raise ValueError(f"Weight update holds {name!r} twice.")

    def add(self, name: str, parameters: Collection[str]) -> None:
        """Note which of the worker's parameters took a tensor.

        Raises:
            ValueError: none did.
        """
        if not parameters:
            raise ValueError(f"No parameter of the engine's model took {name!r}.")
        self._received[name] = frozenset(parameters)

    def check_complete(self) -> None:
        """Whether the update may be served; the first one and one after a failure need the frozen tensors too.

        Raises:
            ValueError: naming what is missing.
        """
        needed = self._shapes.keys() - self._frozen if self._was_complete else self._shapes.keys()
        missing = sorted(needed - self._received.keys())
        if missing:
            raise ValueError(f"Weight update lacks {len(missing)} of {len(needed)} tensors, among them {missing[:3]}.")
        taken = frozenset().union(*self._received.values())
        untouched = sorted(self._parameters - taken)
        if not self._was_complete and untouched:
            raise ValueError(f"Weight update left {len(untouched)} parameters untouched, among them {untouched[:3]}.")

    def finish(self) -> None:
        """The update is in the kernels' storage."""
        self.complete = True
