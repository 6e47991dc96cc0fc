"""Several runs in one program: which runs there are, and that each equals the run alone."""

import csv
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import fake_update

import rlscan
from rlscan._cli.main import main
from rlscan.ppo import _algorithm, _pace
from rlscan.runs._axes import directory_of, variants
from rlscan.runs._build import members
from rlscan.runs._checkpoint import checkpoint_files, read_checkpoint
from rlscan.runs._config import Config
from rlscan.runs._load import load_trained
from rlscan.runs._log import Log
from rlscan.runs._metrics_files import COLUMNS
from rlscan.runs._parse import parse
from rlscan.runs._sweep import SWEEPABLE, Member

SMALL = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]


def members_of(seed: int, num_seeds: int, sweep: Sequence[str], num_samples: int) -> list[Member]:
    config = Config(seed=seed, num_seeds=num_seeds, sweep=tuple(sweep), num_samples=num_samples)
    return members(config)


def test_the_runs_of_seeds_and_lists_are_a_grid():
    sweep = ["ppo.gamma=0.9,0.99", "ppo.learning-rate=1e-3, 1e-2"]
    grid = members_of(5, 2, sweep, 8)
    assert [m.seed for m in grid] == [5, 6] * 4
    swept = [tuple(m.swept.items()) for m in grid]
    rates = [(g, r) for g in (0.9, 0.99) for r in (1e-3, 1e-2)]
    expected = [(("ppo.gamma", g), ("ppo.learning_rate", r)) for g, r in rates for _ in range(2)]
    assert swept == expected


def test_one_run_unless_asked_for_more():
    assert members_of(7, 1, [], 8) == [(7, {})]


def test_ranges_are_drawn_together_and_from_the_seed():
    sweep = ["ppo.learning_rate=log:1e-4..1e-2", "ppo.clip_range=0.1..0.3", "ppo.gamma=0.9,0.99"]
    drawn = members_of(0, 3, sweep, 400)
    assert len(drawn) == 400 * 2 * 3
    assert drawn == members_of(0, 3, sweep, 400) != members_of(1, 3, sweep, 400)
    pairs = Counter((m.swept["ppo.learning_rate"], m.swept["ppo.clip_range"]) for m in drawn)
    assert set(pairs.values()) == {6} and len(pairs) == 400  # each sample with all of the grid
    rates, clips = np.array(list(pairs)).T
    assert 1e-4 <= rates.min() and rates.max() <= 1e-2
    # Uniform in the logarithm, and not in it: the quartiles of 400 draws.
    np.testing.assert_allclose(
        np.quantile(np.log10(rates), [0.25, 0.5, 0.75]), [-3.5, -3, -2.5], atol=0.15
    )
    np.testing.assert_allclose(np.quantile(clips, [0.25, 0.5, 0.75]), [0.15, 0.2, 0.25], atol=0.02)
    assert all(float(f"{rate:.4g}") == rate for rate in rates)


