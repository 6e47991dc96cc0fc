"""Steps per second of one whole PPO update: rollout, values, advantages, and the epochs over them.

`rlscan.update` jitted, of the same policy with dropout and in inference mode. Each run starts from
the same state. Loops are split over the cores, or not, as in `scripts/train.py`, which does without
by having one thread; one contestant has it the other way round.
"""

from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._subject import WIDTH, subject
from benchmarks._timing import interleaved
from rlscan._core.cpu import WHOLE_LOOPS, splitting_pays

# A size is its name, which claims are made of, and its settings.
SIZES = {
    "N = 4, T = 128": rlscan.PPOConfig(num_envs=4, num_steps=128),
    "N = 64, T = 128": rlscan.PPOConfig(num_envs=64, num_steps=128),
    "N = 1024, T = 128": rlscan.PPOConfig(num_envs=1024, num_steps=128, num_minibatches=8),
}
SMOKE_SIZES = {"N = 4, T = 8": rlscan.PPOConfig(num_envs=4, num_steps=8)}

MEANINGS = {
    "no dropout": "an update of the policy in inference mode",
    "dropout": "an update with dropout, its masks replayed in every epoch",
    "dropout, otherwise": "the same, its loops split over the cores where they are whole, or whole",
}

COMPARISONS = (
    Comparison("dropout", "no dropout", "what dropout costs", dict.fromkeys(SIZES, 0.8)),
    Comparison("dropout", "dropout, otherwise", "what loops gain that are split, or not, by size"),
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
    return Result(f"{ours.description}, 4 epochs of {minibatches}", lines)


def as_scripts_do(names: Iterable[str], config: rlscan.PPOConfig) -> dict[str, dict[str, str]]:
    """Options of XLA for each contestant."""
    is_split = splitting_pays(config.num_envs * config.num_steps // config.num_minibatches, WIDTH)
    return {
        name: {} if is_split != (name == "dropout, otherwise") else WHOLE_LOOPS for name in names
    }


def one_update(
    policy: rlscan.Policy, env: rlscan.Environment, config: rlscan.PPOConfig
) -> tuple[Callable, tuple]:
    numbers = config.as_arrays()  # as the trainer has them

    def update(state: rlscan.TrainState, num_updates: jax.Array) -> tuple:
        return rlscan.update(state, env, numbers, num_updates=num_updates)

    state = rlscan.init_train(policy, env, config, key=rlscan.key(0))
    return update, (state, jnp.asarray(100))


BENCHMARK = Benchmark(
    name="training",
    measures="steps per second of a whole PPO update, with dropout and without",
    minutes=1.5,
    run=run,
    comparisons=COMPARISONS,
    takes_own=True,
)
