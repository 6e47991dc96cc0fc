"""Steps per second with the environments on one device of the host, and split over two.

Each program is compiled with the options of `rlscan.configure_cpu(num_devices=…)`: XLA splits loops
over the cores, unless each core is a device. Two contestants have the opposite options.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._subject import Subject, subject
from benchmarks._timing import interleaved
from rlscan._core.cpu import WHOLE_LOOPS

MEANINGS = {
    "rollout, one device": "rlscan.rollout with dropout, without a mesh",
    "rollout, two devices": "the same environments, keys and masks, half of them on each",
    "one device, whole loops": "the first, with loops that are not split over the cores",
    "two devices, split loops": "the second, with loops that are split over the cores",
    "update, one device": "a PPO update with dropout, 8 minibatches, without a mesh",
    "update, two devices": "the same; gradients are exchanged at each step",
}

OPTIONS = {
    name: WHOLE_LOOPS
    for name in ("rollout, two devices", "one device, whole loops", "update, two devices")
}

COMPARISONS = (
    Comparison(
        "rollout, two devices",
        "rollout, one device",
        "what a second core gains in a rollout",
        {"N = 1024": 1.8},
    ),
    Comparison("rollout, two devices", "two devices, split loops", "what whole loops gain on two"),
    Comparison("one device, whole loops", "rollout, one device", "what they gain on one"),
    Comparison("update, two devices", "update, one device", "what it gains in a whole update"),
)


def run(settings: Settings) -> Result:
    if len(jax.devices()) < 2:
        return Result("left out, because it needs two devices, and JAX has one", [])
    num_steps, sizes = (8, (4,)) if settings.smoke else (128, (64, 1024))
    ours, mesh = subject(settings), rlscan.make_mesh(2)
    lines = []
    for num_envs in sizes:
        # Each kind separately: after an update, a rollout's data is no longer in the caches.
        rollouts = {
            "rollout, one device": rollout(ours, num_envs, num_steps, None),
            "rollout, two devices": rollout(ours, num_envs, num_steps, mesh),
            "one device, whole loops": rollout(ours, num_envs, num_steps, None),
            "two devices, split loops": rollout(ours, num_envs, num_steps, mesh),
        }
        updates = {
            "update, one device": update(ours, num_envs, num_steps, None),
            "update, two devices": update(ours, num_envs, num_steps, mesh),
        }
        for contestants in (rollouts, updates):
            timings = interleaved(contestants, repeats=settings.repeats, options=OPTIONS)
            for name, timing in timings.items():
                figures = figures_of(timing, num_steps=num_envs * num_steps)
                lines.append(Line(name, f"N = {num_envs}", MEANINGS[name], figures))
    return Result(f"{ours.description}, T = {num_steps}", lines)


def rollout(ours: Subject, num_envs: int, num_steps: int, mesh: Any) -> tuple[Callable, tuple]:
    # As in training: the state lies where an update leaves it.
    config = rlscan.ppo.PPOConfig(num_envs=num_envs, num_steps=num_steps, num_minibatches=1)
    trained = rlscan.ppo.init_train(ours.policy, ours.env, config, key=rlscan.key(0), mesh=mesh)
    one = partial(rlscan.rollout, env=ours.env, num_steps=num_steps, mesh=mesh)
    return lambda policy, state: one(policy, state=state), (trained.policy, trained.rollout_state)


def update(ours: Subject, num_envs: int, num_steps: int, mesh: Any) -> tuple[Callable, tuple]:
    config = rlscan.ppo.PPOConfig(num_envs=num_envs, num_steps=num_steps, num_minibatches=8)
    state = rlscan.ppo.init_train(ours.policy, ours.env, config, key=rlscan.key(0), mesh=mesh)
    one = partial(rlscan.ppo.update, env=ours.env, config=config.as_arrays(), mesh=mesh)
    return lambda state, total: one(state, num_updates=total), (state, jnp.asarray(100))


BENCHMARK = Benchmark(
    name="devices",
    measures="what a second core gains if environments are split over two devices",
    minutes=1,
    run=run,
    comparisons=COMPARISONS,
    takes_own=True,
)
