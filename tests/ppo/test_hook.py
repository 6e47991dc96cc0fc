"""A function of the caller's own between a rollout and what is learned from it."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import probes
import pytest

import rlscan
from rlscan.ppo._hook import call_hook, check_hook, first_extra
from rlscan.ppo._start import placed

ENV = probes.Wander()
CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1)


class Curious(eqx.Module):
    """Random network distillation, with a linear predictor of a linear target."""

    rate: float = 0.1
    optimiser: Any = eqx.field(static=True, default=optax.sgd(0.1))

    def init(self, policy: Any, env: Any, *, key: Any) -> dict:
        target_key, predictor_key = jax.random.split(key)
        draw = jax.random.normal
        predictor = draw(predictor_key, (4, 3))
        return {
            "target": draw(target_key, (4, 3)),
            "predictor": predictor,
            "opt": self.optimiser.init(predictor),
            "bonus": jnp.zeros(()),
        }

    def __call__(self, policy: Any, trajectory: Any, extra: dict, *, key: Any) -> tuple:
        def error(predictor: Any) -> Any:
            gap = trajectory.observation @ (predictor - extra["target"])
            return (gap**2).sum(axis=-1)

        bonus = error(extra["predictor"])
        grads = jax.grad(lambda predictor: error(predictor).mean())(extra["predictor"])
        moves, opt = self.optimiser.update(grads, extra["opt"])
        predictor = optax.apply_updates(extra["predictor"], moves)
        after = {**extra, "predictor": predictor, "opt": opt, "bonus": bonus.mean()}
        return dataclasses.replace(trajectory, reward=trajectory.reward + bonus), after


def seen_reward(policy: Any, minibatch: Any, config: Any) -> tuple:
    """A loss that reports the mean reward that it learns from."""
    loss, (log_ratio, metrics) = rlscan.ppo.ppo_loss(policy, minibatch, config)
    return loss, (log_ratio, {**metrics, "reward": minibatch.trajectory.reward.mean()})


def train(on_batch: Any, total_steps: int = 64, **settings: Any) -> Any:
    settings = {"key": rlscan.key(0), "loss": seen_reward, "updates_per_call": 1, **settings}
    policy = probes.dropout_policy()
    make = lambda *, key: policy  # noqa: E731
    return rlscan.train(make, ENV, CONFIG, total_steps=total_steps, on_batch=on_batch, **settings)


@pytest.fixture(scope="module")
def curious() -> tuple[list, list]:
    training = train(Curious())
    states, rows = [training.state], []
    for state, metrics in training:
        states.append(state)
        rows.append(metrics)
    return states, rows


@pytest.mark.slow
def test_a_hook_changes_rewards_and_trains_what_it_keeps(curious: tuple):
    """Against a loop by hand over the same rollouts, with the bonus before the predictor's step."""
    states, rows = curious
    extra = {name: np.asarray(states[0].extra[name]) for name in ("target", "predictor")}
    for before, after, row in zip(states[:-1], states[1:], rows, strict=True):
        _, trajectory = eqx.filter_jit(rlscan.rollout)(before.policy, ENV, before.rollout_state, 8)
        seen = np.asarray(trajectory.observation).reshape(16, 4)
        gap = seen @ (extra["predictor"] - extra["target"])
        bonus = (gap**2).sum(axis=-1)
        extra["predictor"] = extra["predictor"] - 0.1 * 2 * seen.T @ gap / 16
        np.testing.assert_allclose(after.extra["predictor"], extra["predictor"], atol=1e-5)
        np.testing.assert_allclose(after.extra["bonus"], bonus.mean(), rtol=1e-5)
        wanted = np.asarray(trajectory.reward).mean() + bonus.mean()
        np.testing.assert_allclose(row["reward"], wanted, rtol=1e-5)
        # Episodes are reported as the environment paid them.
        ended = np.asarray(trajectory.terminated | trajectory.truncated)
        if ended.any():
            paid = np.asarray(trajectory.episode_return)[ended].mean()
            np.testing.assert_allclose(row["episode_return"], paid, rtol=1e-5)
    assert states[-1].extra["bonus"] < states[1].extra["bonus"]


