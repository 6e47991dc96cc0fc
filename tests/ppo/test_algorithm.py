"""Algorithms of the caller's own in `train`, and states that the caller changes."""

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
from compilations import count_compilations

import rlscan
from rlscan.ppo import PPO
from rlscan.ppo._start import placed
from rlscan.ppo._training import _like
from rlscan.testing import Box, Discrete

CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1)


class Sums(eqx.Module):
    """An algorithm that costs nothing: each update adds a number and the draw of a key."""

    amount: Any = 1.0
    steps_per_update: int = 10

    def init(self, policy: Any, env: Any, key: Any) -> Any:
        return {"sum": jnp.zeros(()), "key": key, "policy": policy}

    def update(self, state: Any) -> tuple:
        key, draw = jax.random.split(state["key"])
        after = state["sum"] + self.amount + jax.random.uniform(draw)
        return {**state, "sum": after, "key": key}, {"sum": after, "half": after / 2}


def train(algorithm: Any, *, key: Any = None, total_steps: int = 59, **settings: Any) -> Any:
    key = rlscan.key(0) if key is None else key
    return rlscan.train(
        make_policy, probes.Wander(), algorithm, total_steps=total_steps, key=key, **settings
    )


def make_policy(*, key: Any) -> Any:
    return {"weight": jax.random.normal(key, (3,))}


def by_hand(key: Any, amount: float = 1.0, num_updates: int = 5) -> tuple[Any, list[float]]:
    policy_key, key = jax.random.split(key)
    total, sums = 0.0, []
    for _ in range(num_updates):
        key, draw = jax.random.split(key)
        total += amount + float(jax.random.uniform(draw))
        sums.append(total)
    return make_policy(key=policy_key), sums


def test_any_algorithm_is_trained_for_its_whole_updates():
    training = train(Sums())
    assert training.num_updates == 5 and training.compile() > 0 and training.mesh is None
    policy, sums = by_hand(rlscan.key(0))
    for i, (state, metrics) in enumerate(training):
        assert training.__length_hint__() == 4 - i
        assert metrics["sum"] == pytest.approx(sums[i]) == pytest.approx(float(state["sum"]))
        assert metrics["half"] == pytest.approx(sums[i] / 2)
    np.testing.assert_array_equal(training.state["policy"]["weight"], policy["weight"])


def test_keys_train_several_runs_of_any_algorithm():
    keys = jax.random.split(rlscan.key(7), 3)
    rows = [metrics["sum"] for _, metrics in train(Sums(2.0), key=keys)]
    wanted = [by_hand(key, amount=2.0)[1] for key in keys]
    np.testing.assert_allclose(np.stack(rows, axis=1), wanted, rtol=1e-6)


def test_a_new_number_of_an_algorithm_compiles_nothing():
    first = list(train(Sums(jnp.asarray(1.0))))
    with count_compilations() as names:
        second = list(train(Sums(jnp.asarray(3.0))))
    assert not names
    assert second[-1][1]["sum"] - first[-1][1]["sum"] == pytest.approx(10.0)


def test_several_updates_may_share_a_call():
    rows = [metrics["sum"] for _, metrics in train(Sums(), updates_per_call=3)]
    np.testing.assert_allclose(rows, by_hand(rlscan.key(0))[1], rtol=1e-6)


def test_a_run_of_any_algorithm_goes_on_from_a_state():
    first = train(Sums())
    for _, _ in zip(range(2), first, strict=False):
        pass
    second = train(Sums(), state=first.state, total_steps=30)
    assert [float(m["sum"]) for _, m in second] == pytest.approx(by_hand(rlscan.key(0))[1][2:])


def test_the_steps_of_an_update_may_be_told_by_its_sizes():
    class Sized(Sums):
        steps_per_update: Any = None
        num_envs: int = 2
        num_steps: int = 7

    assert train(Sized(), total_steps=30).num_updates == 2


def refused(**changed: Any) -> Any:
    """An algorithm whose update returns something else."""
    algorithm = Sums()
    return dataclasses.make_dataclass(
        "Refused",
        [],
        namespace={
            "steps_per_update": 10,
            "init": lambda self, *given: algorithm.init(*given),
            "update": lambda self, state: algorithm.update(state),
            **changed,
        },
    )()


