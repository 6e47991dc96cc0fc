"""`verify`: compute updates of a run again, and compare every number that it kept of them."""

import contextlib
import dataclasses
import io
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..ppo._training import updates_made
from ._checkpoint import DIRECTORY, checkpoint_files, read_checkpoint, update_of
from ._config import Config
from ._info import differences_from_now
from ._metrics_files import METRICS_FILES
from ._read import Table, read_metrics
from ._train import open_run

WITHIN = 1e-5
"""The largest difference that other versions or another machine may make, relative to the larger of
a number and 1."""

_CLOCKS = ("seconds", "steps_per_second")


class Span(NamedTuple):
    """Updates that are computed again in one go."""

    start: int  # the update after which they begin; 0 is the seed
    last: int
    checkpoint: Path | None  # the state after `start`; None for the seed

    def __str__(self) -> str:
        source = "the seed" if self.checkpoint is None else f"the checkpoint after {self.start:,}"
        return f"updates {self.start + 1:,} to {self.last:,} from {source}"


class Difference(NamedTuple):
    """The first number that differs most between what a run kept and what was computed."""

    where: str
    kept: float
    computed: float
    size: float  # relative to the larger of `kept` and 1

    def __str__(self) -> str:
        return f"{self.where}: kept {self.kept!r}, computed {self.computed!r} ({self.size:.1e})"


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was computed again, on what, and how far it is from what the run kept."""

    directory: str
    spans: tuple[str, ...]
    num_rows: int
    """Rows of metrics compared, each of several runs' own counted."""
    num_numbers: int
    """Numbers compared in these rows, without clocks."""
    states: tuple[int, ...]
    """Updates after which the whole state was compared, array by array."""
    difference: Difference | None
    """The largest difference; `None` if every number is the same bit for bit."""
    changed: tuple[str, ...]
    """Versions and machine, if they are others than those that the run was made on."""
    software: str

    @property
    def is_bitwise(self) -> bool:
        return self.difference is None

    @property
    def holds(self) -> bool:
        """Whether the run is confirmed: bit for bit, or as far as other software can tell."""
        near = self.difference is not None and self.difference.size <= WITHIN
        return self.is_bitwise or (near and bool(self.changed))

    def as_dict(self) -> dict[str, Any]:
        """The certificate as plain data, for JSON."""
        tree = dataclasses.asdict(self)
        tree["difference"] = None if self.difference is None else self.difference._asdict()
        return {"holds": self.holds, "bitwise": self.is_bitwise, **tree}

    def __str__(self) -> str:
        if self.difference is None:
            found = "every number is the same, bit for bit"
        elif self.holds:
            found = f"equal to {WITHIN:g}, on other software; the largest difference: "
        else:
            found = "NOT THE SAME: "
        found += "" if self.difference is None else str(self.difference)
        lines = [
            f"{self.directory}: {found}",
            f"  computed again: {'; '.join(self.spans)}",
            f"  compared: {self.num_numbers:,} numbers in {self.num_rows:,} rows of metrics",
        ]
        if self.states:
            after = ", ".join(f"{number:,}" for number in self.states)
            lines.append(f"  compared: every array of the state after update {after}")
        lines.append(f"  on: {self.software}")
        lines += [f"  changed since the run: {change}" for change in self.changed]
        return "\n".join(lines)


def plan_spans(
    directory: str | Path,
    updates: Sequence[int] | None = None,
    *,
    num_random: int = 3,
    seed: int | None = None,
) -> list[Span]:
    """Choose what to compute again.

    **Arguments:**

    - `directory`: a run directory.
    - `updates`: the updates to check, from 1; by default the first, the last and `num_random`
        others. Each is computed from the nearest earlier checkpoint, or from the seed, with all
        updates in between.
    - `seed`: of the choice; by default it is another one each time.

    **Raises:** `ValueError` if the run has no such update, or none at all.
    """
    rows = read_metrics(directory)["update"]
    if not len(rows):
        raise ValueError(f"{directory} has no row of metrics yet; let the run make some updates")
    done = int(rows.max())
    if updates is None:
        others = np.random.default_rng(seed).integers(1, done + 1, num_random)
        updates = [1, done, *map(int, others)]
    for update in updates:
        if not 1 <= update <= done:
            raise ValueError(f"update must be from 1 to {done}, the last one kept, got {update}")
    files = {update_of(file): file for file in checkpoint_files(Path(directory))}
    starts = sorted({0, *files})
    lasts: dict[int, int] = {}
    for update in updates:
        start = max(number for number in starts if number < update)
        lasts[start] = max(update, lasts.get(start, 0))
    return [Span(start, last, files.get(start)) for start, last in sorted(lasts.items())]


def seconds_of(directory: str | Path, spans: Sequence[Span]) -> float:
    """Estimate the time of computing spans, without compiling, by the speed of the run."""
    table = read_metrics(directory)
    steps = sum(span.last - span.start for span in spans) * table["step"][0] / table["update"][0]
    return float(steps / np.median(table["steps_per_second"]))


