"""A comparison of two files: what became faster or slower, if they are comparable."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks._figures import QUANTITIES, Line, Spread, spread
from benchmarks._table import add_sized, new_console, new_table


class File(NamedTuple):
    """A file written by `python -m benchmarks --json FILE`."""

    commit: str
    circumstances: dict[str, Any]  # what figures depend on besides rlscan's code
    settings: dict[str, str]  # by benchmark, what ran
    lines: dict[str, list[Line]]
    ratios: dict[str, dict[tuple[str, str], Spread]]  # by benchmark; then by size and name


def compare(old_path: str, new_path: str) -> bool:
    """Print the figures of `new` over those of `old`, and return whether they are comparable.

    **Raises:** `ValueError` for a file that cannot be read or was not written by the suite.
    """
    old, new = read(old_path), read(new_path)
    console = new_console()
    console.print(f"old: {old_path}, commit {old.commit}\nnew: {new_path}, commit {new.commit}")
    reasons = [*differences(old, new)]
    for reason in reasons:
        console.print(f"not comparable: {reason}", style="bold")
    for name in new.lines:
        if name in old.lines:
            console.print(f"\n{name}: {new.settings[name]}", style="bold")
            show(old.lines[name], new.lines[name], console)
            show_ratios(old.ratios[name], new.ratios[name], console)
    console.print(_EXPLANATION)
    return not reasons


_EXPLANATION = """
new / old: of the medians
range: from lower quartile of new over upper of old, to upper over lower
better, worse: if the range does not include 1
Times depend on the machine and its load; ratios over pairs of runs are more reliable."""


def read(path: str) -> File:
    """Read a file of the suite."""
    try:
        content = json.loads(Path(path).read_text())
        if content["benchmark"] != "suite":
            raise ValueError(f"it is one of benchmarks.{content['benchmark']}")
        versions = {**content["versions"]}
        versions.pop("rlscan")  # versions of rlscan are what is compared
        parts = ("cpu", "cores", "device", "python", "flags")
        figures = content["figures"]
        return File(
            content["commit"] + " with changes" * content["changed"],
            # Older files say nothing about threads.
            {
                **{part: content[part] for part in parts},
                "threads": content.get("threads"),
                **versions,
            },
            {name: result["setting"] for name, result in figures.items()},
            {name: [_line(line) for line in result["lines"]] for name, result in figures.items()},
            {name: dict(map(_ratio, result["ratios"])) for name, result in figures.items()},
        )
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path} is not a file of `python -m benchmarks --json FILE`"
        raise ValueError(f"{what}: {type(error).__name__} {error}") from error


def _line(content: dict[str, Any]) -> Line:
    figures = {name: [*map(float, f["values"])] for name, f in content["figures"].items()}
    if not figures or not figures.keys() <= QUANTITIES.keys():
        raise ValueError(f"figures of {content['name']} are {', '.join(figures) or 'none'}")
    for values in figures.values():
        spread(values)
    return Line(content["name"], content["size"], content["meaning"], figures)


def _ratio(content: dict[str, Any]) -> tuple[tuple[str, str], Spread]:
    name = f"{content['of']} / {content['over']}"
    return (content["size"], name), spread([*map(float, content["values"])])


def differences(old: File, new: File) -> Iterator[str]:
    """The reasons why figures of the two files cannot be compared."""
    for name, before in old.circumstances.items():
        if before != (after := new.circumstances.get(name)):
            yield f"{name} was {before or 'none'}, is {after or 'none'}"
    both = [name for name in old.lines if name in new.lines]
    if not both:
        yield "no benchmark is in both"
    for name in both:
        if old.settings[name] != new.settings[name]:
            yield f"{name} ran {old.settings[name]}; now {new.settings[name]}"
        keys = [{(line.size, line.name) for line in file.lines[name]} for file in (old, new)]
        for size, line in sorted(keys[0] ^ keys[1]):
            where = "old" if (size, line) in keys[0] else "new"
            yield f"{name}, {size}, {line} is only in the {where} file"


def change(old: Sequence[float], new: Sequence[float]) -> Spread:
    """New over old: the ratio of the medians, and the range that the quartiles allow.

    The two were not run in pairs, so there is no spread of ratios to take quartiles of.
    """
    before, after = spread(old), spread(new)
    return Spread(
        _over(after.low, before.high),
        _over(after.median, before.median),
        _over(after.high, before.low),
    )


def judged(change: Spread, *, more_is_better: bool) -> str:
    """`better` or `worse` if the whole range is, otherwise empty."""
    if change.low <= 1 <= change.high:
        return ""
    return "better" if (change.low > 1) == more_is_better else "worse"


def show(old: list[Line], new: list[Line], console: Console) -> None:
    before = {(line.size, line.name): line for line in old}
    main, *others = (QUANTITIES[name] for name in new[0].figures)
    table = new_table("new / old, by", main.title, "range", "", *(q.title for q in others))
    rows = []
    for line in new:
        if (line.size, line.name) not in before:
            continue
        figures = before[line.size, line.name].figures
        if figures.keys() != line.figures.keys():
            continue  # different quantities
        spreads = {name: change(figures[name], line.figures[name]) for name in figures}
        low, median, high = spreads[main.name]
        verdict = judged(spreads[main.name], more_is_better=main.more_is_better)
        cells = [line.name, times(median), f"{times(low)} … {times(high)}", verdict]
        rows.append((line.size, [*cells, *(times(spreads[q.name].median) for q in others)]))
    add_sized(table, rows)
    console.print(table)
    console.print()


def show_ratios(old: dict, new: dict, console: Console) -> None:
    table = new_table("ratios over pairs of runs", "old", "new", "quartiles of both")
    rows = []
    for size, name in new:
        if (size, name) in old:
            before, after = old[size, name], new[size, name]
            ranges = [f"{low:.2f} … {high:.2f}" for low, _, high in (before, after)]
            cells = [name, f"{before.median:.2f}", f"{after.median:.2f}", ", ".join(ranges)]
            rows.append((size, cells))
    if rows:
        add_sized(table, rows)
        console.print(table)


def times(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _over(new: float, old: float) -> float:
    if old == 0:
        return 1.0 if new == 0 else float("inf")
    return new / old
