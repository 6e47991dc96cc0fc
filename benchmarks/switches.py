"""Three ways to switch dropout off in the same rollout.

CartPole, two hidden layers of 64, tanh, dropout 0.1 on both layers of the actor; T steps in N
environments. A layer may test a traced flag by `lax.cond`: one flag, or one in each environment, as
under `vmap`. Or the flag is a Python bool that shapes the program: an argument of the layer's call,
or set beforehand by `eqx.nn.inference_mode`. Equations are counted in the jaxpr, including those of
inner programs.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, Bool, PRNGKeyArray

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._timing import Timing, interleaved

REFERENCE = "inference mode"
RATE = 0.1

MEANINGS = {
    REFERENCE: "eqx.nn.inference_mode(policy): dropout is not in the program",
    "static flag, off": "a Python bool given to the layer's call",
    "cond, off": "lax.cond on a traced flag: both branches are in the program",
    "cond, off, mapped": "a flag in each environment: both branches run",
    "cond, on": "the first lax.cond, with dropout on",
    "static flag, on": "the Python bool, with dropout on",
}

COMPARISONS = (
    Comparison("static flag, off", REFERENCE, "two ways to one program"),
    Comparison("cond, off", REFERENCE, "what a traced flag costs with dropout off"),
    Comparison("cond, off, mapped", REFERENCE, "what a mapped flag costs with dropout off"),
    Comparison("cond, on", "static flag, on", "what a traced flag costs with dropout on"),
)


class CondDropout(eqx.Module):
    """Dropout behind a flag that is an array: both branches are in the program."""

    rate: float
    is_off: Bool[Array, ""]

    def __call__(self, x: Array, *, key: PRNGKeyArray) -> Array:
        dropout = eqx.nn.Dropout(self.rate)
        return lax.cond(self.is_off, lambda x: x, lambda x: dropout(x, key=key), x)


class StaticDropout(eqx.Module):
    """Dropout behind a Python flag that is given to the call."""

    rate: float
    is_off: bool = eqx.field(static=True)

    def __call__(self, x: Array, *, key: PRNGKeyArray) -> Array:
        return eqx.nn.Dropout(self.rate)(x, key=key, inference=self.is_off)


class FlagInEachEnvironment(eqx.Module):
    """A policy that takes its flag from its state, so that each environment has a flag."""

    policy: Any

    def __call__(self, observation: Array, state: Array, *, key: PRNGKeyArray) -> tuple:
        policy = with_dropout(self.policy, CondDropout(RATE, state))
        distribution, value, _ = policy(observation, (), key=key)
        return distribution, value, state

    def initial_state(self) -> Array:
        return jnp.asarray(True)


def run(settings: Settings) -> Result:
    num_steps, sizes = (8, [4]) if settings.smoke else (128, [64, 1024])
    lines = []
    for num_envs in sizes:
        contestants = {
            name: rollout_of(policy, num_envs, num_steps) for name, policy in policies().items()
        }
        for name, timing in interleaved(contestants, repeats=settings.repeats).items():
            figures = figures_with_program(timing, *contestants[name])
            lines.append(Line(name, f"N = {num_envs}", MEANINGS[name], figures))
    setting = f"CartPole-v1, two hidden layers of 64, tanh, dropout {RATE}, T = {num_steps}"
    return Result(setting, lines)


def figures_with_program(timing: Timing, function: Callable, args: tuple) -> dict[str, list]:
    """What the timing says, and how large the program is."""
    primitives = equations(eqx.filter_make_jaxpr(function)(*args)[0])
    figures = figures_of(timing)
    del figures["first_call_seconds"]  # says nothing of switches
    size = {"equations": [len(primitives)], "draws": [primitives.count("random_bits")]}
    return {"run_seconds": figures.pop("run_seconds"), **size, **figures}


def policies() -> dict[str, Any]:
    policy = rlscan.policies.ActorCritic(
        rlscan.make("CartPole-v1"), dropout=RATE, key=rlscan.key(0)
    )
    return {
        REFERENCE: eqx.nn.inference_mode(policy),
        "static flag, off": with_dropout(policy, StaticDropout(RATE, True)),
        "cond, off": with_dropout(policy, CondDropout(RATE, jnp.asarray(True))),
        "cond, off, mapped": FlagInEachEnvironment(policy),
        "cond, on": with_dropout(policy, CondDropout(RATE, jnp.asarray(False))),
        "static flag, on": with_dropout(policy, StaticDropout(RATE, False)),
    }


def with_dropout(policy: Any, layer: Any) -> Any:
    return eqx.tree_at(lambda p: p.actor.dropout, policy, layer)


def rollout_of(policy: Any, num_envs: int, num_steps: int) -> tuple:
    env = rlscan.make("CartPole-v1")
    state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=rlscan.key(1))
    return (lambda policy, state: rlscan.rollout(policy, env, state, num_steps)), (policy, state)


def equations(program: Any) -> list[str]:
    """The primitives of a jaxpr and of all programs inside it."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    found = []
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, Jaxpr | ClosedJaxpr):
                    found += equations(inner)
    return found


BENCHMARK = Benchmark(
    name="switches",
    measures="three ways to switch dropout off: time, and size of the program",
    minutes=0.5,
    run=run,
    comparisons=COMPARISONS,
)
