"""Steps per second with one thread, and with one for each core, which is JAX's default.

JAX fixes the number of threads when it first runs, so the two are processes that work in turn.
`scripts/train.py` chooses by the size of a minibatch times the widest layer.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

import jax

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._subject import subject
from benchmarks._timing import Timing, compile_program, temporary_bytes, time_call
from benchmarks.devices import rollout
from benchmarks.training import one_update

MEANINGS = {
    "rollout, one thread": "rlscan.rollout with dropout, by one thread",
    "rollout, per core": "the same by a thread for each core, JAX's default",
    "update, one thread": "a whole PPO update with dropout, by one thread",
    "update, per core": "the same by a thread for each core",
}

COMPARISONS = (
    Comparison("rollout, one thread", "rollout, per core", "what one thread gains in a rollout"),
    Comparison("update, one thread", "update, per core", "what it gains in a whole update"),
)

BY_HAND = "NPROC"  # the variable that sets XLA's number of threads


def run(settings: Settings) -> Result:
    if jax.default_backend() != "cpu":
        return Result("left out, because JAX does not compute on a CPU", [])
    if BY_HAND in os.environ:
        return Result(f"left out, because {BY_HAND} sets the number of threads", [])
    num_steps, sizes = (8, (4,)) if settings.smoke else (128, (4, 16, 32, 64))
    lines = []
    for num_envs in sizes:
        config = rlscan.ppo.PPOConfig(num_envs=num_envs, num_steps=num_steps)
        for name, timing in in_processes(settings, config).items():
            figures = figures_of(timing, num_steps=num_envs * num_steps)
            lines.append(Line(name, f"N = {num_envs}", MEANINGS[name], figures))
    return Result(
        f"{subject(settings).description}, T = {num_steps}, 4 epochs, 4 minibatches", lines
    )


def in_processes(settings: Settings, config: rlscan.ppo.PPOConfig) -> dict[str, Timing]:
    """Time rollouts in turn, then updates, in the two processes."""
    timings: dict[str, Timing] = {}
    with ExitStack() as stack:
        processes = {
            threads: stack.enter_context(process(is_one))
            for threads, is_one in {"one thread": True, "per core": False}.items()
        }
        for kind in ("rollout", "update"):
            for threads, its in processes.items():
                timings[f"{kind}, {threads}"] = its.submit(prepare, kind, settings, config).result()
            for _ in range(settings.repeats):
                for threads, its in processes.items():
                    timings[f"{kind}, {threads}"].runs.append(its.submit(run_once).result())
    return timings


def process(one_thread: bool) -> ProcessPoolExecutor:
    """Start a process that runs what is submitted."""
    return ProcessPoolExecutor(1, get_context("spawn"), configure, (one_thread,))


# The functions below are called in such a process.

_prepared: Any = None  # the program and its arguments, from one call to the next


def configure(one_thread: bool) -> None:
    rlscan.configure_cpu(num_devices=1, one_thread=one_thread)
    jax.config.update("jax_enable_compilation_cache", False)  # otherwise nothing is compiled


def prepare(kind: str, settings: Settings, config: rlscan.ppo.PPOConfig) -> Timing:
    """Compile a program, and run it once."""
    global _prepared
    ours = subject(settings)
    if kind == "update":
        function, args = one_update(ours.policy, ours.env, config)
    else:
        function, args = rollout(ours, config.num_envs, config.num_steps, mesh=None)
    program, trace, xla = compile_program(function, args)
    _prepared = program, args
    return Timing(trace, xla, time_call(program, args), [], temporary_bytes(program))


def run_once() -> float:
    return time_call(*_prepared)


BENCHMARK = Benchmark(
    name="threads",
    measures="what one thread gains if there is little to do",
    minutes=1.5,
    run=run,
    comparisons=COMPARISONS,
    takes_own=True,
)
