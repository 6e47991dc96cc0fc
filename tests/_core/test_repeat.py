"""`filter_repeat` against `filter_scan`, for traced numbers of steps."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import rlscan
from rlscan._core.scan import filter_repeat


def step(carry: Any) -> tuple[Any, Any]:
    model, key, total = carry
    key, dropout_key = jax.random.split(key)
    total = model(total + 1, key=dropout_key)
    return (model, key, total), {"total": total, "name": "static"}


def start() -> Any:
    return eqx.nn.Dropout(0.5), rlscan.key(0), jnp.ones(3)


@pytest.mark.parametrize("times", [0, 1, 4, 7])
def test_it_equals_a_scan_of_as_many_steps(times: int):
    repeat = eqx.filter_jit(lambda init, times: filter_repeat(step, init, times, most=7))
    (model, key, total), ys = repeat(start(), jnp.asarray(times))
    assert model.p == 0.5 and ys["name"] == "static"
    assert ys["total"].shape == (7, 3) and not ys["total"][times:].any()
    wanted, wanted_ys = start(), jnp.zeros((0, 3))
    if times:
        wanted, stacked = rlscan.filter_scan(lambda carry, _: step(carry), start(), length=times)
        wanted_ys = stacked["total"]
    assert jnp.array_equal(key, wanted[1])
    assert jnp.array_equal(total, wanted[2])
    assert jnp.array_equal(ys["total"][:times], wanted_ys)


def test_one_program_serves_all_numbers_and_its_body_is_traced_once():
    num_traces = 0

    def counted(x: Any) -> tuple[Any, Any]:
        nonlocal num_traces
        num_traces += 1
        return x + 1, x

    repeat = eqx.filter_jit(lambda x, times: filter_repeat(counted, x, times, most=5))
    for times in (5, 2, 3):
        assert repeat(jnp.zeros(()), jnp.asarray(times))[0] == times
    assert num_traces == 1


def test_it_can_be_mapped_over_the_carry():
    one = lambda x: filter_repeat(lambda x: (2 * x, x), x, 3, most=4)  # noqa: E731
    last, ys = jax.jit(jax.vmap(one))(jnp.asarray([1, 5]))
    assert last.tolist() == [8, 40]
    assert ys.tolist() == [[1, 2, 4, 0], [5, 10, 20, 0]]


def test_other_leaves_must_not_change():
    with pytest.raises(TypeError, match=r"carry\[1\] changed .* start from an array"):
        filter_repeat(lambda carry: ((carry[0], carry[1] + 1), None), (jnp.ones(2), 1), 2, most=2)
