"""Spaces are read by their attributes, mapped leaf by leaf, and make actions legal."""

import copy
import dataclasses
import pickle
from typing import Any, NamedTuple

import equinox as eqx
import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from rlscan._core.spaces import (
    Nested,
    SpaceMismatch,
    action_mask,
    bounds,
    is_box,
    is_discrete,
    is_mask,
    legal_action,
    map_space,
    one_hot,
    space_leaves,
)


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
    np.testing.assert_array_equal(legal_action(box, jnp.array([-3.0, 7.0]), None), [-1, 7])
    assert legal_action(gymnasium.spaces.Discrete(3, start=-1), jnp.asarray(2), None) == 1
    assert legal_action(spaces.Discrete(3), jnp.asarray(2), None) == 2


def test_each_part_of_an_action_is_made_legal():
    box, discrete = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(3, start=5)
    several = gymnasium.spaces.MultiDiscrete([2, 3], start=[1, -1])
    space = spaces.Dict({"b": gymnasium.spaces.Tuple([box, discrete]), "a": several})
    action = {"a": jnp.asarray([1, 2]), "b": (jnp.asarray([0.5, 7.0]), jnp.asarray(0))}
    legal = legal_action(space, action, None)
    np.testing.assert_array_equal(legal["a"], [2, 1])
    np.testing.assert_array_equal(legal["b"][0], [0.5, 1])
    assert legal["b"][1] == 5 and set(legal) == {"a", "b"}


def test_a_distributions_own_legal_takes_precedence():
    class Doubled:
        def legal(self, action):
            return 2 * action

    box = spaces.Box(-1, 1, (2,))
    legal = legal_action(box, jnp.asarray([0.3, 0.8]), Doubled())
    np.testing.assert_allclose(legal, [0.6, 1.0])


def test_an_action_mask_is_found():
    mask = jnp.asarray([True, False])
    assert action_mask({"x": jnp.zeros(2), "action_mask": mask}) is mask
    assert action_mask({"inner": ({"action_mask": mask},), "last_reward": jnp.zeros(())}) is mask
    assert action_mask({"x": jnp.zeros(2)}) is action_mask(jnp.zeros(2)) is action_mask(()) is None


class Fields(NamedTuple):
    board: Any
    action_mask: Any


class Module(eqx.Module):
    board: Any
    action_mask: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Data:
    board: Any
    action_mask: Any


@jax.tree_util.register_pytree_node_class
class Node:
    """A pytree that tells JAX no names."""

    def __init__(self, board: Any, action_mask: Any):
        self.board, self.action_mask = board, action_mask

    def tree_flatten(self) -> tuple:
        return (self.board, self.action_mask), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> "Node":
        return cls(*children)


@flax.struct.dataclass
class Flax:
    board: Any
    action_mask: Any


@pytest.mark.parametrize("container", [Fields, Module, Data, Node, Flax])
def test_an_action_mask_is_found_in_every_container(container: Any) -> None:
    mask = jnp.asarray([True, False])
    assert action_mask(container(jnp.zeros(2), mask)) is mask
    assert action_mask({"last_reward": 0.0, "observation": [container(1, mask)]}) is mask


def test_the_names_of_a_named_tuple_are_kept():
    space = Fields(spaces.Discrete(2), spaces.Box(0, 1, (3,)))
    paths = [path for path, _ in space_leaves(space)]
    assert paths == [(0,), (1,)] and list(map(is_mask, paths)) == [False, True]
    assert copy.deepcopy(paths) == paths and is_mask(pickle.loads(pickle.dumps(paths[1])))
    for seen in (Fields(1, 2), (1, 2), [1, 2]):
        double = map_space(lambda path, leaf, x: 2 * x, space, seen)
        assert double == (2, 4) and isinstance(double, Fields) is isinstance(seen, Fields)
    assert isinstance(map_space(lambda path, leaf: path, space), Fields)
    assert map_space(lambda path, leaf, x: x, tuple(space), Fields(1, 2)) == Fields(1, 2)


