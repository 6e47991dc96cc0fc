"""Checks of arguments, and the wording of their errors."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rlscan._core.require import (
    did_you_mean,
    is_positive_integer,
    is_rate,
    require_one_of,
    require_positive,
    require_rate,
)


def test_positive_integers():
    assert all(map(is_positive_integer, (1, 2**40, np.int32(3))))
    assert not any(map(is_positive_integer, (0, -1, True, np.True_, 1.0, "1", None)))
    require_positive("n", 1)
    with pytest.raises(ValueError, match="^n must be a positive integer, got 0$"):
        require_positive("n", 0)


def test_rates():
    assert all(map(is_rate, (0, 0.0, 0.999)))
    assert not any(map(is_rate, (1, 1.0, -0.1, math.nan, math.inf, False, "0", jnp.asarray(0.5))))
    require_rate("p", 0.5)
    with pytest.raises(ValueError, match=r"^p must be in \[0, 1\), got 1.0; 0 switches it off$"):
        require_rate("p", 1.0)
    with pytest.raises(ValueError, match=r"^p must be a Python number .* of type ArrayImpl; 0"):
        require_rate("p", jnp.asarray(0.5))


def test_one_of():
    require_one_of("kind", "a", ("a", "b"))
    with pytest.raises(ValueError, match="^kind must be one of a, b, got 'c'$"):
        require_one_of("kind", "c", ("a", "b"))


def test_near_words_are_suggested():
    assert did_you_mean("cartpole-v1", ["CartPole-v1", "Pong"]) == ", did you mean CartPole-v1?"
    assert did_you_mean("xyzzy", ["CartPole-v1", "Pong"]) == ""
