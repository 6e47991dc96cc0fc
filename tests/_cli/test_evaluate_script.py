"""Evaluations of a run, with their own seeds: after training and during it."""

import argparse
import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_dirs

import rlscan
from rlscan._cli.evaluate import choose_run
from rlscan._cli.main import main
from rlscan.runs._evaluations import EvaluationsFile, evaluation_key, make_evaluator, summarize
from rlscan.runs._final import final_returns, median_run, policy_file

REPOSITORY = Path(__file__).parents[2]
SMALL = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]
SMALL += [
    "--compile-cache",
    "false",
    "--num-devices",
    "1",
    "--env.params.max_steps_in_episode",
    "9",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_dirs.with_policy(tmp_path_factory.mktemp("runs") / "run")


def evaluated(run: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    assert main(["evaluate", str(run), "--json", str(file), "--overwrite", *options]) == 0
    return json.loads(file.read_text())


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_script_prints_what_it_found(run: Path, tmp_path: Path):
    script = [sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), str(run)]
    command = [*script, "--episodes", "12", "--action", "sample", "--json", "figures.json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    figures = json.loads((tmp_path / "figures.json").read_text())
    returns = np.array(figures["episode_returns"])
    assert returns.shape == (12,)
    assert figures["episode_return"] == returns.mean()
    assert figures["episode_return_iqm"] == np.sort(returns)[3:9].mean()
    low, high = figures["episode_return_iqm_low"], figures["episode_return_iqm_high"]
    assert returns.min() <= low < high <= returns.max()
    assert "12 episodes, sample, inference, seed 0" in result.stdout
    assert f"IQM   {figures['episode_return_iqm']:.4g} [{low:.4g}, {high:.4g}]" in result.stdout


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_options_select_action_and_network(run: Path, tmp_path: Path):
    """The results equal those of `rlscan.evaluate` with the documented key."""
    env = rlscan.make("CartPole-v1", max_steps_in_episode=20)
    policy = rlscan.load_policy(run)
    figures: dict[str, Any] = {}
    switches: Any = (("sample", "train"), ("mode", "mc-dropout"))
    for action, network in switches:
        options = f"--action {action} --network {network} --masks 3 --episodes 6 --seed 5"
        figures = evaluated(run, tmp_path, *options.split())
        expected: Any = eqx.filter_jit(rlscan.evaluate)(
            policy,
            env,
            num_episodes=6,
            key=jax.random.fold_in(rlscan.key(5), 0x6576616C),
            action=action,
            network=network,
            num_masks=3,
        )
        np.testing.assert_array_equal(figures["episode_returns"], expected.episode_return)
    assert figures["spread_logits"] > 0
    np.testing.assert_allclose(
        figures["spread_episode_return"], np.mean(figures["episode_returns"], axis=1).std(), 1e-6
    )


# Several runs, and their checkpoints.


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds, of which the last has the median return at the end, and a best checkpoint."""
    directory = tmp_path_factory.mktemp("runs") / "seeds"
    run_dirs.with_policy(directory, num_seeds=3, seed=5)
    best = dataclasses.replace(run_dirs.CONFIG, num_seeds=3, seed=5)
    policy = run_dirs.untrained(best, rlscan.key(7))
    rlscan.runs.save_policy(directory / "checkpoints" / "best.ckpt", policy, best)
    rows = [
        {"run": run, "seed": 5 + run, "update": update, "episode_return": value}
        for update in range(1, 11)
        for run, value in enumerate((10.0, 30.0, 20.0 if update == 10 else 99.0))
    ]
    return run_dirs.add_metrics(directory, rows)


@pytest.mark.slow
def test_all_seeds_are_evaluated_on_the_same_episodes(seeds: Path, tmp_path: Path, capsys: Any):
    figures = evaluated(seeds, tmp_path, "--episodes", "4")
    shown = capsys.readouterr().out.splitlines()
    means = []
    for i, row in enumerate(figures["runs"]):
        alone = evaluated(seeds, tmp_path, "--episodes", "4", "--run", str(i))
        assert row["episode_returns"] == alone["episode_returns"]
        assert (row["run"], row["seed"]) == (i, 5 + i)
        assert shown[2 + i].split()[:3] == [str(i), str(5 + i), f"{row['episode_return_iqm']:.4g}"]
        means.append(row["episode_return"])
    assert "3 runs, 4 episodes of each, mode, inference, seed 0" in shown[0]
    (overall,) = figures["over_seeds"]
    assert overall["episode_return_iqm"] == rlscan.runs.iqm(means)
    assert shown[-1].startswith("IQM over 3 seeds of their mean returns: ")
    best = evaluated(seeds, tmp_path, "--episodes", "4", "--run", "1", "--checkpoint", "best")
    assert best["episode_returns"] != figures["runs"][1]["episode_returns"]


def test_the_run_with_the_median_return_is_drawn(seeds: Path):
    for run, chosen in ((None, 2), (1, 1)):
        assert choose_run(argparse.Namespace(run_dir=str(seeds), run=run))[0] == chosen
    assert [median_run(x) for x in ([1.0], [3.0, 1.0], [np.nan, 5.0, 4.0, 9.0])] == [0, 1, 1]
    with pytest.raises(ValueError, match="no run has ended an episode"):
        median_run([np.nan])


def test_without_metrics_a_run_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    run_dirs.with_config(tmp_path / "run", num_seeds=2)
    assert main(["render", str(tmp_path / "run"), "--output", str(tmp_path / "a.gif")]) == 2
    assert "has no metrics.csv; " in (error := capsys.readouterr().err)
    assert "choose one of the 2 runs: --run 0" in error


def test_final_returns_are_means_over_episodes():
    table = {
        "run": np.array([0.0, 0, 0, 1, 1, 2]),
        "update": np.array([18.0, 19, 20, 19, 20, 20]),
        "episode_return": np.array([100.0, 1, 4, 5, np.nan, np.nan]),
        "num_episodes": np.array([1.0, 2, 1, 1, 0, 0]),
    }
    np.testing.assert_array_equal(final_returns(table), [2, 5, np.nan])


def test_a_checkpoint_by_name_or_file(seeds: Path, tmp_path: Path):
    best = seeds / "checkpoints" / "best.ckpt"
    assert policy_file(seeds, "last") == seeds
    assert policy_file(seeds, "best") == policy_file(seeds, "best.ckpt") == best
    assert policy_file(tmp_path, str(best)) == best
    for name in ("nowhere", "x" * 5000):
        with pytest.raises(ValueError, match="no checkpoint .* holds best.ckpt, policy.eqx"):
            policy_file(seeds, name)
    with pytest.raises(ValueError, match="no checkpoint .*best.ckpt; .*checkpoints holds none"):
        policy_file(tmp_path, "best")


@pytest.mark.slow
def test_no_key_of_an_evaluation_is_one_of_a_training():
    """For any seed, compare the first children of both, also for evaluations during a run."""

    def words(keys: Any) -> set[tuple[int, ...]]:
        return set(map(tuple, jax.vmap(jax.random.key_data)(keys).tolist()))

    for generator in rlscan.random.GENERATORS:
        seeds = jnp.arange(200)
        roots = jax.vmap(lambda s, g=generator: rlscan.key(s, generator=g))(seeds)
        training = [roots, *jax.vmap(jax.random.split, out_axes=1)(roots)]
        training += [*jax.vmap(lambda k: jax.random.split(k, 16), out_axes=1)(roots)]
        for when in ("after", "during"):
            keys = [evaluation_key(s, when, generator=generator) for s in range(20)]
            ours = jnp.stack(keys)
            children = jax.vmap(jax.random.split)(ours).ravel()
            for theirs in training:
                assert not words(jnp.concatenate([ours, children])) & words(theirs)
        assert evaluation_key(0, "after") != evaluation_key(0, "during")


def test_the_summary_counts_masks_not_episodes():
    """Two networks that always do the same leave a third one completely uncertain."""

    def of(returns: Any) -> Any:
        full = jnp.asarray(returns)
        length = jnp.ones(full.shape, jnp.int32)
        return rlscan.Evaluation(full, length, full > 1, None)

    flat, rows = summarize(of([1.0] * 50 + [2.0] * 50)), summarize(of([[1.0] * 50, [2.0] * 50]))
    assert flat["episode_return"] == rows["episode_return"] == 1.5
    assert (rows["episode_return_low"], rows["episode_return_high"]) == (1, 2)
    assert 1.3 < flat["episode_return_low"] < 1.5 < flat["episode_return_high"] < 1.7
    assert (flat["num_episodes"], rows["num_episodes"], flat["num_cut"]) == (100, 100, 50)


@pytest.mark.parametrize(
    "options, message",
    [
        ("nowhere", "nowhere is not a run directory: it has no config.yaml"),
        ("unfinished", "unfinished holds no policy yet"),
        ("run --episodes 0", "--episodes must be a positive integer, at most 2147483647, got 0"),
        ("run --max-steps 2147483648", "--max-steps must be a positive integer, at most 21474836"),
        ("run --max-steps 2147483647", "the evaluation needs about "),
        ("run --episodes 2000000000", "memory, but there are "),
        ("run --network mc-dropout --masks 2000000000", "use fewer --episodes or --max-steps"),
        (f"run --json {'x' * 5000}.json", "cannot be written: File name too long; write elsewhere"),
        ("y" * 5000, "is not a run directory: it has no config.yaml"),
        ("run --seed -1", "--seed must be from 0 to 4294967295, got -1"),
        ("run --network mc-dropout --masks 3", "use 99"),
        ("run --checkpoint best", "no checkpoint run/checkpoints/best.ckpt; run/checkpoints holds"),
        ("run --json old.json", "old.json exists already; choose another --json"),
        ("run --json a.txt", "--json must end in .json, got a.txt"),
    ],
)
def test_bad_input_ends_in_one_line(
    options: str, message: str, run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "old.json").write_text("mine")
    run_dirs.with_config(tmp_path / "unfinished")
    assert main(["evaluate", *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and captured.out == ""
    assert (tmp_path / "old.json").read_text() == "mine"


@pytest.mark.parametrize("what", ["a file", "a directory"])
def test_what_cannot_be_read_is_not_called_unwritable(what: str, run: Path, tmp_path: Path, capsys):
    """`checkpoints` is a file, or the policy in it is a directory."""
    run_dirs.with_config(tmp_path / "run")
    if what == "a file":
        (tmp_path / "run" / "checkpoints").write_text("")
    else:
        (tmp_path / "run" / "checkpoints" / "policy.eqx").mkdir(parents=True)
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "cannot write" not in error and error.count("\n") == 1
    with pytest.raises((ValueError, FileNotFoundError), match="cannot read|no policy at"):
        rlscan.load_policy(tmp_path / "run")


def test_bad_switches_end_in_one_line(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit:
        main(["evaluate", "run", "--action", "best"])
    assert exit.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "plot", "render", "report"])
def test_each_option_has_a_sentence_in_help(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    texts = re.findall(
        r"^  (?:--[^\n]*?|run_dir|RUN_DIR)(?:\s{2,}|\n\s+)(\S[^\n]*)", text, re.MULTILINE
    )
    assert len(texts) >= 4
    assert all(words[0].isupper() and words.split()[0] not in ("Of", "By") for words in texts)


# During training.


def table(directory: Path, name: str = "evaluations.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((directory / name).read_text().splitlines()))


@pytest.mark.slow
def test_a_run_is_evaluated_at_intervals_and_is_the_same_run(tmp_path: Path):
    common = [*SMALL, "--total-steps", "128", "--policy.dropout", "0.5", "--seed", "3"]
    plain, observed = tmp_path / "plain", tmp_path / "observed"
    interval = ["--eval-interval", "2", "--eval-episodes", "5"]
    assert main(["train", *common, "--output", str(plain)]) == 0
    assert main(["train", *common, *interval, "--output", str(observed)]) == 0
    assert not (plain / "evaluations.csv").exists()
    rows = table(observed)
    assert [(r["update"], r["step"], r["num_episodes"]) for r in rows] == [
        ("2", "64", "5"),
        ("4", "128", "5"),
    ]
    for ours, theirs in zip(
        table(plain, "metrics.csv"), table(observed, "metrics.csv"), strict=True
    ):
        for name in ("seconds", "steps_per_second"):
            del ours[name], theirs[name]
        assert ours == theirs
    # The last row belongs to the policy that was saved.
    env = rlscan.make("CartPole-v1", max_steps_in_episode=9)
    key = evaluation_key(3, "during")
    policy = rlscan.load_policy(observed)
    again = rlscan.evaluate(policy, env, num_episodes=5, key=key, action="mode")
    assert float(rows[-1]["episode_return"]) == np.asarray(again.episode_return, float).mean()


SHORT = rlscan.make("CartPole-v1", max_steps_in_episode=5)


def small_policy() -> Any:
    return rlscan.policies.ActorCritic(SHORT, hidden_sizes=(4,), key=rlscan.key(0))


def evaluator(*seeds: int) -> Any:
    return make_evaluator(SHORT, seeds, num_episodes=4, generator="mix32")


def add(file: EvaluationsFile, update: int) -> None:
    (figures,) = evaluator(0)(small_policy())
    file.append([{"update": update, **figures}])


@pytest.mark.slow
def test_a_resumed_run_has_no_row_twice(tmp_path: Path):
    first = EvaluationsFile(tmp_path)
    for update in (3, 6, 9):
        add(first, update)
    whole = (tmp_path / "evaluations.csv").read_bytes()
    with open(tmp_path / "evaluations.csv", "ab") as file:
        file.write(b"12,1")  # killed as it wrote
    resumed = EvaluationsFile(tmp_path, num_updates_done=7)
    assert [row["update"] for row in table(tmp_path)] == ["3", "6"]
    add(resumed, 9)
    assert (tmp_path / "evaluations.csv").read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 5, None, -1])
def test_a_run_that_starts_again_has_no_earlier_row(cut: int | None, tmp_path: Path):
    """The run was killed before its first checkpoint, or its disk was full at an evaluation."""
    add(EvaluationsFile(tmp_path), 3)
    whole = (tmp_path / "evaluations.csv").read_bytes()
    (tmp_path / "evaluations.csv").write_bytes(whole[:cut])
    add(EvaluationsFile(tmp_path), 3)
    assert (tmp_path / "evaluations.csv").read_bytes() == whole


@pytest.mark.slow
def test_several_runs_are_evaluated_on_keys_of_their_own():
    policy = small_policy()
    other = jax.tree.map(lambda x: -x if eqx.is_array(x) else x, policy)
    both = jax.tree.map(lambda x, y: jnp.stack([x, y]) if eqx.is_array(x) else x, policy, other)
    rows = evaluator(3, 9)(both)
    assert len(rows) == 2
    for seed, row, one in zip((3, 9), rows, (policy, other), strict=True):
        key = evaluation_key(seed, "during")
        alone = rlscan.evaluate(one, SHORT, num_episodes=4, key=key, action="mode")
        assert row["episode_return"] == np.asarray(alone.episode_return, float).mean()
