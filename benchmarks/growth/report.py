"""The report: table.md beside the results, and a figure for each axis."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.growth import plots
from benchmarks.growth.figures import PROGRAMS, Figures, knees
from benchmarks.growth.points import ENV, NUM_MINIBATCHES, Point

TITLES = {
    "num_envs": "N, environments",
    "num_steps": "T, steps of a rollout",
    "dropout": "p, the dropout rate",
    "width": "width, units of a hidden layer",
    "num_seeds": "seeds, mapped over",
}

HEAD = f"""# Growth: all figures

Written by `python -m benchmarks.growth --report` from the points beside it; what they mean is in
[the README](../README.md). {ENV}, two hidden layers for the actor and for the critic, tanh, dropout
on both layers of the actor; an update is 4 epochs of {NUM_MINIBATCHES} minibatches. Where nothing
else is said, N = 64, T = 128, p = 0.1 and 64 units. Speeds are medians, and their ratio that of
pairs of runs. *Iteration*: of the rollout's scan, one step of all environments. *XLA*: what the
program needs for its results and beside them. *Resident*: how far a call raised the memory of its
process, which counts in pages of 4 kB."""

COLUMNS = (
    "rollout, M steps/s",
    "without dropout",
    "ratio",
    "iteration, µs",
    "update, M steps/s",
    "trajectory, MB",
    "rollout: XLA, MB",
    "resident",
    "update: XLA, MB",
    "resident",
)


def write(axes: Mapping[str, Sequence[Point]], results: Path) -> str:
    """Write `table.md` and the plots of the measured points, and return the table."""
    results.mkdir(parents=True, exist_ok=True)
    all_found: dict[Point, Figures] = {}
    parts = [HEAD]
    for name, points in axes.items():
        found = [Figures(p, content["figures"]) for p in points if (content := p.read(results))]
        if not found:
            continue
        all_found |= {figures.point: figures for figures in found}
        plots.draw(name, TITLES[name], found, results)
        parts += [f"## {TITLES[name]}\n", f"![{TITLES[name]}]({name}.png)\n", table(name, found)]
        parts += ["", *(knee_line(name, program, found) for program in PROGRAMS)]
    parts += ["", "## Bytes per transition", "", *bytes_lines(list(all_found.values()))]
    parts += ["", *circumstances(all_found, results)]
    text = "\n".join(parts).replace("\n## ", "\n\n## ").replace("\n\n\n", "\n\n")
    (results / "table.md").write_text(text + "\n")
    return text


def table(name: str, found: Sequence[Figures]) -> str:
    lines = [(name, *COLUMNS), ("---:",) * (1 + len(COLUMNS))]
    lines += [(f"{getattr(f.point, name):g}", *row(f)) for f in found]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(f: Figures) -> Iterator[str]:
    yield number(f.speed("rollout").median / 1e6)
    yield number(f.speed("rollout_without").median / 1e6)
    yield f"{f.ratio():.2f}"
    yield number(1e6 * f.iteration_seconds())
    yield number(f.speed("update").median / 1e6)
    yield number(f.measured["trajectory_bytes"] / 1e6)
    for program in ("rollout", "update"):
        yield number(f.by_xla(program) / 1e6)
        yield number(f.by_system(program) / 1e6)


def number(x: float) -> str:
    """Format with three digits, without powers of ten."""
    if not math.isfinite(x):
        return "–"
    digits = 2 - math.floor(math.log10(abs(x))) if x else 0
    return f"{round(x, digits):.{max(digits, 0)}f}"


def knee_line(name: str, program: str, found: Sequence[Figures]) -> str:
    """A line about the size at which a program is fastest, and where it passes half of that."""
    sizes = [float(getattr(f.point, name)) for f in found]
    speeds = [f.speed(program).median for f in found]
    best = max(range(len(found)), key=lambda i: speeds[i])
    passed = " and ".join(number(knee) for knee in knees(sizes, speeds))
    where = f"half of that at {name} = {passed}" if passed else "nowhere less than half of that"
    return (
        f"- {PROGRAMS[program]}: at best {number(speeds[best] / 1e6)} M steps/s, at {name} = "
        f"{sizes[best]:g}; {where}."
    )


LARGE = 5e6  # bytes of a trajectory; pages and allocators matter little above that


def bytes_lines(found: Sequence[Figures]) -> Iterator[str]:
    """Lines that compare the size of trajectories with `rlscan.transition_bytes`."""
    told, over, risen = [], [], []
    for f in found:
        told.append(f.measured["told_bytes"] / f.point.steps)
        stored, state = f.measured["trajectory_bytes"], f.measured["state_bytes"]
        over.append(f.measured["rollout_memory"]["output_bytes"] - stored - state)
        if stored > LARGE:
            risen.append(f.by_system("rollout") / (stored + state))
    wrong = [f for f in found if f.measured["told_bytes"] != f.measured["trajectory_bytes"]]
    where = f", and not at {'; '.join(f.point.name for f in wrong)}." if wrong else "."
    yield f"`rlscan.transition_bytes` says {between(map(number, (min(told), max(told))))} bytes."
    yield "The arrays of the trajectory have that many at"
    yield f"{len(found) - len(wrong)} of {len(found)} points{where}"
    # The rest is a table of where the results are.
    yield "What XLA sets aside for a rollout's results is the trajectory, the state after it, and"
    yield f"{between(map(str, (min(over), max(over))))} bytes."
    if risen:
        yield "Where the trajectory has more than 5 MB, a rollout raises the resident memory by"
        yield f"{between(f'{x:.2f}' for x in (min(risen), max(risen)))} times trajectory and state."


def between(written: Iterable[str]) -> str:
    """`a to b`, or `a` if both are written alike."""
    return " to ".join(dict.fromkeys(written))


def circumstances(found: Mapping[Point, Figures], results: Path) -> Iterator[str]:
    """A line for each combination of versions, commit and processor that made the points."""
    made: dict[str, int] = {}
    for point in found:
        content = point.read(results) or {}
        versions = ", ".join(f"{name} {v}" for name, v in content["versions"].items())
        changed = " with changes" if content["changed"] else ""
        by = f"{versions}; commit {content['commit']}{changed}; {content['cpu']}"
        by += f", {content['cores']} cores"
        made[by] = made.get(by, 0) + 1
    for by, count in made.items():
        yield f"{count} points by {by}."
