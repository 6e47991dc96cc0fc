"""The points of the study: what grows along each axis, and the file that keeps a point."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._timing import circumstances

ENV = "CartPole-v1"
NUM_MINIBATCHES = 4  # of 4 epochs


class Point(NamedTuple):
    """One size: PPO on CartPole, dropout on both of the actor's two hidden layers, tanh."""

    num_envs: int = 64
    num_steps: int = 128
    dropout: float = 0.1
    width: int = 64  # units of each hidden layer, of the actor and of the critic
    num_seeds: int | None = None  # vmapped over so many policies; `None`: one, and no vmap

    @property
    def name(self) -> str:
        name = f"n{self.num_envs}-t{self.num_steps}-p{self.dropout:g}-w{self.width}"
        return name if self.num_seeds is None else f"{name}-s{self.num_seeds}"

    @property
    def steps(self) -> int:
        """Environment steps of one call, of all seeds."""
        return self.num_envs * self.num_steps * (self.num_seeds or 1)

    def path(self, results: Path) -> Path:
        return results / f"{self.name}.json"

    def read(self, results: Path) -> dict[str, Any] | None:
        """What its file says, or `None` where it was not measured."""
        path = self.path(results)
        return json.loads(path.read_text()) if path.exists() else None


# One number grows along an axis; the others are those of `Point()`, so that axes share a point.
# Seeds share N = 4, where a step has the least to do for each of them.
AXES: dict[str, list[Point]] = {
    "num_envs": [Point(num_envs=4**k) for k in range(1, 8)],
    "num_steps": [Point(num_steps=2**k) for k in (3, 5, 7, 9, 11)],
    "dropout": [Point(dropout=rate) for rate in (0.0, 0.1, 0.25, 0.5, 0.75)],
    "width": [Point(width=2**k) for k in range(4, 11)],
    "num_seeds": [Point(num_envs=4, num_seeds=2**k) for k in range(7)],
}

# The one that has most to go wrong: a test measures one that is not mapped.
SMOKE_AXES: dict[str, list[Point]] = {"num_seeds": [Point(4, 8, width=4, num_seeds=2)]}


def write(point: Point, results: Path, figures: dict[str, Any]) -> None:
    """Writes a point's file, as a whole or not at all, a figure in each line."""
    content = {"benchmark": "growth", "settings": point._asdict(), **circumstances()}
    head = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    lines = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in figures.items()]
    body = '  "figures": {\n' + ",\n".join(lines) + "\n  }"
    path = point.path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text("{\n" + ",\n".join([*head, body]) + "\n}\n")
    os.replace(temporary, path)
