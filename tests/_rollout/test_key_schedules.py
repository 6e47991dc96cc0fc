"""How long a policy keeps its noise, and which environments share it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan import init_rollout, replay, rollout
from rlscan._core.require import require_one_of
from rlscan._rollout.state import KEY_SCHEDULES
from rlscan.ppo._config import check_config
from rlscan.ppo._update import collect

N, T = 3, 12
SCHEDULES: Any = ("step", "episode", "rollout")


jit_rollout, jit_replay = eqx.filter_jit(rollout), eqx.filter_jit(replay)


def two_rollouts(policy, env, schedule, shared, key, noise_key=None) -> tuple:
    """Make two consecutive rollouts, and return their trajectories."""
    state = init_rollout(policy, env, num_envs=N, key=key, noise_key=noise_key, shared_noise=shared)
    state, first = jit_rollout(policy, env, state, T, key_schedule=schedule)
    _, second = jit_rollout(policy, env, state, T, key_schedule=schedule)
    return first, second


def joined(*trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Return `(keys [2T, N, words], done [2T, N])` of consecutive trajectories."""
    keys = [np.asarray(jax.random.key_data(t.policy_key)) for t in trajectories]
    done = [np.asarray(t.terminated | t.truncated) for t in trajectories]
    return np.concatenate(keys), np.concatenate(done)


@pytest.fixture(scope="module")
def rolled():
    """Two consecutive rollouts of a recurrent policy, by schedule and sharing."""
    policy, env = probes.Recurrent(), probes.Wander()
    return {
        (schedule, shared): two_rollouts(policy, env, schedule, shared, rlscan.key(0))
        for schedule in SCHEDULES
        for shared in (False, True)
    }


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_key_lasts_as_long_as_its_schedule_says(rolled, schedule, shared):
    keys, done = joined(*rolled[schedule, shared])
    assert done[: T - 1].any() and not done[T - 1].all()  # an episode crosses the boundary
    is_new = (keys[1:] != keys[:-1]).any(axis=-1)
    expected = {
        "step": np.ones_like(is_new),
        "episode": done[:-1],
        "rollout": np.arange(1, 2 * T)[:, None] == np.full(N, T),
    }[schedule]
    np.testing.assert_array_equal(is_new, expected)
    # No key returns later.
    for environment in range(N):
        renewals = 1 + is_new[:, environment].sum()
        assert len(np.unique(keys[:, environment], axis=0)) == renewals


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_own_keys_are_all_different(rolled, schedule):
    keys, _ = joined(*rolled[schedule, False])
    firsts = {tuple(k) for k in keys[:, 0].tolist()}
    assert not firsts & {tuple(k) for k in keys[:, 1].tolist()}


def test_keys_are_shared_within_a_step_episode_or_rollout(rolled):
    for schedule in ("step", "rollout"):
        keys, _ = joined(*rolled[schedule, True])
        np.testing.assert_array_equal(keys, np.broadcast_to(keys[:, :1], keys.shape))
    keys, done = joined(*rolled["episode", True])
    episode = np.concatenate([np.zeros((1, N), int), done.cumsum(axis=0)[:-1]])
    for number in range(episode.max() + 1):
        assert len(np.unique(keys[episode == number], axis=0)) == 1
    # Environments are in different episodes, so sharing by step would be seen.
    assert (episode.max(axis=1) != episode.min(axis=1)).any()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_replayed_exactly(rolled, schedule, shared):
    policy = probes.Recurrent()
    for trajectory in rolled[schedule, shared]:
        error = jnp.abs(jit_replay(policy, trajectory)[0] - trajectory.log_prob).max()
        assert error <= 1e-5
    # The masks matter: those of the other rollout give another result.
    first, second = rolled[schedule, shared]
    wrong = eqx.tree_at(lambda t: t.policy_key, first, second.policy_key)
    assert jnp.abs(jit_replay(policy, wrong)[0] - first.log_prob).max() > 0.01


