"""The table of returns: the kept figures of each config beside published ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _results

# From CleanRL's documentation of its PPO, gymnax's README, the model zoo of Stable-Baselines3, and
# a plot of purejaxrl's. None of them has dropout.
PUBLISHED = {
    "acrobot": "−86.4 ± 1.3 (CleanRL), −80 (gymnax); 500k",
    "breakout": "28 (gymnax), about 40 (purejaxrl); 10M",
    "cartpole": "490.0 ± 6.1 (CleanRL), 500 (gymnax); 500k",
    "freeway": "58 (gymnax); 10M",
    "space_invaders": "131 (gymnax); 10M",
    "asterix": "15 (gymnax); 10M",
    "memory_chain": "0.1 without memory, 1 with; 150k to 300k",
    "cartpole_pomdp": "500 (SB3 zoo, ppo_lstm); 100k",
    "pendulum": "−172 ± 104 (SB3 zoo), −130 (gymnax); 100k to 1M",
}

HEAD = """Return in the last tenth of training: of the policy that learns, sampling its actions and
masks. IQM over seeds with its 95 % bootstrap interval. Seconds: of all seeds side by side, without
compiling.
"""
COLUMNS = (
    "config", "environment steps", "dropout", "seeds", "IQM", "worst seed", "max abs(log ratio)",
    "seconds", "published",
)  # fmt: skip


def table(folder: Path) -> str:
    """A row for each kept config, and lines about what made them."""
    kept = _results.read(folder)
    made = sorted({made_by(found) for found in kept.values()})
    return "\n".join([HEAD, *rows(kept), "", *made, ""])


def rows(kept: dict[str, Any]) -> Iterator[str]:
    """The lines of the table alone."""
    yield from (f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}")
    yield from (row(name, found) for name, found in kept.items())


def row(name: str, found: dict[str, Any]) -> str:
    settings, figures = found["settings"], found["figures"]
    low, high = figures["interval"]
    columns = (
        f"`{settings['config']}`" + "".join(f" `{o}`" for o in settings["overrides"]),
        f"{settings['total_steps']:,}",
        f"{settings['dropout']:g}",
        f"{len(figures['seeds'])}",
        f"{figures['iqm']:.2f} [{low:.2f}, {high:.2f}]",
        f"{figures['worst']:.2f}",
        f"{figures['audit_log_ratio']:.1e}",
        f"{figures['run_seconds']:.0f}",
        published(name),
    )
    return f"| {' | '.join(columns)} |"


def published(name: str) -> str:
    """The published figures under the longest name above that the config's name begins with."""
    fitting = [known for known in PUBLISHED if name.startswith(known)]
    return PUBLISHED[max(fitting, key=len)] if fitting else "–"


def made_by(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
    changed = " with changes" if found["changed"] else ""
    return (
        f"By {versions}; commit {found['commit']}{changed}; {found['cpu']}, {found['cores']} cores."
    )
