"""Parts of an update that are written otherwise than plainly, each beside the plain way.

Comments in the code name this benchmark for what it is worth to them. A part is run some times over
within one program, each time on what the time before has left, so that the start of a program does
not count.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

import rlscan
from benchmarks._benchmark import Benchmark, Result, Settings
from benchmarks._figures import Comparison, Line, figures_of
from benchmarks._timing import interleaved
from rlscan._gradient_step import make_optimiser
from rlscan._shuffle import random_order

NUM_TIMES = 16
LEARNING_RATE = 3e-4

MEANINGS = {
    "order": "a random order of the steps of a rollout",
    "order, plain": "jax.random.permutation",
    "image": "a gradient of the image's encoder, whose convolutions are products of patches",
    "image, plain": "the same through eqx.nn.Conv2d",
    "optimiser": "gradients clipped and a step of Adam, on one flat vector",
    "optimiser, plain": "the same for each array by itself",
}

COMPARISONS = tuple(
    Comparison(f"{part}, plain", part, meaning)
    for part, meaning in {
        "order": "what a sort, or one of pairs, would cost",
        "image": "what XLA's convolution would cost",
        "optimiser": "what a kernel for each array would cost",
    }.items()
)


def run(settings: Settings) -> Result:
    lines = []
    for size, contestants in (smoke_parts() if settings.smoke else parts()).items():
        for name, timing in interleaved(contestants, repeats=settings.repeats).items():
            lines.append(Line(name, size, MEANINGS[name], figures_of(timing)))
    return Result(f"each {NUM_TIMES} times, one after the other, in one program", lines)


def parts() -> dict[str, dict[str, tuple[Callable, tuple]]]:
    """The contestants by size."""
    return {
        "512 steps": orders(512),
        "2,048 steps": orders(2_048),
        "32,768 steps": orders(32_768),
        "256 images of MinAtar": images(256),
        "networks of 64 units": optimisers(64),
    }


def smoke_parts() -> dict[str, dict[str, tuple[Callable, tuple]]]:
    return {
        "1,089 steps": orders(1_089),
        "4 images of MinAtar": images(4),
        "networks of 8 units": optimisers(8),
    }


def repeated(f: Callable, *args: Any) -> tuple[Callable, tuple]:
    """A contestant: `f` on what it returned before, some times over."""

    def program(*args: Any) -> Any:
        once = lambda carry, _: (f(*carry), None)  # noqa: E731
        return lax.scan(once, args, None, NUM_TIMES)[0]

    return program, args


def orders(length: int) -> dict[str, tuple[Callable, tuple]]:
    def by(order: Callable) -> tuple[Callable, tuple]:
        def again(key: Array, total: Array) -> tuple[Array, Array]:
            key, order_key = jax.random.split(key)
            return key, total + order(order_key, length)

        return repeated(again, rlscan.key(0), jnp.zeros(length, jnp.int32))

    return {"order": by(random_order), "order, plain": by(jax.random.permutation)}


def images(num_images: int) -> dict[str, tuple[Callable, tuple]]:
    env = rlscan.make("Breakout-MinAtar")
    x = jax.random.normal(rlscan.key(0), (num_images, *env.observation_space().shape))
    encoder = rlscan.Encoder(env.observation_space(), key=rlscan.key(1))
    convolution = eqx.nn.Conv2d(x.shape[-1], 16, 3, key=rlscan.key(1))

    def through_convolution(layer: eqx.nn.Conv2d, image: Array) -> Array:
        return jax.nn.relu(layer(jnp.moveaxis(image, -1, 0)))

    def by(encode: Callable, model: Any) -> tuple[Callable, tuple]:
        params, rest = eqx.partition(model, eqx.is_array)

        def loss(params: Any) -> Array:
            return jnp.square(
                jax.vmap(lambda image: encode(eqx.combine(params, rest), image))(x)
            ).mean()

        def again(params: Any) -> tuple[Any]:
            grads = jax.grad(loss)(params)
            return (jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads),)

        return repeated(again, params)

    return {
        "image": by(lambda model, image: model(image), encoder),
        "image, plain": by(through_convolution, convolution),
    }


def optimisers(width: int) -> dict[str, tuple[Callable, tuple]]:
    config = rlscan.PPOConfig()
    policy = rlscan.ActorCritic(
        rlscan.make("CartPole-v1"), hidden_sizes=(width, width), key=rlscan.key(0)
    )
    params = eqx.filter(policy, eqx.is_inexact_array)
    plain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(LEARNING_RATE, eps=config.adam_eps),
    )

    def by(optimiser: optax.GradientTransformation) -> tuple[Callable, tuple]:
        def again(params: Any, opt_state: Any) -> tuple[Any, Any]:
            steps, opt_state = optimiser.update(params, opt_state, params)  # gradients of ½ θ²
            return optax.apply_updates(params, steps), opt_state

        return repeated(again, params, optimiser.init(params))

    return {"optimiser": by(make_optimiser(config, LEARNING_RATE)), "optimiser, plain": by(plain)}


BENCHMARK = Benchmark(
    name="parts",
    measures="parts of an update, each beside the plain way to write it",
    minutes=0.5,
    run=run,
    comparisons=COMPARISONS,
)
