"""Does it matter in PPO whether dropout is the same in the rollout and in the update?

    python -m benchmarks.consistency [--only cartpole …] [--num-seeds 20] [--first-seed 0]
    python -m benchmarks.consistency --report

Runs the cells of the study that are not in results.json yet. It may be stopped and started again
at any time. Other seeds go to another folder: `--first-seed 1000 --results DIR`. `--report` writes
table.md and the plots.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from benchmarks.consistency import cells, report, smoke
from benchmarks.consistency.tasks import TASKS, Task
from benchmarks.consistency.training import make_program

RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.consistency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="only these")
    parser.add_argument("--arms", nargs="+", choices=cells.ARMS, default=cells.ARMS)
    parser.add_argument("--rates", nargs="+", type=float, help="only these dropout rates")
    parser.add_argument("--num-seeds", type=int, help="seeds of a cell, instead of the study's")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results.json")
    parser.add_argument("--list", action="store_true", help="print the cells and their seeds")
    parser.add_argument("--report", action="store_true", help="write table.md and the plots")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    args = parser.parse_args(argv)

    if args.smoke:
        with tempfile.TemporaryDirectory() as folder:
            smoke.run(Path(folder))
        return
    tasks = [_with_seeds(TASKS[name], args.num_seeds) for name in args.only]
    if args.report:
        report.write(tasks, args.results)
        return
    for task in tasks:
        wanted = [
            cell
            for cell in cells.cells_of(task)
            if cell.arm in args.arms and (not args.rates or cell.rate in (0, *args.rates))
        ]
        seeds = list(range(args.first_seed, args.first_seed + task.num_seeds))
        if args.list:
            show(wanted, args.results)
        else:
            run(task, wanted, seeds, args.results)


def run(task: Task, wanted: list[cells.Cell], seeds: list[int], results: Path) -> None:
    """Run the cells that have no results yet."""
    program = make_program(task)
    for cell in wanted:
        # Read for each cell, because another process may be running the same study.
        found = cells.read([cell], results).get(cell)
        if found is None:
            seconds = cells.run(cell, program, seeds, results)
            print(f"{cell.name}: {len(seeds)} seeds in {seconds:.0f} s", flush=True)
        elif not cells.agrees(found["settings"], cells.settings(cell, seeds)):
            print(f"{cell.name}: was run with other seeds or settings; kept. Use another --results")


def show(wanted: list[cells.Cell], results: Path) -> None:
    found = cells.read(wanted, results)
    for cell in wanted:
        seeds = found[cell]["settings"]["seeds"] if cell in found else []
        which = f"n = {len(seeds)}, seeds {seeds[0]} to {seeds[-1]}" if seeds else "missing"
        print(f"{cell.name}: {which}")


def _with_seeds(task: Task, num_seeds: int | None) -> Task:
    return task if num_seeds is None else dataclasses.replace(task, num_seeds=num_seeds)


if __name__ == "__main__":
    main()
