"""`footprint`: the memory that a run takes, computed from shapes, and whether it fits."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax

from .._core.tree import is_shape, tree_bytes
from .._core.types import Environment, Policy, PyTree
from .._rollout.blocks import BLOCK
from .._rollout.rollout import init_rollout, rollout
from .._rollout.state import RolloutState
from ..nn._trainable import partition_trainable
from ..ppo._algorithm import count_updates, steps_per_update
from ..ppo._train import first_state
from ..ppo._update import init_train
from ..random._keys import key as make_key
from ._build import build_algorithm, build_env, build_policy, members
from ._component import is_own
from ._config import Config
from ._policy_config import KINDS, PolicyConfig, settings_of

_PROGRAM = 2**29  # bytes taken by Python, JAX and compiled programs themselves


# The shares of a forward call's intermediate values that are in memory at the same time, because
# XLA fuses operations and frees early: of those without dropout, and of those that dropout adds.
# They are measured, see `footprint`.
_FUSED, _FUSED_NOISE = 0.37, 0.09


class Footprint(NamedTuple):
    """The size of a run. All fields but the first two are in bytes."""

    num_parameters: int  # trainable numbers of one policy
    num_updates: int
    bytes_per_transition: float  # one step of one environment, as a trajectory stores it
    state: int  # policy, optimiser and environments, before and after an update
    rollout: int  # trajectory, values and advantages, and their shuffled copy
    update: int  # values that a minibatch keeps for its gradient
    evaluation: int  # all episodes of an evaluation, between updates

    @property
    def total(self) -> int:
        """The peak, without the program itself."""
        return self.state + max(self.rollout + self.update, self.evaluation)


def footprint(config: Config) -> Footprint:
    """Estimate the memory that a run will take, without compiling or computing anything.

    With S bytes of state, b bytes per transition, T steps, N environments, M minibatches and R
    runs, the estimate is R · (2 S + 2 T N (b + 12) + B (0.37 a + 0.09 m)). Here B = max(T N / M,
    min(T N, 8192)) is the number of rows computed at once, a is the size of all intermediate values
    of the policy's call for one observation in inference mode, and m is what dropout adds to it.

    The factors stand for the parts of a and m that are in memory at once. On a CPU they were
    measured for MLPs of two layers of 256 units, with rates of 0, 0.1 and 0.5. An evaluation
    between updates may take more than an update, and counts in its place then, see
    `evaluation_bytes`.

    **Arguments:**

    - `config`: the config of the run.
    """
    env, ppo, num_runs = build_env(config), config.ppo, len(members(config))

    def start() -> Any:
        key = make_key(0, generator=config.generator)
        policy = build_policy(config, env, key=key)
        state = init_train(policy, env, ppo, key=jax.random.clone(key))
        return state, partition_trainable(policy)[0]

    state, parameters = eqx.filter_eval_shape(start)
    roll = partial(rollout, num_steps=ppo.num_steps, key_schedule=ppo.key_schedule)
    _, trajectory = eqx.filter_eval_shape(roll, state.policy, env, state.rollout_state)
    num_steps = ppo.num_steps * ppo.num_envs
    rows = max(num_steps // ppo.num_minibatches, min(num_steps, BLOCK))
    num_episodes = config.eval_episodes if config.eval_interval else 0
    return Footprint(
        num_parameters=sum(x.size for x in jax.tree.leaves(parameters)),
        num_updates=count_updates(config.total_steps, ppo),
        bytes_per_transition=tree_bytes(trajectory) / num_steps,
        state=num_runs * 2 * tree_bytes(state),
        rollout=num_runs * 2 * (tree_bytes(trajectory) + 12 * num_steps),
        update=num_runs * int(rows * _live_bytes(state.policy, state.rollout_state)),
        evaluation=num_runs * evaluation_bytes(state.policy, env, num_episodes),
    )


def evaluation_bytes(
    policy: Policy,
    env: Environment,
    num_episodes: int,
    *,
    max_steps: int | None = None,
    num_masks: int = 0,
) -> int:
    """Estimate the memory that `rlscan.evaluate` takes, from shapes.

    With E episodes of at most T steps and K masks, it is E · (2 s + 5 T + c (K + 1) + o T) bytes: s
    is the state of an episode and of its K networks, c what a call keeps in memory, see
    `footprint`, and o its outputs, whose spread is kept if there are masks.
    """
    start = partial(init_rollout, num_envs=1, key=make_key(0))
    state: RolloutState = eqx.filter_eval_shape(start, policy, env)
    steps = max_steps or getattr(env, "time_limit", None) or 0
    per_step = 5  # the reward, and whether the episode is going on
    if num_masks:
        per_step += tree_bytes(eqx.filter_eval_shape(_outputs, policy, *_one(state)))
    networks = num_masks * tree_bytes(state.policy_state)
    call = (num_masks + 1) * _live_bytes(policy, state)
    return num_episodes * int(2 * (tree_bytes(state) + networks) + steps * per_step + call)


def require_memory(needed: int, hint: str, what: str = "the run") -> None:
    """Raise `ValueError` if more memory is needed, with the program itself, than there is."""
    needed, there = needed + _PROGRAM, device_memory()
    if there is not None and needed > there:
        raise ValueError(
            f"{what} needs about {format_bytes(needed)} of memory, but there are "
            f"{format_bytes(there)}; use {hint}"
        )


def check_memory(config: Config) -> None:
    """Raise `ValueError` if a run cannot fit. A run that is obviously small is not examined.

    What an algorithm other than PPO takes is not known.
    """
    if config.algorithm is not None:
        return
    per_step, per_env = _rough_counts(config.policy)
    num_runs = len(members(config))
    num_envs, num_episodes = num_runs * config.ppo.num_envs, num_runs * config.eval_episodes
    is_small = num_envs * (config.ppo.num_steps * max(128, per_step) + per_env) < 2**26
    is_small &= num_episodes * (max(128, per_step) + per_env) < 2**24 or not config.eval_interval
    is_known = is_own(config.policy.class_path) and config.env.class_path is None
    sizes = settings_of(config.policy).get("hidden_sizes", ())
    if is_known and is_small and max([config.env.frame_stack * 40, *sizes]) < 4096:
        return  # below 2 GB
    hint = (
        "smaller ppo.num_envs, ppo.num_steps or policy.hidden_sizes, more ppo.num_minibatches, or "
        "fewer runs side by side"
    )
    found = footprint(config)
    if found.evaluation > found.rollout + found.update:
        hint = "fewer eval_episodes"
    require_memory(found.total, hint)


def _rough_counts(policy: PolicyConfig) -> tuple[int, int]:
    """Count roughly the numbers that a policy computes per step and stores per environment.

    Six copies of its state are stored: the current one, the one before the rollout, and those of
    truncated episodes, each of them twice.
    """
    settings = settings_of(policy)
    units = sum(settings.get("hidden_sizes", ()))
    if policy.class_path == KINDS["transformer"][0]:
        width, length = settings["embed_size"], settings["context_length"]
        in_block = 12 * width + settings["num_heads"] * length
        return settings["num_layers"] * in_block, 6 * settings["num_layers"] * 2 * width * length
    cell = settings.get("hidden_size", 0)
    return units + 8 * cell, 6 * 2 * cell


def device_memory() -> int | None:
    """The number of bytes of memory on all devices together; `None` if it is unknown."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
        return None if None in limits else sum(limit for limit in limits if limit)
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # the limit of a container
        with contextlib.suppress(ValueError, OSError):
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limits, default=None)


