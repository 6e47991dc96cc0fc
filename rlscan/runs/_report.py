"""`report`: a comparison as text: Markdown, CSV or LaTeX."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core.require import require_one_of
from ._compare import FRACTIONS, Comparison, Score, compare
from ._statistics import Estimate


def report(
    directories: Sequence[str | Path],
    *,
    format: str = "md",
    labels: Sequence[str] = (),
    score: Score | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Compare algorithms over environments and seeds, as text.

    The tables are returns, the IQM over all environments, the probability of improvement,
    performance profiles and sample efficiency. The command `rlscan report` also makes a page.

    **Arguments:**

    - `format`: `"md"` for Markdown, `"latex"` for tables with booktabs, or `"csv"` for all numbers,
        one in each line.
    - `directories`, `labels`, `score`, `ranges`: as for `rlscan.runs.compare`.

    **Raises:** as `rlscan.runs.compare`.
    """
    require_one_of("format", format, tuple(FORMATS))
    return FORMATS[format](compare(directories, labels=labels, score=score, ranges=ranges))


SCORES = {
    "training": "mean return per episode in the last tenth of training",
    "evaluation": "mean return of the last evaluation",
}
_SHOWN_FRACTIONS = (0.1, 0.25, 0.5, 1.0)
_NUM_SHOWN = 5  # thresholds of the performance profiles


@dataclasses.dataclass
class TextTable:
    """A table of strings."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def tables(found: Comparison) -> list[TextTable]:
    """The tables of a report."""
    made = [_returns(found)]
    if len(found.environments) > 1:
        made.append(_overall(found))
    if found.improvements:
        made.append(_improvements(found))
    if found.overall:
        made.append(_profiles(found))
    return [*made, _efficiency(found)]


def _returns(found: Comparison) -> TextTable:
    rows = []
    for cell in found.cells:
        count = len(cell.scores)
        seeds = f"{count} of {count + cell.num_lost}" if cell.num_lost else str(count)
        mean, worst = (cell.scores.mean(), cell.scores.min()) if count else (math.nan, math.nan)
        figures = [number(mean), number(worst)]
        rows.append([cell.environment, cell.algorithm, seeds, interval(cell.iqm), *figures])
    note = f"The score of a run is its {SCORES[found.score]}. IQM: interquartile mean over seeds"
    lost = "; runs without a score, such as diverged ones, are left out, see seeds."
    note += ", with a 95 % bootstrap interval" + (
        lost if any(cell.num_lost for cell in found.cells) else "."
    )
    header = ["environment", "algorithm", "seeds", "IQM", "mean", "worst seed"]
    return TextTable("Returns", note, header, rows)


def _overall(found: Comparison) -> TextTable:
    ends = "; ".join(f"{n}: {number(a)} and {number(b)}" for n, (a, b) in found.ranges.items())
    note = (
        "IQM over all environments and seeds, with a 95 % interval from a stratified bootstrap. "
        f"Scores that count as 0 and 1: {ends}."
    )
    left_out = set(found.algorithms) - {one.algorithm for one in found.overall}
    if left_out:
        note += f" Without runs in every environment: {', '.join(sorted(left_out))}."
    rows = [[one.algorithm, interval(one.iqm)] for one in found.overall]
    return TextTable("All environments", note, ["algorithm", "IQM of normalised scores"], rows)


def _improvements(found: Comparison) -> TextTable:
    rows = [
        [one.x, one.y, str(len(one.environments)), interval(one.probability)]
        for one in found.improvements
    ]
    note = (
        "The probability that a run of X scores higher than one of Y in the same environment; "
        "equal scores count one half."
    )
    return TextTable(
        "Probability of improvement", note, ["X", "Y", "environments", "P(X > Y)"], rows
    )


def _profiles(found: Comparison) -> TextTable:
    last = len(found.thresholds) - 1
    shown = [round(last * (i + 1) / (_NUM_SHOWN + 1)) for i in range(_NUM_SHOWN)]
    kind = "normalised score" if found.ranges else "score"
    header = ["algorithm", *(f"> {number(found.thresholds[i])}" for i in shown)]
    rows = [
        [one.algorithm, *(interval(_at(one.profile, i)) for i in shown)] for one in found.overall
    ]
    return TextTable(
        "Performance profile", f"The fraction of runs above each {kind}.", header, rows
    )


def _efficiency(found: Comparison) -> TextTable:
    shown = [int(abs(FRACTIONS - part).argmin()) for part in _SHOWN_FRACTIONS]
    header = ["environment", "algorithm", "steps", *(f"at {x:.0%}" for x in _SHOWN_FRACTIONS)]
    rows = []
    for cell in found.cells:
        figures = [interval(_at(cell.efficiency, i)) for i in shown]
        rows.append([cell.environment, cell.algorithm, f"{cell.num_steps:,.0f}", *figures])
    note = (
        "The IQM over seeds of the return during training, after these parts of the environment "
        "steps; each is a mean over 5 % of the steps."
    )
    return TextTable("Sample efficiency", note, header, rows)


def _at(found: Estimate, i: int) -> Estimate:
    return Estimate(found.value[i], found.low[i], found.high[i])


def number(value: float) -> str:
    """Format a number with four digits; a dash if it is not known."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def interval(found: Estimate) -> str:
    """Format an estimate with its interval, if it has one."""
    if math.isnan(found.low):
        return number(found.value)
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def as_markdown(found: Comparison) -> str:
    """The tables for Markdown."""
    parts = []
    for table in tables(found):
        lines = markdown_table(table.header, table.rows)
        parts.append(f"## {table.title}\n\n{table.note}\n\n{lines}\n")
    return "\n".join(parts)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for Markdown, without a line end after it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"

    return "\n".join([line(header), "|---" * len(header) + "|", *map(line, rows)])


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    ">": "$>$",
    "<": "$<$",
    "–": "--",
    "−": "$-$",
}


