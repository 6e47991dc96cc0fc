"""The study of growth: its points, what it finds of speed and memory, its files and its report."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import numpy as np
import pytest

from benchmarks import _results
from benchmarks.growth import __main__ as command, measure, report
from benchmarks.growth.figures import Figures, knees
from benchmarks.growth.points import AXES, NUM_MINIBATCHES, SMOKE_AXES, Point, write


def figures(point: Point, speed: float = 1e6, wrong_bytes: int = 0) -> dict[str, Any]:
    """As a process prints them, of a rollout at some speed, one without dropout at twice that."""
    seconds = point.steps / speed
    memory = {"output_bytes": 49 * point.steps, "temporary_bytes": 1000, "peak_bytes": None}
    return {
        "rollout_seconds": [seconds, 2 * seconds, 3 * seconds],
        "rollout_without_seconds": [seconds / 2, seconds, seconds],
        "update_seconds": [10 * seconds],
        "rollout_memory": memory,
        "rollout_without_memory": memory,
        "update_memory": {**memory, "peak_bytes": 4096.0},
        "trajectory_bytes": 46 * point.steps + wrong_bytes,
        "told_bytes": 46 * point.steps,
        "state_bytes": 2 * point.steps,
    }


# The points.


def test_one_number_grows_along_an_axis() -> None:
    for name, points in AXES.items():
        sizes = [getattr(point, name) for point in points]
        assert sizes == sorted(set(sizes)) and len(sizes) >= 5
        others = {point._replace(**{name: 0}) for point in points}
        assert len(others) == 1
        for point in points:
            assert point.num_envs * point.num_steps % NUM_MINIBATCHES == 0
    assert [point.num_envs for point in AXES["num_envs"]][:: len(AXES["num_envs"]) - 1] == [
        4,
        16384,
    ]
    assert sum(Point() in points for points in AXES.values()) == 4  # and is measured once


def test_a_point_is_known_by_its_name_and_by_what_its_process_is_told() -> None:
    points = {point for axes in (AXES, SMOKE_AXES) for axis in axes.values() for point in axis}
    assert len({point.name for point in points}) == len(points)
    for point in points:
        told: list[tuple] = []
        code = command.code(point, 2.0).replace("from benchmarks.growth.measure import main", "")
        exec(code, {"main": lambda *args, told=told: told.append(args)})
        assert told == [(point, 2.0)]
    assert Point(4, 8, num_seeds=3).steps == 4 * 8 * 3 and Point(4, 8).steps == 32


# What is measured.


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_point_is_measured() -> None:
    found = json.loads(json.dumps(measure.measure(Point(4, 8, width=4), seconds=0.0)))
    # CartPole: 16 bytes seen, 4 done, 8 of a key, 18; and one final observation in 8 steps.
    assert found["told_bytes"] == found["trajectory_bytes"] == 4 * (8 * 46 + 28)
    memory = found["rollout_memory"]
    assert memory["output_bytes"] >= found["trajectory_bytes"] + found["state_bytes"]
    assert found["update_memory"]["temporary_bytes"] > found["trajectory_bytes"]
    assert [len(found[f"{name}_seconds"]) for name in ("rollout", "rollout_without")] == [5, 5]
    assert len(found["update_seconds"]) == 3 and min(found["update_seconds"]) > 0


def test_bytes_are_told_to_the_last() -> None:
    """Speeds are kept to six digits, which would be wrong for megabytes."""
    told = measure._rounded(measure.told_bytes(Point(num_envs=1024)))
    assert told == 1024 * (128 * 46 + 28)


@pytest.mark.slow
def test_seeds_are_mapped_over() -> None:
    functions, (state,) = measure.programs(Point(4, 8, width=4, num_seeds=3))
    assert state.policy.actor.layers[0].weight.shape == (3, 4, 4)
    assert not np.array_equal(*state.policy.actor.layers[1].weight[:2])
    shapes = eqx.filter_eval_shape(functions["rollout"], state)
    assert shapes[1].reward.shape == (3, 8, 4)


@pytest.mark.slow
def test_without_dropout_is_another_program() -> None:
    functions, args = measure.programs(Point(4, 8, dropout=0.5, width=4))
    jaxprs = {name: str(eqx.filter_make_jaxpr(f)(*args)[0]) for name, f in functions.items()}
    drops = {name: "_bernoulli" in jaxpr for name, jaxpr in jaxprs.items()}
    assert drops == {"rollout": True, "rollout_without": False, "update": True}


@pytest.mark.slow
def test_a_rise_is_of_what_a_call_takes_and_gives_back() -> None:
    def call() -> None:
        np.ones(40_000_000, np.uint8).sum()

    risen = measure.rise(call)
    if math.isnan(risen):
        pytest.skip("the system does not tell")
    assert 39e6 < risen < 60e6
    assert measure.rise(lambda: None) < 5e6


def test_programs_run_in_turn_for_a_time_but_not_too_few_times() -> None:
    calls: list[str] = []
    programs = {name: lambda name=name: calls.append(name) for name in "ab"}
    runs = measure.in_turn(programs, (), seconds=0.0, at_least=3)
    assert calls == ["a", "b"] * 3 and [len(values) for values in runs.values()] == [3, 3]
    runs = measure.in_turn(programs, (), seconds=60.0, at_least=3)
    assert len(runs["a"]) == measure.MOST_ROUNDS


# Knees.


def test_a_knee_is_where_what_a_call_costs_is_what_its_elements_cost() -> None:
    sizes = [2.0**k for k in range(16)]
    (knee,) = knees(sizes, [n / (5.0 + 0.1 * n) for n in sizes])
    assert knee == pytest.approx(50, rel=0.1)  # the best is not yet 1 / 0.1


def test_knees_of_a_speed_that_rises_and_falls() -> None:
    assert knees([1, 4, 16, 64], [1.0, 4.0, 4.0, 1.0]) == pytest.approx([2, 32])
    assert knees([1, 4, 16], [3.0, 4.0, 3.0]) == []
    assert knees([7], [3.0]) == []


# The files.


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """Stands for the processes; the points that they measured. One of them always crashes."""
    measured: list[Point] = []

    def run_python(code: str, environ: Any) -> Any:
        point = eval(code[code.index("main(Point") + 5 : code.rindex(",")], {"Point": Point})
        if point.num_envs == 64:
            raise RuntimeError("out of memory")
        measured.append(point)
        return SimpleNamespace(output=json.dumps(figures(point)), seconds=1.0)

    monkeypatch.setattr(command, "run_python", run_python)
    return measured


def forget(folder: Path, name: str) -> None:
    """Remove the line of a cell, as one would by hand."""
    file = folder / _results.FILE
    found = json.loads(file.read_text())
    del found[name]
    file.write_text(json.dumps(found))


def test_each_point_is_measured_once_and_a_crash_is_told(processes, tmp_path, capsys) -> None:
    arguments = ["--only", "num_envs", "num_steps", "--results", str(tmp_path)]
    assert command.main(arguments) == command.FAILED
    wanted = [point for point in AXES["num_envs"] if point.num_envs != 64]
    assert processes == wanted
    assert f"{Point().name}: out of memory" in capsys.readouterr().err
    command.main(["--only", "num_envs", "--results", str(tmp_path)])
    assert processes == wanted  # nothing again
    forget(tmp_path, AXES["num_envs"][1].name)
    command.main(["--only", "num_envs", "--results", str(tmp_path)])
    assert processes[len(wanted) :] == [AXES["num_envs"][1]]
    capsys.readouterr()
    assert command.main(["--list", "--only", "num_envs", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("missing") == 1


def test_a_file_keeps_a_point(tmp_path) -> None:
    point = Point(num_seeds=2)
    write(point, tmp_path, figures(point))
    content = point.read(tmp_path)
    assert content is not None and content["figures"] == figures(point)
    assert content["settings"] == point._asdict() and content["versions"] and content["cpu"]
    assert [path.name for path in tmp_path.glob("[!.]*")] == [_results.FILE]
    assert list(_results.read(tmp_path)) == [point.name]
    assert Point().read(tmp_path) is None


# The report.


def test_figures_are_medians_and_the_ratio_is_over_pairs() -> None:
    f = Figures(Point(4, 8), figures(Point(4, 8), speed=1e6))
    assert f.speed("rollout").median == pytest.approx(5e5)
    assert f.ratio() == pytest.approx(0.5)  # of 1/2, 1/2 and 1/3
    assert f.iteration_seconds() == pytest.approx(2 * 4e-6)
    assert f.by_xla("rollout") == 49 * 32 + 1000
    assert math.isnan(f.by_system("rollout")) and f.by_system("update") == 4096


@pytest.mark.parametrize(
    "x, written",
    [(0.0, "0"), (0.00158, "0.00158"), (1.234, "1.23"), (1660.4, "1660"), (math.nan, "–")],
)
def test_numbers_have_three_digits(x: float, written: str) -> None:
    assert report.number(x) == written


def test_a_report_of_some_axes_is_refused(tmp_path, capsys) -> None:
    """It would be in the place of that of all."""
    arguments = ["--report", "--only", "width", "--results", str(tmp_path)]
    assert command.main(arguments) == command.BAD_INPUT
    assert "leave out --only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_report_tells_what_is_there(tmp_path) -> None:
    points = AXES["num_envs"][:3]
    for point, speed in zip(points, (1e6, 3e6, 4e6), strict=True):
        write(point, tmp_path, figures(point, speed, wrong_bytes=8 if point is points[1] else 0))
    text = report.write({name: AXES[name] for name in ("num_envs", "num_steps")}, tmp_path)
    assert (tmp_path / "table.md").read_text() == text + "\n"
    assert (tmp_path / "num_envs.png").stat().st_size < 100_000
    assert "| 4 | 0.500 | 1.00 | 0.50 | 8.00 | 0.100 | 0.0236 | 0.0261 | – | " in text
    assert "rollout with dropout: at best 2.00 M steps/s, at num_envs = 64" in text
    assert "half of that at num_envs = 9.59" in text  # 4 · 4^(log 2 / log 3)
    assert f"at\n2 of 3 points, and not at {points[1].name}." in text
    assert "## T, steps" in text  # the point that its axis shares
