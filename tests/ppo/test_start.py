"""The start of a training: updates are traced while the start compiles."""

import threading
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._core.program import Program
from rlscan._core.tree import is_shape
from rlscan.ppo import Training, _algorithm

ENV = rlscan.make("CartPole-v1")
CONFIG = rlscan.ppo.PPOConfig(num_envs=2, num_steps=8)


def small_training(*key_shape: int) -> Training:
    make = partial(rlscan.policies.ActorCritic, ENV, hidden_sizes=(8,))
    key = jax.random.split(rlscan.key(0), key_shape) if key_shape else rlscan.key(0)
    return rlscan.train(make, ENV, CONFIG, total_steps=64, key=key)


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("generator", rlscan.random.GENERATORS)
def test_a_seed_is_the_same_inside_a_program(seed: int, generator: str):
    """A run starts from the key that `rlscan.key` makes from its seed."""
    inside = jax.jit(lambda seed: rlscan.key(seed, generator=generator))(np.uint32(seed))
    assert jnp.array_equal(inside, rlscan.key(seed, generator=generator))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (2,)])
def test_updates_are_traced_while_the_start_is_compiled(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    """Compiling waits for the trace here, so it would never end if they ran one after the other."""
    is_traced, compile, update = threading.Event(), Program.compile, _algorithm.update

    def waiting(self: Program) -> Any:
        assert is_traced.wait(30)
        return compile(self)

    def traced(*args: Any, **kwargs: Any) -> Any:
        is_traced.set()
        return update(*args, **kwargs)

    monkeypatch.setattr(Program, "compile", waiting)
    monkeypatch.setattr(_algorithm, "update", traced)
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
