"""One figure for each axis: speed on the left, memory on the right, both logarithmic."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth.figures import PROGRAMS, Figures, knees

# Colours that colour-blind readers can tell apart, each with a marker.
STYLES = {
    "rollout": ("#0072b2", "o"),
    "rollout_without": ("#7f7f7f", "^"),
    "update": ("#d55e00", "s"),
}


def draw(name: str, title: str, found: Sequence[Figures], results: Path) -> None:
    """Write `<name>.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = [float(getattr(f.point, name)) for f in found]
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    draw_speed(speed, sizes, found)
    draw_memory(memory, sizes, found)
    for ax in (speed, memory):
        ax.set_yscale("log")
        to_decades(ax)
        if name != "dropout":  # a rate may be 0
            ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel(title)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize=9)
    figure.savefig(results / f"{name}.png", dpi=80)
    plt.close(figure)


def draw_speed(ax: Any, sizes: Sequence[float], found: Sequence[Figures]) -> None:
    """Draw medians with their quartiles, and mark where a speed passes half of its best."""
    for program, label in PROGRAMS.items():
        colour, marker = STYLES[program]
        low, middle, high = zip(*(f.speed(program) for f in found), strict=True)
        error = [
            [m - x for m, x in zip(middle, low, strict=True)],
            [x - m for m, x in zip(middle, high, strict=True)],
        ]
        ax.errorbar(sizes, middle, error, color=colour, marker=marker, capsize=3, label=label)
        for knee in knees(sizes, middle) if program != "rollout_without" else ():
            ax.plot([knee], [max(middle) / 2], "|", color=colour, markersize=22, markeredgewidth=2)
            ax.annotate(
                f"{knee:.0f}",
                (knee, max(middle) / 2),
                xytext=(5, -12),
                textcoords="offset points",
                color=colour,
            )
    ax.set_ylabel("environment steps per second")
    ax.set_title("speed, and where it passes half of its best (|)", fontsize=11)


def draw_memory(ax: Any, sizes: Sequence[float], found: Sequence[Figures]) -> None:
    """Draw lines for the memory that the formula or XLA states, markers for measured memory."""
    told = [f.measured["told_bytes"] / 1e6 for f in found]
    ax.plot(sizes, told, "--", color="black", label="trajectory, by the formula")
    for program, label in (("rollout", "rollout"), ("update", "PPO update")):
        colour, marker = STYLES[program]
        by_xla = [f.by_xla(program) / 1e6 for f in found]
        ax.plot(sizes, by_xla, color=colour, label=f"{label}, by XLA")
        measured = [f.by_system(program) / 1e6 for f in found]
        ax.plot(sizes, measured, marker, color=colour, label=f"{label}, rise of resident memory")
    ax.set_ylabel("MB")
    ax.set_title("memory that a call takes", fontsize=11)


def to_decades(ax: Any) -> None:
    """Extend an axis to whole powers of ten, because an axis that holds none has no labels."""
    low, high = ax.get_ylim()
    ax.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