def test_leaves_are_in_the_order_of_jax():
    ours = spaces.Dict({"b": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]), "a": None})
    paths = [path for path, _ in space_leaves(ours)]
    assert paths == [("a",), ("b", 0), ("b", 1)]
    observation = {"b": (1, 2), "a": 0}
    assert jax.tree.leaves(observation) == [0, 1, 2]


def test_the_largest_float_is_not_a_bound():
    largest = np.finfo(np.float32).max
    low, high = bounds(spaces.Box(jnp.array([-largest, -2.0]), jnp.array([largest, 2.0]), (2,)))
    np.testing.assert_array_equal([low, high], [[-np.inf, -2], [np.inf, 2]])


def test_one_hot():
    np.testing.assert_array_equal(one_hot(jnp.asarray(2), 4), [0, 0, 1, 0])


# The same tree of spaces in the classes of each library. JAX's order of leaves is a, b[0], b[1].
DISCRETES: list[Any] = [gymnasium.spaces.Discrete(n) for n in (2, 3, 4)]
TREES = {
    "gymnax": spaces.Dict({"b": spaces.Tuple(DISCRETES[1:]), "a": DISCRETES[0]}),
    "gymnasium": gymnasium.spaces.Dict(b=gymnasium.spaces.Tuple(DISCRETES[1:]), a=DISCRETES[0]),
    "ours": Nested({"b": Nested(tuple(DISCRETES[1:])), "a": DISCRETES[0]}),
    "plain": {"b": tuple(DISCRETES[1:]), "a": DISCRETES[0]},
}


@pytest.mark.parametrize("name", TREES)
def test_a_space_is_mapped_leaf_by_leaf(name):
    found = map_space(
        lambda path, leaf, x, y: (path, int(leaf.n), x, y),
        TREES[name],
        {"a": 1, "b": (2, 3)},
        {"b": [20, 30], "a": {"any": "tree"}},  # a leaf's part may be anything
    )
    assert found == {
        "a": (("a",), 2, 1, {"any": "tree"}),
        "b": ((("b", 0), 3, 2, 20), (("b", 1), 4, 3, 30)),
    }
    assert map_space(lambda path, leaf: path, TREES[name])["b"] == (("b", 0), ("b", 1))
    sizes = map_space(lambda _, leaf: jnp.asarray(leaf.n), TREES[name])
    assert jax.tree.leaves(sizes) == [leaf.n for _, leaf in space_leaves(TREES[name])] == [2, 3, 4]


def test_a_leaf_alone_is_mapped():
    assert map_space(lambda path, leaf, x: (path, leaf, x), DISCRETES[0], 5) == (
        (),
        DISCRETES[0],
        5,
    )


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"a": 1}, r"must be a dict with \['a', 'b'\] \(Dict\), got a dict with \['a'\]; "),
        ((1, (2, 3)), r"must be a dict with \['a', 'b'\] \(Dict\), got a tuple of 2; "),
        ({"a": 1, "b": (2,)}, r"a tuple of 2 \(Tuple\) at \['b'\], got a tuple of 1; "),
        ({"a": 1, "b": None}, r"a tuple of 2 \(Tuple\) at \['b'\], got a NoneType; "),
        ({"a": 1, "b": (2, 3), "c": 4}, r"got a dict with \['a', 'b', 'c'\]; "),
    ],
)
def test_a_tree_of_another_structure_is_refused(tree, message):
    with pytest.raises(SpaceMismatch, match=message):
        map_space(lambda path, leaf, x: x, TREES["plain"], tree)


def test_a_dict_may_have_entries_beside_its_space():
    tree = {"a": 1, "b": (2, 3), "c": 4}
    double = map_space(lambda path, leaf, x: 2 * x, TREES["plain"], tree, allow_extra=True)
    assert double == {"a": 2, "b": (4, 6), "c": 4}
    with pytest.raises(SpaceMismatch):
        map_space(lambda path, leaf, x: x, TREES["plain"], {"a": 1}, allow_extra=True)
