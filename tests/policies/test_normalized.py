"""Normalised observations: against NumPy, and with statistics that stay fixed when they must."""

import dataclasses
import math
from functools import partial
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from statistics_network import make_policy as statistics_policy

import rlscan
from rlscan._core.moments import Sum
from rlscan.runs._build import build_env, build_policy
from rlscan.runs._config import Config
from rlscan.runs._policy_config import policy_config
from rlscan.runs._policy_file import save_policy

MESH = rlscan.make_mesh(2)
N, T, CLIP, EPSILON = 4, 16, 1.5, 1e-8
CONFIG = rlscan.ppo.PPOConfig(
    num_envs=N,
    num_steps=T,
    num_epochs=2,
    num_minibatches=2,
    learning_rate=0.01,
    anneal_learning_rate=False,
    scale_rewards=True,
)
NUM_UPDATES = 4


class Around(eqx.Module):
    """`Wander` with transformed observations, and rewards that depend on actions."""

    look: Any
    inner: probes.Wander = probes.Wander()

    @property
    def time_limit(self) -> Any:
        return self.inner.time_limit

    def reset(self, key: Any) -> tuple:
        observation, state = self.inner.reset(key)
        return self.look(observation), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        observation, state, _, *ends, info = self.inner.step(key, state, action)
        reward = info["final_observation"] @ jnp.arange(1.0, 5.0)
        info = {"final_observation": self.look(info["final_observation"])}
        return self.look(observation), state, reward, *ends, info

    def observation_space(self) -> Any:
        return self.inner.observation_space()

    def action_space(self) -> Any:
        return self.inner.action_space()


def far(x: Any) -> Any:
    """Observations in other units, and far from 0."""
    return jnp.array([1e-2, 30.0, 1.0, 1.0]) * x + jnp.array([0.0, 1000.0, -3.0, 0.0])


ENV = Around(far)


def make_policy(recurrent: bool = False) -> Any:
    inner = probes.Recurrent() if recurrent else probes.dropout_policy(0.25)
    return rlscan.policies.NormalizedObservations(inner, ENV, clip=CLIP)


jit_update = eqx.filter_jit(rlscan.ppo.update)
jit_rollout = eqx.filter_jit(rlscan.rollout)
jit_replay = eqx.filter_jit(rlscan.replay)
jit_move = eqx.filter_jit(rlscan.move_statistics)


@pytest.fixture(
    scope="module",
    params=["feedforward", pytest.param("recurrent", marks=pytest.mark.slow)],
)
def run(request: Any) -> Any:
    """States before and after each update, and the metrics of each."""
    state = rlscan.ppo.init_train(
        make_policy(request.param == "recurrent"), ENV, CONFIG, key=rlscan.key(0)
    )
    states, metrics = [state], []
    for _ in range(NUM_UPDATES):
        state, row = jit_update(states[-1], ENV, CONFIG.as_arrays(), num_updates=NUM_UPDATES)
        states.append(state)
        metrics.append(row)
    return states, metrics


def rolled_out(state: Any) -> tuple:
    return jit_rollout(state.policy, ENV, state.rollout_state, T)


def by_hand(x: Any, seen: Any) -> np.ndarray:
    """x as normalised for the inner policy, in float64, after the observations `[…, 4]`."""
    seen = np.asarray(seen, np.float64).reshape(-1, 4)
    scaled = (np.asarray(x, np.float64) - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + EPSILON)
    return np.clip(scaled, -CLIP, CLIP)


def seen_until(states: list) -> np.ndarray:
    return np.stack([rolled_out(state)[1].observation for state in states])


@pytest.mark.slow
def test_the_ratio_is_1_in_every_update_while_all_moves(run: Any) -> None:
    states, metrics = run
    for before, after, row in zip(states, states[1:], metrics, strict=False):
        assert row["audit_error"] <= 1e-5
        assert row["approx_kl"] > 1e-4
        moments, moved = before.policy.moments.value, after.policy.moments.value
        assert moved.count.value == moments.count.value + N * T
        assert (moved.mean.value != moments.mean.value).all()


@pytest.mark.slow
def test_statistics_are_those_of_all_raw_observations(run: Any) -> None:
    states, _ = run
    seen = seen_until(states[:-1]).astype(np.float64).reshape(-1, 4)
    assert abs(seen[:, 1].mean() - 1000) < 100  # the original observations, not the normalised ones
    moments = states[-1].policy.moments.value
    np.testing.assert_allclose(moments.mean.value, seen.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.variance, seen.var(axis=0), rtol=1e-4)