@pytest.mark.slow
def test_a_hook_that_changes_nothing_leaves_every_number(curious: tuple):
    """Its keys are drawn beside those of the run."""
    keys = []

    def watch(policy: Any, trajectory: Any, extra: Any, *, key: Any) -> tuple:
        keys.append(key)
        return trajectory, extra

    without, watched = train(None), train(watch)
    assert watched.state.extra == ()
    for (_, one), (_, other) in zip(without, watched, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert keys and eqx.tree_equal(without.state, watched.state)
    # With an extra the first state is the same, too.
    plain = dataclasses.replace(curious[0][0], extra=())
    assert eqx.tree_equal(plain, train(None).state)


class Draws(eqx.Module):
    """A hook that keeps the words of its keys."""

    def init(self, policy: Any, env: Any, *, key: Any) -> Any:
        return jax.random.bits(key, (2,))

    def __call__(self, policy: Any, trajectory: Any, extra: Any, *, key: Any) -> tuple:
        return trajectory, jax.random.bits(key, (2,))


@pytest.mark.slow
def test_each_update_of_each_run_has_a_key_of_its_own():
    training = train(Draws(), key=jax.random.split(rlscan.key(0), 2))
    seen = [training.state.extra, *(state.extra for state, _ in training)]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 2 * 5


@pytest.mark.slow
def test_an_extra_is_in_the_checkpoint(curious: tuple, tmp_path: Any):
    states, rows = curious
    rlscan.runs.save_checkpoint(tmp_path / "state.ckpt", states[2])
    loaded = rlscan.runs.load_checkpoint(tmp_path / "state.ckpt", states[0])
    again = train(Curious(), state=loaded)
    for (_, metrics), row in zip(again, rows[2:], strict=True):
        np.testing.assert_array_equal(metrics["reward"], row["reward"])
    assert eqx.tree_equal(again.state, states[-1])


class Breaks(eqx.Module):
    """A hook that counts updates, and returns a number that is not finite in the third."""

    where: str = eqx.field(static=True)

    def init(self, policy: Any, env: Any, *, key: Any) -> Any:
        return {"count": jnp.zeros(()), "mean": jnp.zeros(())}

    def __call__(self, policy: Any, trajectory: Any, extra: Any, *, key: Any) -> tuple:
        count = extra["count"] + 1
        wrong = jnp.where(count > 2, jnp.nan, 0.0)
        reward, mean = trajectory.reward, extra["mean"]
        if self.where == "reward":
            reward += wrong
        else:
            mean += wrong
        return dataclasses.replace(trajectory, reward=reward), {"count": count, "mean": mean}


@pytest.mark.slow(cases="all")
@pytest.mark.parametrize(
    "where, message",
    [
        ("reward", "update 3, rollout: reward is not finite, first at step 0 of environment 0"),
        ("extra", r"minibatch 1: the number extra\['mean'\] of on_batch"),
    ],
)
def test_an_update_that_diverges_takes_back_the_extra(where: str, message: str):
    training = train(Breaks(where), debug=True)
    with pytest.raises(rlscan.ppo.DivergenceError, match=message):
        for _ in training:
            pass
    assert training.state.extra == {"count": 2, "mean": 0} and training.state.num_updates == 2


# What is refused.


def wrong_shape(policy: Any, trajectory: Any, extra: Any, *, key: Any) -> Any:
    return eqx.tree_at(lambda t: t.reward, trajectory, trajectory.reward[:1]), extra


def wrong_dtype(policy: Any, trajectory: Any, extra: Any, *, key: Any) -> Any:
    return dataclasses.replace(trajectory, reward=trajectory.reward.astype(jnp.bfloat16)), extra


RETURNS = {
    "a trajectory": (lambda *a, key: a[1], r"must return \(trajectory, extra\), got Trajectory"),
    "a shape": (
        wrong_shape,
        r"trajectory.reward changed in on_batch: it came in as the array float32\[8, 2\] and went",
    ),
    "a dtype": (wrong_dtype, "trajectory.reward changed in on_batch: .* as the array bfloat16"),
    "an extra": (
        lambda *a, key: (a[1], {"sum": jnp.zeros(2)}),
        r"extra\['sum'\] changed in on_batch: .* float32\[\] and went out as .* float32\[2\]",
    ),
    "a structure": (
        lambda *a, key: (a[1], {}),
        "structure of the extra changed in on_batch, at extra: .* with the structure of the old",
    ),
}


@pytest.mark.parametrize("on_batch, message", RETURNS.values(), ids=RETURNS)
def test_a_hook_keeps_shapes_and_dtypes(on_batch: Any, message: str):
    policy = probes.dropout_policy()
    state = rlscan.init_rollout(policy, ENV, num_envs=2, key=rlscan.key(0))

    def call(state: Any) -> Any:
        _, trajectory = rlscan.rollout(policy, ENV, state, 8)
        return call_hook(on_batch, policy, trajectory, {"sum": jnp.zeros(())}, rlscan.key(1))

    with pytest.raises(TypeError, match=message):
        eqx.filter_eval_shape(call, state)


def test_what_is_no_hook_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the suite's own type checks
    for wrong, message in (
        (3, "on_batch must be a function .*, got 3"),
        (Curious, "on_batch must be a function .*, got <class"),
        (lambda trajectory: trajectory, r"on_batch must take \(policy, trajectory, extra, \*, key"),
    ):
        with pytest.raises(TypeError, match=message):
            check_hook(wrong)
        with pytest.raises(TypeError, match=message):
            train(wrong)


def test_a_hook_needs_whole_rollouts_and_its_own_extra(curious: tuple):
    with pytest.raises(ValueError, match="on_batch takes a whole rollout.*use mesh=None"):
        train(Curious(), mesh=rlscan.make_mesh(2))
    ppo = rlscan.ppo.PPO(CONFIG, num_updates=4, on_batch=Curious())
    place = partial(placed, env=ENV, algorithm=ppo, axis=(), mesh=None)
    assert place(curious[0][1]).extra.keys() == curious[0][1].extra.keys()
    with pytest.raises(ValueError, match="extra of a state .* must be that of on_batch, got ()"):
        place(dataclasses.replace(curious[0][1], extra=()))


def test_a_hook_without_a_first_extra_keeps_nothing():
    hook: Any = lambda *_, key: None  # noqa: E731
    assert first_extra(hook, probes.dropout_policy(), ENV, rlscan.key(0)) == ()
