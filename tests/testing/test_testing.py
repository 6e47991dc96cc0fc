"""Conformance checks: rlscan passes, planted defects fail, and only public names are used."""

import ast
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest

import rlscan
from rlscan import testing
from rlscan.ppo._update import shuffle as _shuffle
from rlscan.testing import ConformanceError
from rlscan.testing._wrong import log_ratios_with_statistics

FILES = sorted((Path(rlscan.__file__).parent / "testing").glob("*.py"))

# Each defect is found by its check, for the right reason.


@pytest.mark.parametrize("name", testing.DEFECTS)
def test_a_defect_is_found(name):
    defect = testing.DEFECTS[name]
    with pytest.raises(ConformanceError, match=defect.says):
        defect.check(defect.implementation)


def test_a_failed_check_is_a_failed_test():
    assert issubclass(ConformanceError, AssertionError)


# rlscan passes.


def test_gae():
    testing.check_gae(jax.jit(rlscan.gae))


@pytest.mark.slow
def test_rollout():
    testing.check_rollout(rlscan.rollout)


@pytest.mark.slow
def test_truncation():
    testing.check_truncation(rlscan.next_value)


@pytest.mark.slow
def test_replay():
    testing.check_replay()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(
    "policy, env",
    [
        (probes.noise_policy(), probes.Wander()),
        (probes.gaussian_dropout_policy(), probes.Wander(is_continuous=True)),
        (probes.Recurrent(), probes.Wander()),
        (testing.Coin(jnp.zeros(()), jnp.zeros(())), testing.both),
    ],
    ids=["own noise", "continuous", "recurrent", "coin"],
)
def test_replay_of_other_policies(policy, env):
    testing.check_replay(policy, env)


@pytest.mark.slow
def test_a_policy_without_noise_can_be_checked():
    testing.check_replay(testing.DropoutPolicy(rate=0.0))


@pytest.mark.slow
def test_recurrence():
    testing.check_recurrence()
    with pytest.raises(ValueError, match="DropoutPolicy is feed-forward"):
        testing.check_recurrence(testing.DropoutPolicy())


@pytest.mark.slow
def test_recurrence_of_a_gru():
    testing.check_recurrence(probes.Recurrent(), probes.Wander())


def test_value_loss():
    testing.check_value_loss(rlscan.ppo.clipped_value_loss)
    twice = lambda *arrays: 2 * rlscan.ppo.clipped_value_loss(*arrays)  # noqa: E731
    testing.check_value_loss(twice)  # the factor, ½ or 1, is arbitrary


def test_gradient_clip():
    """The clipping that the optimiser chains before Adam."""
    clip = lambda grads, norm: optax.clip_by_global_norm(norm).update(grads, optax.EmptyState())[0]  # noqa: E731
    testing.check_gradient_clip(clip)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_learning_rate_schedule():
    """The rate that an update reports for its last gradient step."""
    update = eqx.filter_jit(rlscan.ppo.update)
    env = testing.constant_reward

    def make_schedule(rate, num_updates, num_epochs, num_minibatches):
        config = rlscan.ppo.PPOConfig(
            num_envs=16,
            num_steps=1,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            learning_rate=rate,
        )
        policy = testing.DropoutPolicy(1, 2)
        start = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(0))

        def schedule(k):
            first = jnp.asarray(k - (num_epochs * num_minibatches - 1))
            state = eqx.tree_at(lambda s: s.num_gradient_steps, start, first)
            numbers = config.as_arrays()
            return update(state, env, numbers, num_updates=jnp.asarray(num_updates))[1][
                "learning_rate"
            ]

        return schedule

    testing.check_learning_rate_schedule(make_schedule)


@pytest.mark.parametrize("recurrent", [False, True])
def test_minibatches(recurrent):
    @partial(jax.jit, static_argnums=1)
    def ours(batch, num_minibatches, key):
        number, observation = batch["advantage"], batch["observation"]
        keys = jax.random.split(rlscan.key(9), number.shape)
        no = jnp.zeros(number.shape, bool)
        count = jnp.zeros(number.shape, jnp.int32)
        columns = [observation, count, number, number, no, no, number, count, keys]
        trajectory = rlscan.Trajectory(*columns, value=None, initial_policy_state=(), final=None)
        whole = rlscan.ppo.Minibatch(trajectory, number, number, number)
        some = _shuffle(whole, num_minibatches, recurrent, key)
        return {"advantage": some.advantage, "observation": some.trajectory.observation}

    testing.check_minibatches(ours, recurrent=recurrent)


def scaled_reward(reward, terminated, truncated, *, gamma):
    """The correct scaling: by the deviation of all discounted returns so far."""
    reward, goes_on = np.asarray(reward, float), ~np.asarray(terminated | truncated)
    returns, history, scaled = np.zeros(reward.shape[1]), [], []
    for r, on in zip(reward, goes_on, strict=True):
        returns = gamma * returns + r
        history.append(returns)
        scaled.append(r / np.sqrt(np.var(history) + 1e-8))
        returns = returns * on
    return np.stack(scaled)


