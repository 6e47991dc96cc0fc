"""A seed that diverges is frozen at its last finite state; the others are not affected."""

import csv
import dataclasses
import inspect
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from statistics_network import make_policy as statistics_policy

import rlscan
from rlscan import DivergenceError, PPOConfig, explain_divergence, ppo_loss
from rlscan._cli.main import main
from rlscan._cli.terminal import BAD_INPUT, DIVERGED
from rlscan.ppo import _update as ppo
from rlscan.ppo._divergence import _in_rollout
from rlscan.ppo._finite import (
    Divergence,
    first_divergence,
    no_divergence,
    place_of,
    stay_finite,
)
from rlscan.runs._parse import parse

CONFIG = PPOConfig(num_envs=2, num_steps=8, num_epochs=2, num_minibatches=2, learning_rate=0.01)
NUM_UPDATES = 5
NEVER = 10**6


class Planted(eqx.Module):
    """An environment with a planted number at one step of each of its copies."""

    at: Any  # the step, counted from 0 through all episodes
    what: str = eqx.field(static=True)  # "reward", "observation" or "final"
    number: float = eqx.field(static=True, default=jnp.nan)
    inner: Any = probes.Wander()
    time_limit: int | None = eqx.field(static=True, default=None)
    entry: Any = eqx.field(static=True, default=...)  # of the observation; by default all

    def reset(self, key: Any) -> tuple:
        observation, state = self.inner.reset(key)
        return observation, (state, jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        inner, time = state
        observation, inner, reward, *ends, info = self.inner.step(key, inner, action)
        is_now = time == self.at
        if self.what == "reward":
            reward = jnp.where(is_now, self.number, reward)
        else:
            entry = observation[self.entry]
            observation = observation.at[self.entry].set(jnp.where(is_now, self.number, entry))
        return observation, (inner, time + 1), reward, *ends, info

    def observation_space(self) -> Any:
        return self.inner.observation_space()

    def action_space(self) -> Any:
        return self.inner.action_space()


def leaves(tree: Any) -> list[np.ndarray]:
    keys_as_data = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        eqx.filter(tree, eqx.is_array),
    )
    return [np.asarray(x) for x in jax.tree.leaves(keys_as_data)]


