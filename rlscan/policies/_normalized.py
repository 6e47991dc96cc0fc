"""`NormalizedObservations`: a policy around another one that normalises its observations."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import DictKey, GetAttrKey, KeyPath, tree_map_with_path
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.environment import observation_shapes
from .._core.moments import Moments, merge, no_moments
from .._core.require import is_number
from .._core.spaces import ACTION_MASK
from .._core.types import Distribution, HasSpaces, Policy, PyTree
from .._rollout.rollout import init_rollout
from .._rollout.statistics import move_statistics
from ..nn._statistics import Steps
from ..nn._trainable import NonTrainable
from ..random._keys import key as make_key

_EPSILON = 1e-8  # added to variances


class NormalizedObservations(eqx.Module):
    """Normalises the observations of another policy, element by element:

        (x − mean) / √(var + 1e-8), clipped to ± clip

    with the mean and variance of all observations before the current update. These statistics are
    part of the policy and marked as `rlscan.nn.NonTrainable`, so they are saved with it, and only
    training changes them. They stay fixed from the first step of a rollout to the last epoch over
    it, so the ratio begins at 1, and are updated after that. Trajectories hold the original
    observations. The first update has no statistics, and does not change observations.

    Floating-point leaves of an observation are normalised. Integers and booleans (categories,
    images of `bool`) are not, nor is an `"action_mask"` in a dict.

    ```python
    policy = rlscan.policies.ActorCritic(env, key=rlscan.key(0))
    policy = rlscan.policies.NormalizedObservations(policy, env)
    ```

    With `rlscan.nn.WithStatistics` it must be the outer one, so that the layers with statistics
    receive normalised observations.
    """

    policy: Policy
    """The policy that sees normalised observations."""
    moments: NonTrainable
    """Mean and variance of each leaf of an observation; `None` for one that is not normalised."""
    clip: float = eqx.field(static=True)
    """The largest absolute value of a normalised number."""

    def __init__(self, policy: Policy, env: HasSpaces, *, clip: float = 10.0):
        """**Arguments:**

        - `policy`: feed-forward or recurrent, following the contract of `rlscan.Policy`.
        - `env`: the environment that it acts in, or an `rlscan.envs.Spaces`.
        - `clip`: the largest absolute value of a normalised number; `math.inf` for no limit.

        **Raises:** as `rlscan.check_policy`; `ValueError` for a `clip` that is not above 0.
        """
        if not (is_number(clip) and clip > 0):
            raise ValueError(f"clip must be above 0, got {clip!r}; math.inf clips nothing")
        self.policy = policy
        self.moments = NonTrainable(tree_map_with_path(_moments_of, _observation(policy, env)))
        self.clip = float(clip)

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any, PyTree]:
        return self.policy(self.normalize(observation), state, key=key)

    def initial_state(self) -> PyTree:
        return self.policy.initial_state()

    # Properties instead of methods, so that `hasattr` finds `unroll` and `decide` only if the inner
    # policy is a `SequencePolicy`.

    @property
    def unroll(self) -> Callable:
        inner = self.policy.unroll  # pyright: ignore[reportAttributeAccessIssue]
        return lambda observation, state, done, *, key: inner(
            jax.vmap(self.normalize)(observation), state, done, key=key
        )

    @property
    def decide(self) -> Callable:
        inner = self.policy.decide  # pyright: ignore[reportAttributeAccessIssue]
        return lambda features, observation, *, key: inner(
            features, self.normalize(observation), key=key
        )

    def normalize(self, observation: PyTree) -> PyTree:
        """One observation as the inner policy receives it."""

        def one(moments: Moments | None, x: Array) -> Array:
            return x if moments is None else _normalized(moments, x, self.clip)

        return jax.tree.map(one, self.moments.value, observation, is_leaf=_is_moments)

    def move_statistics(self, steps: Steps, axis: str | None) -> "NormalizedObservations":
        """Update the statistics with all observations, and those of the inner policy.

        The inner policy's statistics are updated with the normalised observations that it received.
        """

        def one(moments: Moments | None, batch: Array) -> Moments | None:
            return None if moments is None else merge(moments, batch)

        moments = jax.tree.map(one, self.moments.value, steps.observation, is_leaf=_is_moments)
        normalized = jax.vmap(self.normalize)(steps.observation)
        inner_steps = dataclasses.replace(steps, observation=normalized)
        policy = move_statistics(self.policy, inner_steps, axis)
        return eqx.tree_at(lambda p: (p.policy, p.moments.value), self, (policy, moments))


def _is_moments(node: Any) -> bool:
    return node is None or isinstance(node, Moments)


def _observation(policy: Policy, env: Any) -> PyTree:
    """The shapes and dtypes of one observation."""
    if not hasattr(env, "reset"):
        return observation_shapes(env)
    # Not `env.reset`, whose dtypes may differ from those of a step.
    start = partial(init_rollout, policy, env, num_envs=1)
    one = eqx.filter_eval_shape(lambda: start(key=make_key(0)).observation)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), one)


def _moments_of(path: KeyPath, leaf: Any) -> Moments | None:
    """Empty moments for a leaf, or `None` for a leaf that is not normalised."""
    is_mask = any(key in (DictKey(ACTION_MASK), GetAttrKey(ACTION_MASK)) for key in path)
    if is_mask or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    return no_moments(leaf.shape, leaf.dtype)


def _normalized(moments: Moments, x: Float[Array, "..."], clip: float) -> Float[Array, "..."]:
    mean = moments.mean
    if x.shape != mean.value.shape:
        raise ValueError(
            f"this NormalizedObservations has statistics of shape {mean.value.shape}, but got an "
            f"observation of shape {x.shape}; build it for the environment that it acts in"
        )
    # Subtracted one after the other, because their sum would be rounded if the mean is large.
    deviation = x.astype(mean.value.dtype) - mean.value - mean.lost
    scaled = jnp.clip(deviation * lax.rsqrt(moments.variance + _EPSILON), -clip, clip)
    return jnp.where(moments.count.value > 0, scaled.astype(x.dtype), x)
