"""Figures of a comparison: curves, interquartile means, profiles and probabilities."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np

from ..runs._compare import FRACTIONS, Comparison
from ..runs._curves import curve
from ..runs._statistics import Estimate
from .plot import COLOURS, draw_curves

_WIDTH = 8.0  # inches
_SMOOTHING = 0.02  # of the training


def colours_of(found: Comparison) -> dict[str, str]:
    """A colour for each algorithm, the same in all figures."""
    return dict(zip(found.algorithms, cycle(COLOURS), strict=False))


def draw_returns(found: Comparison) -> Any:
    """A figure of returns over environment steps, with a panel for each environment."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    names, colours = found.environments, colours_of(found)
    num_columns = min(2, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 2.9 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        cells = [cell for cell in found.cells if cell.environment == name]
        curves = [
            curve(cell.group, "episode_return", smoothing=round(_SMOOTHING * cell.num_steps))
            for cell in cells
        ]
        algorithms = [cell.algorithm for cell in cells]
        styles = [(colours[algorithm], "-") for algorithm in algorithms]
        draw_curves(ax, "episode_return", curves, algorithms, styles=styles)
        ax.set(title=name, xlabel="environment steps", ylabel="return per episode")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlim(left=0)
        _tidy(ax)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    _legend(figure, found)
    return figure


def draw_statistics(found: Comparison) -> Any:
    """A figure of the statistics over all environments and seeds."""
    from matplotlib.figure import Figure

    bars = 0.6 + max(0.3 * len(found.overall), 0.45 * len(found.improvements))  # inches
    figure = Figure(figsize=(_WIDTH, 2.9 + bars), layout="constrained")
    subfigures: Any = figure.subfigures(2, 1, height_ratios=(bars, 2.9))
    upper, lower = subfigures
    left, right = upper.subplots(1, 2)
    colours, kind = colours_of(found), "normalised score" if found.ranges else "score"
    names = [_short(one.algorithm) for one in found.overall]
    iqms = [one.iqm for one in found.overall]
    _draw_intervals(left, names, iqms, [colours[one.algorithm] for one in found.overall])
    left.set_xlabel(f"IQM of the {kind}")
    pairs = [f"{_short(one.x)}\n> {_short(one.y)}" for one in found.improvements]
    probabilities = [one.probability for one in found.improvements]
    _draw_intervals(right, pairs, probabilities, [colours[one.x] for one in found.improvements])
    right.axvline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=0)
    right.set(xlim=(-0.02, 1.02), xlabel="probability of improvement")
    profile, efficiency = lower.subplots(1, 2)
    for one in found.overall:
        colour = colours[one.algorithm]
        _draw_band(profile, found.thresholds, one.profile, colour, drawstyle="steps-mid")
        _draw_band(efficiency, 100 * FRACTIONS, one.efficiency, colour)
    profile.set(xlabel=f"{kind} τ", ylabel="fraction of runs above τ", ylim=(-0.02, 1.02))
    efficiency.set(xlabel="part of the training (%)", ylabel=f"IQM of the {kind}", xlim=(0, 100))
    for ax in (left, right, profile, efficiency):
        _tidy(ax)
    return figure


def _draw_intervals(
    ax: Any, names: Sequence[str], estimates: Sequence[Estimate], colours: Sequence[str]
) -> None:
    for i, (found, colour) in enumerate(zip(estimates, colours, strict=True)):
        if np.isfinite(found.low):
            ax.plot([found.low, found.high], [i, i], color=colour, linewidth=7, alpha=0.35)
        ax.plot([found.value], [i], "o", color=colour, markersize=6)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(max(len(names), 1) - 0.4, -0.6)


def _draw_band(ax: Any, x: np.ndarray, found: Estimate, colour: str, **style: Any) -> None:
    ax.plot(x, found.value, color=colour, linewidth=1.6, **style)
    ax.fill_between(x, found.low, found.high, color=colour, alpha=0.2, linewidth=0)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"


def _tidy(ax: Any) -> None:
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, found: Comparison) -> None:
    from matplotlib.lines import Line2D

    colours = colours_of(found)
    handles = [Line2D([], [], color=colours[n], label=_short(n)) for n in found.algorithms]
    columns = max(1, min(len(handles), 95 // (8 + max(len(_short(n)) for n in found.algorithms))))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)
