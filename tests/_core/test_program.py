"""Programs are traced from shapes; equal ones are compiled once, and unequal ones share nothing."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations

import rlscan
from rlscan._core import program as module
from rlscan._core.program import Program, call_program


@pytest.fixture(autouse=True)
def _no_programs_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_kept", type(module._kept)())
    yield


def test_functions_that_are_built_again_are_compiled_once():
    def scaled_by(factor: float) -> Callable:
        return lambda x: {"scaled": jnp.sin(x) * factor}

    x, y = jnp.arange(3.0), jnp.ones(3)
    assert jnp.allclose(call_program(scaled_by(2.0), x)["scaled"], 2 * jnp.sin(x))
    with count_compilations() as names:
        again = call_program(scaled_by(2.0), y)
    assert not names
    assert jnp.allclose(again["scaled"], 2 * jnp.sin(y))
    with count_compilations() as names:
        other = call_program(scaled_by(3.0), x)
    assert len(names) == 1
    assert jnp.allclose(other["scaled"], 3 * jnp.sin(x))


def test_constants_are_compared_to_the_last_number():
    x = np.zeros(10_000, np.float32)
    for number in (1, 2):
        table = np.where(np.arange(10_000) == 5_000, np.float32(number), 0)
        assert call_program(partial(jnp.add, table), x)[5_000] == number


def test_an_attribute_that_changed_is_seen():
    class Scale:
        factor = 2.0

    scale = Scale()
    times = lambda x: x * scale.factor  # noqa: E731
    assert call_program(times, jnp.ones(())) == 2
    scale.factor = 5.0
    assert call_program(times, jnp.ones(())) == 5


def test_a_callback_is_called_by_its_own_program():
    def told(word: str, heard: list[str]) -> Callable:
        def tell(x: Any) -> np.ndarray:
            heard.append(word)
            return np.asarray(x)

        return lambda x: jax.pure_callback(tell, jax.ShapeDtypeStruct((), jnp.float32), x)

    heard: list[str] = []
    for word in ("one", "two"):
        call_program(told(word, heard), jnp.zeros(()))
    assert heard == ["one", "two"]


def test_arguments_that_are_not_read_count():
    x, y = jnp.zeros(()), jnp.ones(())
    assert call_program(lambda x, y: x, x, y) == 0
    assert call_program(lambda x, y: y, x, y) == 1


def test_keys_of_two_generators_are_two_programs():
    for generator in ("mix32", "threefry2x32"):
        key = rlscan.key(0, generator=generator)
        after = call_program(lambda key: key, key)
        assert after.dtype == key.dtype


def test_devices_are_programs_of_their_own():
    for device in jax.devices()[:2]:
        x = jax.device_put(jnp.ones(3), device)
        assert call_program(jnp.negative, x).devices() == {device}
        with jax.default_device(device):
            assert call_program(lambda x: -x, np.ones(3, np.float32)).devices() == {device}


def test_a_weak_type_stays_weak():
    for x in (jnp.asarray(1.0), jnp.ones(())):
        assert call_program(lambda x: -x, x).weak_type == x.weak_type


def test_the_text_of_a_program_is_written_only_to_compare_it(monkeypatch: pytest.MonkeyPatch):
    """A run has two programs, and writing their texts would slow its start."""
    says_all, texts = module._says_all, []
    monkeypatch.setattr(module, "_says_all", lambda text: texts.append(text) or says_all(text))
    for size in (1, 2, 3):
        call_program(jnp.negative, jnp.ones(size))
    assert not texts
    call_program(jnp.negative, jnp.ones(2))
    assert len(texts) == 2 and len(module._kept) == 3


def test_no_more_programs_are_kept_than_stated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    for factor in (1.0, 2.0, 3.0, 1.0):
        call_program(partial(jnp.multiply, factor), jnp.ones(()))
    assert len(module._kept) == 2


def test_it_is_transparent_to_transformations():
    square = partial(call_program, lambda x: x**2)
    x = jnp.arange(3.0)
    assert jnp.array_equal(jax.vmap(square)(x), x**2)
    assert jax.grad(square)(3.0) == 6
    assert jax.grad(lambda y: call_program(lambda: y**2))(3.0) == 6  # a tracer that is closed over
    assert jax.jit(square)(3.0) == 9
    with jax.disable_jit(), count_compilations() as names:
        assert square(3.0) == 9
    assert not any("lambda" in name for name in names)


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
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    program = Program(lambda x: x + 1, jnp.zeros(2))
    assert program.seconds == 1
    program.compile()
    assert program.seconds == 3


def test_running_out_of_memory_during_a_call_raises():
    """Without a check, `jax.device_get` of the results would wait forever."""

    def function(x: Any) -> Any:  # enough work for JAX to do it in the background
        return x + 1, jax.lax.fori_loop(0, 3, lambda _, y: x * y, jnp.zeros(2**46) + x)

    program = Program(function, jnp.zeros(()))
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        program.compile()(jnp.zeros(()))
