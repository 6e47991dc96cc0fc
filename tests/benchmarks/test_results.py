"""The results that studies keep: one file, one line for each cell, and nothing gets lost."""

import json
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks import _results
from benchmarks.consistency import __main__ as consistency
from benchmarks.consistency.cells import Cell, cells_of
from benchmarks.consistency.tasks import TASKS
from benchmarks.growth import __main__ as growth
from benchmarks.growth.points import AXES
from benchmarks.learning import __main__ as learning, report
from benchmarks.peers import __main__ as peers
from benchmarks.peers.cold import NAME as COLD_START
from benchmarks.peers.workloads import LEARNING, WORKLOADS
from benchmarks.randomness import __main__ as randomness
from benchmarks.randomness.runs import RUNS

STUDIES = {
    module.__name__.split(".")[1]: module
    for module in (consistency, growth, learning, peers, randomness)
}


def test_a_cell_is_added_or_replaced_and_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert _results.read(folder) == {}
    _results.write(folder, "b", {"figures": [0.1, 1e-9, None, "ä"]})
    _results.write(folder, "a/1", {"figures": [1]})
    before = (folder / _results.FILE).read_text().splitlines()
    _results.write(folder, "a/1", {"figures": [2]})
    after = (folder / _results.FILE).read_text().splitlines()
    assert _results.read(folder) == {
        "a/1": {"figures": [2]},
        "b": {"figures": [0.1, 1e-9, None, "ä"]},
    }
    assert len(before) == len(after) == 4
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        '"a/1": {"figures": [2]},'
    ]


def test_an_interrupted_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _results.write(tmp_path, "a", 1)

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        _results.write(tmp_path, "b", 2)
    assert [file.name for file in tmp_path.glob("*.json")] == [_results.FILE]
    assert _results.read(tmp_path) == {"a": 1}


def test_a_damaged_file_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / _results.FILE).write_text('{"a": 1')
    for attempt in (_results.read, lambda folder: _results.write(folder, "b", 2)):
        with pytest.raises(ValueError, match=f"{_results.FILE} is not JSON with a line for each"):
            attempt(tmp_path)
    assert (tmp_path / _results.FILE).read_text() == '{"a": 1'


def write_cells(folder: Path, which: str) -> None:
    for i in range(20):
        _results.write(folder, f"{which}{i}", i)


CELLS = {f"{which}{i}": i for which in "abc" for i in range(20)}


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each reads the file and writes it again, so without a lock one would undo the other."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(partial(write_cells, tmp_path), "abc"))
    assert _results.read(tmp_path) == CELLS


@pytest.mark.exhaustive
@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("spawn")) as processes:
        list(processes.map(partial(write_cells, tmp_path), "abc"))
    assert _results.read(tmp_path) == CELLS


# The results in this repository.


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_keeps_one_file_with_the_cells_that_it_knows(study: str) -> None:
    folder = STUDIES[study].RESULTS
    assert [file.name for file in folder.rglob("*.json*") if file.name[0] != "."] == [
        "results.json"
    ]
    kept = _results.read(folder)
    known = {
        "consistency": {cell.name for task in TASKS.values() for cell in cells_of(task)},
        "growth": {point.name for axis in AXES.values() for point in axis},
        "randomness": set(RUNS),
    }
    assert kept and kept.keys() <= known.get(study, kept.keys())
    lines = (folder / _results.FILE).read_text().splitlines()
    assert len(lines) == len(kept) + 2
    for name, content in kept.items():
        assert f'"{name}": {json.dumps(content)}' in (line.rstrip(",") for line in lines)


def test_workloads_that_were_kept_are_those_of_the_contest() -> None:
    kept = _results.read(peers.RESULTS)
    workloads = {name for content in kept.values() for name in content["figures"]}
    assert workloads == {*WORKLOADS, *LEARNING, COLD_START}


def test_the_table_of_returns_is_that_of_the_results() -> None:
    assert (learning.RESULTS / "table.md").read_text() == report.table(learning.RESULTS)


def test_a_cell_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    ran: list[Cell] = []

    def run(cell: Cell, program: object, seeds: list[int], results: Path) -> float:
        ran.append(cell)
        content = {"settings": consistency.cells.settings(cell, seeds), "figures": {"score": [1.0]}}
        _results.write(results, cell.name, content)
        return 1.0

    monkeypatch.setattr(consistency, "make_program", lambda task: None)
    monkeypatch.setattr(consistency.cells, "run", run)
    arguments = ["--only", "cartpole", "--arms", "off", "naive", "--rates", "0.5"]
    arguments += ["--results", str(tmp_path)]
    consistency.main(arguments)
    consistency.main(arguments)
    assert [cell.name for cell in ran] == [
        f"cartpole/{name}-kl-{stop}" for stop in ("none", "0.015") for name in ("off", "naive-p0.5")
    ]
    capsys.readouterr()
    consistency.main([*arguments, "--first-seed", "1000"])
    assert capsys.readouterr().out.count("was run with other seeds or settings; kept") == 4
    consistency.main([*arguments, "--list"])
    assert capsys.readouterr().out.count("n = 20, seeds 0 to 19") == 4 == len(ran)


def test_what_is_kept_is_not_overwritten(capsys) -> None:
    with pytest.raises(SystemExit):
        learning.main(["--keep", "cartpole"])
    assert "results.json has cartpole already; name another" in capsys.readouterr().err


def test_git_does_not_see_what_lies_beside_the_results() -> None:
    root = Path(__file__).parents[2]
    for name in (f".{_results.FILE}.lock", f".{_results.FILE}.123.tmp"):
        path = f"benchmarks/growth/results/{name}"
        found = subprocess.run(["git", "check-ignore", path], cwd=root, capture_output=True)
        if found.returncode > 1:
            pytest.skip("not a checkout")
        assert found.returncode == 0
