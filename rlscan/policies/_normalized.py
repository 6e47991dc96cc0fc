"""`NormalizedObservations`: a policy that sees its observations in units of their own spread."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import DictKey, KeyPath, tree_map_with_path
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.moments import Moments, merge, no_moments
from .._core.spaces import ACTION_MASK
from .._core.types import Distribution, Environment, Policy, PyTree
from .._rollout.rollout import init_rollout
from .._rollout.statistics import move_statistics
from ..nn._statistics import Steps
from ..nn._trainable import NonTrainable
from ..random._keys import key as make_key

_EPSILON = 1e-8  # added to variances


class NormalizedObservations(eqx.Module):
    """A policy around another one, which normalises what that one sees, element by element:

        (x − mean) / √(var + 1e-8), clipped to ± clip

    by the mean and variance of all observations of the updates before. They are kept here, marked
    as `rlscan.NonTrainable`, so they are saved with the policy and frozen wherever it does not
    train. They stand still from the first step of a rollout to the last epoch over it, and move
    after that: the ratio begins at 1. Trajectories hold the observations as they came. In the
    first update there are no statistics, and observations pass as they are.

    Floating-point leaves of an observation are normalised. Integers and booleans pass as they are
    (categories, images of `bool`), and so does what a dict has under `"action_mask"`.

    ```python
    policy = rlscan.NormalizedObservations(rlscan.ActorCritic(env, key=rlscan.key(0)), env)
    ```

    It goes outside of `rlscan.WithStatistics`, whose layers then see normalised observations.
    """

    policy: Policy
    moments: NonTrainable  # a `Moments` for each leaf of an observation; `None` where it passes
    clip: float = eqx.field(static=True)

    def __init__(self, policy: Policy, env: Environment, *, clip: float = 10.0):
        """**Arguments:**

        - `policy`: by the contract of `rlscan.Policy`, feed-forward or recurrent.
        - `env`: whose observations it sees.
        - `clip`: the largest size of a normalised number; `math.inf` for no limit.

        **Raises:** as `rlscan.check_policy`; `ValueError` for a `clip` that is not above 0.
        """
        if not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip!r}; math.inf clips nothing")
        # In the dtypes that a rollout has, where a reset may differ from a step.
        start = partial(init_rollout, policy, env, num_envs=1)
        seen = eqx.filter_eval_shape(lambda: start(key=make_key(0)).observation)
        self.policy = policy
        self.moments = NonTrainable(tree_map_with_path(_moments_of, seen))
        self.clip = float(clip)

    def __call__(
        self, observation: PyTree, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Distribution, Any, PyTree]:
        return self.policy(self.normalize(observation), state, key=key)

    def initial_state(self) -> PyTree:
        return self.policy.initial_state()

    # A `SequencePolicy`, where the policy inside is one: there is nothing to call where it is not.

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
        """One observation, as the policy inside sees it."""

        def one(moments: Moments | None, x: Array) -> Array:
            return x if moments is None else _normalized(moments, x, self.clip)

        return jax.tree.map(one, self.moments.value, observation, is_leaf=_is_moments)

    def move_statistics(self, steps: Steps, axis: str | None) -> "NormalizedObservations":
        """By the observations of all the steps; those of the policy inside by what it saw."""

        def one(moments: Moments | None, batch: Array) -> Moments | None:
            return None if moments is None else merge(moments, batch, axis)

        moments = jax.tree.map(one, self.moments.value, steps.observation, is_leaf=_is_moments)
        seen = dataclasses.replace(steps, observation=jax.vmap(self.normalize)(steps.observation))
        policy = move_statistics(self.policy, seen, axis)
        return eqx.tree_at(lambda p: (p.policy, p.moments.value), self, (policy, moments))


def _is_moments(node: Any) -> bool:
    return node is None or isinstance(node, Moments)


def _moments_of(path: KeyPath, leaf: Any) -> Moments | None:
    """Those of no observations `[1, …]`, or `None` for what passes as it is."""
    is_mask = any(key == DictKey(ACTION_MASK) for key in path)
    if is_mask or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    return no_moments(leaf.shape[1:], leaf.dtype)


def _normalized(moments: Moments, x: Float[Array, "..."], clip: float) -> Float[Array, "..."]:
    mean = moments.mean
    if x.shape != mean.value.shape:
        raise ValueError(
            f"this NormalizedObservations has statistics of shape {mean.value.shape}, but got an "
            f"observation of shape {x.shape}; build it for the environment that it acts in"
        )
    # Twice subtracted, as their sum would be rounded where the mean is far from 0.
    deviation = x.astype(mean.value.dtype) - mean.value - mean.lost
    scaled = jnp.clip(deviation * lax.rsqrt(moments.variance + _EPSILON), -clip, clip)
    return jnp.where(moments.count.value > 0, scaled.astype(x.dtype), x)
