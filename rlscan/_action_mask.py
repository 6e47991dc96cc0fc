"""Action masks: which actions are legal, as the distributions of a policy take them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._types import PyTree


def masked(
    logits: Float[Array, "*batch n"], mask: Bool[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """Logits that give what is not legal a probability of 0.

    Its logit is −2^100: its probability rounds to 0, and log-probability, entropy and all gradients
    are finite, where −∞ would bring 0 · ∞. Where nothing is legal all are NaN: there is no right
    action, and a run that asks for one should not go on as if there were.
    """
    illegal = jnp.asarray(-(2.0**100), jnp.float32)
    logits = jnp.where(mask, logits.astype(jnp.float32), illegal)
    return jnp.where(mask.any(axis=-1, keepdims=True), logits, jnp.nan)


def split_mask(sizes: PyTree, mask: PyTree) -> list[Bool[Array, " n"] | None]:
    """A mask for each part of an action, in the order of JAX's leaves.

    **Arguments:**

    - `sizes`: the number of categories of each part, in the structure of the action; 0 for a part
        that has none.
    - `mask`: as `rlscan.ActionHead` takes it.
    """
    if isinstance(sizes, dict) and isinstance(mask, Mapping):
        if unknown := sorted(set(mask) - set(sizes)):
            raise ValueError(f"the action mask has {unknown}, but the actions {sorted(sizes)}")
        pairs = [(sizes[name], mask.get(name)) for name in sorted(sizes)]
        return [m for pair in pairs for m in split_mask(*pair)]
    if isinstance(sizes, tuple) and isinstance(mask, tuple | list):
        if len(sizes) != len(mask):
            raise ValueError(f"the action mask has {len(mask)} parts, the actions {len(sizes)}")
        return [m for pair in zip(sizes, mask, strict=True) for m in split_mask(*pair)]
    flat_sizes = jax.tree.leaves(sizes)
    if mask is None:
        return [None] * len(flat_sizes)
    flat = jnp.concatenate([jnp.ravel(m) for m in jax.tree.leaves(mask)]) != 0
    if flat.size != sum(flat_sizes):
        raise ValueError(
            f"the action mask must say of {sum(flat_sizes)} categories whether each is legal, in "
            f"one array or in the structure of the action, got {jax.tree.map(jnp.shape, mask)}"
        )
    masks = jnp.split(flat, np.cumsum(flat_sizes)[:-1])
    return [m if size else None for m, size in zip(masks, flat_sizes, strict=True)]
