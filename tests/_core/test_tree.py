"""Operations that change the arrays of a tree and leave the rest unchanged."""

import jax
import jax.numpy as jnp
import numpy as np

from rlscan._core.tree import (
    ArrayFunction,
    as_strong_arrays,
    cast_like,
    clone_keys,
    is_shape,
    map_arrays,
    tree_bytes,
    where,
)

TREE = {"f": len, "flag": True, "x": jnp.arange(3), "y": (np.ones((2, 2)), None)}


def test_other_leaves_are_unchanged():
    mapped = map_arrays(lambda x: x + 1, TREE)
    assert mapped["f"] is len and mapped["flag"] is True and mapped["y"][1] is None
    np.testing.assert_array_equal(mapped["x"], [1, 2, 3])
    np.testing.assert_array_equal(mapped["y"][0], np.full((2, 2), 2))


def test_a_condition_selects_along_its_own_axes():
    done = jnp.asarray([True, False])
    new, old = ({"x": jnp.full((2, 3), n), "n": jnp.full(2, n), "f": len} for n in (1, 0))
    selected = where(done, new, old)
    np.testing.assert_array_equal(selected["x"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(selected["n"], [1, 0])
    assert selected["f"] is len


def test_keys_are_moved_without_being_used():
    with jax.debug_key_reuse(True):
        keys = jax.random.split(jax.random.key(0), 2)
        moved = where(jnp.asarray([True, False]), clone_keys(keys), clone_keys(keys))
        jax.random.bits(moved[0])
    np.testing.assert_array_equal(jax.random.key_data(moved), jax.random.key_data(keys))


def test_weak_types_become_strong():
    tree = as_strong_arrays({"time": 0, "x": jnp.asarray(1.0), "f": len})
    assert tree["f"] is len
    assert not tree["time"].weak_type and not tree["x"].weak_type
    like = {"time": jnp.zeros((), jnp.int8), "x": jnp.zeros(()), "f": len}
    assert cast_like(like, tree)["time"].dtype == jnp.int8


def test_bytes_of_arrays_and_of_shapes():
    assert tree_bytes(TREE) == 3 * 4 + 4 * 8
    shapes = jax.eval_shape(lambda: {"x": jnp.zeros((5, 2), bool), "key": jax.random.key(0)})
    assert tree_bytes(shapes) == 10 + 8
    assert tree_bytes(jax.random.key(0)) == 8


def scale(tree, factor, flag):
    assert flag is True and tree["f"] is len  # constants, even under a trace
    return {"x": factor * tree["x"], "f": tree["f"], "count": 3}


def test_a_function_of_trees_becomes_one_of_arrays():
    tree = {"x": jnp.arange(3), "f": len}
    function = ArrayFunction(scale, (tree, jnp.asarray(2), True))
    assert [x.shape for x in jax.tree.leaves(function.arrays)] == [(3,), ()]
    result = function.merge(jax.jit(function)(*function.arrays))
    np.testing.assert_array_equal(result["x"], [0, 2, 4])
    assert result["f"] is len and result["count"] == 3


def test_a_function_of_trees_is_traced_for_shapes():
    tree = {"x": jax.ShapeDtypeStruct((3,), jnp.int32), "f": len}
    function = ArrayFunction(scale, (tree, 2, True), is_shape)
    result = function.merge(jax.jit(function).lower(*function.arrays).out_info)
    assert result["x"].shape == (3,) and result["f"] is len
