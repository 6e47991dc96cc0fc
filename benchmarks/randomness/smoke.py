"""The study at a tiny size, to see that it runs and that the bad generator fails."""

import tempfile
from pathlib import Path

from benchmarks.randomness import dieharder, nist, report
from benchmarks.randomness.runs import RUNS


def run() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run in RUNS.values():
            if run.battery == "nist" and run.generator in ("mix32", "weyl"):
                nist.run(run, folder, num_sequences=2, num_bits=2**14)
        if dieharder.is_installed():
            for generator in ("mix32", "weyl"):
                run = RUNS[f"{generator}/counter/dieharder"]
                # The p-value comes from one sample instead of a hundred.
                dieharder.run(run, folder, [dieharder.Test(2)], "-m", "0.01")
        else:
            print(f"skipped: {dieharder.MISSING}")
        print(report.write(folder))