@pytest.mark.slow
def test_the_policy_inside_sees_them_normalised_and_clipped(run: Any) -> None:
    states, _ = run
    policy, trajectory = states[2].policy, rolled_out(states[2])[1]
    normalised = by_hand(trajectory.observation, seen_until(states[:2]))
    assert (np.abs(normalised) == CLIP).any() and (np.abs(normalised) < CLIP).any()
    np.testing.assert_allclose(
        jax.vmap(jax.vmap(policy.normalize))(trajectory.observation), normalised, atol=1e-3
    )
    seen = dataclasses.replace(trajectory, observation=jnp.asarray(normalised, jnp.float32))
    for inside, outside in zip(
        jit_replay(policy.policy, seen), jit_replay(policy, trajectory), strict=True
    ):
        np.testing.assert_allclose(inside, outside, atol=0.02)


@pytest.mark.slow
def test_final_observations_are_normalised_as_all_others(run: Any) -> None:
    states, _ = run
    policy, seen = states[2].policy, seen_until(states[:2])
    end, trajectory = rolled_out(states[2])
    value = jit_replay(policy, trajectory)[2]
    next_value = rlscan.next_value(policy, end, trajectory, value)

    final = trajectory.final

    def value_of(observation: Any, state: Any, key: Any) -> Any:
        return policy.policy(observation, state, key=key)[1]

    of_slots = eqx.filter_jit(eqx.filter_vmap(eqx.filter_vmap(value_of)))
    slots = by_hand(final.observation, seen).astype(np.float32)
    wanted = of_slots(slots, final.policy_state, final.policy_key)
    defective = of_slots(final.observation, final.policy_state, final.policy_key)
    used = [(k, n) for k, n in np.ndindex(*final.step.shape) if final.step[k, n] < T]
    assert used
    for k, n in used:
        np.testing.assert_allclose(next_value[final.step[k, n], n], wanted[k, n], atol=0.02)
    assert max(abs(defective[k, n] - wanted[k, n]) for k, n in used) > 0.2


# Statistics that change too early.


def early(policy: Any, minibatch: Any, config: Any) -> Any:
    """The loss of a policy whose statistics change before it learns, as in brax."""
    trajectory = minibatch.trajectory
    steps = rlscan.nn.Steps(trajectory.observation, (), trajectory.policy_key)
    return rlscan.ppo.ppo_loss(policy.move_statistics(steps, None), minibatch, config)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_statistics_that_move_before_the_epochs_are_found() -> None:
    state = rlscan.ppo.init_train(make_policy(), ENV, CONFIG, key=rlscan.key(0))
    state, _ = jit_update(state, ENV, CONFIG.as_arrays(), num_updates=2, loss=early)
    state, metrics = jit_update(state, ENV, CONFIG.as_arrays(), num_updates=2, loss=early)
    assert metrics["audit_error"] > 0.01
    policy, trajectory = state.policy, rolled_out(state)[1]
    assert rlscan.explain_ratio(policy, ENV, trajectory) is None
    cause = rlscan.explain_ratio(jit_move(policy, trajectory), ENV, trajectory)
    assert cause is not None and cause.startswith("stale statistics")


# Leaves that are not normalised.


def test_before_the_first_update_observations_pass() -> None:
    x = jnp.array([1e6, -3.0, 0.0, 7.0])
    np.testing.assert_array_equal(make_policy().normalize(x), x)


def parts(x: Any) -> Any:
    return {
        "position": far(x),
        "small": x[0].astype(jnp.float16),
        "count": jnp.asarray(x[1] * 10, jnp.int32),
        "image": x[None] > 0,
        "action_mask": (x[:3] > -9).astype(jnp.float32),
        "nested": (x[1:], {"action_mask": x[:3]}),
    }


class OfParts(eqx.Module):
    inner: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        x = observation["position"] + observation["nested"][0].sum() + observation["small"]
        assert observation["image"].dtype == bool and observation["count"].dtype == jnp.int32
        return self.inner(x, state, key=key)

    def initial_state(self) -> tuple:
        return ()


