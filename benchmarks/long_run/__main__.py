"""Does the memory of a long run of `scripts/train.py` grow? A run of 2 · 10⁸ steps is watched.

    python -m benchmarks.long_run                         about twenty minutes on two cores
    python -m benchmarks.long_run --json long_run.json

CartPole with dropout in 1024 environments, in a separate process, with everything that a run
writes: metrics, the audit, checkpoints. On a CPU the device's memory is the host's, so the resident
memory includes both. It is read from /proc (only on Linux) twice a second; the table has the median
of each tenth of the run. Exit status: 0; 1 if the last tenth takes over a hundredth more than the
third one; 2 if memory cannot be read.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import rlscan
from benchmarks._processes import ROOT
from benchmarks._timing import record, write_json

NUM_STEPS = 200_000_000
SMOKE_STEPS = 400_000
MOST_GROWTH = 1.01
# Large rollouts with one epoch each, so that most of the time goes into environment steps.
SETTINGS = (
    *("--config", "configs/cartpole.yaml"),
    *("--ppo.num_envs", "1024", "--ppo.num_steps", "128"),
    *("--ppo.num_epochs", "1", "--ppo.num_minibatches", "4"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--total-steps", type=int, default=NUM_STEPS)
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    args = parser.parse_args(argv)
    if not Path("/proc/self/status").exists():
        print("error: memory is read from /proc, which is not here; use Linux", file=sys.stderr)
        return 2
    num_steps = SMOKE_STEPS if args.smoke else args.total_steps
    with tempfile.TemporaryDirectory() as folder:
        figures = watch(num_steps, Path(folder) / "run")
    show(num_steps, figures)
    settings = {"settings": SETTINGS, "total_steps": num_steps}
    write_json(args.json, record("long_run", settings, figures))
    tenths = figures["resident_bytes"]
    return int(not args.smoke and tenths[-1] > MOST_GROWTH * tenths[2])


def watch(num_steps: int, output: Path) -> dict:
    """Train in another process: how long it took, what it wrote, and its memory over time."""
    options = ["--total-steps", str(num_steps), "--output", str(output)]
    command = [sys.executable, "scripts/train.py", *SETTINGS, *options]
    start = time.perf_counter()
    samples = []
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as process:
            while process.poll() is None:
                samples.append(resident_bytes(process.pid))
                time.sleep(0.5)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(
                f"{' '.join(command)} ended with status {process.returncode}:\n{said.read()}"
            )
    metrics = rlscan.runs.read_metrics(output)
    return {
        "seconds": time.perf_counter() - start,
        "num_updates": len(metrics["update"]),
        "final_return": float(metrics["episode_return"][-1]),
        "resident_bytes": [statistics.median(tenth) for tenth in tenths(samples)],
        "peak_bytes": max(samples),
        "written_bytes": sum(f.stat().st_size for f in output.rglob("*") if f.is_file()),
    }


def tenths(samples: Sequence[int]) -> list[Sequence[int]]:
    """Cut samples into ten parts; the parts of a very short run share samples."""
    n = len(samples)
    return [samples[i * n // 10 : max((i + 1) * n // 10, i * n // 10 + 1)] for i in range(10)]


def resident_bytes(pid: int) -> int:
    """The resident memory of a process; 0 if it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return 1024 * int(lines[0]) if lines else 0


def show(num_steps: int, figures: dict) -> None:
    print(f"{num_steps:,} steps, {figures['num_updates']:,} updates, {figures['seconds']:.0f} s")
    print("resident, the median of each tenth of the run:")
    print("  " + "  ".join(f"{b / 1e6:.0f}" for b in figures["resident_bytes"]) + "  MB")
    print(f"at its peak {figures['peak_bytes'] / 1e6:.0f} MB")
    print(f"written {figures['written_bytes'] / 1e6:.1f} MB, return {figures['final_return']:.0f}")


if __name__ == "__main__":
    raise SystemExit(main())
