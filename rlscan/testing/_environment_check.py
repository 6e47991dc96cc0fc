"""`check_environment`: whether an object follows the contract of `rlscan.Environment`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

import rlscan

from ._conformance import plain, require, require_close
from ._environments import complaint, sample

_NUM_STARTS = 64


class Seen(NamedTuple):
    """How many episodes ended in each way. Endings that did not occur were not checked."""

    num_terminated: int  # including episodes that were truncated at the same step
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
    """Check that an object follows the contract of `rlscan.Environment`, using random actions.

    - `reset` and `step` return two and six values, always of the same structure, shapes and dtypes;
    - the reward is one finite float, and `terminated` and `truncated` are one boolean each;
    - observations are in the declared space;
    - `info["final_observation"]` equals the observation within an episode; at its end it is the
      last observation, and not the first one after the reset;
    - no episode is truncated before `time_limit` steps, if there is a limit, or lasts longer;
    - after an end, the environment is in a state that `reset` could have drawn from the step's key
      alone: it keeps nothing of the last episode, and varies between episodes if resets vary;
    - the same key gives the same step, with and without `vmap`.

    **Arguments:**

    - `env`: an object with `reset`, `step`, `observation_space` and `action_space`.
    - `num_steps`: T. Use more than `time_limit`, so that truncations occur.
    - `num_envs`: N, environments that run in parallel.
    - `key`: consumed. Defaults to `rlscan.key(0)`.
    - `sample_action`: `sample_action(key) -> action`, for a space of an unknown kind, or if random
        actions get nowhere. By default actions are uniform in the action space.
    - `starts_differ`: whether different keys must give different starts. By default they must if
        `reset` creates a key of its own.
    - `final_differs`: whether the last observation of some episode must differ from the first one
        of the next. By default it must if observations vary at all.

    **Returns:** how many episodes ended in each way, so that you know what was exercised.

    **Raises:** `ConformanceError` for the first requirement that does not hold.
    """
    play_key, start_key = jax.random.split(rlscan.key(0) if key is None else key)
    draw = sample_action or partial(sample, env.action_space())
    _check_types(env, draw, play_key)
    steps = _play(env, draw, play_key, num_steps, num_envs)
    _check_rewards(steps)
    _check_observations(env, steps)
    _check_final(steps, final_differs)
    _check_time_limit(env, steps)
    _check_same_step(env, steps)
    _check_starts(env, steps, start_key, starts_differ)
    terminated = np.asarray(steps.terminated)
    return Seen(int(terminated.sum()), int(np.asarray(steps.truncated).sum()))


class _Steps(NamedTuple):
    """T steps of N environments under random actions; every leaf is `[T, N, …]`."""

    key: Any  # of the step
    state: Any  # before the step
    action: Any
    observation: Any  # after the step, and after the reset if the episode ended
    state_after: Any  # likewise
    reward: Any
    terminated: Any
    truncated: Any
    final: Any  # info["final_observation"]
    length: Any  # of the episode, including this step

    @property
    def done(self) -> Any:
        return self.terminated | self.truncated

    def flat(self) -> "_Steps":
        """The same steps `[T · N, …]`."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self)


def _play(env: Any, draw: Callable, key: Any, num_steps: int, num_envs: int) -> _Steps:
    def one(carry: tuple) -> tuple[tuple, _Steps]:
        key, state, length = carry
        key, action_key, step_key = jax.random.split(key, 3)
        action = draw(action_key)
        result = env.step(jax.random.clone(step_key), state, action)
        observation, after, reward, terminated, truncated, info = result
        after, length = _in_dtypes(state, after), length + 1
        outcome = observation, after, reward, terminated, truncated, info["final_observation"]
        steps = _Steps(step_key, state, action, *outcome, length)
        return (key, after, jnp.where(steps.done, 0, length)), steps

    def start(key: Any) -> tuple:
        key, reset_key = jax.random.split(key)
        observation, state = env.reset(jax.random.clone(reset_key))
        action = eqx.filter_eval_shape(draw, reset_key)
        after = eqx.filter_eval_shape(env.step, reset_key, state, action)
        _, state = _in_dtypes(after[:2], (observation, state))
        return key, state, jnp.zeros((), jnp.int32)

    @eqx.filter_jit
    def run(keys: Any) -> _Steps:
        carry = eqx.filter_vmap(start)(keys)
        step = lambda carry, _: eqx.filter_vmap(one)(carry)  # noqa: E731
        return rlscan.filter_scan(step, carry, length=num_steps)[1]

    return run(jax.random.split(key, num_envs))