def verify(
    config: Config,
    directory: str | Path,
    spans: Sequence[Span],
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Certificate:
    """Compute updates of a run again, in a directory that is deleted afterwards.

    The run itself is only read. It is trained by the very code that trained it: what is compared
    are its rows of metrics, without clocks, and the states in its checkpoints. Its callbacks are
    called, since they may change the state; its loggers are not.

    **Arguments:**

    - `config`: of the run, with the number of devices that it had.
    - `directory`: the run directory.
    - `spans`: from `plan_spans`.
    - `say`: called with a line before each span.

    **Raises:** whatever training raises, such as `ValueError` for a config that was changed, or
    for fewer devices than the run had.
    """
    found: list[Difference] = []
    num_rows, num_numbers, states = 0, 0, []
    for span in spans:
        say(f"computing {span}")
        with _computed(config, Path(directory), span) as copy:
            kept, computed = (_rows(place, span) for place in (Path(directory), copy))
            num_rows += len(kept["update"])
            num_numbers += sum(len(x) for x in kept.values())
            found += _compare_rows(kept, computed)
            for number, differences in _compare_states(Path(directory), copy, span):
                states.append(number)
                found += differences
    worst = max((one.size for one in found), default=0.0)
    return Certificate(
        directory=str(directory),
        spans=tuple(map(str, spans)),
        num_rows=num_rows,
        num_numbers=num_numbers,
        states=tuple(sorted(set(states))),
        difference=next((one for one in found if one.size == worst), None),
        changed=tuple(differences_from_now(Path(directory))),
        software=f"rlscan {version('rlscan')}, jax {jax.__version__}, {platform.platform()}",
    )


@contextlib.contextmanager
def _computed(config: Config, directory: Path, span: Span) -> Iterator[Path]:
    """Train the updates of a span in a copy of the run directory."""
    with tempfile.TemporaryDirectory(prefix="rlscan-verify-") as place:
        copy, resume = Path(place, "run"), None
        if span.checkpoint is not None:
            shutil.copytree(directory, copy)
            for file in checkpoint_files(copy):
                if update_of(file) > span.start:
                    file.unlink()
            resume = str(copy / DIRECTORY / span.checkpoint.name)
        config = dataclasses.replace(config, output=str(copy), keep_checkpoints=2)
        silent = contextlib.redirect_stdout(io.StringIO())
        with silent, open_run(config, resume, is_logged=False) as (run, training):
            for state, _ in run.record(training):
                is_written = updates_made(state) <= run.num_updates_done  # not in mid-call
                if run.num_updates_done >= span.last and is_written:
                    break
        yield copy


def _rows(directory: Path, span: Span) -> Table:
    table = read_metrics(directory, METRICS_FILES[0])
    is_in = (table["update"] > span.start) & (table["update"] <= span.last)
    return {name: x[is_in] for name, x in table.items() if name not in _CLOCKS}


def _compare_rows(kept: Table, computed: Table) -> Iterator[Difference]:
    if kept.keys() != computed.keys():
        names = ", ".join(sorted(kept.keys() ^ computed.keys()))
        yield Difference(f"columns of metrics.csv ({names})", len(kept), len(computed), np.inf)
        return
    num_rows = [len(table["update"]) for table in (kept, computed)]
    if num_rows[0] != num_rows[1]:
        yield Difference("rows of metrics.csv", num_rows[0], num_rows[1], np.inf)
        return
    for name, x in kept.items():
        for i in _unequal(x, computed[name]):
            where = f"{name} of update {int(kept['update'][i])}"
            where += f", run {int(kept['run'][i])}" if kept["run"].max() > 0 else ""
            yield _difference(where, x[i], computed[name][i])


def _compare_states(
    directory: Path, copy: Path, span: Span
) -> Iterator[tuple[int, list[Difference]]]:
    """Compare the states after updates of the span that both directories hold."""
    computed = {update_of(file): file for file in checkpoint_files(copy)}
    for file in checkpoint_files(directory):
        number = update_of(file)
        if not span.start < number <= span.last or number not in computed:
            continue
        kept, new = (read_checkpoint(one).arrays for one in (file, computed[number]))
        found = []
        for name in kept.keys() | new.keys():
            (_, x), (_, y) = (arrays.get(name, (None, np.empty(0))) for arrays in (kept, new))
            if x.shape != y.shape:
                found.append(Difference(f"shape of state{name}", x.ndim, y.ndim, np.inf))
                continue
            for i in _unequal(x.ravel(), y.ravel())[:1]:
                where = f"state{name} after update {number}"
                found.append(_difference(where, x.ravel()[i], y.ravel()[i]))
        yield number, found


def _unequal(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The places where two vectors differ; NaN is NaN."""
    both_nan = (x != x) & (y != y)
    return np.flatnonzero((x != y) & ~both_nan)


def _difference(where: str, kept: Any, computed: Any) -> Difference:
    was, now = float(kept), float(computed)
    size = abs(was - now) / max(abs(was), 1.0)
    return Difference(where, was, now, float(size if size == size else np.inf))
