"""Steps per second of a rollout, with and without dropout, beside a loop written by hand.

All contestants run the same network in the same environment for T steps in N environments. `plain`
is the usual pattern: `lax.scan` over gymnax's own `step`, a vmapped policy with `eqx.nn.Dropout`,
one threefry key split at every step. It records no keys, so its noise cannot be replayed. It
records values, which rlscan leaves to `replay`; two contestants add them, for a fair comparison.
The floor is our rollout with random bits that cost next to nothing and are not random.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison
from benchmarks._subject import Subject, subject
from benchmarks._time_rollouts import rollout_lines

SIZES = (4, 64, 1024)

MEANINGS = {
    "plain, no dropout": "the hand-written loop with the policy in inference mode, values recorded",
    "plain, dropout": "the hand-written loop with threefry, values recorded",
    "rlscan, no dropout": "rlscan.rollout with the policy in inference mode",
    "rlscan, dropout": "rlscan.rollout with rlscan's own generator",
    "rlscan, dropout, threefry": "the same with JAX's generator, threefry2x32",
    "rlscan, dropout, values": "rlscan's own generator, then replay for the values",
    "no dropout, values": "rlscan in inference mode, then replay for the values",
    "floor, no dropout": "random bits for almost nothing: a bound, not fit for use",
}

COMPARISONS = (
    Comparison(
        "rlscan, dropout",
        "rlscan, no dropout",
        "what dropout costs",
        {"N = 64": 0.7, "N = 1024": 0.85},
    ),
    Comparison(
        "rlscan, dropout",
        "plain, dropout",
        "what rlscan gains with dropout",
        {"N = 64": 5, "N = 1024": 3},
    ),
    Comparison("rlscan, dropout, values", "plain, dropout", "the same, values included"),
    Comparison("rlscan, dropout, threefry", "plain, dropout", "the same, both with threefry"),
    Comparison(
        "rlscan, no dropout",
        "plain, no dropout",
        "what rlscan gains without",
        {"N = 64": 1.6, "N = 1024": 1.6},
    ),
    Comparison("no dropout, values", "plain, no dropout", "the same, values included"),
    Comparison(
        "rlscan, no dropout",
        "floor, no dropout",
        "how close it is to free random bits",
        {"N = 64": 0.85, "N = 1024": 0.85},
    ),
)


def run(settings: Settings) -> Result:
    num_steps, sizes = (8, (4,)) if settings.smoke else (128, SIZES)
    ours = subject(settings)
    lines = []
    for num_envs in sizes:
        lines += rollout_lines(
            contestants(ours, num_envs, num_steps),
            num_steps=num_steps,
            num_envs=num_envs,
            repeats=settings.repeats,
            meanings=MEANINGS,
        )
    return Result(f"{ours.description}, T = {num_steps}", lines)


def contestants(subject: Subject, num_envs: int, num_steps: int) -> dict[str, tuple]:
    env, noisy = subject.env, subject.policy
    quiet = eqx.nn.inference_mode(noisy)
    default, threefry = rlscan.key(0), jax.random.key(0, impl="threefry2x32")
    free = jax.random.key(0, impl=free_bits)

    def ours(policy: Any, key: Array, with_values: bool = False) -> tuple[Callable, tuple]:
        state = rlscan.init_rollout(policy, env, num_envs=num_envs, key=key)

        def rollout(policy: Any, state: rlscan.RolloutState) -> tuple:
            state, trajectory = rlscan.rollout(policy, env, state, num_steps)
            value = rlscan.replay(policy, trajectory)[2] if with_values else None
            return state, trajectory, value

        return rollout, (policy, state)

    all_of_them = {
        "plain, no dropout": plain(quiet, env, num_envs, num_steps),
        "plain, dropout": plain(noisy, env, num_envs, num_steps),
        "rlscan, no dropout": ours(quiet, default),
        "rlscan, dropout": ours(noisy, default),
        "rlscan, dropout, threefry": ours(noisy, threefry),
        "rlscan, dropout, values": ours(noisy, default, with_values=True),
        "no dropout, values": ours(quiet, default, with_values=True),
        "floor, no dropout": ours(quiet, free),
    }
    return {
        name: contestant
        for name, contestant in all_of_them.items()
        if subject.has_switch or "no dropout" not in name
    }


def plain(policy: Any, env: Any, num_envs: int, num_steps: int) -> tuple[Callable, tuple]:
    """The loop that one would write by hand, for any policy."""
    reset, step = env.reset, env.step
    if isinstance(env, rlscan.envs.GymnaxEnvironment):  # as in gymnax: a reset in every step
        reset = lambda key: env.env.reset(key, env.params)  # noqa: E731
        step = lambda key, state, action: env.env.step(key, state, action, env.params)  # noqa: E731

    def one(policy: Any, carry: tuple, key: Array) -> tuple[tuple, tuple]:
        observation, env_state, policy_state = carry
        policy_key, action_key, env_key = jax.random.split(key, 3)
        distribution, value, policy_state = policy(observation, policy_state, key=policy_key)
        action = distribution.sample(seed=action_key)
        seen = (observation, action, distribution.log_prob(action), value)
        observation, env_state, reward, terminated, truncated, _ = step(env_key, env_state, action)
        done = terminated | truncated
        policy_state = jax.tree.map(
            lambda fresh, kept: jnp.where(done, fresh, kept), policy.initial_state(), policy_state
        )
        return (observation, env_state, policy_state), (*seen, reward, done)

    def rollout(policy: Any, carry: tuple, key: Array) -> tuple:
        def body(carry: tuple, _: None) -> tuple[tuple, tuple]:
            carry, key = carry
            key, step_key = jax.random.split(key)
            keys = jax.random.split(step_key, num_envs)
            carry, seen = eqx.filter_vmap(one, in_axes=(None, 0, 0))(policy, carry, keys)
            return (carry, key), seen

        return lax.scan(body, (carry, key), None, num_steps)

    def first(key: Array) -> tuple:
        observation, env_state = reset(key)
        return observation, env_state, policy.initial_state()

    key = jax.random.key(0, impl="threefry2x32")
    keys = jax.random.split(key, num_envs)
    carry = jax.vmap(first)(keys)
    # A reset may return Python numbers, or other dtypes than a step.
    after, _ = eqx.filter_eval_shape(
        eqx.filter_vmap(one, in_axes=(None, 0, 0)), policy, carry, keys
    )
    carry = jax.tree.map(lambda x, like: lax.convert_element_type(x, like.dtype), carry, after)
    return rollout, (policy, carry, key)


def _free_word(key: Array, counter: Array) -> Array:
    """Compute bits for each counter at almost no cost, so that episodes have the usual length.

    A XOR with the second word would not be measurably cheaper, and nearly all actions would be the
    same. These are not random numbers: measure only time with them.
    """
    return (counter * np.uint32(0x9E3779B9) + key[0]) * (key[1] | np.uint32(1))


def _free_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    words = _free_word(key, lax.iota(np.uint32, math.prod(shape))).reshape(shape)
    return words.astype({8: np.uint8, 16: np.uint16, 32: np.uint32}[bit_width])


def _free_fold_in(key: Array, data: Any) -> Array:
    return _free_word(
        key, lax.convert_element_type(data, np.uint32) + jnp.arange(2, dtype="uint32")
    )


free_bits = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: _free_fold_in(jnp.full(2, np.uint32(0x243F6A88)), seed),
    split=lambda key, shape: _free_bits(~key, 32, (*shape, 2)),
    random_bits=_free_bits,
    fold_in=_free_fold_in,
    name="free_bits",
    tag="free",
)

BENCHMARK = Benchmark(
    name="rollout",
    measures="steps per second of a rollout, beside a hand-written loop and a floor",
    minutes=1.5,
    run=run,
    comparisons=COMPARISONS,
    takes_own=True,
)
