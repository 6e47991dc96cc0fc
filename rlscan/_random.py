"""Keys: which generators can be replayed, and the one that rlscan starts from."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

# A typed key (`jax.random.key`), or the raw uint32 form of one (`jax.random.PRNGKey`). `Any`,
# because what comes here from outside is judged by `as_key`, which says what was wrong.
KeyLike = Any

DEFAULT_IMPL = "philox4x32"

_REFUSED = {
    "rbg": "draws a vmapped batch from its first key only (jax#19085)",
    "unsafe_rbg": "draws a vmapped batch from its first key only (jax#19085)",
    "philox2x32": "holds 32 bits, so that half a million splits already hold equal keys",
}


def key(seed: int | Int[Array, ""]) -> PRNGKeyArray:
    """A typed key of the generator that rlscan uses unless told otherwise.

    Rollouts take any key whose generator is exact under `vmap`, and keep its generator; this is
    the choice for a user who has none.

    **Arguments:**

    - `seed`: any integer, or an integer array of shape `()`.

    **Returns:** a typed key, shape `()`.
    """
    return jax.random.key(seed, impl=DEFAULT_IMPL)


def as_key(key: KeyLike) -> PRNGKeyArray:
    """One typed key that can be replayed; raw `uint32` keys are wrapped, all else is refused.

    Replay draws with the recorded keys in another batch shape and order. That gives the same
    noise only where `vmap(draw)(keys)[i] == draw(keys[i])`, and where keys do not repeat.

    **Raises:** `TypeError` if `key` is no key; `ValueError` if it is not a single one, or if its
    generator is inexact under `vmap` or has fewer than 64 bits.
    """
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"key must be a JAX random key, got {key!r} of type {type(key).__name__}; "
            "use key=rlscan.key(0)"
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raw_shape = jax.random.key_data(jax.random.key(0)).shape
        if key.dtype != jnp.uint32 or key.shape != raw_shape:
            raise TypeError(
                f"key must be a JAX random key, got an array {key.dtype}{list(key.shape)}; "
                "use key=rlscan.key(0)"
            )
        key = jax.random.wrap_key_data(key)
    if key.shape != ():
        raise ValueError(
            f"key must be one key of shape (), got a batch of shape {key.shape}; "
            "pass key=keys[0], or vmap over the keys"
        )
    reason = _why_inexact(jax.random.key_impl(key))
    if reason is not None:
        raise ValueError(
            f"keys of the generator {_impl_name(key)!r} cannot be replayed: it {reason}; "
            "use key=rlscan.key(0)"
        )
    return key


def _impl_name(key: PRNGKeyArray) -> str:
    return str(jax.random.key_impl(key))


@lru_cache
def _why_inexact(impl: Any) -> str | None:
    """Why keys of this generator cannot be replayed, or `None` where they can.

    Names are judged first, as the known faults need not show in a small sample. A generator that
    a user registered is tried out: its keys are counted in bits, and a batch is drawn both ways.
    """

    def draws(key: PRNGKeyArray) -> list[Array]:
        again = jax.random.clone  # one key, used in three ways and twice over, as a trial may
        split, folded = jax.random.split(again(key)), jax.random.fold_in(again(key), 1)
        return [jax.random.bits(again(key), (3,)), *map(jax.random.key_data, (split, folded))]

    if str(impl) in _REFUSED:
        return _REFUSED[str(impl)]
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0, impl=impl), 4)
        data = jax.random.key_data(keys)
        if data[0].size * data.dtype.itemsize < 8:
            return "holds fewer than 64 bits, so that keys repeat"
        batched = jax.vmap(draws)(keys)
        single = [jnp.stack(column) for column in zip(*map(draws, keys), strict=True)]
        if not all(map(jnp.array_equal, batched, single)):
            return "draws other bits under vmap than without"
    return None
