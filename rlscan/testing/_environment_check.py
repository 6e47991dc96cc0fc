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

from ._conformance import ConformanceError, plain, require, require_close
from ._environments import complaint, sample
from ._hidden_state import attributes
from ._play import Player, Steps, at
from ._progress import Progress

_NUM_STARTS = 64


class Seen(NamedTuple):
    """How many episodes ended in each way. Endings that did not occur were not checked."""

    num_terminated: int
    """Episodes that terminated, those included that were truncated at the same step."""
    num_truncated: int
    """Episodes that were truncated."""


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
    - the same state, action and key give the same step, again and with and without `vmap`, and
      no attribute of the environment changes.

    What needs a step to be repeated is not checked of an environment with `keeps_state`, such as
    one of Gymnasium.

    A check that takes longer than ten seconds says so on stderr, and what it is doing.

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
    _check_methods(env)
    play_key, start_key = jax.random.split(rlscan.key(0) if key is None else key)
    draw = sample_action or partial(sample, env.action_space())
    with Progress("check_environment") as progress:
        progress.stage = "tracing reset and step"
        like = _check_types(env, draw, play_key)
        before = attributes(env)
        player = Player(env, draw, num_envs, like)
        progress.stage = f"compiling step and playing {num_steps} steps"
        steps = player.play(play_key, num_steps)
        progress.stage = "repeating steps"
        if not getattr(env, "keeps_state", False):
            _check_repeats(env, player, steps, before)
        _check_rewards(steps)
        _check_observations(env, steps)
        _check_final(steps, final_differs)
        _check_time_limit(env, steps)
        if not getattr(env, "keeps_state", False):
            _check_same_step(player, steps)
        progress.stage = "comparing the starts of episodes"
        _check_starts(env, player, steps, start_key, starts_differ)
    terminated = np.asarray(steps.terminated)
    return Seen(int(terminated.sum()), int(np.asarray(steps.truncated).sum()))


def _check_methods(env: Any) -> None:
    """Check that there are the four methods; of spaces, say what a policy's constructor says."""
    wrapped = rlscan.envs.Wrapper(env)
    try:
        wrapped.observation_space()
        wrapped.action_space()
    except TypeError as error:
        raise ConformanceError(str(error)) from error
    for method in ("reset(key)", "step(key, state, action)"):
        is_there = callable(getattr(env, method.partition("(")[0], None))
        required = f"an environment must have the method {method}"
        edit = "help(rlscan.Environment) says what it returns"
        require(is_there, required, f"a {type(env).__name__} without it", edit)


def _check_types(env: Any, draw: Callable, key: Any) -> tuple[Any, Any]:
    """Check the number of values, and their structures, shapes and dtypes, by tracing alone.

    **Returns:** the shapes and dtypes of the observation and the state after a step.
    """
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
        if isinstance(value, bool | int | float):  # a rollout takes it for an array, too
            value = jax.eval_shape(jnp.asarray, value)
        is_one = getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, dtype)
        require(is_one, f"{name} must be one {kind}, of shape ()", value, "Convert it in step")
    has_final = isinstance(info, dict) and "final_observation" in info
    edit = "Put the observation before any reset there, at every step"
    require(has_final, "info must have 'final_observation'", f"{info}", edit)
    # A trace from the state that led to this one would be the same, and long traces take seconds.
    is_same = _types(start) == _types((observation, state))
    again = result if is_same else eqx.filter_eval_shape(env.step, key, state, action)
    _require_same("the observation of step", observation, "reset's", start[0])
    _require_same("the state of step", state, "reset's", start[1])
    _require_same("the second step's observation", again[0], "the first's", observation)
    _require_same("the second step's state", again[1], "the first's", state)
    final = info["final_observation"]
    _require_same("info['final_observation']", final, "the observation's", observation)
    return jax.tree.map(_as_array, (observation, state))


def _as_array(leaf: Any) -> Any:
    """A number's shape and dtype as an array."""
    is_number = isinstance(leaf, bool | int | float)
    return jax.eval_shape(jnp.asarray, leaf) if is_number else leaf


