"""Probes and `check_agent`: values against a search, and agents that are not rlscan's."""

import textwrap
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan import testing
from rlscan.testing import ConformanceError, check_actions, check_agent, check_values

GAMMA = 0.8
FEEDFORWARD = [name for name in testing.PROBES if name != "memory"]


def searched_value(probe, kind, time):
    """V of a fully known state, by backward induction from a far horizon.

    A truncation is not an end to what would follow.
    """
    following, values = 0.0, [0.0, 0.0]
    for t in range(time + 300, time - 1, -1):
        outcomes = [probe.move(float(kind), t, action) for action in (0, 1)]
        values = [float(r) + GAMMA * following * (not end) for r, end, _ in outcomes]
        following = max(values)
    return following, int(np.argmax(values)) if abs(values[0] - values[1]) > 1e-9 else None


@pytest.mark.parametrize("name", testing.PROBES)
def test_known_values_equal_those_of_a_search(name):
    probe, found = testing.PROBES[name], set()
    for kind, time in [(1, 0), (-1, 0), (1, 1), (-1, 1)]:
        seen = float(probe.look(kind, time))
        if seen not in probe.observations or seen in found:
            continue
        if time > 0 and name in ("truncation", "leak", "constant_reward", "action_reward"):
            continue
        value, action = searched_value(probe, kind, time)
        assert probe.value(seen, GAMMA) == pytest.approx(value, abs=1e-9)
        assert probe.best_action(seen) == action
        found.add(seen)
    assert found == set(probe.observations)


def test_an_unknown_observation_or_discount_is_refused():
    with pytest.raises(ValueError, match=r"one of \(0.0, 0.5\), got 0.25"):
        testing.two_step.value(0.25, GAMMA)
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\), got 1.0"):
        testing.truncation.value(0.0, 1.0)


@pytest.mark.parametrize("name", testing.PROBES)
def test_values_are_checked(name):
    probe = testing.PROBES[name]
    right = lambda seen: jnp.array([1.05 * probe.value(seen, GAMMA)])  # noqa: E731
    check_values(right, probe, GAMMA)
    with pytest.raises(ConformanceError, match=f"the value of {name} at .* got nan"):
        check_values(lambda seen: np.nan, probe, GAMMA)
    wrong = lambda seen: probe.value(seen, GAMMA) + 0.2 * probe.value(0 * seen, GAMMA)  # noqa: E731
    if name in ("two_step", "truncation", "both_flags"):
        with pytest.raises(ConformanceError, match="must be"):
            check_values(wrong, probe, GAMMA)
    if probe.best is not None:
        check_actions(probe.best_action, probe)
        with pytest.raises(ConformanceError, match=f"{name} asks for action"):
            check_actions(lambda seen: 1 - (probe.best_action(seen) or 0), probe)


# An agent without rlscan: tables, TD(0) and a policy gradient in plain JAX.


def train_tables(env, merged, key, num_steps=1500, num_envs=16, rate=0.1):
    """`merged`: whether a truncation counts as a termination."""
    rows = lambda seen: jnp.round(2 * seen[..., 0]).astype(int) + 2  # noqa: E731

    def step(carry, key):
        (value, preference), seen, state = carry
        action_key, step_key = jax.random.split(key)
        row = rows(seen)
        action = jax.random.categorical(action_key, preference[row])
        seen, state, reward, terminated, truncated, info = jax.vmap(env.step)(
            jax.random.split(step_key, num_envs), state, action
        )
        nothing_follows = terminated | (truncated & merged)
        following = jnp.where(nothing_follows, 0, value[rows(info["final_observation"])])
        error = reward + GAMMA * following - value[row]
        chosen = jax.nn.one_hot(action, 2) - jax.nn.softmax(preference[row])
        value = value.at[row].add(rate * error / num_envs)
        preference = preference.at[row].add(5 * rate * error[:, None] * chosen / num_envs)
        return ((value, preference), seen, state), None

    seen, state = jax.vmap(env.reset)(jax.random.split(key, num_envs))
    keys = jax.random.split(jax.random.fold_in(key, 1), num_steps)
    carry = (jnp.zeros(5), jnp.zeros((5, 2))), seen, state
    return jax.lax.scan(step, carry, keys)[0][0]


@pytest.fixture(scope="module")
def trainers():
    """`{merged: train_fn}`, trained in one program on all probes."""
    environments = tuple(testing.PROBES[name] for name in FEEDFORWARD)

    def one(which, merged):
        return train_tables(testing.any_of(environments, which), merged, jax.random.key(0))

    every = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))
    tables = every(jnp.arange(len(environments)), jnp.array([False, True]))

    def trainer(merged):
        def train_fn(env, total_steps, key):
            i = next(i for i, probe in enumerate(environments) if probe is env)
            value, preference = jax.tree.map(lambda x: np.asarray(x[merged, i]), tables)
            row = lambda seen: int(2 * seen[0]) + 2  # noqa: E731
            return lambda seen: preference[row(seen)].argmax(), lambda seen: value[row(seen)]

        return train_fn

    return [trainer(0), trainer(1)]


