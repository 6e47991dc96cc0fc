"""The gain of each optimisation that costs clarity: a program as it is, and with one undone.

Files named after a lever refer to this benchmark. The plain code replaces ours while a program is
traced, so that the two programs differ in nothing else.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._subject import RATE
from benchmarks._timing import interleaved
from benchmarks.training import one_update
from rlscan._core.tree import where
from rlscan._rollout import blocks as _blocks
from rlscan.ppo._update import collect

AS_IT_IS = "as it is"


def reset_always(done: Any, reset: Callable[[], Any], stepped: Any) -> Any:
    return where(jnp.asarray(done), reset(), stepped)


def convolved(self: Any, x: Any) -> Array:
    """Encode an image, but through XLA's convolution."""
    x = jnp.asarray(x, jnp.float32)[None]
    for layer, kernel, stride in zip(self.layers, self.kernels, self.strides, strict=True):
        weight = layer.weight.reshape(-1, *kernel, x.shape[-1])
        axes = ("NHWC", "OHWI", "NHWC")
        x = lax.conv_general_dilated(x, weight, (stride, stride), "VALID", dimension_numbers=axes)
        x = self.activation(x + layer.bias)
    return x.ravel()


# By contestant: the name to replace, its replacement, and what that means.
UNDONE: dict[str, tuple[str, Any, str]] = {
    "orders sorted": (
        "rlscan.ppo._update.random_order",
        jax.random.permutation,
        "minibatches of jax.random.permutation, which sorts pairs",
    ),
    "resets always": (
        "rlscan.envs._gymnax.reset_where",
        reset_always,
        "a reset of each environment drawn in every step",
    ),
    "a slot per step": (
        "rlscan._rollout.slots._block_length",
        lambda env, num_steps: 1,
        "final observations kept for every step, not for every time limit",
    ),
    "every slot": (
        "rlscan._rollout.next_value.over_used_slots",
        lambda fill, policy, after, final: fill(policy, after, final),
        "values of all slots of final observations, not of those in use",
    ),
    "one batch": (
        "rlscan._rollout.blocks.BLOCK",
        2**31,
        "replay of a whole batch at once, not in blocks",
    ),
    "gradients in blocks": (
        "rlscan._rollout.blocks._over_steps",
        _blocks._in_blocks,
        "a gradient through the blocks of replay",
    ),
    "weights as they lie": (
        "rlscan._rollout.rollout.stored_input_major",
        lambda policy: lambda: policy,
        "a rollout that multiplies by weights [outputs, inputs], as Equinox stores them",
    ),
    "gradients as they come": (
        "rlscan._rollout.blocks.shorter_axis_first",
        lambda tangent: tangent,
        "gradients of matrices whose longer axis comes first",
    ),
    "arrays apart": ("optax.flatten", lambda inner: inner, "Adam on each array, not on one vector"),
    "convolutions": (
        "rlscan.policies._encoder._Image.__call__",
        convolved,
        "images through XLA's convolution, not products of patches",
    ),
}

COMPARISONS = tuple(
    Comparison(AS_IT_IS, name, f"the gain over: {meaning}")
    for name, (_, _, meaning) in UNDONE.items()
)


def run(settings: Settings) -> Result:
    lines = []
    for size, (contestant, num_steps, names) in sizes(settings.smoke).items():
        contestants = {AS_IT_IS: contestant()}
        contestants |= {name: undone(name, contestant) for name in names}
        for name, timing in interleaved(contestants, repeats=settings.repeats).items():
            meaning = UNDONE[name][2] if name in UNDONE else "as rlscan does it"
            lines.append(Line(name, size, meaning, figures_of(timing, num_steps=num_steps)))
    return Result(f"2 × 64 units, tanh, dropout {RATE}, 4 epochs of 4 minibatches", lines)


