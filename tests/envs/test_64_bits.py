"""gymnax's environments under `jax_enable_x64`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import rlscan
from rlscan.policies import ActorCritic

# Those in which gymnax selects between numbers of 32 and of 64 bits.
MIXED = (
    "Freeway-MinAtar",
    "Catch-bsuite",
    "UmbrellaChain-bsuite",
    "FourRooms-misc",
    "MetaMaze-misc",
    "GaussianBandit-misc",
)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", [*MIXED, *(n for n in rlscan.envs.ENVIRONMENTS if n not in MIXED)])
def test_an_environment_is_rolled_out(name):
    def run(key):
        state = rlscan.init_rollout(policy, env, num_envs=2, key=key)
        return rlscan.rollout(policy, env, state, 2)

    with jax.enable_x64(True):
        env = rlscan.make(name)
        policy = ActorCritic(env, hidden_sizes=(4,), num_channels=(), key=rlscan.key(0))
        state, trajectory = eqx.filter_eval_shape(run, rlscan.key(1))
    assert not any(x.dtype.itemsize == 8 for x in jax.tree.leaves(state.env_state))
    assert trajectory.reward.dtype == jnp.float32


@pytest.mark.slow
def test_a_step_takes_an_action_and_a_state_of_64_bits():
    with jax.enable_x64(True):
        env = rlscan.make("Catch-bsuite")
        _, state = env.reset(rlscan.key(0))
        wide = jax.tree.map(lambda x: x.astype(jnp.int64) if x.dtype == jnp.int32 else x, state)
        step = jax.jit(env.step)
        after = step(rlscan.key(1), wide, jnp.asarray(1, jnp.int64))[1]
        usual = step(rlscan.key(1), state, jnp.asarray(1, jnp.int32))[1]
    assert eqx.tree_equal(after, usual)