def _types(tree: Any) -> Any:
    """The structure of a tree, and the type of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = [(getattr(x, "dtype", type(x)), getattr(x, "weak_type", None)) for x in leaves]
    return structure, kinds, [getattr(x, "shape", ()) for x in leaves]


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


def _check_rewards(steps: Steps) -> None:
    finite = np.isfinite(np.asarray(steps.reward))
    where = np.argwhere(~finite)
    edit = "Look at divisions and logarithms in step"
    got = f"other rewards at [t, n] = {where[:3]}"
    require(finite.all(), "every reward must be finite", got, edit)


def _check_observations(env: Any, steps: Steps) -> None:
    space = env.observation_space()
    flat, length = steps.flat(), steps.reward.size
    for name, rows in (("observation", flat.observation), ("final observation", flat.final)):
        for i in range(0, length, max(1, length // 256)):
            why = complaint(space, at(plain(rows), i))
            edit = "Widen observation_space(), or clip the observation"
            require(why is None, f"the {name} must be in the observation space", f"it {why}", edit)


def _check_final(steps: Steps, final_differs: bool | None) -> None:
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


def _check_time_limit(env: Any, steps: Steps) -> None:
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


def _check_repeats(env: Any, player: Player, steps: Steps, before: dict[str, Any]) -> None:
    """Refuse an environment that keeps anything outside of the state that it returns.

    `before` are its attributes before it played.
    """
    after = attributes(env)
    changed = sorted(name for name in after if name not in before or before[name] != after[name])
    required = "all that changes must be in the state that reset and step return"
    got = f"{', '.join(changed[:3])}, which changed while the environment played"
    edit = "Keep it in the state, as an array; tracing runs Python code once, not at each step"
    require(not changed, required, got, edit)
    edit = "Keep all that step reads in `state`, as arrays; a simulator on the host cannot keep it"
    some = at(steps.flat(), _some(steps))
    wanted, got = (player.step(some.key, some.state, some.action) for _ in range(2))
    _require_equal("the same state, action and key again", got, wanted, edit)


def _check_same_step(player: Player, steps: Steps) -> None:
    """Repeat some steps without `vmap`: numbers that NumPy drew during tracing differ."""
    flat = steps.flat()
    if player.is_one_program(at(flat, 0)):
        return
    edit = "Draw all random numbers from `key` with jax.random, and keep none in self"
    for step in (at(flat, i) for i in _some(steps)):
        wanted = step.observation, step.state_after, step.reward, step.terminated, step.truncated
        got = player.step_one(step.key, step.state, step.action)[:5]
        _require_equal("the key of a mapped step", got, wanted, edit)


def _some(steps: Steps) -> np.ndarray:
    """The indices of a few of the flat steps, with two that end an episode."""
    done = np.flatnonzero(steps.flat().done)
    return np.unique([*np.linspace(0, steps.reward.size - 1, 8).astype(int), *done[:2]])


def _require_equal(given: str, got: Any, wanted: Any, edit: str) -> None:
    rows = tree_flatten_with_path(plain(got))[0]
    for (path, g), w in zip(rows, jax.tree.leaves(plain(wanted)), strict=True):
        name = f"{_RESULTS[path[0].idx]}{keystr(path[1:])}"
        what = f"the result of a step, {name}, for {given},"
        require_close(what, np.nan_to_num(g), np.nan_to_num(w), edit)


_RESULTS = ("observation", "state", "reward", "terminated", "truncated", "final observation")


# Starts of episodes.


def _check_starts(
    env: Any, player: Player, steps: Steps, key: Any, starts_differ: bool | None
) -> None:
    """Check resets against each other, and the starts after an end against resets."""
    start_key, step_key = jax.random.split(key)
    flat = steps.flat()
    starts = plain(player.reset(jax.random.split(start_key, _NUM_STARTS)))
    varies = any(_varies(x) for x in jax.tree.leaves(starts))
    if starts_differ is None and not varies:  # with a key made inside reset
        starts_differ = "random_seed" in str(jax.make_jaxpr(lambda key: env.reset(key))(start_key))
    edit = "Draw from the key that reset is given, not from one that it creates"
    got = f"the same for {_NUM_STARTS} keys"
    require(varies or not starts_differ, "another key must give another start", got, edit)
    done = np.flatnonzero(flat.done)
    if not len(done):
        return
    after = jax.device_get(at(plain((flat.observation, flat.state_after)), done))
    _check_resets_after_ends(starts, after, varies, len(done))
    if not getattr(env, "keeps_state", False):
        _check_forgets(player, at(flat, done[:_NUM_STARTS]), step_key)


def _check_resets_after_ends(starts: Any, after: Any, varies: bool, num_ends: int) -> None:
    """Check that the leaves that are constant over resets, and only those, are so after an end."""
    leaves = zip(tree_flatten_with_path(starts)[0], jax.tree.leaves(after), strict=True)
    for (path, start), x in leaves:
        if not _varies(start):
            what = f"after an end, {_leaf_name(path)}, which is the same in all resets,"
            edit = "Return the observation and state of a new reset when the episode ends"
            wanted = np.broadcast_to(np.asarray(start[:1]), x.shape)
            require_close(what, x, wanted, edit)
    also_varies = any(_varies(x) for x in jax.tree.leaves(after))
    edit = "Reset with a key derived from the step's"
    got = f"the same after {num_ends} ends"
    required = "a start must differ from episode to episode, as resets do"
    require(also_varies or not varies or num_ends < 8, required, got, edit)


def _check_forgets(player: Player, ends: Steps, key: Any) -> None:
    """Check that steps that end, from different states but with one key, lead to one start."""
    keys = jnp.broadcast_to(key, ends.reward.shape)
    result = player.step(keys, ends.state, ends.action)
    observation, state, _, terminated, truncated, _ = jax.device_get(plain(result))
    after, done = (observation, state), terminated | truncated
    for path, x in tree_flatten_with_path(after)[0]:
        x = x[done]
        what = f"{_leaf_name(path)} after an end, from several states with one key,"
        edit = "A start must depend on the key alone, and keep nothing of the last episode"
        require_close(what, x, np.broadcast_to(x[:1], x.shape), edit)


def _varies(x: Any) -> bool:
    x = np.asarray(x)
    return bool((x != x[:1]).any())


def _leaf_name(path: Any) -> str:
    return ("the observation", "the state")[path[0].idx] + keystr(path[1:])