REFUSED = {
    "a class": (Sums, {}, TypeError, r"got the class Sums; call it: Sums\(…\)"),
    "no algorithm": (3, {}, TypeError, "got a int without init and update"),
    "no steps": (
        refused(steps_per_update=None),
        {},
        ValueError,
        "add an attribute steps_per_update, or num_envs and num_steps",
    ),
    "steps of 0": (refused(steps_per_update=0), {}, ValueError, "steps_per_update of Refused must"),
    "too short": (Sums(), {"total_steps": 9}, ValueError, "steps_per_update = 10; use 10 or more"),
    "a state alone": (
        refused(update=lambda self, state: state),
        {},
        TypeError,
        r"Refused.update must return \(state, metrics\)",
    ),
    "a vector": (
        refused(update=lambda self, state: (state, {"mine": jnp.ones(2)})),
        {},
        ValueError,
        "the metric 'mine' of Refused.update must be one real number, got the array float32.2.",
    ),
    "strict": (Sums(), {"strict": True}, ValueError, "strict is an argument of train with PPO"),
    "debug": (Sums(), {"debug": True}, ValueError, "debug .* beside a Sums; leave it out"),
    "a loss": (
        PPO(CONFIG),
        {"loss": lambda *_: None},
        ValueError,
        "loss is an argument of train with a PPOConfig, got it beside a PPO",
    ),
    "two lengths": (None, {}, ValueError, "num_updates or total_steps, got 3 and 80"),
}


@pytest.mark.parametrize("algorithm, settings, kind, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_is_refused(algorithm, settings, kind, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the suite's own type checks
    with pytest.raises(kind, match=message):
        train(algorithm or PPO(CONFIG, num_updates=3, total_steps=80), **settings)


# A2C: one gradient step for each rollout, and nothing is replayed twice.


class A2C(eqx.Module):
    num_envs: int = 8
    num_steps: int = 8
    gamma: float = 0.9
    optimiser: Any = eqx.field(static=True, default=optax.adam(0.01))

    def init(self, policy: Any, env: Any, key: Any) -> dict[str, Any]:
        rollout_state = rlscan.init_rollout(policy, env, num_envs=self.num_envs, key=key)
        opt_state = self.optimiser.init(rlscan.nn.partition_trainable(policy)[0])
        return {"policy": policy, "opt": opt_state, "rollout": rollout_state, "env": env}

    def update(self, state: dict[str, Any]) -> tuple:
        policy = state["policy"]
        after, trajectory = rlscan.rollout(policy, state["env"], state["rollout"], self.num_steps)
        value = rlscan.replay(policy, trajectory)[2]
        following = rlscan.next_value(policy, after, trajectory, value)
        one_stream = partial(rlscan.gae, gamma=self.gamma, gae_lambda=0.95)
        advantage, target = jax.vmap(one_stream, in_axes=1, out_axes=1)(
            trajectory.reward, value, following, trajectory.terminated, trajectory.truncated
        )
        params, rest = rlscan.nn.partition_trainable(policy)

        def loss(params: Any) -> Any:
            log_prob, _, value = rlscan.replay(eqx.combine(params, rest), trajectory)
            return -(log_prob * advantage).mean() + 0.5 * ((value - target) ** 2).mean()

        total, grads = jax.value_and_grad(loss)(params)
        moves, opt = self.optimiser.update(grads, state["opt"], params)
        policy = eqx.combine(optax.apply_updates(params, moves), rest)
        metrics = {"loss": total, "reward": trajectory.reward.mean()}
        return {**state, "policy": policy, "opt": opt, "rollout": after}, metrics


@pytest.mark.slow
def test_a2c_learns_a_probe():
    """The reward is 1 for the right one of two actions, and −1 for the other."""
    env = probes.action_reward
    make = partial(rlscan.policies.ActorCritic, env, hidden_sizes=(8,))
    keys = jax.random.split(rlscan.key(0), 2)
    training = rlscan.train(make, env, A2C(), total_steps=64 * 150, key=keys)
    rewards = np.stack([metrics["reward"] for _, metrics in training])
    assert (rewards[:3].mean(axis=0) < 0.6).all() and (rewards[-10:].mean(axis=0) > 0.9).all()


# The environment in the state.


class Pay(eqx.Module):
    """An endless episode that pays `amount` at every step."""

    amount: Any = eqx.field(default_factory=lambda: jnp.asarray(1.0))
    name: str = eqx.field(static=True, default="pay")

    def reset(self, key: Any) -> tuple:
        return jnp.zeros(1), jnp.zeros(())

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        no, observation = jnp.asarray(False), jnp.zeros(1)
        info = {"final_observation": observation}
        return observation, state + 1, self.amount, no, no, info

    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (1,))

    def action_space(self) -> Discrete:
        return Discrete(2)