def dry_run(config: Config) -> Iterator[str]:
    """The lines that `--dry-run` prints."""
    if config.algorithm is not None:
        yield from _dry_run_of_algorithm(config)
        return
    found, ppo = footprint(config), config.ppo
    num_runs, there = len(members(config)), device_memory()
    runs = f"{num_runs} runs of " if num_runs > 1 else ""
    evaluation = f", evaluation {format_bytes(found.evaluation)}" if found.evaluation else ""
    yield f"parameters            {found.num_parameters:,}"
    yield (
        f"updates               {runs}{found.num_updates:,} of {ppo.num_envs * ppo.num_steps:,} "
        f"steps, {ppo.num_epochs * ppo.num_minibatches} gradient steps each"
    )
    yield f"bytes per transition  {found.bytes_per_transition:.1f}"
    yield (
        f"estimated memory      {format_bytes(found.total)}: state {format_bytes(found.state)}, "
        f"rollout {format_bytes(found.rollout)}, update {format_bytes(found.update)}"
        f"{evaluation}; and about {format_bytes(_PROGRAM)} for the program itself"
    )
    yield f"available memory      {format_bytes(there) if there else 'unknown'}"


def _dry_run_of_algorithm(config: Config) -> Iterator[str]:
    """The size of a run of another algorithm than PPO; how much its updates take is not known."""
    env, algorithm = build_env(config), build_algorithm(config)
    key = make_key(0, generator=config.generator)
    policy = partial(build_policy, config, env)
    state = eqx.filter_eval_shape(lambda: first_state(policy, env, algorithm, key))
    per_update, there = steps_per_update(algorithm), device_memory()
    num_updates = count_updates(config.total_steps, algorithm)
    yield f"updates               {num_updates:,} of {per_update:,} steps"
    yield f"memory of the state   {format_bytes(tree_bytes(state))}"
    yield f"available memory      {format_bytes(there) if there else 'unknown'}"


def format_bytes(number: int | float) -> str:
    """Format a number of bytes with a decimal unit, such as `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _outputs(policy: Any, observation: PyTree, policy_state: PyTree, key: Any) -> Any:
    distribution, value, after = policy(observation, policy_state, key=key)
    return distribution.sample(seed=jax.random.clone(key)), value, after


def _one(batch: RolloutState) -> tuple[PyTree, PyTree, PyTree]:
    """The shapes of what the policy is called with, for one environment."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if is_shape(x) else x,
        (batch.observation, batch.policy_state, batch.policy_key),
    )


def _live_bytes(policy: Policy, batch: RolloutState) -> float:
    """What is in memory at once of the intermediate values of the policy's call."""
    plain = _call_bytes(eqx.nn.inference_mode(policy), batch)
    noise = max(_call_bytes(policy, batch) - plain, 0)
    return _FUSED * plain + _FUSED_NOISE * noise


def _call_bytes(policy: Policy, batch: RolloutState) -> int:
    """The size of all intermediate values of the policy's call for one observation."""
    return _jaxpr_bytes(eqx.filter_make_jaxpr(_outputs)(policy, *_one(batch))[0].jaxpr)


def _jaxpr_bytes(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(p, "jaxpr", p) for p in equation.params.values()]
        inner = [p for p in inner if hasattr(p, "eqns")]
        if inner:
            total += sum(map(_jaxpr_bytes, inner))
        else:
            results = [v.aval for v in equation.outvars if hasattr(v.aval, "dtype")]
            total += sum(x.size * x.dtype.itemsize for x in results)
    return total
