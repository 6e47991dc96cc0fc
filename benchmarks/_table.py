"""Tables of figures for a screen of 80 columns."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks._figures import QUANTITIES, Line, Ratio, spread


def show(
    name: str,
    setting: str,
    lines: Sequence[Line],
    ratios: Sequence[Ratio],
    console: Console | None = None,
) -> None:
    """Print the figures, the comparisons, and the meaning of each line."""
    console = console or new_console()
    console.print(f"\n{name}: {setting}", style="bold")
    console.print(_figures(lines))
    console.print()
    if ratios:
        console.print(_ratios(ratios, QUANTITIES[lines[0].main].title))
        console.print()
    meanings = {line.name: line.meaning for line in lines}
    meanings |= {_name(ratio): ratio.meaning for ratio in ratios}
    _explain(meanings, console)


def explain_columns(lines: Iterable[Line], console: Console | None = None) -> None:
    """Print the meaning of the columns of these lines."""
    console = console or new_console()
    used = dict.fromkeys(name for line in lines for name in line.figures)
    console.print("\ncolumns", style="bold")
    meanings = {QUANTITIES[name].title: QUANTITIES[name].meaning for name in used}
    meanings["quartiles"] = "of the column before it, which has the median"
    _explain(meanings, console)


def new_console() -> Console:
    """A console without markup and highlighting, so that names appear as they are."""
    return Console(markup=False, highlight=False)


def new_table(*titles: str) -> Table:
    """A table with names on the left and numbers on the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    return table


def add_sized(table: Table, rows: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Add rows, each with its size, under a heading for each size."""
    heading = ""
    for size, cells in rows:
        if size != heading:
            table.add_row(Text(size, style="bold"))
            heading = size
        table.add_row(*cells)


def number(value: float) -> str:
    """Format with three digits, and at most three after the point."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), 3)}f}"


def _figures(lines: Sequence[Line]) -> Table:
    first, *others = (QUANTITIES[name] for name in lines[0].figures)
    titles = [f"{q.title}\n{q.unit}" for q in (first, *others)]
    table = new_table("", titles[0], "quartiles", *titles[1:])
    rows = []
    for line in lines:
        low, median, high = (x / first.scale for x in spread(line.figures[first.name]))
        cells = [line.name, number(median), f"{number(low)} … {number(high)}"]
        cells += [number(spread(line.figures[q.name]).median / q.scale) for q in others]
        rows.append((line.size, cells))
    add_sized(table, rows)
    return table


def _ratios(ratios: Sequence[Ratio], quantity: str) -> Table:
    table = new_table(f"ratios of {quantity}, over pairs of runs", "median", "quartiles", "claim")
    rows = []
    for ratio in ratios:
        low, median, high = spread(ratio.values)
        claim = "" if ratio.at_least is None else f"≥ {ratio.at_least:g} {verdict(ratio)}"
        cells = [_name(ratio), f"{median:.2f}", f"{low:.2f} … {high:.2f}", claim]
        rows.append((ratio.size, cells))
    add_sized(table, rows)
    return table


def verdict(ratio: Ratio) -> str:
    return "met" if ratio.is_met else "MISSED"


def _name(ratio: Ratio) -> str:
    return f"{ratio.of} / {ratio.over}"


def _explain(meanings: dict[str, str], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(style="dim")
    for name, meaning in meanings.items():
        if meaning:
            table.add_row(name, meaning)
    console.print(table)
