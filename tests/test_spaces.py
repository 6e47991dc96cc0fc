"""Spaces are read by their attributes, and one place makes an action legal."""

import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from rlscan._spaces import bounds, is_box, is_discrete, legal_action, one_hot


def test_kinds_of_spaces():
    discrete = spaces.Discrete(3), gymnasium.spaces.Discrete(3)
    boxes = spaces.Box(-1, 1, (2,)), gymnasium.spaces.Box(-1, 1, (2,))
    others = gymnasium.spaces.MultiBinary(3), gymnasium.spaces.Dict(a=discrete[1]), object()
    assert [is_discrete(s) for s in (*discrete, *boxes, *others)] == 2 * [True] + 5 * [False]
    assert [is_box(s) for s in (*discrete, *boxes, *others)] == [False] * 2 + [True] * 2 + [
        False
    ] * 3


def test_an_action_is_clipped_to_its_box_and_shifted_to_its_first_category():
    box = spaces.Box(jnp.array([-1.0, 0.0]), jnp.array([1.0, jnp.inf]), (2,))
    np.testing.assert_array_equal(legal_action(box, jnp.array([-3.0, 7.0])), [-1, 7])
    assert legal_action(gymnasium.spaces.Discrete(3, start=-1), jnp.asarray(2)) == 1
    assert legal_action(spaces.Discrete(3), jnp.asarray(2)) == 2


def test_the_largest_float_is_no_bound():
    largest = np.finfo(np.float32).max
    low, high = bounds(spaces.Box(jnp.array([-largest, -2.0]), jnp.array([largest, 2.0]), (2,)))
    np.testing.assert_array_equal([low, high], [[-np.inf, -2], [np.inf, 2]])


def test_one_hot():
    np.testing.assert_array_equal(one_hot(jnp.asarray(2), 4), [0, 0, 1, 0])