def same_bits(a: Any, b: Any) -> bool:
    """Compare bits: NaN equals itself, and 0 differs from −0."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in pairs)


def assert_frozen(state: Any, before: Any, update: int, minibatch: int) -> None:
    """Assert that `state` equals the one `before` the update, except for its `divergence`."""
    assert (state.divergence.update, state.divergence.minibatch) == (update, minibatch)
    assert before.divergence.update == 0
    assert same_bits(dataclasses.replace(state, divergence=before.divergence), before)
    assert all(np.isfinite(x).all() for x in leaves(state.policy))


# A divergence in a rollout. One program runs three seeds, and the second has the planted number.


@eqx.filter_jit
@eqx.filter_vmap
def start(key: Any, at: Any) -> Any:
    return rlscan.ppo.init_train(probes.dropout_policy(), Planted(at, "reward"), CONFIG, key=key)


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(eqx.if_array(0), 0, None))
def step(state: Any, at: Any, config: Any) -> Any:
    return rlscan.ppo.update(state, Planted(at, "reward"), config, num_updates=NUM_UPDATES)


def seeds(at: Any, config: Any) -> tuple[list, dict]:
    """The states before and after each of five updates, and the metrics `[update, seed]`."""
    states, rows = [start(jax.random.split(rlscan.key(0), 3), at)], []
    for _ in range(NUM_UPDATES):
        state, metrics = step(states[-1], at, config.as_arrays())
        states.append(state)
        rows.append(metrics)
    return states, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def of_seed(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i] if eqx.is_array(x) else x, tree)


@pytest.mark.slow
@pytest.mark.parametrize("target_kl", [np.inf, 1e-4])
def test_a_seed_is_frozen_and_the_others_are_bitwise_as_without_it(target_kl):
    config = dataclasses.replace(CONFIG, target_kl=target_kl)
    never = jnp.full(3, NEVER)
    states, metrics = seeds(never.at[1].set(19), config)  # in the third update of 8
    healthy, expected = seeds(never, config)
    for i in (0, 2):
        assert same_bits(of_seed(states[-1], i), of_seed(healthy[-1], i))
        assert all(same_bits(metrics[n][:, i], expected[n][:, i]) for n in metrics)
    assert (metrics["diverged"][:, [0, 2]] == 0).all()
    assert (expected["diverged"] == 0).all()
    if target_kl < np.inf:
        assert (expected["num_gradient_steps"] < 4).any()  # otherwise no KL stop was tested

    before = of_seed(states[2], 1)
    assert same_bits(before, of_seed(healthy[2], 1))
    for state in states[3:]:
        assert_frozen(of_seed(state, 1), before, update=3, minibatch=0)
    assert list(metrics["diverged"][:, 1]) == [0, 0, 1, 1, 1]
    assert (metrics["num_gradient_steps"][2:, 1] == 0).all()
    assert (metrics["num_episodes"][3:, 1] == 0).all() and metrics["num_episodes"][2, 1] > 0
    assert np.isnan(metrics["learning_rate"][3:, 1]).all()


@pytest.mark.exhaustive
@pytest.mark.slow(cases="all")
@pytest.mark.parametrize(
    "what, at, number, update, named",
    [
        ("reward", 19, jnp.nan, 3, "reward is not finite, first at step 3 of environment 0"),
        ("observation", 9, -jnp.inf, 2, "observation is not finite, first at step 2 of environ"),
        # The policy has not acted on it yet, because the rollout ends there.
        ("observation", 15, jnp.nan, 2, "the value of what followed step 7 of environment 1 is n"),
    ],
)
def test_a_divergence_in_a_rollout_is_named(what, at, number, update, named):
    env = Planted(jnp.asarray(at), what, number)
    run = rlscan.train(
        probes.dropout_policy(),
        env,
        CONFIG,
        total_steps=NUM_UPDATES * 16,
        key=rlscan.key(0),
        updates_per_call=NUM_UPDATES,
        strict=True,  # it must not be mistaken for a failed audit
        debug=True,
    )
    with pytest.raises(DivergenceError) as error:
        rows = [next(run) for _ in range(update)]
        # All updates of a call are handed over with its last state.
        assert all(state.divergence.update == update for state, _ in rows)
        assert [metrics["diverged"] for _, metrics in rows] == [0] * (update - 1) + [1]
        next(run)
    assert str(error.value).startswith(f"update {update}, rollout: {named}")


# A divergence in a gradient step. Adam's steps of 0.01 make one number climb.


class Climb(eqx.Module):
    """A loss that decreases as one number grows, and does harm above a threshold."""

    threshold: Any
    what: Any

    def __call__(self, policy: Any, minibatch: Any, config: Any) -> Any:
        is_high = policy.preference > self.threshold
        zero = policy.value - jax.lax.stop_gradient(policy.value)
        root = jnp.sqrt(jnp.where(is_high, zero, 1.0))  # its slope at 0 is infinite
        harm = {
            "loss": jnp.where(is_high, jnp.nan, 0.0),
            "gradient": root,
            "norm": jnp.where(is_high, 1e30, 0.0) * zero,
            "nothing": 0.0,
            "stop": jnp.where(is_high, jnp.inf, 0.0),
        }[self.what]
        far = jnp.where(is_high, 100.0, 0.0) if self.what == "stop" else 0.0
        log_ratio = jnp.full_like(minibatch.advantage, far)
        return harm - policy.preference, (log_ratio, {"harm": jnp.asarray(harm)})


HARM = {
    "loss": "the loss is nan (harm nan)",
    "gradient": "the gradient of policy.value is not finite",
    "norm": "the gradient is finite, but its global norm is not",
}
COIN = probes.Coin(jnp.zeros(()), jnp.ones(()))


def climb(what: str, **changes: Any) -> tuple:
    config = dataclasses.replace(CONFIG, anneal_learning_rate=False, **changes)
    # The threshold is passed in the sixth step, which is the second of the second update.
    loss = Climb(jnp.asarray(0.045), what)
    train = partial(rlscan.train, COIN, probes.leak, config, total_steps=48, key=rlscan.key(0))
    return config, loss, list(train(loss=loss))


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize("what", HARM)
def test_a_bad_gradient_step_undoes_its_update_and_is_named(what):
    config, loss, updates = climb(what)
    (first, _), (state, metrics) = updates  # the run ends there
    assert_frozen(state, first, update=2, minibatch=2)
    assert metrics["diverged"] == 1 and metrics["num_gradient_steps"] == 0
    explain = partial(explain_divergence, num_updates=3, loss=loss)
    assert explain(state, probes.leak, config) == f"update 2, minibatch 2: {HARM[what]}"
    assert explain(first, probes.leak, config) is None


@pytest.mark.slow
def test_a_parameter_that_overflows():
    config, loss, updates = climb("nothing", learning_rate=3e38)
    ((state, _),) = updates
    assert (state.divergence.update, state.divergence.minibatch) == (1, 2)
    assert state.policy.preference == 0
    named = "update 1, minibatch 2: the parameter policy.preference, after the step, is not finite"
    assert explain_divergence(state, probes.leak, config, num_updates=3, loss=loss) == named


@pytest.mark.slow
def test_a_bad_step_that_a_kl_stop_skips_is_not_a_divergence():
    _, _, updates = climb("stop", target_kl=1.0)
    assert [int(metrics["num_gradient_steps"]) for _, metrics in updates] == [4, 1, 0]
    assert all(metrics["diverged"] == 0 for _, metrics in updates)
    assert climb("stop")[2][-1][0].divergence.minibatch == 2  # without a KL stop it is one


# Watching does not change a run that stays finite.


def watched_and_unwatched(patch: pytest.MonkeyPatch) -> Any:
    def run() -> Any:
        train = partial(rlscan.train, probes.dropout_policy(), probes.Wander(), CONFIG)
        return list(train(total_steps=4 * 16, key=rlscan.key(0)))

    watched = run()
    patch.setattr(ppo, "is_step_finite", lambda *_: jnp.asarray(True))
    patch.setattr(ppo, "first_divergence", lambda *_, **__: no_divergence())
    return watched, run()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_watching_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    for a, b in zip(*map(leaves, watched_and_unwatched(monkeypatch)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_watching_changes_no_bit():
    """The compiler has its default flags, because those of the suite permit other rounding."""
    program = """