def sizes(smoke: bool) -> dict[str, tuple[Callable, int, Sequence[str]]]:
    """For each size: a function that makes a contestant, its steps, and the levers to undo."""

    def at(make: Callable, n: int, t: int, *names: str, env: str = "CartPole-v1") -> tuple:
        config = rlscan.ppo.PPOConfig(num_envs=n, num_steps=t)
        return partial(make, env, config), n * t, names

    if smoke:
        others = [name for name in UNDONE if name != "every slot"]
        return {
            "update, N = 4": at(update_of, 4, 8, *others, env="Breakout-MinAtar"),
            "advantages, N = 4": at(advantages_of, 4, 8, "every slot"),
        }
    often_cut = partial(advantages_of, max_steps_in_episode=10)
    always, lie, come = "resets always", "weights as they lie", "gradients as they come"
    return {
        "update, N = 4": at(update_of, 4, 128, "orders sorted", "arrays apart", lie, come),
        "update, N = 64": at(update_of, 64, 128, "orders sorted", "a slot per step", come),
        "update, N = 1024": at(update_of, 1024, 128, "orders sorted", "gradients in blocks", come),
        "advantages, N = 1024": at(advantages_of, 1024, 128, "every slot"),
        "cut by 10 steps": at(often_cut, 1024, 128, "every slot"),
        "values, N = 1024": at(values_of, 1024, 128, "one batch"),
        "rollout, N = 4": at(rollout_of, 4, 128, lie),
        "rollout, N = 64": at(rollout_of, 64, 128, always, lie),
        "rollout, Pendulum": at(rollout_of, 64, 128, always, env="Pendulum-v1"),
        "update, Breakout": at(update_of, 64, 4, "convolutions", env="Breakout-MinAtar"),
    }


# Contestants: each is a function and its arguments.


def update_of(env_name: str, config: rlscan.ppo.PPOConfig) -> tuple[Callable, tuple]:
    env = rlscan.make(env_name)
    return one_update(policy_of(env), env, config)


def rollout_of(env_name: str, config: rlscan.ppo.PPOConfig) -> tuple[Callable, tuple]:
    env = rlscan.make(env_name)
    policy = eqx.nn.inference_mode(policy_of(env))  # next to masks, a reset would hardly show
    state = rlscan.init_rollout(policy, env, num_envs=config.num_envs, key=rlscan.key(1))
    one = partial(rlscan.rollout, env=env, num_steps=config.num_steps)
    return lambda policy, state: one(policy, state=state), (policy, state)


def values_of(env_name: str, config: rlscan.ppo.PPOConfig) -> tuple[Callable, tuple]:
    env = rlscan.make(env_name)
    policy = policy_of(env)
    state = rlscan.init_rollout(policy, env, num_envs=config.num_envs, key=rlscan.key(1))
    _, trajectory = eqx.filter_jit(rlscan.rollout)(policy, env, state, config.num_steps)
    return lambda policy, trajectory: rlscan.replay(policy, trajectory)[2], (policy, trajectory)


class Unlimited(NamedTuple):
    """An environment without a declared time limit."""

    reset: Callable
    step: Callable
    observation_space: Callable
    action_space: Callable


def advantages_of(
    env_name: str, config: rlscan.ppo.PPOConfig, **params: int
) -> tuple[Callable, tuple]:
    """Rollout, values and advantages in an environment without a declared time limit."""
    env = rlscan.make(env_name, **params)
    unlimited = Unlimited(env.reset, env.step, env.observation_space, env.action_space)
    state = rlscan.ppo.init_train(policy_of(env), unlimited, config, key=rlscan.key(0))
    return lambda state: collect(state, unlimited, config)[1:3], (state,)


def policy_of(env: rlscan.Environment) -> rlscan.Policy:
    return rlscan.policies.ActorCritic(env, dropout=RATE, key=rlscan.key(0))


def undone(name: str, contestant: Callable[[], tuple[Callable, tuple]]) -> tuple[Callable, tuple]:
    """Undo a lever in a contestant, and in the state that it starts from."""
    plain = partial(mock.patch, *UNDONE[name][:2])
    jax.clear_caches()  # otherwise the trace of another contestant is found
    with plain():
        function, args = contestant()
    return plain()(function), args


BENCHMARK = Benchmark(
    name="levers",
    measures="the gain of each optimisation that costs clarity: with it, and with it undone",
    minutes=2,
    run=run,
    comparisons=COMPARISONS,
)