def test_noise_has_its_own_stream():
    """Another noise key changes only the masks, and another key only everything else."""
    policy, env = probes.dropout_policy(rate=0.0), probes.Wander()  # the masks change no output
    a, b, other_env = (
        two_rollouts(policy, env, "step", False, rlscan.key(seed), rlscan.key(noise))[0]
        for seed, noise in ((0, 1), (0, 2), (3, 1))
    )
    data = jax.random.key_data
    np.testing.assert_array_equal(a.observation, b.observation)
    np.testing.assert_array_equal(a.action, b.action)
    assert (data(a.policy_key) != data(b.policy_key)).any(axis=-1).all()
    np.testing.assert_array_equal(data(a.policy_key), data(other_env.policy_key))
    assert (a.observation != other_env.observation).any()


@pytest.mark.slow
def test_a_rollout_unrolled_is_the_same():
    policy, env = probes.dropout_policy(), probes.Wander()
    state = init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    plain, unrolled = (jit_rollout(policy, env, state, T, unroll=unroll)[1] for unroll in (1, 4))
    np.testing.assert_array_equal(plain.action, unrolled.action)
    np.testing.assert_allclose(plain.log_prob, unrolled.log_prob, atol=1e-6)
    error = jit_replay(policy, unrolled)[0] - unrolled.log_prob
    assert jnp.abs(error).max() <= 1e-5


def test_a_critic_with_the_actors_masks():
    """The value belongs to the network that acts: it depends only on the actor's mask."""
    env = rlscan.make("CartPole-v1")
    make = lambda shared: rlscan.policies.ActorCritic(  # noqa: E731
        env, dropout=0.5, shared_masks=shared, key=rlscan.key(0), **critic[shared]
    )
    critic = {True: {}, False: {"critic_dropout": 0.5}}  # with shared masks it is the actor's
    masks = lambda mlp, key: mlp.dropout(jnp.ones(64), key=jax.random.split(key, 3)[0])  # noqa: E731
    key = rlscan.key(3)
    actor_key, critic_key = jax.random.split(key)
    for shared, used in ((True, actor_key), (False, critic_key)):
        policy = make(shared)
        x = jnp.ones(4)
        np.testing.assert_array_equal(policy(x, (), key=key)[1], policy.critic(x, key=used)[0])
    policy = make(True)
    np.testing.assert_array_equal(masks(policy.actor, actor_key), masks(policy.critic, actor_key))
    for rates in ((0.5, 0.0), (0.5, 0.2), (0.0, 0.0)):  # these rates would give different masks
        with pytest.raises(
            ValueError, match="equal rates above 0.*critic_dropout = .*make them equal"
        ):
            rlscan.policies.ActorCritic(
                env,
                dropout=rates[0],
                critic_dropout=rates[1],
                shared_masks=True,
                key=rlscan.key(0),
            )


def test_an_unknown_schedule_is_refused():
    """The functions are unwrapped, because the suite's type checks would refuse it first."""
    with pytest.raises(ValueError, match="key_schedule must be one of step, episode, rollout"):
        require_one_of("key_schedule", "steps", KEY_SCHEDULES)
    config = eqx.tree_at(lambda c: c.gamma, rlscan.ppo.PPOConfig(), 0.9)
    object.__setattr__(config, "key_schedule", "steps")
    with pytest.raises(ValueError, match="key_schedule must be one of step, .* got 'steps'"):
        check_config(config)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_training_follows_the_schedule():
    """If there is one key per rollout, all steps of an update share a mask and the ratio is 1."""
    config = rlscan.ppo.PPOConfig(
        num_envs=4, num_steps=8, num_minibatches=2, key_schedule="rollout", shared_noise=True
    )
    state, metrics = eqx.filter_jit(rlscan.ppo.train_scan)(
        probes.dropout_policy(), probes.Wander(), config, total_steps=96, key=rlscan.key(0)
    )
    assert (metrics["audit_error"] <= 1e-5).all() and (metrics["approx_kl"] > 0).all()
    _, _, batch, *_ = eqx.filter_jit(collect)(state, probes.Wander(), config)
    keys = jax.random.key_data(batch.trajectory.policy_key)
    np.testing.assert_array_equal(keys, np.broadcast_to(keys[:1, :1], keys.shape))
