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
        self._received: set[str] = set()
        self._taken: dict[bool, set[str]] = {False: set(), True: set()}  # parameters, by whether their tensors may stay
        self.complete = False  # a full update has finished, and none has failed since
        self._was_complete = False

    def start(self) -> None:
        self._received, self._taken[False] = set(), set()
        self._was_complete, self.complete = self.complete, False
        if not self._was_complete:
            self._taken[True] = set()

    def is_frozen(self, name: str) -> bool:
        """Whether a tensor may be missing once one complete update has finished."""
        return name in self._frozen

    def receive(self, name: str, shape: tuple[int, ...]) -> None:
        """Note a tensor; refuse one that is unknown, misshapen or here already.

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
        self._received.add(name)

    def took(self, names: Collection[str], parameters: Collection[str]) -> None:
        """Note which of the worker's parameters took tensors that were loaded together, all frozen ones or none.

        Raises:
            ValueError: none did.
        """
        if not parameters:
            raise ValueError(f"No parameter of the engine's model took {', '.join(map(repr, names))}.")
        (frozen,) = {name in self._frozen for name in names}
        self._taken[frozen] |= set(parameters)

    def check_complete(self) -> None:
        """Whether the update may be served; the first one and one after a failure need the frozen tensors too.

        Raises:
            ValueError: naming what is missing.
        """
        needed = self._shapes.keys() - self._frozen if self._was_complete else self._shapes.keys()
        missing = sorted(needed - self._received)
        if missing:
            raise ValueError(f"Weight update lacks {len(missing)} of {len(needed)} tensors, among them {missing[:3]}.")
        # What frozen tensors filled stays; all else has to be filled by every update.
        untouched = sorted(self._parameters - self._taken[False] - self._taken[True])
        if untouched:
            raise ValueError(f"Weight update left {len(untouched)} parameters untouched, among them {untouched[:3]}.")

    def finish(self) -> None:
        """The update is in the kernels' storage."""
        self.complete = True
