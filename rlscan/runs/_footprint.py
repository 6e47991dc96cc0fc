"""How much memory a run takes, from the shapes alone; and whether the machine has it."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._core.tree import is_shape
from .._core.types import PyTree
from .._rollout.rollout import rollout
from ..nn._trainable import partition_trainable
from ..ppo._train import count_updates
from ..ppo._update import init_train
from ..random._keys import key as make_key
from ._build import build_env, build_policy, members
from ._config import Config
from ._policy_config import PolicyConfig, is_recurrent_kind

_PROGRAM = 2**29  # bytes that Python, JAX and compiled programs take by themselves


_CHUNK = 8192  # rows that values are replayed in at once


_FUSED = 0.24  # of a forward call, what is there at once; measured, see `footprint`


class Footprint(NamedTuple):
    """What a run takes, in bytes but for the first two."""

    num_parameters: int  # of one policy
    num_updates: int
    bytes_per_transition: float  # of a trajectory: one step of one environment
    state: int  # policy, optimiser and environments, before and after an update
    rollout: int  # trajectory, values and advantages, and their shuffled copy
    update: int  # what a minibatch keeps for its gradient

    @property
    def total(self) -> int:
        """At the peak, beside the program itself."""
        return self.state + self.rollout + self.update


def footprint(config: Config) -> Footprint:
    """What a run will take: nothing is compiled and nothing computed.

    With S bytes of state, b bytes per transition, T steps, N environments, M minibatches, R runs:
    R · (2 S + 2 T N (b + 12) + 0.24 B a), where B = max(T N / M, min(T N, 8192)) rows are in work
    at once, and a is the bytes of all intermediate values of the policy's call for one observation.
    Of these a process on a CPU took 0.18 to 0.27 at once (minibatches of 32,768 rows and more, MLPs
    of 64 to 256 units), 0.20 with a transformer, and 0.30 with a GRU.

    **Arguments:**

    - `config`: of the run.
    """
    env, ppo, num_runs = build_env(config.env), config.ppo, len(members(config))

    def start() -> Any:
        key = make_key(0, generator=config.generator)
        policy = build_policy(config, env, key=key)
        state = init_train(policy, env, ppo, key=jax.random.clone(key))
        return state, partition_trainable(policy)[0]

    state, parameters = eqx.filter_eval_shape(start)
    roll = partial(rollout, num_steps=ppo.num_steps, key_schedule=ppo.key_schedule)
    _, trajectory = eqx.filter_eval_shape(roll, state.policy, env, state.rollout_state)
    num_steps = ppo.num_steps * ppo.num_envs
    rows = max(num_steps // ppo.num_minibatches, min(num_steps, _CHUNK))
    return Footprint(
        num_parameters=sum(x.size for x in jax.tree.leaves(parameters)),
        num_updates=count_updates(config.total_steps, ppo),
        bytes_per_transition=_num_bytes(trajectory) / num_steps,
        state=num_runs * 2 * _num_bytes(state),
        rollout=num_runs * 2 * (_num_bytes(trajectory) + 12 * num_steps),
        update=num_runs * int(rows * _call_bytes(state) * _FUSED),
    )


def check_memory(config: Config) -> None:
    """Raises `ValueError` if a run cannot fit. What is small at a glance is not looked at."""
    of_step, of_env = _at_a_glance(config.policy)
    num_envs = len(members(config)) * config.ppo.num_envs
    is_small = num_envs * (config.ppo.num_steps * max(128, of_step) + of_env) < 2**26
    if is_small and max(config.policy.hidden_sizes, default=0) < 4096:
        return  # below 2 GB
    needed, there = footprint(config).total + _PROGRAM, device_memory()
    if there is not None and needed > there:
        raise ValueError(
            f"the run needs about {format_bytes(needed)} of memory, but there are "
            f"{format_bytes(there)}; use smaller ppo.num_envs, ppo.num_steps or "
            "policy.hidden_sizes, more ppo.num_minibatches, or fewer runs side by side"
        )


def _at_a_glance(policy: PolicyConfig) -> tuple[int, int]:
    """Some numbers that a policy works out for a step, and those of its states for an environment:
    now, before the rollout, and in what is kept of truncated episodes, twice."""
    units = sum(policy.hidden_sizes)
    if policy.kind == "transformer":
        width, length = policy.embed_size, policy.context_length
        in_block = 12 * width + policy.num_heads * length
        return policy.num_layers * in_block, 6 * policy.num_layers * 2 * width * length
    of_cell = policy.hidden_size if is_recurrent_kind(policy) else 0
    return units + 8 * of_cell, 6 * 2 * of_cell


def device_memory() -> int | None:
    """Bytes of memory, all devices together, of which a run may use all; `None` if unknown."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
        return None if None in limits else sum(limit for limit in limits if limit)
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        with contextlib.suppress(ValueError, OSError):
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limits, default=None)


def dry_run(config: Config) -> Iterator[str]:
    """What `--dry-run` says, line by line."""
    found, ppo = footprint(config), config.ppo
    num_runs, there = len(members(config)), device_memory()
    runs = f"{num_runs} runs of " if num_runs > 1 else ""
    yield f"parameters            {found.num_parameters:,}"
    yield (
        f"updates               {runs}{found.num_updates:,} of {ppo.num_envs * ppo.num_steps:,} "
        f"steps, {ppo.num_epochs * ppo.num_minibatches} gradient steps each"
    )
    yield f"bytes per transition  {found.bytes_per_transition:.1f}"
    yield (
        f"estimated memory      {format_bytes(found.total)}: state {format_bytes(found.state)}, "
        f"rollout {format_bytes(found.rollout)}, update {format_bytes(found.update)}; "
        f"and about {format_bytes(_PROGRAM)} of the program itself"
    )
    yield f"memory there          {format_bytes(there) if there else 'unknown'}"


def format_bytes(number: int | float) -> str:
    """`3.2 MB`: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _num_bytes(tree: PyTree) -> int:
    return sum(_leaf_bytes(x) for x in jax.tree.leaves(eqx.filter(tree, is_shape)))


def _leaf_bytes(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize


def _call_bytes(state: Any) -> int:
    """Of all intermediate values of the policy's call for one observation."""
    one = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if is_shape(x) else x,
        state.rollout_state,
    )
    arrays, rest = eqx.partition(state.policy, is_shape)

    def call(arrays: PyTree, observation: PyTree, policy_state: PyTree, key: Any) -> Any:
        policy = eqx.combine(arrays, rest)
        distribution, value, after = policy(observation, policy_state, key=key)
        return distribution.sample(seed=jax.random.clone(key)), value, after

    jaxpr = jax.make_jaxpr(call)(arrays, one.observation, one.policy_state, one.policy_key)
    return _jaxpr_bytes(jaxpr.jaxpr)


def _jaxpr_bytes(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(p, "jaxpr", p) for p in equation.params.values()]
        inner = [p for p in inner if hasattr(p, "eqns")]
        if inner:
            total += sum(map(_jaxpr_bytes, inner))
        else:
            total += sum(_leaf_bytes(v.aval) for v in equation.outvars if hasattr(v.aval, "dtype"))
    return total
