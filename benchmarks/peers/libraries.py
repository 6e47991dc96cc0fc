"""The libraries: their requirements, and where they are installed."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
ENVIRONMENTS = CHECKOUT / ".venvs"


@dataclass(frozen=True)
class Library:
    """One library. The workers were written for these versions."""

    name: str
    requirements: tuple[str, ...]
    """Pins that differ from `constraints.txt`, which pins everything else, jax included."""
    packages: tuple[str, ...]
    """The packages whose versions its row names."""
    python: tuple[int, int] = (3, 11)
    """The oldest Python that it supports."""
    needs_checkout: bool = False
    """Whether it is not a package, and comes from a path that the user gives."""
    has_gru: bool = False
    """Whether its PPO trains a GRU."""
    message: dict = field(default_factory=dict)
    """Settings for its worker beside the workload."""

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def interpreter(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def worker(self) -> Path:
        return HERE / "workers" / f"{self.name.replace('-', '_')}_worker.py"

    @property
    def script(self) -> Path:
        """The shortest script that trains, from the shell."""
        return HERE / "scripts" / f"{self.name.replace('-', '_')}_script.py"


# Not among them: memorax 1.0.1, which trains transformers. It admits gymnax 1.0.1, and fails there
# for the same reason as rejax; with gymnax 0.0.9 it runs.
PEERS = {
    library.name: library
    for library in (
        # rejax 0.1.3 expects five values from gymnax's step; since 1.0 it returns six.
        Library("rejax", ("rejax==0.1.3", "gymnax==0.0.9"), ("rejax", "jax", "gymnax")),
        # gymnax is only for MinAtar; since 1.0 it hides the time limit from lerax's wrapper.
        Library(
            "lerax",
            ("lerax==0.0.5", "gymnax==0.0.9", "flax==0.12.8", "six==1.17.0"),
            ("lerax", "jax", "equinox", "gymnax"),
            python=(3, 13),
        ),
        Library(
            "jaxnasium",
            ("jaxnasium[algs,gymnax]==0.1.1", "gymnax==1.0.1"),
            ("jaxnasium", "jax", "gymnax"),
        ),
        Library(
            "stable-baselines3",
            ("stable-baselines3==2.9.2", "torch==2.13.0"),
            ("stable-baselines3", "torch", "gymnasium"),
        ),
        Library("sbx", ("sbx-rl==0.28.0", "torch==2.13.0"), ("sbx-rl", "jax", "gymnasium")),
        # Its file of wrappers imports brax and navix for any environment.
        Library(
            "purejaxrl",
            (
                "gymnax==0.0.9", "flax==0.12.8", "distrax==0.1.9", "optax==0.2.8",
                "brax==0.14.2", "navix==0.7.4",
            ),
            ("jax", "flax", "gymnax"),
            needs_checkout=True,
            has_gru=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Ours(Library):
    """rlscan, in the environment in which the harness runs."""

    @property
    def interpreter(self) -> Path:
        return Path(sys.executable)


RLSCAN = Ours("rlscan", (), ("rlscan", "jax", "gymnax"), has_gru=True)
