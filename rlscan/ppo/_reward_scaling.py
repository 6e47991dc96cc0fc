"""`RewardScaling`: rewards in units of the spread of discounted returns."""

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
    """What rewards are divided by, and what it takes to go on with the next rollout."""

    running_return: Float[Array, "*N"]  # R: Σ γᵏ r of the episode under way, latest reward first
    moments: NonTrainable  # of R at every step of every environment; its value is a `Moments`


def init_reward_scaling(num_envs: int) -> RewardScaling:
    """That of N environments at the start of their first episodes."""
    return RewardScaling(jnp.zeros(num_envs), NonTrainable(no_moments(())))


def scale_rewards(
    scaling: RewardScaling,
    reward: Float[Array, "T N"],
    done: Bool[Array, "T N"],
    *,
    gamma: Scalar,
    axis: str | None = None,
) -> tuple[RewardScaling, Float[Array, "T N"]]:
    """Rewards over the standard deviation of the discounted return so far; no mean is taken off.

    In each environment, for t = 0 … T−1:

        R ← γ R + rₜ,   of which the variance is taken,   then R ← 0 where the episode ended

    and the scaled rewards are r / √(var R + 1e-8). R counts the reward of the last step, and
    nothing of it is left for the next episode.

    **Arguments:**

    - `scaling`: from `init_reward_scaling`, or from the rollout before.
    - `reward`, `done`: of a rollout; `done` where an episode was terminated or truncated.
    - `gamma`: γ, discount per environment step.
    - `axis`: of the mesh whose devices have a part of the environments each; `None` for one device.

    **Returns:** `(scaling, scaled)`. Rewards stay as they are as long as R does not vary.

    Source: Gymnasium's `NormalizeReward`, as corrected in its issues 760 and 1507. That divides
    each reward by what was seen up to its own step; here one variance, of all that was seen up to
    the end of the rollout, divides all of its rewards. So they are in one unit, and advantages
    add up, and the first are not divided by the spread of a handful.
    """

    def step(running: Array, at_t: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = at_t
        running = gamma * running + reward
        return jnp.where(done, 0.0, running), running

    one_stream = jax.vmap(lambda *of_one: lax.scan(step, of_one[0], of_one[1:]), (0, 1, 1), (0, 1))
    running_return, returns = one_stream(scaling.running_return, reward, done)
    moments: Moments = merge(scaling.moments.value, returns.ravel(), axis)
    variance = moments.variance
    factor = jnp.where(variance > 0, lax.rsqrt(variance + _EPSILON), 1.0)
    return RewardScaling(running_return, NonTrainable(moments)), reward * factor
