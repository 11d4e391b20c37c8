"""Which rank does what. Pure arithmetic: sizes and ranks in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinates:
    """A rank's place on each axis."""

    tp: int
    cp: int
    dp: int
    pp: int


@dataclass(frozen=True)
class Layout:
    """Sizes of the axes. Ranks run fastest over tp, then cp, dp and pp: Megatron-Core's order `tp-cp-dp-pp`."""

    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 1
    vpp: int = 1

    @classmethod
    def fill(cls, world_size: int, tp: int = 1, pp: int = 1, cp: int = 1, vpp: int = 1) -> Layout:
        """The layout in which data parallelism takes what the other axes leave of `world_size`.

        Raises:
            ValueError: the other axes do not divide the world size.
        """
        rest = tp * pp * cp
        if world_size % rest:
            raise ValueError(
                f"{world_size} ranks cannot be laid out as parallel.tp {tp} x parallel.pp {pp} x parallel.cp {cp} "
                f"= {rest}. Start a multiple of {rest} ranks or make one of the three smaller."
            )
        return cls(tp=tp, pp=pp, cp=cp, dp=world_size // rest, vpp=vpp)

    @property
    def world_size(self) -> int:
        return self.tp * self.cp * self.dp * self.pp

    def coordinates(self, rank: int) -> Coordinates:
        """The place of a global rank on each axis."""
        rank, tp = divmod(rank, self.tp)
        rank, cp = divmod(rank, self.cp)
        pp, dp = divmod(rank, self.dp)
        return Coordinates(tp=tp, cp=cp, dp=dp, pp=pp)

    def rank(self, at: Coordinates) -> int:
        """The global rank at a place; the inverse of `coordinates`."""
        return at.tp + self.tp * (at.cp + self.cp * (at.dp + self.dp * at.pp))

    def layers(self, num_layers: int, pp_rank: int, vpp_rank: int = 0) -> range:
        """Global numbers of the decoder layers in one model chunk; chunks interleave over the stages."""
        per_chunk = num_layers // (self.pp * self.vpp)
        first = (vpp_rank * self.pp + pp_rank) * per_chunk
        return range(first, first + per_chunk)

    def grid(self) -> str:
        """A table of ranks for people: a row for each pipeline stage and data-parallel replica."""
        lines = [
            f"{self.world_size} ranks = tp {self.tp} x cp {self.cp} x dp {self.dp} x pp {self.pp} (vpp {self.vpp})"
        ]
        for pp in range(self.pp):
            for dp in range(self.dp):
                ranks = [
                    self.rank(Coordinates(tp=tp, cp=cp, dp=dp, pp=pp)) for cp in range(self.cp) for tp in range(self.tp)
                ]
                lines.append(f"  stage {pp}, replica {dp}: ranks {', '.join(map(str, ranks))}")
        return "\n".join(lines)
