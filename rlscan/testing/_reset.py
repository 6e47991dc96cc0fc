"""Starts of episodes: those of a reset, and those that a step resets to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from ._error import require, require_close
from ._play import Played, in_dtypes, plain

_NUM_STARTS = 64


def check_starts(env: Any, played: Played, key: Any, starts_differ: bool | None) -> None:
    """Checks resets against each other, and the starts after an end against them."""
    start_key, step_key = jax.random.split(key)
    done = np.asarray(played.terminated | played.truncated).reshape(-1)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), played)
    like = jax.tree.map(lambda x: x[0], (flat.observation, flat.state_after))

    def reset(key: Any) -> Any:
        return plain(in_dtypes(like, env.reset(key)))

    starts = jax.jit(jax.vmap(reset))(jax.random.split(start_key, _NUM_STARTS))
    if starts_differ is None:  # a key made in the reset itself draws one start for ever
        starts_differ = "random_seed" in str(jax.make_jaxpr(lambda key: env.reset(key))(start_key))
    varies = any(_varies(x) for x in jax.tree.leaves(starts))
    edit = "Draw from the key that reset is given, and not from one of its own"
    got = f"the same for {_NUM_STARTS} keys"
    require(varies or not starts_differ, "another key must give another start", got, edit)
    if not done.any():
        return
    after = jax.tree.map(lambda x: x[done], plain((flat.observation, flat.state_after)))
    _check_after(starts, after, varies)
    _check_forgets(env, jax.tree.map(lambda x: x[done][:_NUM_STARTS], flat), step_key)


def _check_after(starts: Any, after: Any, varies: bool) -> None:
    """What is equal in all resets is so after an end; and what is not is not."""
    leaves = zip(tree_flatten_with_path(starts)[0], jax.tree.leaves(after), strict=True)
    for (path, start), x in leaves:
        if not _varies(start):
            what = f"after an end, {_name(path)}, which is the same in all resets,"
            edit = "Return observation and state of a new reset where the episode ends"
            wanted = np.broadcast_to(np.asarray(start[:1]), x.shape)
            require_close(what, x, wanted, edit)
    num_ends = len(jax.tree.leaves(after)[0])
    also_varies = any(_varies(x) for x in jax.tree.leaves(after))
    edit = "Reset with a key from the step's"
    got = f"the same after {num_ends} ends"
    required = "a start must differ from episode to episode, as resets do"
    require(also_varies or not varies or num_ends < 8, required, got, edit)


def _check_forgets(env: Any, ended: Played, key: Any) -> None:
    """Steps that end, from several states and under one key, lead to one start."""

    def step(state: Any, action: Any) -> tuple:
        observation, after, _, terminated, truncated, _ = env.step(key, state, action)
        return plain((observation, after)), jnp.asarray(terminated | truncated)

    after, done = jax.jit(jax.vmap(step))(ended.state, ended.action)
    done = np.asarray(done)
    for path, x in tree_flatten_with_path(after)[0]:
        x = np.asarray(x)[done]
        what = f"{_name(path)} after an end, from several states under one key,"
        edit = "A start must come from the key alone, and hold nothing of the episode before"
        require_close(what, x, np.broadcast_to(x[:1], x.shape), edit)


def _varies(x: Any) -> bool:
    x = np.asarray(x)
    return bool((x != x[:1]).any())


def _name(path: Any) -> str:
    return ("the observation", "the state")[path[0].idx] + keystr(path[1:])