@pytest.mark.slow
def test_floats_of_a_pytree_are_normalised_and_nothing_else() -> None:
    env = Around(parts)
    policy = rlscan.policies.NormalizedObservations(OfParts(probes.dropout_policy()), env)
    state = rlscan.init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    _, trajectory = jit_rollout(policy, env, state, T)
    moved: Any = jit_move(policy, trajectory)
    seen = trajectory.observation
    out = jax.vmap(jax.vmap(moved.normalize))(seen)
    assert jax.tree.map(lambda x: x.dtype, out) == jax.tree.map(lambda x: x.dtype, seen)
    for x in (out["position"], out["nested"][0], out["small"]):
        x = np.asarray(x, np.float64).reshape(N * T, -1)
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=2e-3)
        np.testing.assert_allclose(x.std(axis=0), 1, atol=2e-3)
    for passed in ("count", "image", "action_mask"):
        np.testing.assert_array_equal(out[passed], seen[passed])
    np.testing.assert_array_equal(out["nested"][1]["action_mask"], seen["nested"][1]["action_mask"])


# Where statistics are kept, and when they stay fixed.


def test_the_optimiser_does_not_see_them() -> None:
    policy = make_policy()
    params, rest = rlscan.nn.partition_trainable(policy)
    assert jax.tree.leaves(params.moments) == []
    assert len(jax.tree.leaves(rest.moments)) == 6
    assert eqx.tree_equal(eqx.combine(params, rest), policy)


@pytest.mark.slow
def test_an_evaluation_uses_those_that_were_learned(run: Any) -> None:
    """It equals the inner policy in an environment with normalised observations."""
    states, _ = run
    policy = states[-1].policy
    evaluate = eqx.filter_jit(partial(rlscan.evaluate, num_episodes=8))
    played = evaluate(policy, ENV, key=rlscan.key(5))
    normalising = Around(lambda x: policy.normalize(far(x)))
    wanted = evaluate(policy.policy, normalising, key=rlscan.key(5))
    np.testing.assert_allclose(played.episode_return, wanted.episode_return, rtol=1e-5)
    raw = evaluate(policy.policy, ENV, key=rlscan.key(5))
    assert not np.allclose(played.episode_return, raw.episode_return, rtol=1e-5)


@pytest.mark.slow
def test_a_policy_in_a_file_has_them(tmp_path: Any) -> None:
    config = Config(policy=policy_config(normalize_observations=True, hidden_sizes=(8,)))
    env = build_env(config)
    policy: Any = build_policy(config, env, key=rlscan.key(0))
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(1))
    policy = jit_move(policy, jit_rollout(policy, env, state, 4)[1])
    save_policy(tmp_path / "policy.eqx", policy, config)
    loaded: Any = rlscan.load_policy(tmp_path / "policy.eqx")
    assert eqx.tree_equal(loaded.moments, policy.moments) and loaded.moments.value.count.value == 8
    assert loaded.policy.actor.dropout.inference
    x = jnp.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(loaded.normalize(x), policy.normalize(x))


# Seeds and devices.


@pytest.mark.exhaustive
@pytest.mark.slow
def test_mapped_seeds_are_single_runs() -> None:
    def whole(key: Any) -> Any:
        state, _ = rlscan.ppo.train_scan(make_policy(), ENV, CONFIG, total_steps=2 * N * T, key=key)
        return state.policy, state.reward_scaling

    keys = jax.random.split(rlscan.key(3), 2)
    mapped = eqx.filter_jit(eqx.filter_vmap(whole))(keys)
    one = eqx.filter_jit(whole)
    for i in range(2):
        single = one(keys[i])
        of_seed = jax.tree.map(lambda x, i=i: x[i] if eqx.is_array(x) else x, mapped)
        assert_close(of_seed, single)


def assert_close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    def leaves(tree: Any) -> list:
        """The total, because its split into `value` and `lost` depends on the last bit."""
        is_sum = lambda node: isinstance(node, Sum)  # noqa: E731
        whole = jax.tree.map(lambda n: n.value + n.lost if is_sum(n) else n, tree, is_leaf=is_sum)
        return jax.tree.leaves(eqx.filter(whole, eqx.is_array))

    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.exhaustive
@pytest.mark.slow  # `test_moments` has a quick version
def test_a_mesh_moves_them_as_one_device_does() -> None:
    state: Any = rlscan.ppo.init_train(make_policy(), ENV, CONFIG, key=rlscan.key(2))
    for count in (N * T, 2 * N * T):  # from empty and from existing statistics
        step: Any = partial(jit_update, state, ENV, CONFIG.as_arrays(), num_updates=2)
        (on_one, _), (on_two, _) = step(), step(mesh=MESH)
        assert_close(on_two.policy.moments, on_one.policy.moments)
        assert_close(on_two.reward_scaling, on_one.reward_scaling)
        assert on_two.reward_scaling.running_return.sharding.num_devices == 2
        assert on_one.policy.moments.value.count.value == count
        state = on_one


