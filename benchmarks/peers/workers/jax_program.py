"""The `Program` of a library whose training run is a pure function of a key. Needs only JAX."""
# pyright: reportMissingImports=false

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from protocol import Program

EPISODES = 128


def jax_program(
    workload: dict,
    train: Callable[[Any], Any],
    mean_return: Callable[[Any, Any], Any],
    *,
    make_key: Callable[[int], Any] = jax.random.PRNGKey,
    jit: Callable = jax.jit,
    vmap: Callable = jax.vmap,
    **about: Any,
) -> Program:
    """Compile `train`, mapped over the workload's seeds if there are several.

    **Arguments:**

    - `train`: `key -> trained`, a whole run.
    - `mean_return`: `(trained, key) -> number`.
    - `make_key`, `jit`, `vmap`: the functions that the library works with.
    - `about`: `network` and `notes`.
    """
    num_seeds = workload["num_seeds"]

    def keys(seed: int) -> Any:
        return make_key(seed) if num_seeds == 1 else jax.random.split(make_key(seed), num_seeds)

    start = time.perf_counter()
    compiled = jit(train if num_seeds == 1 else vmap(train)).lower(keys(0)).compile()
    compile_s = time.perf_counter() - start
    judge = jit(mean_return if num_seeds == 1 else vmap(mean_return))
    return Program(
        run=lambda seed: jax.block_until_ready(compiled(keys(seed))),
        scores=lambda trained: jnp.atleast_1d(judge(trained, keys(1_000))).tolist(),
        gradient_steps=workload["gradient_steps"],
        compile_s=compile_s,
        **about,
    )


def initialize_one_by_one() -> None:
    """Make orthogonal initialisation safe under `vmap`. Call it before a peer is imported.

    Batched QR deadlocks in jaxlib 0.10 on two cores. This lets a peer finish, and costs nothing.
    """
    orthogonal = jax.nn.initializers.orthogonal

    def unbatched(*args: Any, **kwargs: Any) -> Callable:
        initialize = orthogonal(*args, **kwargs)

        def init(key: Any, shape: Any, dtype: Any = float) -> Any:
            return jax.custom_batching.sequential_vmap(lambda k: initialize(k, shape, dtype))(key)

        return init

    jax.nn.initializers.orthogonal = unbatched
