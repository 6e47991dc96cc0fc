"""`key`, the checks of keys, and their conversions: which generators can be replayed exactly."""

import hashlib
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Integer, Key, PRNGKeyArray

from ._mix32 import mix32, words_of_seed

# A typed key (`jax.random.key`), or its raw uint32 form (`jax.random.PRNGKey`). The type is `Any`,
# because `as_key` checks it and reports what is wrong.
KeyLike = Any


# The generators that replay exactly. The first is the default, and the only one that is not JAX's.
Generator = Literal["mix32", "philox4x32", "threefry2x32"]
GENERATORS: tuple[str, ...] = get_args(Generator)

_FIRST_KEY_ONLY = "cannot be replayed: it draws a vmapped batch from its first key only (jax#19085)"
_REFUSED = {
    "rbg": _FIRST_KEY_ONLY,
    "unsafe_rbg": _FIRST_KEY_ONLY,
    "philox2x32": "cannot be replayed: it holds 32 bits, and half a million splits repeat a key",
    # With an optimisation barrier, as in `mix32`, a first state would still take half a minute.
    "threefry4x32": "cannot be compiled: XLA takes minutes and many gigabytes for a key of a key",
}

_NUM_SEEDS = 2**32  # without 64-bit mode, JAX would silently drop the higher bits


Seed = int | np.integer | Integer[Array | np.ndarray, ""]


def key(seed: Seed, *, generator: Any = GENERATORS[0]) -> PRNGKeyArray:
    """Make a typed key, by default for rlscan's own generator `mix32`.

    Rollouts and training use the generator of the key that they get, so it is chosen here for every
    mask, action and reset. `mix32` is the fastest; it is meant for simulations, not for
    cryptography. `threefry2x32` is JAX's default.

    **Arguments:**

    - `seed`: an integer from 0 to 2³² − 1, or an integer array of shape `()`. Under `jit` and
        `vmap` the range is not checked.
    - `generator`: one of `rlscan.random.GENERATORS`, or a generator of your own from
        `jax.extend.random.define_prng_impl`.

    **Returns:** a typed key, shape `()`.

    **Raises:** `ValueError` if the seed is out of range, or the generator is unknown or cannot be
        used.
    """
    if isinstance(generator, str) and generator not in (*GENERATORS, *_REFUSED):
        raise ValueError(f"generator must be one of {', '.join(GENERATORS)}, got {generator!r}")
    is_known = np.ndim(seed) == 0 and not isinstance(seed, Tracer)
    if is_known and not 0 <= int(seed) < _NUM_SEEDS:
        raise ValueError(f"seed must be from 0 to {_NUM_SEEDS - 1}, got {seed}; use seed % 2**32")
    if is_known and generator == "mix32":
        words: Any = words_of_seed(int(seed))
        return jax.random.wrap_key_data(words, impl=mix32)
    return as_key(jax.random.key(seed, impl=_impl(generator)))


class KeyData(NamedTuple):
    """Keys as plain data, for example for a file: their words and the name of their generator."""

    words: np.ndarray
    """The words of the keys, uint32 `[*batch, words of a key]`."""
    generator: str
    """The name of their generator, one of `rlscan.random.GENERATORS`."""


def key_data(keys: Key[Array, "*batch"]) -> KeyData:
    """Turn keys into plain data; `keys_from_data` is the inverse.

    **Raises:** `ValueError` if their generator is not one of `rlscan.random.GENERATORS`.
    """
    name = generator_of(keys)
    if name not in GENERATORS:
        raise ValueError(
            f"keys must be of one of the generators {', '.join(GENERATORS)}, got keys of {name!r}; "
            "use one of these, or jax.random.key_data(keys)"
        )
    return KeyData(np.asarray(jax.random.key_data(keys)), name)


def keys_from_data(data: KeyData) -> Key[Array, "*batch"]:
    """Rebuild keys from the result of `key_data`.

    **Raises:** `ValueError` if the generator is unknown, or the words do not fit it.
    """
    words, generator = data
    if generator not in GENERATORS:
        raise ValueError(f"generator must be one of {', '.join(GENERATORS)}, got {generator!r}")
    key_shape = jax.eval_shape(lambda: jax.random.key_data(key(0, generator=generator))).shape
    if words.dtype != np.uint32 or words.shape[-1:] != key_shape:
        raise ValueError(
            f"words must be uint32[…, {key_shape[0]}] for keys of {generator}, "
            f"got {words.dtype}{list(words.shape)}; pass what key_data returned"
        )
    return jax.random.wrap_key_data(jnp.asarray(words), impl=_impl(generator))