import pytest, test_divergence as t
with pytest.MonkeyPatch.context() as patch:
    assert t.same_bits(*t.watched_and_unwatched(patch))
"""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


# Statistics.


@pytest.mark.exhaustive
@pytest.mark.slow
def test_statistics_that_overflow():
    """A batch norm saturates at a large observation, but the running variance has its square."""
    env = Planted(jnp.asarray(9), "observation", 1e30)
    train = partial(rlscan.train, statistics_policy(), env, CONFIG, total_steps=48)
    (first, _), (state, _) = train(key=rlscan.key(0))
    assert_frozen(state, first, update=2, minibatch=4)
    named = explain_divergence(state, env, CONFIG, num_updates=3)
    assert named is not None
    assert named.startswith("update 2, minibatch 4: the statistic policy.statistics")


def test_statistics_count_with_the_last_step():
    yes, no = jnp.asarray(True), jnp.asarray(False)
    steps = jnp.ones((2, 3), bool)
    judge = partial(first_divergence, no_divergence(), jnp.asarray(7))
    found = judge(yes, steps, no)
    assert (found.update, found.minibatch) == (7, 6)
    found = judge(yes, steps.at[1, 0].set(False), no)
    assert (found.update, found.minibatch) == (7, 4)
    found = judge(no, ~steps, no)
    assert (found.update, found.minibatch) == (7, 0)
    assert judge(yes, steps, yes).update == 0
    assert first_divergence(found, jnp.asarray(9), yes, ~steps, yes).update == 7


def test_a_place_is_named_by_its_update_and_minibatch():
    place = lambda *numbers: place_of(Divergence(*map(jnp.asarray, numbers)))  # noqa: E731
    assert (place(3, 2), place(4, 0)) == ("update 3, minibatch 2", "update 4, rollout")


def test_constants_may_be_infinite():
    before = {"bound": jnp.array([jnp.inf, 1.0]), "mean": jnp.zeros(2), "count": jnp.asarray(3)}
    after = {**before, "mean": jnp.array([0.0, jnp.inf])}
    found = stay_finite(before, after)
    assert (found["bound"], found["mean"], found["count"]) == (True, False, None)


# Several devices.


def off_in_one(policy: Any, minibatch: Any, config: Any) -> Any:
    """The loss of one environment is NaN; its gradient is not."""
    loss, rest = ppo_loss(policy, minibatch, config)
    is_far = (minibatch.trajectory.observation[..., 0] > 1e5).any()
    return loss + jnp.where(is_far, jnp.nan, 0.0), rest


@pytest.mark.exhaustive
@pytest.mark.slow
def test_devices_agree():
    """Both devices react to what only one of them has seen."""
    mesh, policy, env = rlscan.make_mesh(2), probes.dropout_policy(), probes.Wander()
    config = dataclasses.replace(CONFIG, num_epochs=1, num_minibatches=1, num_envs=4).as_arrays()
    update = eqx.filter_jit(partial(rlscan.ppo.update, num_updates=2, loss=off_in_one, mesh=mesh))
    explain = partial(explain_divergence, num_updates=2, loss=off_in_one, mesh=mesh)
    start = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(2), mesh=mesh)
    for number, minibatch, named in (
        (
            jnp.nan,
            0,
            "rollout: observation[0] is not finite, first at step 0 of environment 3, where it is "
            "nan, and in 1 of 4 environments in all",
        ),
        (1e6, 1, "minibatch 1: the loss is nan"),
    ):
        far = start.rollout_state.observation.at[3, 0].set(number)
        state = eqx.tree_at(lambda s: s.rollout_state.observation, start, far)
        after, metrics = update(state, env, config)
        assert metrics["diverged"] == 1
        assert_frozen(after, state, update=1, minibatch=minibatch)
        for leaf in jax.tree.leaves(after.divergence):
            assert len({int(shard.data) for shard in leaf.addressable_shards}) == 1
        assert explain(after, env, config) == f"update 1, {named}"


# The audit.


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_failed_audit_is_reported_first():
    """If other masks make a run diverge, they are the cause to report."""

    def fresh(policy: Any, minibatch: Any, config: Any) -> Any:
        keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(minibatch.trajectory.policy_key)
        trajectory = dataclasses.replace(minibatch.trajectory, policy_key=keys)
        loss, rest = ppo_loss(policy, dataclasses.replace(minibatch, trajectory=trajectory), config)
        return loss * jnp.inf, rest

    run = partial(rlscan.train, probes.dropout_policy(), probes.Wander(), CONFIG, total_steps=32)
    with pytest.raises(rlscan.AuditError, match="wrong keys"):
        list(run(key=rlscan.key(0), loss=fresh, strict=True))


# The command line.

SMALL = ["--ppo.num-envs", "2", "--ppo.num-steps", "16", "--policy.hidden-sizes", "[8]"]


@pytest.mark.slow
@pytest.mark.parametrize("is_debugged", [False, True])
def test_a_run_that_diverges_ends_with_its_own_status(
    tmp_path: Path, capsys: pytest.CaptureFixture, is_debugged: bool
):
    argv = ["train", *SMALL, "--total-steps", "640", "--ppo.learning-rate", "1e30"]
    argv += ["--output", str(tmp_path / "run"), "--log-interval", "7"]
    assert main([*argv, "--debug"] if is_debugged else argv) == DIVERGED == 3
    (error,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error:")]
    assert error.startswith("error: update 1, minibatch 2: ")
    assert "the state before that update is kept" in error
    assert ("the loss is inf (value_loss inf)" in error) == is_debugged
    assert ("--debug" in error) != is_debugged
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [(row["update"], row["diverged"]) for row in rows] == [("1", "1")]
    policy = rlscan.load_policy(tmp_path / "run")
    assert all(np.isfinite(x).all() for x in leaves(policy))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_other_runs_side_by_side_go_on(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = tmp_path / "run"
    argv = ["train", *SMALL, "--total-steps", "640", "--num-seeds", "2", "--output", str(run)]
    assert main([*argv, "--sweep", "ppo.learning_rate=1e-3,1e30", "--debug"]) == DIVERGED
    (error,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error:")]
    assert error.startswith("error: 2 of 4 runs diverged: run 2, of seed 0, update 1, minibatch ")
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    last = {row["run"]: row for row in rows if row["update"] == "20"}
    assert [last[run]["num_gradient_steps"] for run in "0123"] == ["16", "16", "0", "0"]
    for which in range(4):
        policy = rlscan.load_policy(run, run=which)
        assert all(np.isfinite(x).all() for x in leaves(policy))
    assert main(["train", "--resume", str(run)]) == 0  # it has already finished


@pytest.mark.slow
def test_a_run_that_has_diverged_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = tmp_path / "run"
    argv = ["train", *SMALL, "--total-steps", "640", "--ppo.learning-rate", "1e30"]
    assert main([*argv, "--output", str(run)]) == DIVERGED
    rows = (run / "metrics.csv").read_bytes()
    assert main(["train", "--resume", str(run)]) == DIVERGED
    assert "update 1, minibatch 2" in capsys.readouterr().err.splitlines()[-1]
    assert (run / "metrics.csv").read_bytes() == rows


def test_a_switch_needs_no_value():
    assert parse(["--debug"]).debug and parse(["--debug", "--seed", "3"]).debug
    assert not parse(["--debug", "false"]).debug and not parse([]).debug
    assert parse(["--debug", "--strict", "false", "--compile-cache"]).compile_cache
    assert main(["train", "--debug", "maybe"]) == BAD_INPUT


def rollout_of(observation: Any, **others: Any) -> Any:
    """Stand in for the steps [T, N] that an update learns from, with zeros in all else."""
    zeros, flags = jnp.zeros((2, 3)), jnp.zeros((2, 3), bool)
    names = ("action", "log_prob", "reward")
    steps = {**dict.fromkeys(names, zeros), "terminated": flags, "truncated": flags, **others}
    trajectory = SimpleNamespace(observation=observation, **steps)
    return SimpleNamespace(trajectory=trajectory, value=zeros, advantage=zeros, target=zeros)


@pytest.mark.slow
def test_the_entry_of_an_observation_is_named_with_its_step_and_environments():
    speed, image = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 5, 5))
    observation = {"image": image, "speed": speed.at[1, 1:, 2].set(jnp.inf)}
    found = inspect.unwrap(_in_rollout)(rollout_of(observation))
    assert found == (
        "observation['speed'][2] is not finite, first at step 1 of environment 1, where it is inf, "
        "and in 2 of 3 environments in all"
    )
    earlier = {**observation, "image": image.at[0, 2, 3, 4].set(jnp.nan)}
    found = inspect.unwrap(_in_rollout)(rollout_of(earlier))
    assert found.startswith("observation['image'][3, 4] is not finite, first at step 0 of environm")
    assert found.endswith("2, where it is nan, and in 1 of 3 environments in all")
    whole = rollout_of(jnp.zeros((2, 3)), reward=jnp.full((2, 3), -jnp.inf))
    found = inspect.unwrap(_in_rollout)(whole)
    assert found.startswith(
        "reward is not finite, first at step 0 of environment 0, where it is -i"
    )
    assert inspect.unwrap(_in_rollout)(rollout_of(speed)) is None


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_infinite_observation_that_harms_a_gradient_is_named_first():
    """A saturated tanh is finite, but its gradient is 0 · ∞."""
    env = Planted(jnp.asarray(9), "observation", jnp.inf, entry=2)
    train = partial(rlscan.train, probes.dropout_policy(), env, CONFIG, total_steps=48, debug=True)
    with pytest.raises(DivergenceError) as error:
        list(train(key=rlscan.key(0)))
    start = "update 2, minibatch 1: observation[2] is not finite, first at step 2 of environment "
    assert str(error.value).startswith(start)
    assert "in all; then the gradient of policy.body" in str(error.value)


@pytest.mark.parametrize("is_truncated", [True, False])
def test_a_violated_time_limit_is_named(is_truncated: bool):
    """`next_value` is NaN for a truncation without a slot."""
    truncated = jnp.zeros((2, 3), bool).at[1, 0].set(is_truncated)
    batch = rollout_of(jnp.zeros((2, 3)), truncated=truncated)
    batch.advantage = jnp.zeros((2, 3)).at[:, 0].set(jnp.nan)
    found = inspect.unwrap(_in_rollout)(batch)
    assert found.startswith("the value of what followed step 1 of environment 0 is not finite")
    assert ("time_limit" in found) == is_truncated
