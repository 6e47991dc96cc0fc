"""`RewardScaling`: rewards divided by the standard deviation of discounted returns."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._core.moments import Moments, merge, no_moments
from .._rollout.gae import Scalar
from ..nn._trainable import NonTrainable

_EPSILON = 1e-8  # added to the variance


class RewardScaling(eqx.Module):
    """The running statistics that rewards are divided by."""

    running_return: Float[Array, "*N"]
    """R: Σ γᵏ r of the current episode, latest reward first."""
    moments: NonTrainable
    """The moments of R over all steps and environments; its value is a `Moments`."""


def init_reward_scaling(num_envs: int) -> RewardScaling:
    """Make the statistics of N environments before their first episodes."""
    return RewardScaling(jnp.zeros(num_envs), NonTrainable(no_moments(())))


def scale_rewards(
    scaling: RewardScaling,
    reward: Float[Array, "T N"],
    done: Bool[Array, "T N"],
    *,
    gamma: Scalar,
) -> tuple[RewardScaling, Float[Array, "T N"]]:
    """Divide rewards by the standard deviation of the discounted return so far, without centring.

    In each environment, for t = 0 … T−1:

        R ← γ R + rₜ,   which enters the variance,   then R ← 0 if the episode ended

    and the scaled rewards are r / √(var R + 1e-8). R includes the reward of the last step,
    and nothing of it leaks into the next episode.

    **Arguments:**

    - `scaling`: from `init_reward_scaling`, or from the rollout before.
    - `reward`, `done`: from a rollout; `done` marks terminated and truncated steps.
    - `gamma`: γ, discount per environment step.

    **Returns:** `(scaling, scaled)`. Rewards are unchanged as long as R does not vary.

    Source: Gymnasium's `NormalizeReward`, as corrected in its issues 760 and 1507. That divides
    each reward by the statistics up to its own step. Here all rewards of a rollout are divided by
    the statistics up to its end: they are in one unit, so advantages add up, and the first rewards
    are not divided by the spread of a handful.
    """

    def step(running: Array, at_t: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = at_t
        running = gamma * running + reward
        return jnp.where(done, 0.0, running), running

    one_stream = jax.vmap(lambda *of_one: lax.scan(step, of_one[0], of_one[1:]), (0, 1, 1), (0, 1))
    running_return, returns = one_stream(scaling.running_return, reward, done)
    moments: Moments = merge(scaling.moments.value, returns.ravel())
    variance = moments.variance
    factor = jnp.where(variance > 0, lax.rsqrt(variance + _EPSILON), 1.0)
    return RewardScaling(running_return, NonTrainable(moments)), reward * factor
