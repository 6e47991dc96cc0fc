"""Keys: which generators can be replayed, and the one that rlscan starts from."""

from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, Key, PRNGKeyArray

from ._mix32 import mix32

# A typed key (`jax.random.key`), or the raw uint32 form of one (`jax.random.PRNGKey`). `Any`,
# because what comes here from outside is judged by `as_key`, which says what was wrong.
KeyLike = Any


# Those that replay exactly, by name; the first is the one for who has no wish. JAX has all but it.
Generator = Literal["mix32", "philox4x32", "threefry2x32", "threefry4x32"]


GENERATORS: tuple[str, ...] = get_args(Generator)


_REFUSED = {
    "rbg": "draws a vmapped batch from its first key only (jax#19085)",
    "unsafe_rbg": "draws a vmapped batch from its first key only (jax#19085)",
    "philox2x32": "holds 32 bits, so that half a million splits already hold equal keys",
}


def key(seed: int | Integer[Array, ""], *, generator: Any = GENERATORS[0]) -> PRNGKeyArray:
    """A typed key, by default of the generator that rlscan uses unless told otherwise.

    Rollouts and training keep the generator of the key that they are given, so this is where it
    is chosen: every mask, action and reset comes from it. `mix32` is the lightest, and made for
    simulations, not for cryptography; `threefry2x32` is JAX's own.

    **Arguments:**

    - `seed`: any integer, or an integer array of shape `()`.
    - `generator`: one of `rlscan.GENERATORS`; or what `jax.extend.random.define_prng_impl` returns.

    **Returns:** a typed key, shape `()`.

    **Raises:** `ValueError` for a generator that is unknown, or that cannot be replayed.
    """
    if isinstance(generator, str) and generator not in (*GENERATORS, *_REFUSED):
        raise ValueError(f"generator must be one of {', '.join(GENERATORS)}, got {generator!r}")
    return as_key(jax.random.key(seed, impl=_impl(generator)))


class KeyData(NamedTuple):
    """Keys outside of JAX, as for a file: their words, and the name of their generator."""

    words: np.ndarray  # uint32, [*batch, words of a key]
    generator: str


def key_data(keys: Key[Array, "*batch"]) -> KeyData:
    """What `keys` are made of; `keys_from_data` makes them again.

    **Raises:** `ValueError` for a generator that is not one of `rlscan.GENERATORS`.
    """
    name = generator_of(keys)
    if name not in GENERATORS:
        raise ValueError(
            f"keys of the generator {name!r} are not known by their name; "
            f"use one of {', '.join(GENERATORS)}, or jax.random.key_data(keys)"
        )
    return KeyData(np.asarray(jax.random.key_data(keys)), name)


def keys_from_data(data: KeyData) -> Key[Array, "*batch"]:
    """The keys that `key_data` took apart.

    **Raises:** `ValueError` for another generator, or another number of words.
    """
    words, generator = data
    if generator not in GENERATORS:
        raise ValueError(f"generator must be one of {', '.join(GENERATORS)}, got {generator!r}")
    key_shape = jax.eval_shape(lambda: jax.random.key_data(key(0, generator=generator))).shape
    if words.dtype != np.uint32 or words.shape[-1:] != key_shape:
        raise ValueError(
            f"a key of {generator} is {key_shape[0]} words of uint32, "
            f"got {words.dtype}{list(words.shape)}"
        )
    return jax.random.wrap_key_data(jnp.asarray(words), impl=_impl(generator))


def _impl(generator: Any) -> Any:
    """As JAX wants it; ours it does not know by name."""
    return mix32 if generator == "mix32" else generator


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
            f"keys of the generator {generator_of(key)!r} cannot be replayed: it {reason}; "
            "use key=rlscan.key(0)"
        )
    return key


def generator_of(keys: Any) -> str:
    """The name of the generator that keys are of, or their shapes."""
    return str(jax.random.key_impl(keys))


@lru_cache
def _why_inexact(impl: Any) -> str | None:
    """Why keys of this generator cannot be replayed, or `None` where they can.

    JAX's own and ours are judged by name, as the known faults need not show in a small sample. One
    that a user registered is tried out: its keys are counted in bits, a batch is drawn both ways.
    """

    def draws(key: PRNGKeyArray) -> list[Array]:
        again = jax.random.clone  # one key, used in three ways and twice over, as a trial may
        split, folded = jax.random.split(again(key)), jax.random.fold_in(again(key), 1)
        return [jax.random.bits(again(key), (3,)), *map(jax.random.key_data, (split, folded))]

    if str(impl) in _REFUSED:
        return _REFUSED[str(impl)]
    if impl == mix32 or (isinstance(impl, str) and impl in GENERATORS):
        return None
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
