"""Comparisons of runs: what is compared with what, and the tables of a report."""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_dirs
from scipy.stats import trim_mean

import rlscan
from rlscan.runs._compare import Comparison, compare
from rlscan.runs._config import EnvConfig
from rlscan.runs._report import as_csv, as_latex, as_markdown, tables

FAST, SLOW = [dataclasses.replace(run_dirs.CONFIG.ppo, learning_rate=x) for x in (1e-2, 1e-4)]
CARTPOLE, PENDULUM = EnvConfig("CartPole-v1"), EnvConfig("Pendulum-v1")
SEEDS = {"fast": [4.0, 1.0, 3.0], "slow": [1.0, 2.0, 0.0]}


def a_run(directory: Path, returns: list[float], **config: Any) -> Path:
    """Seeds whose returns grow over ten updates to those given, as their last update has them."""
    rows = [
        {"run": i, "seed": i, "update": u, "step": 10 * u, "episode_return": u / 10 * value}
        for u in range(1, 11)
        for i, value in enumerate(returns)
    ]
    config = {"num_seeds": len(returns), **config}
    return run_dirs.with_metrics(directory, rows, **config)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two algorithms in two environments, of which one has returns a hundred times as high."""
    base = tmp_path_factory.mktemp("runs")
    return [
        a_run(base / f"{env.name}-{name}", [scale * x for x in SEEDS[name]], env=env, ppo=ppo)
        for env, scale in ((CARTPOLE, 1.0), (PENDULUM, 100.0))
        for name, ppo in (("fast", FAST), ("slow", SLOW))
    ]


@pytest.fixture(scope="module")
def found(directories: list[Path]) -> Comparison:
    return compare(directories, labels=[f"{d}=slow" for d in directories if "slow" in d.name])


def test_runs_are_grouped_by_environment_and_algorithm(found: Comparison):
    places = [(cell.environment, cell.algorithm) for cell in found.cells]
    assert found.environments == ["CartPole-v1", "Pendulum-v1"]
    assert found.algorithms == ["others", "slow"]
    assert places == [(e, a) for e in found.environments for a in found.algorithms]
    for cell in found.cells:
        scale = 100 if cell.environment == "Pendulum-v1" else 1
        scores = [scale * x for x in SEEDS["slow" if cell.algorithm == "slow" else "fast"]]
        np.testing.assert_allclose(cell.scores, scores)
        assert cell.iqm.value == pytest.approx(trim_mean(scores, 0.25))


@pytest.mark.slow
def test_scores_of_several_environments_are_normalised(found: Comparison, directories: list[Path]):
    assert found.ranges == {"CartPole-v1": (0, 4), "Pendulum-v1": (0, 400)}
    for one, name in zip(found.overall, ("fast", "slow"), strict=True):
        scores = np.repeat(SEEDS[name], 2) / 4
        assert one.iqm.value == pytest.approx(trim_mean(scores, 0.25))
        above = [(scores > t).mean() for t in found.thresholds]
        np.testing.assert_allclose(one.profile.value, above)
    (pair,) = found.improvements
    wins = [(x > y) + 0.5 * (x == y) for x in SEEDS["fast"] for y in SEEDS["slow"]]
    assert pair.probability.value == pytest.approx(np.mean(wins))
    given = compare(directories, ranges={"Pendulum-v1": (-100.0, 300.0)})
    assert given.ranges == {"CartPole-v1": (0, 4), "Pendulum-v1": (-100, 300)}
    fast = np.array(SEEDS["fast"])
    scores = np.concatenate([fast / 4, (100 * fast + 100) / 400])
    assert given.overall[0].iqm.value == pytest.approx(trim_mean(scores, 0.25))
    with pytest.raises(ValueError, match="no run is of the environment Cart; there are CartPole"):
        compare(directories, ranges={"Cart": (0.0, 1.0)})


def test_the_efficiency_is_the_iqm_at_parts_of_the_training(found: Comparison):
    cell = found.cells[0]
    assert cell.num_steps == 100
    # Returns grow linearly, and the last of ten rows is that of the end.
    np.testing.assert_allclose(cell.efficiency.value[-1], cell.iqm.value)
    np.testing.assert_allclose(cell.efficiency.value[19], cell.iqm.value / 2)


def test_a_diverged_seed_is_counted_and_left_out(tmp_path: Path):
    run = a_run(tmp_path / "a", [1.0, float("nan"), 3.0])
    found = compare([run])
    assert (found.cells[0].num_lost, found.cells[0].iqm.value) == (1, 2)
    assert found.ranges == {} and found.algorithms == ["a"]
    (returns, *_) = tables(found)
    assert returns.rows[0][2] == "2 of 3" and "left out, see seeds" in returns.note
    with pytest.raises(ValueError, match="no run has ended an episode"):
        compare([a_run(tmp_path / "b", [float("nan")])])


def test_an_algorithm_without_some_environment_has_no_overall_score(directories: list[Path]):
    found = compare(directories[:3])
    assert found.algorithms == ["learning_rate 0.01", "learning_rate 0.0001"]
    assert r"{learning\_rate 0.01}" in as_latex(found)
    assert [one.algorithm for one in found.overall] == [found.algorithms[0]]
    assert found.improvements[0].environments == ["CartPole-v1"]
    assert f"every environment: {found.algorithms[1]}" in as_markdown(found)


@pytest.mark.slow
def test_evaluations_are_the_scores_if_all_runs_have_them(tmp_path: Path):
    runs = [a_run(tmp_path / name, [1.0, 2.0], ppo=ppo) for name, ppo in (("a", FAST), ("b", SLOW))]
    rows = "run,seed,update,step,episode_return\n0,0,5,50,7\n1,1,5,50,7\n0,0,9,90,8\n1,1,9,90,9\n"
    (runs[0] / "evaluations.csv").write_text(rows)
    assert compare(runs).score == "training"
    (runs[1] / "evaluations.csv").write_text(rows)
    found = compare(runs)
    assert found.score == "evaluation"
    np.testing.assert_array_equal(found.cells[1].scores, [8, 9])
    np.testing.assert_array_equal(compare(runs, score="training").cells[1].scores, [1, 2])


def test_environments_with_other_parameters_are_others(tmp_path: Path):
    envs = [EnvConfig("CartPole-v1", {"gravity": x}) for x in (9.8, 3.7)]
    runs = [a_run(tmp_path / f"{i}", [1.0], env=env) for i, env in enumerate(envs)]
    found = compare(runs)
    assert found.environments == ["CartPole-v1, gravity 9.8", "CartPole-v1, gravity 3.7"]
    assert found.algorithms == ["all runs"]


# Formats.


def test_all_numbers_are_in_the_csv(found: Comparison):
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    scores = [float(r["value"]) for r in rows if r["statistic"] == "score"]
    np.testing.assert_allclose(scores, np.concatenate([cell.scores for cell in found.cells]))
    (pair,) = [r for r in rows if r["statistic"] == "probability_of_improvement"]
    expected = found.improvements[0].probability
    np.testing.assert_allclose([float(pair[k]) for k in ("value", "low", "high")], expected)
    assert (pair["algorithm"], pair["other"]) == tuple(found.algorithms)


def test_markdown_and_latex_have_the_same_cells(found: Comparison):
    markdown, latex = as_markdown(found), as_latex(found)
    for table in tables(found):
        assert f"## {table.title}\n" in markdown
        assert {len(row) for row in table.rows} == {len(table.header)}
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in markdown
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == len(tables(found))


def test_a_name_cannot_break_out_of_its_cell(tmp_path: Path):
    run = a_run(tmp_path / "a", [-1.0])
    found = compare([run], labels=[f"{run}=a|b\n# <c> 50% \x1b[2J"])
    assert r"| a\|b # &lt;c> 50% \x1b[2J |" in as_markdown(found)
    assert r"{a|b \# $<$c$>$ 50\% \textbackslash{}x1b[2J} & {1} & {$-$1}" in as_latex(found)


def test_a_report_from_python(directories: list[Path]):
    text = rlscan.runs.report(directories[:1], format="latex")
    assert r"\toprule" in text and "Probability" not in text
    with pytest.raises(ValueError, match="format must be one of .*, got 'txt'"):
        rlscan.runs.report(directories[:1], format="txt")
