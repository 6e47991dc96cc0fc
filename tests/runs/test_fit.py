"""`fit`: PPO in a run directory, from Python."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import rlscan
from rlscan.runs._checkpoint import Checkpoint
from rlscan.runs._fit import _check_resumed, _settings

ENV = rlscan.make("CartPole-v1")
CONFIG = rlscan.ppo.PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=1, anneal_learning_rate=False
)
NUM_UPDATES, STEPS = 5, 5 * 4 * 8
MAKE = partial(rlscan.policies.ActorCritic, ENV, hidden_sizes=(4,), dropout=0.2)


class Stops:
    """A logger of one's own: it keeps the rows, and presses Ctrl-C at an update."""

    def __init__(self, at: int | None = None):
        self.at, self.rows, self.is_closed = at, [], False

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if row.get("update") == self.at:
            raise KeyboardInterrupt

    def close(self) -> None:
        self.is_closed = True


def fit(output: Path, **settings: Any) -> rlscan.ppo.TrainState:
    given = {"total_steps": STEPS, "key": rlscan.key(3), "checkpoint_interval": 0.0, **settings}
    return rlscan.fit(MAKE, ENV, given.pop("config", CONFIG), output=output, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Stops]:
    logger, output = Stops(), tmp_path_factory.mktemp("fit") / "run"
    state = fit(output, loggers=[logger], eval_interval=2, eval_episodes=4)
    return output, state, logger


def arrays(tree: Any) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]


def test_it_trains_as_train_does_and_keeps_what_a_run_keeps(whole):
    output, state, logger = whole
    training = rlscan.train(MAKE, ENV, CONFIG, total_steps=STEPS, key=rlscan.key(3))
    metrics = [own for _, own in training]
    jax.tree.map(np.testing.assert_array_equal, arrays(training.state), arrays(state))
    table = rlscan.runs.read_metrics(output)
    np.testing.assert_allclose(
        table["policy_loss"], [own["policy_loss"] for own in metrics], rtol=1e-6
    )
    assert table["step"].tolist() == [32 * (i + 1) for i in range(NUM_UPDATES)]
    assert rlscan.runs.read_metrics(output, "evaluations.csv")["update"].tolist() == [2, 4]
    assert [row["update"] for row in logger.rows if "policy_loss" in row] == [1, 2, 3, 4, 5]
    assert logger.is_closed
    like = MAKE(key=rlscan.key(0))
    loaded = rlscan.load_policy(output, like=like, inference=False)
    jax.tree.map(np.testing.assert_array_equal, arrays(loaded), arrays(state.policy))


@pytest.mark.slow
def test_interrupted_it_goes_on_as_if_never_stopped(whole, tmp_path: Path):
    evaluated = {"eval_interval": 2, "eval_episodes": 4}
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", loggers=[Stops(3)], **evaluated)
    assert len(rlscan.runs.read_metrics(tmp_path / "run")["step"]) < NUM_UPDATES
    state = fit(tmp_path / "run", **evaluated)
    jax.tree.map(np.testing.assert_array_equal, arrays(whole[1]), arrays(state))
    for file in ("metrics.csv", "evaluations.csv"):
        again, once = (rlscan.runs.read_metrics(d, file) for d in (tmp_path / "run", whole[0]))
        for name in set(once) - {"seconds", "steps_per_second"}:
            np.testing.assert_array_equal(again[name], once[name], err_msg=name)


@pytest.mark.slow
def test_a_finished_run_is_only_read(whole, capsys):
    output, state, _ = whole
    rows = (output / "metrics.csv").read_text()
    again = fit(output)
    assert "nothing to resume" in capsys.readouterr().out
    assert (output / "metrics.csv").read_text() == rows
    jax.tree.map(np.testing.assert_array_equal, arrays(state), arrays(again))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"key": rlscan.key(4)}, "key.words was .* and is"),
        ({"resume": False}, "holds another run"),
        ({"total_steps": 31}, "less than one update"),
        ({"eval_interval": -1}, "eval_interval must be"),
    ],
)
def test_another_run_is_refused(whole, changed: dict[str, Any], message: str):
    before = sorted(whole[0].rglob("*"))
    with pytest.raises(ValueError, match=message):
        fit(whole[0], **changed)
    assert sorted(whole[0].rglob("*")) == before


def test_the_horizon_of_what_is_annealed_is_kept(tmp_path: Path):
    annealed = dataclasses.replace(CONFIG, anneal_learning_rate=True)
    constant, kept = (_settings(config, STEPS, rlscan.key(0)) for config in (CONFIG, annealed))
    assert (constant.get("schedule_steps"), kept["schedule_steps"]) == (None, STEPS)
    assert yaml.safe_load(yaml.safe_dump(kept)) == kept
    checkpoint = Checkpoint(tmp_path / "a.ckpt", {"config": kept}, b"", {})
    _check_resumed(tmp_path, kept, checkpoint)
    _check_resumed(tmp_path, {**kept, "schedule_steps": 2 * STEPS}, checkpoint)


@pytest.mark.slow
def test_an_annealed_run_is_extended_with_its_old_horizon(tmp_path: Path):
    annealed = dataclasses.replace(CONFIG, anneal_learning_rate=True)
    fit(tmp_path / "run", config=annealed)
    longer = fit(tmp_path / "run", config=annealed, total_steps=2 * STEPS)
    options = {"config": annealed, "total_steps": 2 * STEPS, "schedule_steps": STEPS}
    once = fit(tmp_path / "once", **options)
    jax.tree.map(np.testing.assert_array_equal, arrays(longer), arrays(once))
    assert rlscan.read_metrics(tmp_path / "run")["learning_rate"][-1] == 0


@pytest.mark.slow
def test_a_finished_run_is_extended(whole, tmp_path: Path):
    shutil.copytree(whole[0], tmp_path / "run")
    longer = fit(tmp_path / "run", total_steps=2 * STEPS)
    once = fit(tmp_path / "once", total_steps=2 * STEPS)
    jax.tree.map(np.testing.assert_array_equal, arrays(longer), arrays(once))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_several_runs_side_by_side(tmp_path: Path):
    keys = jax.random.split(rlscan.key(5), 2)
    rates = eqx.tree_at(lambda c: c.learning_rate, CONFIG, np.array([1e-3, 1e-2], np.float32))
    state = rlscan.fit(
        MAKE, ENV, rates, total_steps=STEPS, output=tmp_path / "runs", key=keys, eval_interval=5
    )
    table = rlscan.runs.read_metrics(tmp_path / "runs")
    assert table["run"].tolist() == [0, 1] * NUM_UPDATES
    policies = rlscan.load_policy(
        tmp_path / "runs", like=eqx.filter_vmap(lambda k: MAKE(key=k))(keys), inference=False
    )
    jax.tree.map(np.testing.assert_array_equal, arrays(policies), arrays(state.policy))