def test_reward_scaling():
    testing.check_reward_scaling(scaled_reward)


def test_statistics_that_stay_within_an_update():
    testing.check_ratio(partial(log_ratios_with_statistics, "before", "before"))


@pytest.mark.slow
def test_ratio():
    def first_log_ratios(key):
        config = rlscan.ppo.PPOConfig(num_envs=4, num_steps=8, learning_rate=0.01)
        policy, env = testing.DropoutPolicy(), testing.Walk()
        run = rlscan.train(policy, env, config, total_steps=96, key=rlscan.key(0))
        return jnp.asarray([metrics["audit_log_ratio"] for _, metrics in run])

    testing.check_ratio(first_log_ratios)
    with pytest.raises(ConformanceError, match="of at least two updates"):
        testing.check_ratio(lambda key: first_log_ratios(key)[:1])


def test_evaluation():
    def train_and_evaluate(env, key):
        run, policy, observations = eqx.filter_jit(rlscan.rollout), testing.DropoutPolicy(), []
        for k, num_envs in zip(jax.random.split(key), (4, 2), strict=True):
            state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=k)
            observations.append(run(policy, env, state, 16)[1].observation)
        return observations

    testing.check_evaluation(train_and_evaluate)


# Messages that no defect above triggers.


def test_minibatches_that_forget_the_key_or_a_step():
    def halves(batch, num_minibatches, key, order=None):
        order = np.arange(48) if order is None else order
        split = lambda x: x.reshape(48, *x.shape[2:])[order].reshape(4, 12, *x.shape[2:])  # noqa: E731
        return jax.tree.map(split, batch)

    with pytest.raises(ConformanceError, match="another key must give another order"):
        testing.check_minibatches(halves)
    with pytest.raises(ConformanceError, match="24 of 48 in none"):
        testing.check_minibatches(partial(halves, order=np.arange(48) // 2))
    with pytest.raises(ConformanceError, match=r"minibatches must be \(4, 12\)"):
        testing.check_minibatches(lambda batch, *_: batch)


# A rollout that uses nothing of rlscan: a dict as state, and one key per environment.


class Rolled(eqx.Module):
    observation: Any
    action: Any
    log_prob: Any
    reward: Any
    terminated: Any
    truncated: Any
    policy_key: Any


def init_plain(policy, env, *, num_envs, key):
    def one(key):
        key, reset_key = jax.random.split(key)
        observation, env_state = env.reset(reset_key)
        return {"key": key, "seen": observation, "env": env_state, "is_new": jnp.asarray(True)}

    state = jax.vmap(one)(jax.random.split(key, num_envs))
    tile = lambda x: jnp.broadcast_to(x, (num_envs, *x.shape))  # noqa: E731
    return state | {"policy": jax.tree.map(tile, policy.initial_state())}


def plain_rollout(policy, env, state, num_steps, *, acts_by_policy_key=False):
    def one(state):
        key, policy_key, action_key, env_key = jax.random.split(state["key"], 4)
        start = partial(jnp.where, state["is_new"])
        policy_state = jax.tree.map(start, policy.initial_state(), state["policy"])
        distribution, _, policy_state = policy(state["seen"], policy_state, key=policy_key)
        action = distribution.sample(seed=policy_key if acts_by_policy_key else action_key)
        sent = jnp.clip(action, -0.5, 0.5) if env.is_continuous else action
        seen, env_state, reward, terminated, truncated, _ = env.step(env_key, state["env"], sent)
        after = {"key": key, "seen": seen, "env": env_state, "is_new": terminated | truncated}
        log_prob = distribution.log_prob(action)
        row = Rolled(state["seen"], action, log_prob, reward, terminated, truncated, policy_key)
        return after | {"policy": policy_state}, row

    return jax.lax.scan(lambda state, _: jax.vmap(one)(state), state, length=num_steps)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_rollout_of_a_strangers():
    testing.check_rollout(plain_rollout, init_fn=init_plain)


@pytest.mark.slow
def test_actions_drawn_by_the_policys_key():
    rollout = partial(plain_rollout, acts_by_policy_key=True)
    with pytest.raises(ConformanceError, match="actions must not be drawn by the policy's key"):
        testing.check_rollout(rollout, init_fn=init_plain)


# Public names.


def uses(tree: ast.AST) -> set[str]:
    """The attributes of `rlscan` that a module uses."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "rlscan"
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_imports_public_names_only(file):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(a.name == "rlscan" or a.name[:6] != "rlscan" for a in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1 and not (node.module or "").startswith("rlscan")
    assert all(not name.startswith("_") and hasattr(rlscan, name) for name in uses(tree))


def test_other_imports_would_be_seen():
    assert uses(ast.parse("import rlscan\nrlscan._ppo.update(rlscan.gae)")) == {"_ppo", "gae"}


def test_every_public_name_has_a_docstring():
    for name, thing in vars(testing).items():
        if not name.startswith("_") and callable(thing):
            assert thing.__doc__, name
