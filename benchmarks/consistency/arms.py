"""The arms: how dropout acts in the rollout and in the update, as numbers of one program."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt

import rlscan
from rlscan.nn import AnnealedDropout

ARMS = ("off", "naive", "dropout-off rollout", "consistent")


class Arm(eqx.Module):
    """The numbers of an arm. None is static, so the arms of an environment share one program."""

    rollout_rate: Float[Array, ""]  # p in the rollout
    update_rate: Float[Array, ""]  # p in the update
    is_fresh: Bool[Array, ""]  # whether the update draws new masks
    target_kl: Float[Array, ""]  # as in `rlscan.ppo.PPOConfig`, inf for none


def arm(name: str, rate: float, target_kl: float) -> Arm:
    """Make one of `ARMS`, at a dropout rate p.

    - `off`: no dropout. Its rate is 0.
    - `naive`: dropout in the rollout and in the update, each with its own masks.
    - `dropout-off rollout`: dropout only in the update, as in Stable-Baselines3, which collects in
        evaluation mode and trains in training mode.
    - `consistent`: dropout in both, and the update replays the masks of the rollout.
    """
    if name not in ARMS:
        raise ValueError(f"an arm is one of {', '.join(ARMS)}, got {name!r}")
    return Arm(
        rollout_rate=jnp.asarray(0.0 if name == "dropout-off rollout" else rate, jnp.float32),
        update_rate=jnp.asarray(rate, jnp.float32),
        is_fresh=jnp.asarray(name in ("naive", "dropout-off rollout")),
        target_kl=jnp.asarray(target_kl, jnp.float32),
    )


class ArmLoss(eqx.Module):
    """`rlscan.ppo.ppo_loss` with the dropout rate and the masks of an arm."""

    arm: Arm

    def __call__(
        self, policy: Any, minibatch: rlscan.ppo.Minibatch, config: rlscan.ppo.PPOConfig
    ) -> Any:
        trajectory = minibatch.trajectory
        keys = jnp.where(self.arm.is_fresh, fresh(trajectory.policy_key), trajectory.policy_key)
        trajectory = dataclasses.replace(trajectory, policy_key=keys)
        minibatch = dataclasses.replace(minibatch, trajectory=trajectory)
        return rlscan.ppo.ppo_loss(with_rate(policy, self.arm.update_rate), minibatch, config)


def fresh(keys: PRNGKeyArray) -> PRNGKeyArray:
    """Make other keys for the same steps, new ones in every epoch.

    A loss does not know which epoch it is in. So each key is folded with a checksum of the
    minibatch's keys in their order, which the shuffle changes in every gradient step.
    """
    words: UInt[Array, " words"] = jax.random.key_data(keys).ravel()
    checksum = (words * jnp.arange(1, 2 * words.size, 2, dtype=words.dtype)).sum(dtype=words.dtype)
    fold = lambda key: jax.random.fold_in(key, checksum)  # noqa: E731
    return jax.vmap(fold)(keys.ravel()).reshape(keys.shape)


def with_rate(policy: Any, rate: Float[Array, ""]) -> Any:
    """Set the rate of each of the policy's `AnnealedDropout` layers."""

    def is_layer(node: Any) -> bool:
        return isinstance(node, AnnealedDropout)

    def set_rate(node: Any) -> Any:
        return eqx.tree_at(lambda n: n.rate.value, node, rate) if is_layer(node) else node

    return jax.tree.map(set_rate, policy, is_leaf=is_layer)
