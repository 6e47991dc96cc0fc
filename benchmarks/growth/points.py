"""The points of the study: what grows along each axis, and what is kept of a point."""

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _results
from benchmarks._timing import record

ENV = "CartPole-v1"
NUM_MINIBATCHES = 4  # in each of 4 epochs


class Point(NamedTuple):
    """One size: PPO on CartPole, dropout on both of the actor's two hidden layers, tanh."""

    num_envs: int = 64
    num_steps: int = 128
    dropout: float = 0.1
    width: int = 64  # units of each hidden layer, of the actor and of the critic
    num_seeds: int | None = None  # policies under vmap; `None` for one without vmap

    @property
    def name(self) -> str:
        name = f"n{self.num_envs}-t{self.num_steps}-p{self.dropout:g}-w{self.width}"
        return name if self.num_seeds is None else f"{name}-s{self.num_seeds}"

    @property
    def steps(self) -> int:
        """Environment steps of one call, all seeds together."""
        return self.num_envs * self.num_steps * (self.num_seeds or 1)

    def read(self, results: Path) -> dict[str, Any] | None:
        """The figures that are kept of it, with their circumstances; `None` if there are none."""
        return _results.read(results).get(self.name)


# One number grows along an axis; the others are those of `Point()`, so that axes share a point.
# Seeds have N = 4, because a step has the least to do there.
AXES: dict[str, list[Point]] = {
    "num_envs": [Point(num_envs=4**k) for k in range(1, 8)],
    "num_steps": [Point(num_steps=2**k) for k in (3, 5, 7, 9, 11)],
    "dropout": [Point(dropout=rate) for rate in (0.0, 0.1, 0.25, 0.5, 0.75)],
    "width": [Point(width=2**k) for k in range(4, 11)],
    "num_seeds": [Point(num_envs=4, num_seeds=2**k) for k in range(7)],
}

# The most complicated kind of point; a test measures one without vmap.
SMOKE_AXES: dict[str, list[Point]] = {"num_seeds": [Point(4, 8, width=4, num_seeds=2)]}


def write(point: Point, results: Path, figures: dict[str, Any]) -> None:
    """Keep the figures of a point."""
    _results.write(results, point.name, record("growth", point._asdict(), figures))
