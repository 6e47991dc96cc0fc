"""Programs are traced from shapes, and updates are traced while the start compiles."""

import threading
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._core.tree import is_shape
from rlscan.ppo import _program, _train
from rlscan.ppo._program import Program

ENV = rlscan.make("CartPole-v1")
CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=8)


def small_training(*key_shape: int) -> _train.Training:
    make = partial(rlscan.policies.ActorCritic, ENV, hidden_sizes=(8,))
    key = jax.random.split(rlscan.key(0), key_shape) if key_shape else rlscan.key(0)
    return rlscan.train(make, ENV, CONFIG, total_steps=64, key=key)


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def test_a_program_is_the_function_with_its_statics():
    layer = eqx.nn.Dropout(0.5)

    def function(layer: Any, x: Any, key: Any) -> Any:
        return layer(x, key=key), layer, jnp.asarray(len(x.shape))

    x, key = jnp.arange(12.0).reshape(3, 4), rlscan.key(0)
    program = Program(function, layer, shapes_of(x), shapes_of(key))
    wanted = function(layer, x, key)
    assert eqx.tree_equal(program.compile()(layer, x, key), wanted)
    found = program.result
    assert found[1].p == 0.5 and (found[0].shape, found[0].dtype) == (x.shape, x.dtype)


def test_seconds_count_tracing_and_compiling(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 1.0, 10.0, 12.0])
    monkeypatch.setattr(_program.time, "monotonic", lambda: next(now))
    program = Program(lambda x: x + 1, jnp.zeros(2))
    assert program.seconds == 1
    program.compile()
    assert program.seconds == 3


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("generator", rlscan.random.GENERATORS)
def test_a_seed_is_the_same_inside_a_program(seed: int, generator: str):
    """A run starts from the key that `rlscan.key` makes from its seed."""
    inside = jax.jit(lambda seed: rlscan.key(seed, generator=generator))(np.uint32(seed))
    assert jnp.array_equal(inside, rlscan.key(seed, generator=generator))


@pytest.mark.parametrize("shape", [(), (2,)])
def test_updates_are_traced_while_the_start_is_compiled(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    """Compiling waits for the trace here, so it would never end if they ran one after the other."""
    is_traced, compile, update = threading.Event(), Program.compile, _train.update

    def waiting(self: Program) -> Any:
        assert is_traced.wait(30)
        return compile(self)

    def traced(*args: Any, **kwargs: Any) -> Any:
        is_traced.set()
        return update(*args, **kwargs)

    monkeypatch.setattr(Program, "compile", waiting)
    monkeypatch.setattr(_train, "update", traced)
    training = small_training(*shape)
    found = eqx.filter(training._program.result[0], is_shape)
    wanted = eqx.filter_eval_shape(lambda: eqx.filter(training.state, eqx.is_array))
    assert eqx.tree_equal(found, wanted)


def test_an_error_of_the_start_is_raised_from_the_other_thread(monkeypatch: pytest.MonkeyPatch):
    def failing(self: Program) -> Any:
        raise MemoryError("too large")

    monkeypatch.setattr(Program, "compile", failing)
    with pytest.raises(MemoryError, match="too large"):
        small_training()


def test_running_out_of_memory_during_a_call_raises():
    """Without a check, `jax.device_get` of the results would wait forever."""

    def function(x: Any) -> Any:  # enough work for JAX to do it in the background
        return x + 1, jax.lax.fori_loop(0, 3, lambda _, y: x * y, jnp.zeros(2**46) + x)

    program = Program(function, jnp.zeros(()))
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        program.compile()(jnp.zeros(()))