def _in_dtypes(like: Any, tree: Any) -> Any:
    """Convert the numbers of a tree to the dtypes of another; keys stay as they are."""

    def convert(wanted: Any, x: Any) -> Any:
        if not hasattr(wanted, "dtype") or jnp.issubdtype(wanted.dtype, jax.dtypes.extended):
            return x
        # Not `asarray` with a dtype, which keeps a weak type.
        return jax.lax.convert_element_type(jnp.asarray(x), wanted.dtype)

    return jax.tree.map(convert, like, tree)


def _check_types(env: Any, draw: Callable, key: Any) -> None:
    """Check the number of values, and their structures, shapes and dtypes, by tracing alone."""
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
    _require_same("the observation of step", observation, "reset's", start[0])
    _require_same("the state of step", state, "reset's", start[1])
    _require_same("the second step's observation", again[0], "the first's", observation)
    _require_same("the second step's state", again[1], "the first's", state)
    final = info["final_observation"]
    _require_same("info['final_observation']", final, "the observation's", observation)


def _require_same(name: str, got: Any, other: str, wanted: Any) -> None:
    """Require the same structure, shapes and dtypes; a Python number has no dtype to match."""
    structures = jax.tree.structure(got), jax.tree.structure(wanted)
    edit = "Return the same from reset and from every step"
    required = f"the structure of {name} must be {other}, {structures[1]}"
    require(structures[0] == structures[1], required, structures[0], edit)
    leaves = zip(tree_flatten_with_path(got)[0], jax.tree.leaves(wanted), strict=True)
    for (path, g), w in leaves:
        if not (hasattr(g, "dtype") and hasattr(w, "dtype")):
            continue
        is_number = getattr(w, "weak_type", False)
        is_same = g.shape == w.shape and (g.dtype == w.dtype or is_number)
        types = [f"{x.dtype}{list(x.shape)}" for x in (w, g)]
        require(is_same, f"{name}{keystr(path)} must be as {other}, {types[0]}", types[1], edit)


def _check_rewards(steps: _Steps) -> None:
    finite = np.isfinite(np.asarray(steps.reward))
    where = np.argwhere(~finite)
    edit = "Look at divisions and logarithms in step"
    got = f"other rewards at [t, n] = {where[:3]}"
    require(finite.all(), "every reward must be finite", got, edit)


