"""Checks of arguments, and the wording of their errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscan._core.require import (
    as_plain,
    did_you_mean,
    is_number,
    is_positive_integer,
    require_flag,
    require_one_of,
    require_positive,
    require_rate,
)

# What holds a number: Python, NumPy and JAX, as a scalar or as an array of shape ().
INTEGERS = (int, np.int64, np.uint8, np.array, jnp.asarray)
FLOATS = (float, np.float64, np.float32, jnp.float32, jnp.bfloat16, np.array, jnp.asarray)
NO_NUMBERS = ("1", None, True, np.True_, jnp.asarray(True), 1j, np.ones(1), jnp.ones((1, 1)), [1.0])


def test_a_number_is_one_whoever_holds_it():
    for hold in (*INTEGERS, *FLOATS):
        assert is_number(hold(3)) and as_plain(hold(3)) == 3
        assert type(as_plain(hold(3))) in (int, float)
    assert not any(map(is_number, NO_NUMBERS))
    assert is_number(jax.eval_shape(lambda x: x, 1.0)) is False
    traced = []
    jax.make_jaxpr(lambda x: traced.append((is_number(x), as_plain(x) is x)))(1.0)
    assert traced == [(True, True)]


def test_positive_integers():
    assert all(is_positive_integer(hold(3)) for hold in INTEGERS)
    assert not any(is_positive_integer(hold(0)) for hold in INTEGERS)
    assert not any(is_positive_integer(hold(1.0)) for hold in FLOATS)
    assert not any(map(is_positive_integer, (-1, *NO_NUMBERS)))
    product = require_positive("n", np.uint8(64)) * 64
    assert product == 4096 and type(product) is int
    with pytest.raises(ValueError, match="^n must be a positive integer, got 0$"):
        require_positive("n", 0)


def test_rates():
    for hold in FLOATS:
        assert (
            require_rate("p", hold(0.25)) == 0.25 and type(require_rate("p", hold(0.25))) is float
        )
        for wrong in (1.0, -0.5, math.nan, math.inf):
            with pytest.raises(
                ValueError, match=r"^p must be in \[0, 1\), got .*; 0 switches it off$"
            ):
                require_rate("p", hold(wrong))
    for wrong in NO_NUMBERS:
        with pytest.raises(
            ValueError, match=r"^p must be a number in \[0, 1\), got .* of type .*; 0"
        ):
            require_rate("p", wrong)


def test_flags():
    for flag in (True, np.True_, jnp.asarray(True)):
        assert require_flag("f", flag) is True
    for wrong in (1, "true", None, np.array([True])):
        with pytest.raises(ValueError, match="^f must be True or False, got "):
            require_flag("f", wrong)


def test_one_of():
    require_one_of("kind", "a", ("a", "b"))
    with pytest.raises(ValueError, match="^kind must be one of a, b, got 'c'$"):
        require_one_of("kind", "c", ("a", "b"))


def test_near_words_are_suggested():
    assert did_you_mean("cartpole-v1", ["CartPole-v1", "Pong"]) == ", did you mean CartPole-v1?"
    assert did_you_mean("xyzzy", ["CartPole-v1", "Pong"]) == ""
