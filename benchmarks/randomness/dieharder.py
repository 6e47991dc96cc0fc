"""R. G. Brown's dieharder 3.31.1 on a stream, test by test, each on different words."""

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.randomness import results
from benchmarks.randomness.runs import Run
from benchmarks.randomness.streams import draw

MISSING = "dieharder is not installed; `apt install dieharder`"
NOT_SURE = (
    "diehard_opso",
    "diehard_oqso",
    "diehard_dna",
    "diehard_sums",
)  # according to `dieharder -l`


class Test(NamedTuple):
    """One call of the program."""

    number: int
    size: int | None = None  # if the test runs in several sizes

    @property
    def name(self) -> str:
        return f"-d {self.number}" + ("" if self.size is None else f" -n {self.size}")

    @property
    def seed(self) -> int:
        """The seed of its stream: different for each test, and never NIST's 0."""
        return 100 * self.number + (self.size or 0) + 1


class Line(NamedTuple):
    """One p-value."""

    test: str
    size: int
    samples: int  # numbers that the test read for each of the p-samples
    p_samples: int  # p-values that a Kolmogorov-Smirnov test combined into one
    p_value: float
    assessment: str  # PASSED, WEAK or FAILED


def _sizes(number: int, *sizes: int) -> list[Test]:
    return [Test(number, size) for size in sizes]


# For streams of many keys: birthdays, ranks, missing words, ones, runs, patterns in bits, and sums
# at lags within the four words of a key.
SUBSET = [
    *map(Test, (0, 2, 3, 4, 5, 6, 7, 8, 15, 100, 102, 209)),
    *_sizes(200, *range(1, 13)),
    *_sizes(202, 2, 3, 4, 5),
    *_sizes(203, 0, 1, 3),
]
# Everything that `dieharder -a` runs: 114 p-values. Sums at long lags come last, because they read
# the most words.
WHOLE = [
    *(test for test in SUBSET if test.number != 203),
    *map(Test, (1, 9, 10, 11, 12, 13, 14, 16, 17, 101, 204, 205, 206, 207, 208)),
    *_sizes(201, 2, 3, 4, 5),
    *_sizes(203, *range(33)),
]


def is_installed() -> bool:
    return shutil.which("dieharder") is not None


def tests_of(run: Run) -> list[Test]:
    return WHOLE if run.stream == "counter" and run.generator != "weyl" else SUBSET


def run(run: Run, folder: Path, tests: list[Test], *options: str) -> dict[str, Any]:
    """Run the tests that have no results yet."""
    found = results.read_or_start(run, folder, {"options": list(options)})
    for test in tests:
        if test.name not in found["tests"]:
            found["tests"][test.name] = _run_test(run, test, options)
            results.write(run, folder, found)
            _show(run, test, **found["tests"][test.name])
    return found


def lines_of(found: dict[str, Any]) -> list[Line]:
    """Every p-value of a run."""
    return [Line(*line) for test in found["tests"].values() for line in test["lines"]]


def parse(output: str) -> list[Line]:
    """The p-values in dieharder's output."""
    pattern = r"^ *(\w+)\| *(\d+)\| *(\d+)\| *(\d+)\| *([\d.]+)\| *(\w+) *$"
    return [
        Line(test, int(size), int(samples), int(p_samples), float(p_value), assessment)
        for test, size, samples, p_samples, p_value, assessment in re.findall(pattern, output, re.M)
    ]


def _show(run: Run, test: Test, *, lines: list[Line], bytes: int, seconds: float, **_: Any) -> None:
    outcome = ", ".join(f"{line.p_value:.3g} {line.assessment}" for line in lines)
    print(f"{run.name} {test.name}: {outcome}; {bytes / 1e9:.2g} GB, {seconds} s", flush=True)


def _run_test(run: Run, test: Test, options: tuple[str, ...]) -> dict[str, Any]:
    start = time.perf_counter()
    command = ["dieharder", "-g", "200", *test.name.split(), *options]
    pipe = subprocess.PIPE
    num_bytes = 0
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pipesize=2**20) as program:
        assert program.stdin and program.stdout
        with (
            contextlib.suppress(BrokenPipeError),
            program.stdin,
        ):  # it stops reading when it has enough
            for words in draw(run.generator, run.stream, test.seed):
                program.stdin.write(words.data)
                num_bytes += words.nbytes
        lines = parse(program.stdout.read().decode())
    if program.returncode or not lines:
        raise RuntimeError(f"`{' '.join(command)}` ended with {program.returncode}, {lines}")
    seconds = round(time.perf_counter() - start, 1)
    return {"seed": test.seed, "bytes": num_bytes, "seconds": seconds, "lines": lines}