# Nested policies.


@pytest.mark.slow
def test_layers_with_statistics_inside_move_by_their_inputs() -> None:
    env = probes.Wander()
    inner = statistics_policy()
    policy: Any = rlscan.policies.NormalizedObservations(inner, env)
    state = rlscan.init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    for count in (N * T, 2 * N * T):
        state, trajectory = jit_rollout(policy, env, state, T)
        before, policy = policy, jit_move(policy, trajectory)
        seen = jax.vmap(jax.vmap(before.normalize))(trajectory.observation)
        alone: Any = jit_move(before.policy, dataclasses.replace(trajectory, observation=seen))
        assert_close(policy.policy.statistics, alone.statistics)
        assert policy.moments.value.count.value == count
        was_normalised = not np.allclose(seen, trajectory.observation, atol=0.1)
        assert was_normalised == (count > N * T)


class Outer(eqx.Module):
    """A wrapper without `move_statistics`, so those inside would never be updated."""

    inner: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        return self.inner(observation, state, key=key)

    def initial_state(self) -> Any:
        return self.inner.initial_state()


class Mindful(Outer):
    """A wrapper that has it."""

    def move_statistics(self, steps: Any, axis: Any) -> Any:
        return Mindful(rlscan.move_statistics(self.inner, steps, axis))


@pytest.mark.slow
def test_a_users_own_wrapper_moves_inner_statistics() -> None:
    policy = Mindful(make_policy(recurrent=True))
    assert isinstance(policy, rlscan.nn.KeepsStatistics)
    state = rlscan.init_rollout(policy, ENV, num_envs=N, key=rlscan.key(0))
    moved: Any = jit_move(policy, jit_rollout(policy, ENV, state, 4)[1])
    assert moved.inner.moments.value.count.value == 4 * N


class Network(eqx.Module):
    policy: Any

    def __call__(self, observation: Any, state: Any, statistics: Any, *, key: Any) -> tuple:
        return *self.policy(observation, state, key=key), statistics

    def initial_state(self) -> tuple:
        return ()


@pytest.mark.slow
def test_statistics_that_would_never_move_are_refused() -> None:
    state = rlscan.init_rollout(make_policy(), ENV, num_envs=1, key=rlscan.key(0))
    _, trajectory = jit_rollout(make_policy(), ENV, state, 2)
    message = r"policy\.inner is a NormalizedObservations inside of a Outer, so .* never move; .*"
    with pytest.raises(TypeError, match=message + "KeepsStatistics"):
        rlscan.move_statistics(Outer(make_policy()), trajectory)
    inside: Any = rlscan.nn.WithStatistics(*eqx.nn.make_with_state(Network)(make_policy()))
    with pytest.raises(TypeError, match=r"policy\.policy is a NormalizedObservations inside"):
        rlscan.move_statistics(inside, trajectory)


@pytest.mark.slow
def test_layers_with_statistics_inside_are_refused_on_a_mesh() -> None:
    policy = rlscan.policies.NormalizedObservations(statistics_policy(), probes.Wander())
    with pytest.raises(ValueError, match="WithStatistics move by a whole rollout.*mesh=None"):
        rlscan.ppo.init_train(policy, probes.Wander(), CONFIG, key=rlscan.key(0), mesh=MESH)


# Invalid input.


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_leaves_nothing_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match="clip must be above 0, got"):
        rlscan.policies.NormalizedObservations(probes.dropout_policy(), ENV, clip=clip)


def test_another_environment_is_refused() -> None:
    policy = make_policy()
    with pytest.raises(ValueError, match=r"statistics of shape \(4,\), but .* of shape \(1,\)"):
        policy.normalize(jnp.ones(1))


class Constant(eqx.Module):
    """A policy whose output is its observation."""

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        return distrax.Categorical(logits=observation[:3]), observation[3], state

    def initial_state(self) -> tuple:
        return ()


@pytest.mark.slow
def test_a_number_that_never_varies_is_0() -> None:
    env = Around(lambda x: x.at[3].set(5.0))
    policy: Any = rlscan.policies.NormalizedObservations(Constant(), env)
    state = rlscan.init_rollout(policy, env, num_envs=2, key=rlscan.key(0))
    moved: Any = jit_move(policy, jit_rollout(policy, env, state, 4)[1])
    assert moved.normalize(jnp.full(4, 5.0))[3] == 0
    assert moved.normalize(jnp.full(4, 6.0))[3] == 10  # clipped