def _latex(text: str) -> str:
    text = re.sub(r"(?<![\w.])-(?=\d)", "−", text)  # a minus sign, not a hyphen
    return "".join(_LATEX.get(c, c) for c in text)


def as_latex(found: Comparison) -> str:
    """The tables for LaTeX, with the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        # Braces keep a bracket after a line's end from being read as its argument.
        return " & ".join(f"{{{_latex(cell)}}}" for cell in cells) + r" \\"

    parts = ["% \\usepackage{booktabs}\n"]
    for table in tables(found):
        rows = [line(table.header), r"\midrule", *map(line, table.rows)]
        lines = [
            f"% {table.title}. {table.note}",
            rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
        ]
        parts.append("\n".join([*lines, r"\toprule", *rows, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(parts)


_COLUMNS = ("statistic", "environment", "algorithm", "other", "at", "value", "low", "high")


def as_csv(found: Comparison) -> str:
    """All statistics, one line for each number, and the scores of all runs."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in _records(found):
        writer.writerow(["" if isinstance(x, float) and math.isnan(x) else x for x in row])
    return stream.getvalue()


def _records(found: Comparison) -> list[list[Any]]:
    rows: list[list[Any]] = []

    def add(statistic: str, place: Sequence[str], at: Any, values: Sequence[Any]) -> None:
        padded = [*values, "", ""][:3]
        rows.append(
            [statistic, *place, at, *(x if isinstance(x, str) else float(x) for x in padded)]
        )

    def add_curve(statistic: str, place: Sequence[str], at: Any, values: Estimate) -> None:
        for i, x in enumerate(at):
            add(statistic, place, float(x), _at(values, i))

    for cell in found.cells:
        place = (cell.environment, cell.algorithm, "")
        for score in cell.scores:
            add("score", place, "", [score])
        add("iqm", place, "", cell.iqm)
        add_curve("return", place, FRACTIONS * cell.num_steps, cell.efficiency)
    for one in found.overall:
        place = ("", one.algorithm, "")
        add("iqm", place, "", one.iqm)
        add_curve("profile", place, found.thresholds, one.profile)
        add_curve("return", place, FRACTIONS, one.efficiency)
    for one in found.improvements:
        add("probability_of_improvement", ("", one.x, one.y), "", one.probability)
    return rows


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
}