def fingerprint(generator: str) -> str:
    """A few characters that tell generators apart, and versions of one: a hash of what it draws."""
    bits = jax.random.bits(jax.random.split(key(0, generator=generator))[1], (4,))
    return hashlib.sha256(np.asarray(bits, "<u4").tobytes()).hexdigest()[:16]


def as_threefry(key: KeyLike) -> PRNGKeyArray:
    """Convert a key to one of `threefry2x32`, for functions that take no other.

    `jax.random.poisson` is such a function: `poisson(rlscan.random.as_threefry(key), rate)` draws
    with keys of every generator. Different keys of 64 bits stay different.

    **Arguments:**

    - `key`: consumed.

    **Returns:** a typed key, shape `()`; a key of `threefry2x32` is returned as it is.

    **Raises:** as `rlscan.init_rollout` for its key.
    """
    key = as_key(key)
    if generator_of(key) == "threefry2x32":
        return key
    words = jax.random.key_data(key)
    if words.shape != (2,):  # a generator of the user's own
        words = jax.random.bits(key, (2,), jnp.uint32)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _impl(generator: Any) -> Any:
    """The generator in the form that JAX takes, which does not know `mix32` by name."""
    return mix32 if generator == "mix32" else generator


def as_key(key: KeyLike) -> PRNGKeyArray:
    """Check that a key can be used for rollouts, and return it as a typed key.

    Replay draws with the recorded keys in another batch shape and order. It draws the same noise
    only if `vmap(draw)(keys)[i] == draw(keys[i])` and no two keys are equal.

    **Raises:** `TypeError` if `key` is not a key; `ValueError` if it is a batch of keys, or if its
    generator draws other bits under `vmap`, has fewer than 64 bits, or cannot be compiled.
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
    reason = _why_unusable(jax.random.key_impl(key))
    if reason is not None:
        raise ValueError(
            f"keys of the generator {generator_of(key)!r} {reason}; use key=rlscan.key(0)"
        )
    return key


def as_keys(keys: KeyLike) -> Key[Array, "*R"]:
    """Check one key, or keys `[R]`, and return them as typed keys; see `as_key`."""
    is_batch = isinstance(keys, jax.Array) and (
        keys.ndim == 1 if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys.ndim == 2
    )
    if not is_batch or keys.shape[0] == 0:
        return as_key(keys)
    as_key(keys[0])
    is_raw = not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(keys) if is_raw else keys


def generator_of(keys: Any) -> str:
    """The name of the generator of keys, or of their shapes."""
    return str(impl_of(keys))


def impl_of(keys: Any) -> Any:
    """The generator of keys, or of their shapes, as JAX takes it for `impl=`."""
    if not isinstance(keys, jax.ShapeDtypeStruct):
        return jax.random.key_impl(keys)
    found = []
    jax.eval_shape(lambda traced: found.append(jax.random.key_impl(traced)), keys)
    return found[0]


@lru_cache
def _why_unusable(impl: Any) -> str | None:
    """The reason why keys of this generator are refused; `None` if they can be replayed.

    Known generators are looked up by name, because their faults need not show in a small sample. A
    user's own is tested: its keys must have 64 bits, and a batch must draw the same under `vmap`.
    """

    def draws(key: PRNGKeyArray) -> list[Array]:
        reuse = jax.random.clone  # this test may use one key several times
        split, folded = jax.random.split(reuse(key)), jax.random.fold_in(reuse(key), 1)
        return [jax.random.bits(reuse(key), (3,)), *map(jax.random.key_data, (split, folded))]

    if str(impl) in _REFUSED:
        return _REFUSED[str(impl)]
    if impl == mix32 or (isinstance(impl, str) and impl in GENERATORS):
        return None
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0, impl=impl), 4)
        data = jax.random.key_data(keys)
        if data[0].size * data.dtype.itemsize < 8:
            return "cannot be replayed: it holds fewer than 64 bits, so that keys repeat"
        batched = jax.vmap(draws)(keys)
        single = [jnp.stack(column) for column in zip(*map(draws, keys), strict=True)]
        if not all(map(jnp.array_equal, batched, single)):
            return "cannot be replayed: it draws other bits under vmap than without"
    return None
