"""`plot`: pictures of learning curves."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from .._core.require import require_extra
from .._rollout.audit import TOLERANCES
from ..runs._curves import Curve, curve
from ..runs._evaluations import EVALUATIONS_FILE
from ..runs._groups import Group, labels, read_groups
from .colours import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY

COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK)  # yellow lines are too pale
_LINES = ("-", "--", ":", "-.")  # the next one when all colours are used
FORMATS = (".png", ".svg", ".pdf")
AUDIT = ("audit_log_ratio", "audit_error", "audit_clip_fraction", "audit_kl")
_EVALUATION = "evaluation/"
_NAMES = {
    "episode_return": "return per episode",
    "episode_return_iqm": "return per episode, IQM",
    "episode_length": "environment steps per episode",
    "entropy": "entropy (nats)",
    "kl_k1": "KL of an update (nats)",
    "approx_kl": "KL of an update (nats)",
    "audit_log_ratio": "audit: max |log ratio|",
    "audit_error": "audit: max relative error",
    "audit_clip_fraction": "audit: clip fraction",
    "audit_kl": "audit: KL (nats)",
    "steps_per_second": "environment steps per second",
    "seconds": "training time (s)",
}


def plot(
    directories: Sequence[str | Path],
    metrics: Sequence[str],
    *,
    suffix: str,
    smoothing: int = 0,
    names: Mapping[Path, str] | None = None,
) -> bytes:
    """Draw metrics of runs over environment steps, each in a panel of its own.

    Runs that differ only in their seeds form one curve: their interquartile mean, with a band for
    its 95 % bootstrap interval. For metrics of the audit, the worst run is drawn.

    **Arguments:**

    - `directories`: one or more run directories.
    - `metrics`: names from `rlscan.ppo.METRICS`, or `evaluation/` followed by a column of
        `evaluations.csv`.
    - `suffix`: one of `FORMATS`.
    - `smoothing`: environment steps over which each run is averaged; the audit is not.
    - `names`: names of runs, from `read_labels`.

    **Returns:** the content of the file.

    **Raises:** `ValueError` for a directory without metrics, or an unknown metric;
    `ModuleNotFoundError` without `rlscan[plot]`.
    """
    require_extra("plots", "plot", "matplotlib", "PIL")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.7 + 2.6 * len(metrics)), layout="constrained")
    axes = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0].tolist()
    tables: dict[str, list[Group]] = {}
    for ax, metric in zip(axes, metrics, strict=True):
        name = metric.removeprefix(_EVALUATION)
        settings = {"file": EVALUATIONS_FILE} if metric.startswith(_EVALUATION) else {}
        source = "evaluation" if settings else "training"
        if source not in tables:
            tables[source] = read_groups(directories, **settings, names=names)
        curves = [curve(group, name, smoothing=smoothing) for group in tables[source]]
        draw_curves(ax, name, curves, labels(tables[source]))
        words = _NAMES.get(name, name.replace("_", " "))
        ax.set_ylabel(f"evaluated: {words}" if settings else words)
    _finish(figure, axes, metrics, next(iter(tables.values())), smoothing)
    return content_of(figure, suffix)


def content_of(figure: Any, suffix: str) -> bytes:
    """The content of a file with a figure; the same figure gives the same file."""
    from matplotlib import rc_context

    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    stream = io.BytesIO()
    # Letters as letters in a PDF, which journals ask for.
    with rc_context({"svg.hashsalt": "rlscan", "pdf.fonttype": 42}):
        figure.savefig(stream, format=suffix[1:], dpi=150, metadata=dates.get(suffix, {}))
    return stream.getvalue()


def draw_curves(
    ax: Any,
    metric: str,
    curves: Sequence[Curve],
    names: Sequence[str],
    *,
    styles: Sequence[tuple[str, str]] | None = None,
) -> None:
    """Draw curves with their bands, in given or in different colours and lines."""
    styles = styles or [(colour, line) for line in _LINES for colour in COLOURS]
    for one, name, (colour, line) in zip(curves, names, cycle(styles), strict=False):
        marker = "o" if np.isfinite(one.middle).sum() == 1 else None  # a line needs two points
        ax.plot(one.step, one.middle, line, color=colour, label=name, linewidth=1.6, marker=marker)
        ax.fill_between(one.step, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
    if metric in ("audit_log_ratio", "audit_error", "audit_kl"):
        _scale_audit(ax, metric, curves)
    elif metric in ("audit_clip_fraction", "clip_fraction"):
        ax.set_ylim(bottom=-0.01)


def _scale_audit(ax: Any, metric: str, curves: Sequence[Curve]) -> None:
    """Use a logarithmic axis that includes 0, and mark the tolerances of `strict`."""
    ax.set_yscale("symlog", linthresh=1e-8)
    most = max([np.nanmax(c.middle, initial=0.0) for c in curves] + [TOLERANCES["continuous"]])
    ax.set_ylim(-3e-9, 10 * most)
    ticks = [0.0, *(10.0**k for k in range(-8, 3, 2) if 10.0**k <= 10 * most)]
    ax.set_yticks(ticks)
    ax.minorticks_off()
    if metric == "audit_error":
        for tolerance in dict.fromkeys(TOLERANCES.values()):
            kinds = " or ".join(kind for kind, its in TOLERANCES.items() if its == tolerance)
            ax.axhline(tolerance, color="0.5", linewidth=0.8, linestyle=(0, (4, 3)))
            ax.annotate(
                f"strict stops here ({kinds})",
                (0.99, tolerance),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize="x-small",
                color="0.35",
            )


def _finish(
    figure: Any,
    axes: Sequence[Any],
    metrics: Sequence[str],
    groups: Sequence[Group],
    smoothing: int,
) -> None:
    from matplotlib.ticker import EngFormatter

    for ax in axes:
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("environment steps")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[-1].set_xlim(left=0)
    figure.align_ylabels(axes)
    several = any(len(group.runs) > 1 for group in groups)
    has_audit, has_others = (
        any(metric.startswith("audit_") is is_audit for metric in metrics)
        for is_audit in (True, False)
    )
    notes = ["line: IQM over seeds", "band: its 95 % bootstrap interval"]
    notes = notes if several and has_others else []
    if smoothing and has_others:
        notes.append(f"each point: the last {smoothing:,} steps")
    if several and has_audit:
        notes.append("audit: worst seed")
    place = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
    axes[-1].annotate("; ".join(notes), (1, -0.2), fontsize="x-small", color="0.35", **place)
    handles, names = axes[0].get_legend_handles_labels()
    # The figure has room for about 95 characters, and a handle takes as much as 8.
    columns = max(1, min(len(names), 95 // (8 + max(map(len, names)))))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)
