"""One figure for each environment: scores, mismatch and learning curves of the arms."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.consistency.arms import ARMS
from benchmarks.consistency.cells import Cell, Found, cells_of
from benchmarks.consistency.criteria import AT_RATE, LATE_CLIP_FRACTION, LATE_KL, stop
from benchmarks.consistency.tasks import TARGET_KLS, Task
from rlscan import bootstrap_interval as interval, iqm

# Colours that colour-blind readers can tell apart, each with a marker.
STYLES = {
    "off": ("#555555", ""),
    "naive": ("#d55e00", "s"),
    "dropout-off rollout": ("#b58900", "^"),
    "consistent": ("#0072b2", "o"),
}
FLOOR = 1e-6  # the least k3 on the logarithmic axis, because k3 may be 0 up to rounding
RATIO_FLOOR = 1e-8  # the same for a log ratio


def draw(task: Task, all_found: Found, results: Path) -> None:
    """Write `<name>.png`; missing cells are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(17, 7.4), sharey="col", layout="constrained")
    for row, target_kl in zip(axes, TARGET_KLS, strict=True):
        found = {
            cell: all_found[cell]["figures"]
            for cell in cells_of(task)
            if cell.target_kl == target_kl and cell in all_found
        }
        draw_scores(row[0], task, found)
        draw_mismatch(row[1], task, found, "late_audit_kl", LATE_KL)
        draw_mismatch(row[2], task, found, "late_audit_clip_fraction", LATE_CLIP_FRACTION)
        draw_curves(row[3], found)
        label_row(row, target_kl)
    handles = {}
    for ax in axes.ravel()[::-1]:  # backwards, so that the handles with a marker are kept
        handles |= {label: h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    shown = [label for label in ARMS if label in handles]
    figure.legend([handles[s] for s in shown], shown, loc="outside lower center", ncols=4)
    figure.suptitle(f"{task.env}, {task.total_steps:,} steps", fontsize=14)
    figure.savefig(results / f"{task.name}.png", dpi=80)
    plt.close(figure)


ROUNDING = 1e-5  # a log ratio below it is rounding, for discrete actions and a Gaussian alike


def draw_ratio(tasks: Sequence[Task], all_found: Found, results: Path) -> None:
    """Write `ratio.png`: the largest log ratio before any gradient step, replayed and not."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    rates = sorted({rate for task in tasks for rate in task.rates})
    for task, marker in zip(tasks, "osD^v", strict=False):
        for arm in ("naive", "consistent"):
            cells = [cell for cell in cells_of(task) if cell.arm == arm and cell in all_found]
            cells = [cell for cell in cells if math.isinf(cell.target_kl)]
            largest = [all_found[cell]["figures"]["max_audit_log_ratio"].max() for cell in cells]
            x = [rates.index(cell.rate) for cell in cells]
            y = np.maximum(largest, RATIO_FLOOR)
            ax.plot(x, y, color=STYLES[arm][0], marker=marker, markersize=5, linewidth=1)
        ax.plot([], [], marker, color="#777777", markersize=5, label=task.env.rpartition("-")[0])
    ax.axhspan(RATIO_FLOOR / 3, ROUNDING, color=STYLES["consistent"][0], alpha=0.1, linewidth=0)
    for arm, place, words in (
        ("naive", 0.03, "fresh masks in the update"),
        ("consistent", 4e-5, "the rollout's masks, replayed: 0 up to rounding"),
    ):
        ax.annotate(words, (0.02, place), xycoords=("axes fraction", "data"), color=STYLES[arm][0])
    ax.set_yscale("log")
    ax.set_ylim(RATIO_FLOOR / 3, 1e3)
    ticks = 10.0 ** np.arange(-8, 4, 2)
    ax.set_yticks(ticks, ["0", *(f"{tick:g}" for tick in ticks[1:])], minor=False)
    ax.minorticks_off()
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_xlabel("dropout rate p")
    ax.set_title("PPO's largest |log ratio| before the first gradient step", fontsize=11)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(results / "ratio.png", dpi=110)
    plt.close(figure)


def label_row(row: Any, target_kl: float) -> None:
    titles = (
        "return, last tenth of training",
        "late k3 before the first gradient step",
        "late clip fraction before it",
        f"return during training, p = {AT_RATE:g}",
    )
    for ax, title in zip(row, titles, strict=True):
        ax.set_title(f"{title}\n{stop(target_kl)}", fontsize=11)
        ax.grid(alpha=0.25)
        ax.tick_params(labelleft=True)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in row[:3]:
        ax.set_xlabel("dropout rate p")
    row[3].set_xlabel("environment steps, thousands")


def draw_scores(ax: Any, task: Task, found: dict[Cell, Any]) -> None:
    """Draw the IQM with its interval against p; `off`, which has no p, is a band."""
    for name in ARMS:
        colour, marker = STYLES[name]
        cells = [cell for cell in found if cell.arm == name]
        scores = [found[cell]["score"] for cell in cells]
        if not cells:
            continue
        middle = np.array([float(iqm(s)) for s in scores])
        low, high = np.array([interval(s) for s in scores]).T
        if name == "off":
            ax.axhline(middle[0], color=colour, linestyle="--", label=name)
            ax.axhspan(low[0], high[0], color=colour, alpha=0.12, linewidth=0)
            continue
        x = [_place(task, cell) for cell in cells]
        error = [middle - low, high - middle]
        ax.errorbar(x, middle, error, color=colour, marker=marker, capsize=3, label=name)
    _rates_below(ax, task)


def draw_mismatch(ax: Any, task: Task, found: dict[Cell, Any], name: str, bar: float) -> None:
    """Draw a late diagnostic against p: the mean over seeds, and a dot for each seed."""
    for arm in ARMS[1:]:
        colour, marker = STYLES[arm]
        cells = [cell for cell in found if cell.arm == arm]
        x = [_place(task, cell) for cell in cells]
        values = [found[cell][name] for cell in cells]
        if name == "late_audit_kl":
            values = [np.maximum(v, FLOOR) for v in values]
        for place, v in zip(x, values, strict=True):
            ax.plot(np.full(v.size, place), v, ".", color=colour, alpha=0.25, markersize=4)
        ax.plot(x, [v.mean() for v in values], color=colour, marker=marker, label=arm)
    ax.axhline(bar, color="black", linestyle=":", linewidth=1)
    ax.annotate(f"{bar:g}", (1, bar), xycoords=("axes fraction", "data"), va="center")
    if name == "late_audit_kl":
        ax.set_yscale("log")
        ax.set_ylim(FLOOR / 2, None)
        ticks = 10.0 ** np.arange(-6, 1 + np.ceil(np.log10(ax.get_ylim()[1])))
        labels = [f"{tick:.0e}".replace("e-0", "e-").replace("e+0", "e") for tick in ticks]
        ax.set_yticks(ticks[:-1], [f"≤ {labels[0]}", *labels[1:-1]])
    else:
        # Not by `set_ylim`, which would freeze the shared axis before the other row is drawn.
        ax.axhline(0, color="none")
    _rates_below(ax, task)


def draw_curves(ax: Any, found: dict[Cell, Any]) -> None:
    """Draw the IQM of the return during training, in a band of its interval."""
    for cell, figures in found.items():
        if cell.rate not in (0, AT_RATE):
            continue
        ended = np.isfinite(figures["curve"]).all(axis=0)  # an episode of every seed
        if not ended.any():
            continue
        steps, curve = figures["curve_steps"][ended] / 1000, figures["curve"][:, ended]
        low, high = np.array([interval(point) for point in curve.T]).T
        colour, _ = STYLES[cell.arm]
        line = "--" if cell.arm == "off" else "-"
        ax.plot(steps, iqm(curve, axis=0), line, color=colour, label=cell.arm)
        ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _place(task: Task, cell: Cell) -> float:
    """The x of a cell: rates are evenly spaced, and the arms of a rate stand side by side."""
    return task.rates.index(cell.rate) + 0.1 * (ARMS.index(cell.arm) - 2)


def _rates_below(ax: Any, task: Task) -> None:
    ax.set_xticks(range(len(task.rates)), [f"{rate:g}" for rate in task.rates])
    ax.set_xlim(-0.5, len(task.rates) - 0.5)
