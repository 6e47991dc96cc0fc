"""The measurement of a point in a separate process: speed and memory.

There are three programs: a rollout with dropout, one of the same policy in inference mode, and a
PPO update with dropout. Memory is stated in three ways that can be compared: by `transition_bytes`;
by XLA, as the results and the temporary memory of a compiled program; and by the system, as the
rise of the process's resident memory during a call.
"""

import ctypes
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import rlscan
from benchmarks._timing import compile_program, time_call
from benchmarks.growth.points import ENV, NUM_MINIBATCHES, Point

MOST_ROUNDS = 41


def main(point: Point, seconds: float) -> None:
    """Measure a point, and print its figures as JSON."""
    rlscan.configure_cpu()  # as the scripts do
    jax.config.update("jax_enable_compilation_cache", False)  # otherwise nothing is compiled
    print(json.dumps(measure(point, seconds)))


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """Measure a point; each kind of program is timed for `seconds` or somewhat longer."""
    functions, args = programs(point)
    compiled, compile_seconds = {}, {}
    for name, function in functions.items():
        compiled[name], trace, xla = compile_program(function, args)
        compile_seconds[name] = trace + xla
    figures: dict[str, Any] = {"compile_seconds": compile_seconds}
    for name, program in compiled.items():
        figures[f"{name}_memory"] = memory_of(program, args)
    rollouts = {name: compiled[name] for name in ("rollout", "rollout_without")}
    runs = in_turn(rollouts, args, seconds, at_least=5)
    runs |= in_turn({"update": compiled["update"]}, args, seconds, at_least=3)
    figures |= {f"{name}_seconds": values for name, values in runs.items()}

    state, trajectory = compiled["rollout"](*args)
    figures["trajectory_bytes"], figures["state_bytes"] = nbytes(trajectory), nbytes(state)
    figures["told_bytes"] = told_bytes(point)
    return _rounded(figures)


def programs(point: Point) -> tuple[dict[str, Callable], tuple]:
    """The functions by name, and the arguments of all of them."""
    env = rlscan.make(ENV)
    config = rlscan.ppo.PPOConfig(
        num_envs=point.num_envs, num_steps=point.num_steps, num_minibatches=NUM_MINIBATCHES
    )
    numbers = config.as_arrays()  # as in the trainer

    def start(key: jax.Array) -> rlscan.ppo.TrainState:
        policy_key, train_key = jax.random.split(key)
        return rlscan.ppo.init_train(make_policy(point, policy_key), env, config, key=train_key)

    def act(policy: rlscan.Policy, state: rlscan.ppo.TrainState) -> tuple:
        return rlscan.rollout(policy, env, state.rollout_state, point.num_steps)

    functions: dict[str, Callable] = {
        "rollout": lambda state: act(state.policy, state),
        "rollout_without": lambda state: act(eqx.nn.inference_mode(state.policy), state),
        "update": lambda state: rlscan.ppo.update(
            state, env, numbers, num_updates=jnp.asarray(100)
        ),
    }
    if point.num_seeds is None:
        return functions, (start(rlscan.key(0)),)
    keys = jax.random.split(rlscan.key(0), point.num_seeds)
    mapped: dict[str, Callable] = {name: eqx.filter_vmap(f) for name, f in functions.items()}
    return mapped, (eqx.filter_jit(eqx.filter_vmap(start))(keys),)


def make_policy(point: Point, key: jax.Array) -> rlscan.policies.ActorCritic:
    return rlscan.policies.ActorCritic(
        rlscan.make(ENV), hidden_sizes=(point.width, point.width), dropout=point.dropout, key=key
    )


def told_bytes(point: Point) -> int:
    """A trajectory's bytes according to `rlscan.transition_bytes`."""
    policy = make_policy(point, rlscan.key(0))
    each = rlscan.transition_bytes(policy, rlscan.make(ENV), point.num_steps)
    return round(each * point.steps)  # an integer but for the rounding of floats


def nbytes(tree: Any) -> int:
    """Bytes of all arrays in a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))


def in_turn(
    compiled: dict[str, Any], args: tuple, seconds: float, at_least: int
) -> dict[str, list[float]]:
    """Run programs in turn for some time, but at least so often; the seconds of each run."""
    runs: dict[str, list[float]] = {name: [] for name in compiled}
    start = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= at_least and time.perf_counter() - start > seconds:
            break
        for name, program in compiled.items():
            runs[name].append(time_call(program, args))
    return runs


def memory_of(program: Any, args: tuple) -> dict[str, float]:
    """Bytes of a program: results, temporary memory, and the rise of the process's memory.

    The rise is measured over a call, with its results still held.
    """
    analysis = program.compiled.memory_analysis()
    time_call(program, args)  # a first call also sets up what later calls share
    return {
        "output_bytes": analysis.output_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
        "peak_bytes": rise(lambda: jax.block_until_ready(program(*args))),
    }


def rise(call: Callable[[], Any]) -> float:
    """The rise of the resident memory during a call, in bytes; NaN if the system does not tell."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # free memory kept by the C library would hide the rise
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _resident("VmRSS")
        call()
        return _resident("VmHWM") - before
    except OSError:
        return float("nan")


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * float(line.split()[1])
    return float("nan")


def _rounded(value: Any) -> Any:
    """Round to six digits, which is more than is known; null for NaN; integers as they are."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if value == value else None