def test_the_leaves_of_the_settings_can_be_swept():
    leaves = jax.tree_util.tree_leaves_with_path(rlscan.ppo.PPOConfig())
    assert list(SWEEPABLE) == [f"ppo{jax.tree_util.keystr(path)}" for path, _ in leaves]
    assert {"ppo.learning_rate", "ppo.gamma", "ppo.target_kl"} <= set(SWEEPABLE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sweep", "lr"], "sweep must be KEY=VALUES, such as ppo.learning_rate=1e-4,3e-4 or"),
        (
            ["--sweep", "ppo.learning_rat=1"],
            "unknown key ppo.learning_rat, did you mean ppo.learning_r",
        ),
        (["--sweep", "seed=1,2"], "sweep takes keys of ppo, policy, env and total_steps, got 's"),
        (["--sweep", "ppo.num_envs=2..4"], "it shapes the program, so it takes a list of values"),
        (["--sweep", "ppo.num_envs=2,x"], "ppo.num_envs must be an integer, written without poi"),
        (["--sweep", "policy.dropout=0.1,1"], "sweep: policy.dropout must be in [0, 1), got 1.0"),
        (["--sweep", "policy.hidden=[3],[4]"], "unknown option --policy.hidden, did you mean pol"),
        (["--sweep", "ppo.gamma=0.9,2"], "sweep: ppo.gamma must be in [0, 1], got 2.0"),
        (["--sweep", "ppo.gamma=0.9,"], "sweep of ppo.gamma must be numbers or a range"),
        (["--sweep", "ppo.gamma=nan"], "sweep of ppo.gamma must be numbers or a range"),
        (["--sweep", "ppo.gamma=0.9..0.1"], "a range must be LOW..HIGH with LOW < HIGH"),
        (["--sweep", "ppo.target_kl=0.1...inf"], "a range must be LOW..HIGH with LOW < HIGH"),
        (["--sweep", "ppo.gamma=log:0..0.1"], "a log: range must start above 0, got 0.0"),
        (["--sweep", "ppo.gamma=log:0.1"], "log: needs a range"),
        (["--sweep", "ppo.gamma=1,0", "--sweep=ppo.gamma=1"], "sweep has ppo.gamma twice"),
        (["--num-seeds", "0"], "num_seeds must be a positive integer, got 0"),
        (["--num-samples", "0"], "num_samples must be a positive integer, got 0"),
        (["--seed", str(2**32 - 2), "--num-seeds", "3"], "seed + num_seeds must be at most"),
        (["--num-seeds", "3", "--num-devices", "2"], "num_devices = 2 does not divide the 3 runs"),
    ],
)
def test_an_invalid_sweep_is_refused(arguments: list[str], message: str, tmp_path: Path, capsys):
    assert main(["train", *SMALL, *arguments, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_sweep_in_a_file(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("num_seeds: 2\nsweep:\n  - ppo.target_kl=0.01,.inf\n")
    config = parse(["--config", str(tmp_path / "a.yaml")])
    assert [m.swept["ppo.target_kl"] for m in members(config)] == [0.01, 0.01, math.inf, math.inf]
    (tmp_path / "b.yaml").write_text("sweep: ppo.gamma=0.9\n")
    with pytest.raises(ValueError, match="sweep must be a list, with entries such as"):
        parse(["--config", str(tmp_path / "b.yaml")])
    axes = "sweep:\n  ppo.gamma: [0.9, 0.99]\n  policy: {dropout: [0, 0.5]}\n"
    (tmp_path / "c.yaml").write_text(axes)
    written = ["ppo.gamma=0.9,0.99", "policy.dropout=0,0.5"]
    for argv in (["--config", str(tmp_path / "c.yaml")], ["--sweep", *written]):
        assert parse(argv).sweep == tuple(written)


def test_settings_that_shape_the_program_have_one_each():
    sweep = ["policy.hidden_sizes=[8],[8, 4]", "ppo.num_envs=2,4", "ppo.gamma=0.9,1"]
    config = parse(["--sweep", *sweep])
    assert [member.swept for member in members(config)] == [{"ppo.gamma": g} for g in (0.9, 1)]
    found = list(variants(config.sweep, config.policy, config.env))
    assert [tuple(one.values()) for one in found] == [
        (sizes, envs) for sizes in ("[8]", "[8, 4]") for envs in ("2", "4")
    ]
    assert directory_of(found[2]) == "hidden_sizes=8-4,num_envs=2"


@pytest.mark.slow
def test_each_shape_is_trained_in_a_directory_of_its_own(tmp_path: Path, monkeypatch, capsys):
    output = tmp_path / "sweep"
    sweep = ["--sweep", "policy.hidden_sizes=[4],[4,4]", "policy.dropout=0,0.5"]
    assert main(arguments(output, *sweep)) == 0
    with open(output / "results.csv") as file:
        rows = list(csv.DictReader(file))
    sizes = [row["policy.hidden_sizes"] for row in rows]
    assert sizes == ["[4]", "[4]", "[4,4]", "[4,4]"]
    assert [float(row["policy.dropout"]) for row in rows] == [0, 0.5, 0, 0.5]
    assert {row["updates"] for row in rows} == {str(NUM_UPDATES)}
    for name, num_layers in (("4", 2), ("4-4", 3)):
        policy: Any = rlscan.load_policy(output / f"hidden_sizes={name}", run=1)
        assert len(policy.actor.layers) == num_layers
    # What is missing is trained, and what has finished is only read.
    shutil.rmtree(output / "hidden_sizes=4-4")
    assert main(["train", "--resume", str(output)]) == 0
    assert "hidden_sizes=4 has finished" in capsys.readouterr().out
    with open(output / "results.csv") as file:
        assert list(csv.DictReader(file)) == rows


@pytest.mark.slow
def test_a_swept_rate_of_the_policy_is_that_of_a_run_alone(tmp_path: Path):
    assert main(arguments(tmp_path / "both", "--sweep", "policy.dropout=0.5,0.25")) == 0
    both = rlscan.read_metrics(tmp_path / "both")
    for i, rate in enumerate(("0.5", "0.25")):
        assert main(arguments(tmp_path / rate, "--policy.dropout", rate)) == 0
        alone = rlscan.read_metrics(tmp_path / rate)
        for name in ("loss", "entropy", "audit_log_ratio"):
            np.testing.assert_allclose(both[name][both["run"] == i], alone[name], atol=1e-4)


# Trained.

NUM_UPDATES = 4
SWEPT = ["--num-seeds", "2", "--sweep", "ppo.learning_rate=1e-3,1e-2", "--seed", "3"]


def arguments(output: Path, *more: str) -> list[str]:
    steps = ["--total-steps", str(NUM_UPDATES * 32), "--output", str(output)]
    return ["train", *SMALL, *steps, *more]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run directory of four runs, and the number of times that the update was traced."""
    directory = tmp_path_factory.mktemp("swept") / "run"
    traces = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal traces
        traces += 1
        return update(*args, **kwargs)

    update = _algorithm.update
    with pytest.MonkeyPatch.context() as context:
        context.setattr(_algorithm, "update", counted)
        context.setattr(_pace, "SECONDS", 0.0)
        assert main(arguments(directory, *SWEPT, "--num-devices", "1")) == 0
    return directory, traces


def rows_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "metrics.csv").read_text().splitlines()))


def numbers(row: dict[str, str]) -> np.ndarray:
    clock = ("seconds", "steps_per_second")
    return np.array([float(row[name]) for name in COLUMNS if name not in clock])


def test_one_compilation_of_one_trace(swept: tuple[Path, int]):
    assert swept[1] == 1


def test_a_row_of_each_run_names_it(swept: tuple[Path, int]):
    rows = rows_of(swept[0])
    assert list(rows[0]) == ["run", "seed", "ppo.learning_rate", *COLUMNS]
    told = [(r["run"], r["seed"], r["ppo.learning_rate"], r["update"]) for r in rows]
    runs = [("0", "3", "0.001"), ("1", "4", "0.001"), ("2", "3", "0.01"), ("3", "4", "0.01")]
    assert told == [(*run, str(u)) for u in range(1, NUM_UPDATES + 1) for run in runs]


@pytest.mark.slow
@pytest.mark.parametrize("run, seed, rate", [(3, 4, "1e-2"), (0, 3, "1e-3")])
def test_a_run_is_what_it_would_be_alone(
    run: int, seed: int, rate: str, swept: tuple[Path, int], tmp_path: Path
):
    alone = ["--seed", str(seed), "--ppo.learning-rate", rate]
    with pytest.MonkeyPatch.context() as context:
        context.setattr(_pace, "SECONDS", 0.0)
        assert main(arguments(tmp_path / "run", *alone)) == 0
    (first, *_), ours = rows_of(tmp_path / "run"), rows_of(swept[0])[run]
    np.testing.assert_allclose(numbers(ours), numbers(first), rtol=1e-6, atol=1e-6)
    # After four updates rounding has grown, but they are not other runs.
    policies = [
        rlscan.load_policy(swept[0], run=run, inference=False),
        rlscan.load_policy(tmp_path / "run", inference=False),
    ]
    assert jax.tree.structure(policies[0]) == jax.tree.structure(policies[1])
    for x, y in zip(*map(jax.tree.leaves, policies), strict=True):
        if eqx.is_array(x):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_policy_of_several_needs_its_run(swept: tuple[Path, int], tmp_path: Path):
    for run in (None, 4, -1):
        with pytest.raises(ValueError, match=f"holds 4 runs; run must be from 0 to 3, got {run}"):
            rlscan.load_policy(swept[0], run=run)
    one, other = (rlscan.load_policy(swept[0], run=run) for run in (0, 1))
    assert not eqx.tree_equal(one, other)
    checkpoint = checkpoint_files(swept[0])[0]
    assert eqx.tree_equal(rlscan.load_policy(checkpoint, run=1), other)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_over_two_devices_and_resumed(swept: tuple[Path, int], tmp_path: Path, monkeypatch):
    """A run that is stopped midway continues every one of its runs unchanged."""
    from test_resume import stopped_after

    monkeypatch.setattr(_pace, "SECONDS", 0.0)
    whole, run = tmp_path / "whole", tmp_path / "run"
    on_two = (*SWEPT, "--num-devices", "2")
    assert main(arguments(whole, *on_two)) == 0
    with stopped_after(2, monkeypatch):
        assert main(arguments(run, *on_two)) == 143
    assert main(["train", "--resume", str(run)]) == 0
    theirs = rows_of(whole)
    for ours, other, of_one in zip(rows_of(run), theirs, rows_of(swept[0]), strict=True):
        assert ours["run"] == other["run"]
        np.testing.assert_array_equal(numbers(ours), numbers(other))
        np.testing.assert_allclose(numbers(ours), numbers(of_one), rtol=1e-3, atol=1e-4)
    bodies = [read_checkpoint(checkpoint_files(d)[0]).body for d in (run, whole)]
    assert bodies[0] == bodies[1]


def test_a_setting_whose_seeds_diverged_is_ranked_last_and_says_so():
    rates = (0.01, 0.01, 0.001, 0.001)
    labels = [{"run": i, "seed": i % 2, "ppo.learning_rate": x} for i, x in enumerate(rates)]
    log: Any = SimpleNamespace(labels=labels)
    found = Log._settings(log, [500.0, math.nan, 480.0, 480.0], 100)
    assert [one.words for one in sorted(found, key=lambda one: one.order, reverse=True)] == [
        "IQM 480 [480, 480] at ppo.learning_rate 0.001",
        "500 (1 of 2 seeds) at ppo.learning_rate 0.01",
    ]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(
    "rates, failed",
    [
        (["--ppo.learning_rate", "1e-2"], ""),
        (["--sweep", "ppo.learning_rate=1e-3,1e-2", "--seed", "3"], "run 1, of seed 3: "),
    ],
    ids=["one run", "the second of two"],
)
def test_strict_stops_where_an_audit_fails(
    rates: list[str], failed: str, tmp_path: Path, monkeypatch, capsys
):
    """The updates only report an error, so that no cause is found."""

    def off(state, env, config, *, num_updates, **_):
        after, metrics = fake_update(state, env, config, num_updates=num_updates)
        return after, {**metrics, "audit_error": 1.0 * (jnp.asarray(config.learning_rate) > 5e-3)}

    monkeypatch.setattr(_algorithm, "update", off)
    assert main(arguments(tmp_path / "lax", *rates)) == 0
    assert main(arguments(tmp_path / "strict", "--strict", *rates)) == 1
    error = capsys.readouterr().err
    assert f"error: {failed}update 1: before its first gradient step log π is off by 1 " in error


@pytest.mark.slow
def test_the_screen_ranks_settings(swept: tuple[Path, int], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(_algorithm, "update", fake_update)
    assert main(arguments(tmp_path / "run", *SWEPT)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("CartPole-v1, ActorCritic, dropout 0: 4 runs of 4 updates of 32 ")
    # The fake update reports 0 for the last 100 episodes.
    ranked = "return 0 (last 100), IQM 40 [40, 40] at ppo.learning_rate 0.0"
    assert lines[-2].startswith(ranked)
    assert lines[-1].startswith("512 steps in ")
    assert ranked in lines[-1]


@pytest.mark.slow
def test_a_swept_parameter_of_the_environment_is_that_of_a_run_alone(tmp_path: Path):
    sweep = ["--sweep", "env.params.length=0.5,2", "--env.observe", "[0,1,2,3]"]
    assert main(arguments(tmp_path / "both", *sweep)) == 0
    both = rlscan.read_metrics(tmp_path / "both")
    for i, length in enumerate(("0.5", "2")):
        alone = ["--env.params.length", length, *sweep[2:]]
        assert main(arguments(tmp_path / length, *alone)) == 0
        single = rlscan.read_metrics(tmp_path / length)
        for name in ("loss", "entropy", "num_episodes"):
            np.testing.assert_allclose(both[name][both["run"] == i], single[name], atol=1e-4)
    envs: list[Any] = [load_trained(tmp_path / "both", run=run).env for run in (0, 1)]
    assert [env.env.params.length for env in envs] == [0.5, 2.0]
    assert main(["evaluate", str(tmp_path / "both"), "--episodes", "2"]) == 0


def test_only_numbers_with_a_point_are_swept_in_one_program():
    sweep = ["env.params.gravity=1,2", "env.params.max_steps_in_episode=5,6", "ppo.gamma=0.9,1"]
    config = parse(["--sweep", *sweep])
    keys = [list(member.swept) for member in members(config)]
    assert keys == [["env.params.gravity", "ppo.gamma"]] * 4
    assert [list(one) for one in variants(config.sweep, config.policy, config.env)] == [
        ["env.params.max_steps_in_episode"]
    ] * 2
    with pytest.raises(ValueError, match="eval_interval evaluates all runs in one environment"):
        parse(["--sweep", "env.params.gravity=1,2", "--eval-interval", "5"])
