"""Steps per second of one whole PPO update, and of the training loop around it.

An update is rollout, values, advantages, and the epochs over them: `rlscan.ppo.update` jitted, for
the same policy with dropout and in inference mode. Each run starts from the same state. Loops are
split over the cores, or not, as in `scripts/train.py`, which chooses one thread instead; one
contestant has the opposite options.

The loop is the public generator `rlscan.train`, beside `rlscan.ppo.train_scan` jitted as one
program for the same updates. Both start from the same key, and compiling is timed apart.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._subject import WIDTH, Subject, subject
from benchmarks._timing import Timing, compile_program, interleaved, temporary_bytes, time_call
from rlscan._core.cpu import WHOLE_LOOPS, splitting_pays
from rlscan.ppo._train import Training

# Sizes by name; claims refer to the names.
SIZES = {
    "N = 4, T = 128": rlscan.ppo.PPOConfig(num_envs=4, num_steps=128),
    "N = 64, T = 128": rlscan.ppo.PPOConfig(num_envs=64, num_steps=128),
    "N = 1024, T = 128": rlscan.ppo.PPOConfig(num_envs=1024, num_steps=128, num_minibatches=8),
}
SMOKE_SIZES = {"N = 4, T = 8": rlscan.ppo.PPOConfig(num_envs=4, num_steps=8)}

# For the loop: a config, and the number of updates in a run, several calls of its program.
LOOPS = {
    "N = 4, T = 128": (SIZES["N = 4, T = 128"], 384),
    "N = 16, T = 128": (rlscan.ppo.PPOConfig(num_envs=16, num_steps=128), 192),
    "N = 64, T = 128": (SIZES["N = 64, T = 128"], 64),
    "N = 1024, T = 128": (SIZES["N = 1024, T = 128"], 4),
}
SMOKE_LOOPS = {name: (config, 3) for name, config in SMOKE_SIZES.items()}

MEANINGS = {
    "no dropout": "an update of the policy in inference mode",
    "dropout": "an update with dropout, its masks replayed in every epoch",
    "dropout, otherwise": "the same with the opposite choice of whether loops are split over cores",
    "train": "rlscan.train with dropout, metrics of every update handed over",
    "train_scan": "rlscan.ppo.train_scan with dropout, all updates in one program",
}

COMPARISONS = (
    Comparison("dropout", "no dropout", "what dropout costs", dict.fromkeys(SIZES, 0.8)),
    Comparison("dropout", "dropout, otherwise", "the gain of choosing by size whether to split"),
    Comparison("train", "train_scan", "what the loop costs", dict.fromkeys(LOOPS, 0.95)),
)


def run(settings: Settings) -> Result:
    ours = subject(settings)
    quiet = {"no dropout": eqx.nn.inference_mode(ours.policy)} if ours.has_switch else {}
    policies = {**quiet, "dropout": ours.policy, "dropout, otherwise": ours.policy}
    minibatches = "4 minibatches" if settings.smoke else "4 minibatches (8 at N = 1024)"
    lines = []
    for size, config in (SMOKE_SIZES if settings.smoke else SIZES).items():
        updates = {name: one_update(p, ours.env, config) for name, p in policies.items()}
        num_steps = config.num_envs * config.num_steps
        options = as_scripts_do(policies, config)
        timings = interleaved(updates, repeats=settings.repeats, options=options)
        for name, timing in timings.items():
            lines.append(Line(name, size, MEANINGS[name], figures_of(timing, num_steps=num_steps)))
    for size, (config, num_updates) in (SMOKE_LOOPS if settings.smoke else LOOPS).items():
        num_steps = num_updates * config.num_envs * config.num_steps
        timings = time_loops(ours, config, num_updates, settings.repeats)
        for name, timing in timings.items():
            lines.append(Line(name, size, MEANINGS[name], figures_of(timing, num_steps=num_steps)))
    return Result(f"{ours.description}, 4 epochs of {minibatches}", lines)


def time_loops(
    ours: Subject, config: rlscan.ppo.PPOConfig, num_updates: int, repeats: int
) -> dict[str, Timing]:
    """Time whole runs of so many updates in turn: by `train`, and by `train_scan`."""
    total_steps = num_updates * config.num_envs * config.num_steps
    key = rlscan.key(0)

    def one_program(policy: rlscan.Policy, key: jax.Array) -> tuple:
        return rlscan.ppo.train_scan(policy, ours.env, config, total_steps=total_steps, key=key)

    compiled, trace, xla = compile_program(one_program, (ours.policy, key))
    first_call = time_call(compiled, (ours.policy, key))
    scan = Timing(trace, xla, first_call, [], temporary_bytes(compiled))

    jax.clear_caches()  # otherwise the generator finds traces of the other
    start = time.perf_counter()
    training = rlscan.train(ours.policy, ours.env, config, total_steps=total_steps, key=key)
    trace = time.perf_counter() - start
    start = time.perf_counter()
    training.compile()
    xla = time.perf_counter() - start
    train = Timing(trace, xla, time_updates(training), [], math.nan)
    for _ in range(repeats):
        scan.runs.append(time_call(compiled, (ours.policy, key)))
        train.runs.append(time_updates(training))
    return {"train": train, "train_scan": scan}


def time_updates(training: Training) -> float:
    """Seconds of a whole run from its first state, until its results are computed."""
    again = copy.copy(training)  # it starts from the first state, with the compiled program
    start = time.perf_counter()
    for _, _metrics in again:
        pass
    jax.block_until_ready(again.state)
    return time.perf_counter() - start


def as_scripts_do(names: Iterable[str], config: rlscan.ppo.PPOConfig) -> dict[str, dict[str, str]]:
    """XLA's options for each contestant."""
    is_split = splitting_pays(config.num_envs * config.num_steps // config.num_minibatches, WIDTH)
    return {
        name: {} if is_split != (name == "dropout, otherwise") else WHOLE_LOOPS for name in names
    }


def one_update(
    policy: rlscan.Policy, env: rlscan.Environment, config: rlscan.ppo.PPOConfig
) -> tuple[Callable, tuple]:
    numbers = config.as_arrays()  # as in the trainer

    def update(state: rlscan.ppo.TrainState, num_updates: jax.Array) -> tuple:
        return rlscan.ppo.update(state, env, numbers, num_updates=num_updates)

    state = rlscan.ppo.init_train(policy, env, config, key=rlscan.key(0))
    return update, (state, jnp.asarray(100))


BENCHMARK = Benchmark(
    name="training",
    measures="steps per second of a whole PPO update with and without dropout, and of `train`",
    minutes=3,
    run=run,
    comparisons=COMPARISONS,
    takes_own=True,
)