def _check_observations(env: Any, steps: _Steps) -> None:
    space = env.observation_space()
    for name, tree in (("observation", steps.observation), ("final observation", steps.final)):
        rows = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), plain(tree))
        length = len(jax.tree.leaves(rows)[0])
        for i in range(0, length, max(1, length // 256)):
            why = complaint(space, jax.tree.map(lambda x, i=i: x[i], rows))
            edit = "Widen observation_space(), or clip the observation"
            require(why is None, f"the {name} must be in the observation space", f"it {why}", edit)


def _check_final(steps: _Steps, final_differs: bool | None) -> None:
    flat = steps.flat()
    done = np.asarray(flat.done)
    edit = "info['final_observation'] is the observation after the step, before any reset"
    trees = (plain(flat.final), plain(flat.observation))
    pairs = list(zip(*([np.asarray(x) for x in jax.tree.leaves(t)] for t in trees), strict=True))
    for final, after in pairs:
        require_close("final_observation within an episode", final[~done], after[~done], edit)
    if final_differs is None:
        final_differs = any((after != after[:1]).any() for _, after in pairs)
    differs = any((final != after)[done].any() for final, after in pairs)
    require(
        differs or not final_differs or done.sum() < 8,
        "the last observation of an episode must differ from the first one of the next",
        f"the same in {done.sum()} episodes",
        f"{edit}. If they are equal by nature, pass final_differs=False",
    )


def _check_time_limit(env: Any, steps: _Steps) -> None:
    limit = getattr(env, "time_limit", None)
    if limit is None:
        return
    length, truncated = np.asarray(steps.length), np.asarray(steps.truncated)
    edit = "Set time_limit to the number of steps of a truncated episode, or leave it out"
    early = length[truncated & (length < limit)]
    required = f"no episode must be truncated before time_limit = {limit} steps"
    require(not early.size, required, f"one of {early.min(initial=limit)} steps", edit)
    longest = length.max()
    required = f"an episode must end after time_limit = {limit} steps"
    require(longest <= limit, required, f"one of {longest} steps", edit)
    at_limit = (length == limit) & ~np.asarray(steps.done)
    require(not at_limit.any(), required, "one that goes on", edit)


def _check_same_step(env: Any, steps: _Steps) -> None:
    """Repeat some steps without `vmap`.

    Each is traced twice more, so numbers that Python or NumPy drew during tracing differ.
    """
    flat = steps.flat()
    done = np.flatnonzero(np.asarray(flat.done))
    some = np.unique([*np.linspace(0, len(flat.reward) - 1, 8).astype(int), *done[:2]])
    traces = [jax.jit(lambda *at: env.step(*at)) for _ in range(2)]
    for i in some:
        at = jax.tree.map(lambda x, i=i: x[i], flat)
        wanted = at.observation, at.state_after, at.reward, at.terminated, at.truncated
        for name, step in zip(("step", "step traced again"), traces, strict=True):
            got = _in_dtypes(wanted, step(at.key, at.state, at.action)[:5])
            rows = tree_flatten_with_path(plain(got))[0]
            leaves = zip(rows, jax.tree.leaves(plain(wanted)), strict=True)
            for (path, g), w in leaves:
                what = f"the result of a {name}, {keystr(path)}, for the key of a mapped step,"
                edit = "Draw all random numbers from `key` with jax.random, and keep none in self"
                require_close(what, g, w, edit)


# Starts of episodes.


def _check_starts(env: Any, steps: _Steps, key: Any, starts_differ: bool | None) -> None:
    """Check resets against each other, and the starts after an end against resets."""
    start_key, step_key = jax.random.split(key)
    flat = steps.flat()
    done = np.asarray(flat.done)
    like = jax.tree.map(lambda x: x[0], (flat.observation, flat.state_after))

    def reset(key: Any) -> Any:
        return plain(_in_dtypes(like, env.reset(key)))

    starts = jax.jit(jax.vmap(reset))(jax.random.split(start_key, _NUM_STARTS))
    if starts_differ is None:  # with a key made inside reset, every start is the same
        starts_differ = "random_seed" in str(jax.make_jaxpr(lambda key: env.reset(key))(start_key))
    varies = any(_varies(x) for x in jax.tree.leaves(starts))
    edit = "Draw from the key that reset is given, not from one that it creates"
    got = f"the same for {_NUM_STARTS} keys"
    require(varies or not starts_differ, "another key must give another start", got, edit)
    if not done.any():
        return
    after = jax.tree.map(lambda x: x[done], plain((flat.observation, flat.state_after)))
    _check_resets_after_ends(starts, after, varies)
    _check_forgets(env, jax.tree.map(lambda x: x[done][:_NUM_STARTS], flat), step_key)


def _check_resets_after_ends(starts: Any, after: Any, varies: bool) -> None:
    """Check that the leaves that are constant over resets, and only those, are so after an end."""
    leaves = zip(tree_flatten_with_path(starts)[0], jax.tree.leaves(after), strict=True)
    for (path, start), x in leaves:
        if not _varies(start):
            what = f"after an end, {_leaf_name(path)}, which is the same in all resets,"
            edit = "Return the observation and state of a new reset when the episode ends"
            wanted = np.broadcast_to(np.asarray(start[:1]), x.shape)
            require_close(what, x, wanted, edit)
    num_ends = len(jax.tree.leaves(after)[0])
    also_varies = any(_varies(x) for x in jax.tree.leaves(after))
    edit = "Reset with a key derived from the step's"
    got = f"the same after {num_ends} ends"
    required = "a start must differ from episode to episode, as resets do"
    require(also_varies or not varies or num_ends < 8, required, got, edit)


def _check_forgets(env: Any, ends: _Steps, key: Any) -> None:
    """Check that steps that end, from different states but with one key, lead to one start."""

    def step(state: Any, action: Any) -> tuple:
        observation, after, _, terminated, truncated, _ = env.step(key, state, action)
        return plain((observation, after)), jnp.asarray(terminated | truncated)

    after, done = jax.jit(jax.vmap(step))(ends.state, ends.action)
    done = np.asarray(done)
    for path, x in tree_flatten_with_path(after)[0]:
        x = np.asarray(x)[done]
        what = f"{_leaf_name(path)} after an end, from several states with one key,"
        edit = "A start must depend on the key alone, and keep nothing of the last episode"
        require_close(what, x, np.broadcast_to(x[:1], x.shape), edit)


def _varies(x: Any) -> bool:
    x = np.asarray(x)
    return bool((x != x[:1]).any())


def _leaf_name(path: Any) -> str:
    return ("the observation", "the state")[path[0].idx] + keystr(path[1:])
