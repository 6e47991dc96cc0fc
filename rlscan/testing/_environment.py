"""`check_environment`: whether an object keeps the contract of `rlscan.Environment`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

import rlscan

from ._error import require, require_close
from ._play import Played, in_dtypes, plain, play
from ._reset import check_starts
from ._spaces import complaint, sample


class Seen(NamedTuple):
    """What a check has seen of an environment: of what has not happened, nothing was checked."""

    num_terminated: int  # episodes; among them those that were truncated as well
    num_truncated: int


def check_environment(
    env: Any,
    *,
    num_steps: int = 256,
    num_envs: int = 8,
    key: Any = None,
    sample_action: Callable | None = None,
    starts_differ: bool | None = None,
    final_differs: bool | None = None,
) -> Seen:
    """Checks that any object keeps the contract of `rlscan.Environment`, by playing at random.

    - `reset` and `step` return two and six values, of one structure, shapes and dtypes;
    - the reward is one finite float, `terminated` and `truncated` are two booleans;
    - observations are in the declared space;
    - `info["final_observation"]` is the observation where an episode goes on, and where it ends
      the last one, not the one after the reset;
    - no episode is truncated before `time_limit` steps, if there is one, nor lasts longer;
    - after an end stands a start as `reset` draws them, from the step's key alone: it holds nothing
      of the episode before, and differs from episode to episode if resets differ by their key;
    - the same key gives the same step; a mapped step is a step.

    **Arguments:**

    - `env`: an object with `reset`, `step`, `observation_space` and `action_space`.
    - `num_steps`: T. Give more than `time_limit`, for a truncation to be seen.
    - `num_envs`: N, environments that are played side by side.
    - `key`: consumed. `rlscan.key(0)` if not given.
    - `sample_action`: `sample_action(key) -> action`, if the space cannot be read, or if random
        actions get nowhere. Uniform in the action space if not given.
    - `starts_differ`: whether another key must give another start. If not given, it must where
        reset makes a key of its own.
    - `final_differs`: whether the last observation of some episode differs from the first one of
        the next. If not given, it must where observations differ at all.

    **Returns:** how many episodes ended in each way, so that you see what was exercised.

    **Raises:** `ConformanceError` for the first of these that does not hold.
    """
    play_key, start_key = jax.random.split(rlscan.key(0) if key is None else key)
    draw = sample_action or partial(sample, env.action_space())
    _check_values(env, draw)
    played = play(env, draw, play_key, num_steps, num_envs)
    _check_rewards(played)
    _check_observations(env, played)
    _check_final(played, final_differs)
    _check_time_limit(env, played)
    _check_same_step(env, played)
    check_starts(env, played, start_key, starts_differ)
    terminated = np.asarray(played.terminated)
    return Seen(int(terminated.sum()), int(np.asarray(played.truncated).sum()))


def _check_values(env: Any, draw: Callable) -> None:
    """Numbers, structures, shapes and dtypes, without computing anything."""
    key = rlscan.key(0)
    start = eqx.filter_eval_shape(env.reset, key)
    is_pair = isinstance(start, tuple) and len(start) == 2
    require(is_pair, "reset must return (observation, state)", type(start).__name__, "Return both")
    action = eqx.filter_eval_shape(draw, key)
    result = eqx.filter_eval_shape(env.step, key, start[1], action)
    require(
        isinstance(result, tuple) and len(result) == 6,
        "step must return (observation, state, reward, terminated, truncated, info)",
        f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__,
        "Keep terminated and truncated apart",
    )
    observation, state, reward, terminated, truncated, info = result
    for name, value, dtype in (
        ("reward", reward, jnp.floating),
        ("terminated", terminated, jnp.bool_),
        ("truncated", truncated, jnp.bool_),
    ):
        kind = "float" if name == "reward" else "boolean"
        is_one = getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, dtype)
        require(is_one, f"{name} must be one {kind}, of shape ()", value, "Convert it in step")
    has_final = isinstance(info, dict) and "final_observation" in info
    edit = "Put the observation before any reset there, at every step"
    require(has_final, "info must have 'final_observation'", f"{info}", edit)
    again = eqx.filter_eval_shape(env.step, key, state, action)
    _same_types("the observation of step", observation, "reset's", start[0])
    _same_types("the state of step", state, "reset's", start[1])
    _same_types("the second step's observation", again[0], "the first's", observation)
    _same_types("the second step's state", again[1], "the first's", state)
    final = info["final_observation"]
    _same_types("info['final_observation']", final, "the observation's", observation)


def _same_types(name: str, got: Any, of_whom: str, wanted: Any) -> None:
    """One structure, and arrays of one shape and dtype; a Python number has no dtype to keep."""
    structures = jax.tree.structure(got), jax.tree.structure(wanted)
    edit = "Return the same from reset and from every step"
    same = structures[0] == structures[1]
    require(
        same, f"the structure of {name} must be {of_whom}, {structures[1]}", structures[0], edit
    )
    leaves = zip(tree_flatten_with_path(got)[0], jax.tree.leaves(wanted), strict=True)
    for (path, g), w in leaves:
        if not (hasattr(g, "dtype") and hasattr(w, "dtype")):
            continue
        is_number = getattr(w, "weak_type", False)
        is_same = g.shape == w.shape and (g.dtype == w.dtype or is_number)
        types = [f"{x.dtype}{list(x.shape)}" for x in (w, g)]
        require(is_same, f"{name}{keystr(path)} must be as {of_whom}, {types[0]}", types[1], edit)


def _check_rewards(played: Played) -> None:
    finite = np.isfinite(np.asarray(played.reward))
    where = np.argwhere(~finite)
    edit = "Look at divisions and logarithms in step"
    require(finite.all(), "every reward must be finite", f"others at [t, n] = {where[:3]}", edit)


def _check_observations(env: Any, played: Played) -> None:
    space = env.observation_space()
    for name, seen in (("observation", played.observation), ("final observation", played.final)):
        rows = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), plain(seen))
        length = len(jax.tree.leaves(rows)[0])
        for i in range(0, length, max(1, length // 256)):
            why = complaint(space, jax.tree.map(lambda x, i=i: x[i], rows))
            edit = "Widen observation_space(), or clip what is seen"
            require(why is None, f"the {name} must be in the observation space", f"it {why}", edit)


def _check_final(played: Played, final_differs: bool | None) -> None:
    done = np.asarray(played.terminated | played.truncated)
    edit = "info['final_observation'] is what the step led to, before any reset"
    pairs = list(zip(_rows(played.final), _rows(played.observation), strict=True))
    for final, after in pairs:
        goes_on = ~done.reshape(-1)
        name = "final_observation, where the episode goes on,"
        require_close(name, final[goes_on], after[goes_on], edit)
    if final_differs is None:
        final_differs = any((after != after[:1]).any() for _, after in pairs)
    differs = any((final != after)[done.reshape(-1)].any() for final, after in pairs)
    require(
        differs or not final_differs or done.sum() < 8,
        "the last observation of an episode must differ from the first one of the next",
        f"the same in {done.sum()} episodes",
        f"{edit}. If they are equal by nature: final_differs=False",
    )


def _rows(tree: Any) -> list[np.ndarray]:
    return [np.asarray(x).reshape(-1, *x.shape[2:]) for x in jax.tree.leaves(plain(tree))]


def _check_time_limit(env: Any, played: Played) -> None:
    limit = getattr(env, "time_limit", None)
    if limit is None:
        return
    length, truncated = np.asarray(played.length), np.asarray(played.truncated)
    edit = "Set time_limit to the steps of a truncated episode, or leave it out"
    early = length[truncated & (length < limit)]
    what = f"no episode must be truncated before time_limit = {limit} steps"
    require(not early.size, what, f"one of {early.min(initial=limit)} steps", edit)
    longest = length.max()
    what = f"an episode must end after time_limit = {limit} steps"
    require(longest <= limit, what, f"one of {longest} steps", edit)
    at_limit = (length == limit) & ~np.asarray(played.terminated | played.truncated)
    require(not at_limit.any(), what, "one that goes on", edit)


def _check_same_step(env: Any, played: Played) -> None:
    """Traced twice more, so that what Python or NumPy drew in a trace is another."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), played)
    done = np.flatnonzero(np.asarray(flat.terminated | flat.truncated))
    some = np.unique([*np.linspace(0, len(flat.reward) - 1, 8).astype(int), *done[:2]])
    steps = [jax.jit(lambda *at: env.step(*at)) for _ in range(2)]
    for i in some:
        at = jax.tree.map(lambda x, i=i: x[i], flat)
        wanted = at.observation, at.state_after, at.reward, at.terminated, at.truncated
        for name, step in zip(("step", "step that is traced anew"), steps, strict=True):
            got = in_dtypes(wanted, step(at.key, at.state, at.action)[:5])
            rows = tree_flatten_with_path(plain(got))[0]
            leaves = zip(rows, jax.tree.leaves(plain(wanted)), strict=True)
            for (path, g), w in leaves:
                what = f"what a {name} returns, {keystr(path)}, for the key of a mapped one,"
                edit = "All chance must come from `key`, by jax.random, and nothing be kept in self"
                require_close(what, g, w, edit)