def mean_reward(policy: Any, minibatch: Any, config: Any) -> tuple:
    metrics = {"reward": minibatch.trajectory.reward.mean()}
    return 0.0 * policy.critic.weight.sum(), (0.0 * minibatch.advantage, metrics)


def pay(env: Any, **settings: Any) -> Any:
    settings = {"key": rlscan.key(0), "updates_per_call": 1, "total_steps": 64, **settings}
    policy = probes.dropout_policy(num_inputs=1, num_actions=2)
    make = lambda *, key: policy  # noqa: E731
    return rlscan.train(make, env, CONFIG, loss=mean_reward, **settings)


@pytest.mark.parametrize("runs", [(), pytest.param((2,), marks=pytest.mark.slow)])
def test_a_curriculum_changes_the_environment_without_compiling(runs: tuple[int, ...]):
    keys = jax.random.split(rlscan.key(0), runs) if runs else rlscan.key(0)
    training = pay(Pay(), key=keys, updates_per_call=None, state_interval=2)
    training.compile()
    assert training.state.env.amount.shape == runs
    new = {2: 3.0, 4: 7.0}
    with count_compilations() as names:
        rewards = []
        for i, (state, metrics) in enumerate(training, start=1):
            rewards.append(metrics["reward"])
            if i in new:
                assert np.max(state.num_updates) == i
                amount = jnp.full(runs, new[i])
                training.state = eqx.tree_at(lambda s: s.env.amount, state, amount)
                assert training.state.env.amount is not state.env.amount
    assert not [name for name in names if "several" in name]
    wanted = np.array([1, 1, 3, 3, 7, 7, 7, 7.0])
    np.testing.assert_array_equal(np.stack(rewards), np.multiply.outer(wanted, np.ones(runs)))


@pytest.mark.slow
def test_a_mesh_shares_the_environment_whole():
    training = pay(Pay(), mesh=rlscan.make_mesh(2))
    state, metrics = next(training)
    training.state = eqx.tree_at(lambda s: s.env.amount, state, jnp.asarray(5.0))
    assert metrics["reward"] == 1 and next(training)[1]["reward"] == 5


PAY = PPO(CONFIG, total_steps=64, loss=mean_reward)


@pytest.fixture(scope="module")
def paid() -> Any:
    """A first state in which the environment pays 4."""
    policy = probes.dropout_policy(num_inputs=1, num_actions=2)
    return PAY.init(policy, Pay(jnp.asarray(4.0)), rlscan.key(0))


def test_a_state_keeps_its_environment_unless_another_is_given(paid: Any):
    for env, state, amount in (
        (Pay(), paid, 4),
        (Pay(name="other"), paid, 1),
        (Pay(jnp.asarray(2.0)), dataclasses.replace(paid, env=None), 2),
    ):
        found = placed(state, env, PAY, (), None)
        assert found.env.amount == amount and found.env.name == env.name


def test_a_state_of_another_shape_is_refused(paid: Any):
    for wrong, message in (
        (jnp.ones(2), r"state.env.amount changed as .* set: it came in as .*float32\[\]"),
        (2.0, r"state.env.amount.* is an array from the start"),
        (None, "structure of the state changed"),
    ):
        with pytest.raises(TypeError, match=message):
            _like(paid, eqx.tree_at(lambda s: s.env.amount, paid, wrong))


@pytest.mark.slow
def test_ppo_is_one_of_the_algorithms(paid: Any):
    """`update` by hand with `PPO`, and `update` with an environment of its own."""
    assert PAY.steps_per_update == 8 and PAY.num_updates == 8
    _, metrics = eqx.filter_jit(PAY.update)(paid)
    assert metrics["reward"] == 4
    update: Any = eqx.filter_jit(rlscan.ppo.update)
    after, metrics = update(paid, Pay(), CONFIG, num_updates=8, loss=mean_reward)
    assert metrics["reward"] == 1 and after.env.amount == 4


def test_an_update_of_ppo_needs_its_length_and_an_environment(paid: Any):
    with pytest.raises(ValueError, match=r"needs state.env, got None; .*PPO\(…\).init"):
        PAY.update(dataclasses.replace(paid, env=None))
    with pytest.raises(ValueError, match=r"needs num_updates, got None; .*num_updates=…\)"):
        PPO(CONFIG).update(paid)