@pytest.mark.slow
def test_a_strangers_agent_passes(trainers):
    check_agent(trainers[False], gamma=GAMMA)


def test_the_probe_that_fails_says_where_to_look(trainers):
    with pytest.raises(ConformanceError, match="value of truncation .* taken for a termination"):
        check_agent(trainers[True], gamma=GAMMA)
    with pytest.raises(ConformanceError, match="value of leak at -1"):
        check_agent(trainers[True], gamma=GAMMA, probes=["leak"])
    others = [name for name in FEEDFORWARD if name not in ("truncation", "leak")]
    check_agent(trainers[True], gamma=GAMMA, probes=others)


def test_the_example(trainers):
    def train(env, total_steps, key):
        _, state = env.reset(key)
        assert len(env.step(key, state, 1)) == 5
        act_fn, value_fn = trainers[True](env.env, total_steps, key)
        one_hot = lambda seen: np.arange(2) == act_fn(seen)  # noqa: E731
        return SimpleNamespace(preferences=one_hot, value=value_fn)

    code = textwrap.dedent((check_agent.__doc__ or "").split("```python")[1].split("```")[0])
    with pytest.raises(ConformanceError, match="value of truncation"):
        exec(code, {"rlscan": rlscan, "my_agent": SimpleNamespace(train=train)})


def test_half_an_agent():
    """Agents with only a policy or only a value, and a user's own probe."""
    check_agent(lambda *_: (lambda seen: 1, None), probes=["action_reward"])
    doubled = testing.Probe(
        lambda kind, time: 0.0,
        lambda kind, time, action: (2.0, True, False),
        known=lambda gamma: {0.0: 2.0},
    )
    check_agent(lambda *_: (None, lambda seen: 2.0), probes={"doubled": doubled})
    with pytest.raises(ConformanceError, match="the value of doubled at 0"):
        check_agent(lambda *_: (None, lambda seen: 1.0), probes={"doubled": doubled})


# PPO of rlscan.


def ppo_config(**numbers):
    settings = {"num_envs": 16, "num_steps": 16, "learning_rate": 0.02, "gamma": GAMMA}
    return rlscan.ppo.PPOConfig(**{**settings, **numbers})


def judged(policy, key):
    network, start = eqx.nn.inference_mode(policy), policy.initial_state()

    @jax.jit
    def decide(seen):
        distribution, value, _ = network(seen, start, key=key)
        return distribution.mode(), value

    return lambda seen: decide(seen)[0], lambda seen: decide(seen)[1]


def train_ppo(env, total_steps, key, policy=None, **numbers):
    policy = testing.DropoutPolicy(1, 2, rate=0.1) if policy is None else policy
    settings = {"total_steps": total_steps, "key": key, "updates_per_call": 20}
    *_, (state, _) = rlscan.train(policy, env, ppo_config(**numbers), **settings)
    return judged(state.policy, key)


@pytest.mark.slow
def test_ppo():
    """Train on all probes in one program, because compilation takes longer than training."""
    environments = tuple(testing.PROBES[name] for name in FEEDFORWARD)

    def one(which, key, total_steps):
        env, policy = testing.any_of(environments, which), testing.DropoutPolicy(1, 2, rate=0.1)
        state, _ = rlscan.ppo.train_scan(
            policy, env, ppo_config(), total_steps=total_steps, key=key
        )
        return state.policy

    on_each = eqx.filter_jit(eqx.filter_vmap(one, in_axes=(0, None, None)))
    which = jnp.arange(len(environments))

    def train_fn(env, total_steps, key):
        policies = on_each(which, key, total_steps)
        i = next(i for i, probe in enumerate(environments) if probe is env)
        return judged(jax.tree.map(lambda x: x[i] if eqx.is_array(x) else x, policies), key)

    check_agent(train_fn, gamma=GAMMA)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_ppo_with_memory():
    def train_fn(env, total_steps, key):
        policy = testing.RecurrentPolicy(1, 2, rate=0.0)
        numbers = {"num_envs": 32, "num_steps": 12, "learning_rate": 0.01, "entropy_coef": 0.001}
        return train_ppo(env, total_steps, key, policy, **numbers)

    check_agent(train_fn, gamma=GAMMA, probes=["memory"], total_steps=100 * 384)
    with pytest.raises(ConformanceError, match="value of memory .* without memory"):
        check_agent(train_ppo, gamma=GAMMA, probes=["memory"])
