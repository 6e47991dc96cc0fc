"""Observations as vectors, against NumPy in float64."""

from typing import Any, NamedTuple

import equinox as eqx
import gymnasium.spaces as gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces as gymnax

import rlscan
from rlscan import Encoder
from rlscan.policies._encoder import check_num_channels


def build(space: Any, seed: int = 0, **settings: Any) -> Encoder:
    return Encoder(space, key=rlscan.key(seed), **settings)


def arrays(encoder: Encoder) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(encoder) if eqx.is_array(leaf)]


# Leaves other than images.


@pytest.mark.parametrize(
    "space, observation, vector",
    [
        (gymnax.Discrete(3), 2, [0, 0, 1]),
        (gymnasium.Discrete(3, start=-1), -1, [1, 0, 0]),
        (gymnasium.MultiDiscrete([2, 3], start=[0, 5]), [1, 5], [0, 1, 1, 0, 0]),
        (gymnasium.MultiDiscrete(np.asarray([[2], [3]])), [[0], [2]], [1, 0, 0, 0, 1]),
        (gymnasium.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (gymnax.Box(-1, 1, (2, 2)), [[0.5, -1], [0, 1]], [0.5, -1, 0, 1]),
        (gymnax.Box(-1, 1, ()), 0.25, [0.25]),
        (gymnasium.Box(0, 255, (2,), np.uint8), [255, 51], [1, 0.2]),
        (gymnasium.Box(0, 7, (2,), np.uint8), [7, 1], [7, 1]),  # counts, not colours
        (gymnax.Box(0, 1, (2,), jnp.bool_), [True, False], [1, 0]),
    ],
)
def test_leaves(space: Any, observation: Any, vector: list) -> None:
    encoder = build(space)
    seen = encoder(jnp.asarray(observation))
    assert seen.dtype == jnp.float32 and seen.shape == (encoder.size,) == (len(vector),)
    np.testing.assert_allclose(seen, vector, rtol=1e-6)
    assert arrays(encoder) == []


def test_parts_stand_in_the_order_of_names_and_of_tuples() -> None:
    for suite in (gymnax, gymnasium):
        inner = suite.Tuple([suite.Box(-1, 1, (2,)), suite.Discrete(2)])
        space = suite.Dict({"z": suite.Discrete(3), "a": inner, "m": suite.Box(-9, 9, (1,))})
        observation = {"m": jnp.asarray([7.0]), "a": ((jnp.asarray([0.5, -1]), 1)), "z": 0}
        np.testing.assert_array_equal(build(space)(observation), [0.5, -1, 0, 1, 7, 1, 0, 0])


def test_an_action_mask_is_not_an_input() -> None:
    space = gymnax.Dict({"action_mask": gymnasium.MultiBinary(4), "x": gymnax.Box(-1, 1, (2,))})
    encoder = build(space)
    assert encoder.size == 2
    seen = encoder({"action_mask": jnp.ones(4, bool), "x": jnp.asarray([3.0, 4.0])})
    np.testing.assert_array_equal(seen, [3, 4])
    parts = {
        "action_mask": gymnasium.Tuple([gymnasium.MultiBinary(2)] * 2),
        "x": gymnax.Discrete(2),
    }
    assert build(gymnax.Dict(parts)).size == 2


class Seen(NamedTuple):
    x: Any
    action_mask: Any


def test_the_mask_of_a_named_tuple_is_not_an_input() -> None:
    x, mask = jnp.asarray([3.0, 4.0]), jnp.ones(4, bool)
    space = Seen(gymnax.Box(-9, 9, (2,)), gymnasium.MultiBinary(4))
    np.testing.assert_array_equal(build(space)(Seen(x, mask)), [3, 4])
    # a Dict's entries may be fields
    np.testing.assert_array_equal(build(space._asdict())(Seen(x, mask)), [3, 4])
    # a Tuple does not tell which part is the mask
    assert build(tuple(space)).size == 6


# Images.


def convolved(encoder: Encoder, image: np.ndarray) -> np.ndarray:
    """Convolutions as four loops in float64, with kernels and strides by the documented rule."""
    part: Any = encoder.parts[0]
    x = np.asarray(image, np.float64)
    for layer in part.layers:
        stride = 2 if max(x.shape[:2]) > 16 else 1
        height, width = min(3, x.shape[0]), min(3, x.shape[1])
        kernels = np.asarray(layer.weight, np.float64).reshape(-1, height, width, x.shape[2])
        rows = range(0, x.shape[0] - height + 1, stride)
        columns = range(0, x.shape[1] - width + 1, stride)
        x = np.asarray(
            [
                [[(k * x[i : i + height, j : j + width]).sum() for k in kernels] for j in columns]
                for i in rows
            ]
        )
        x = np.maximum(x + np.asarray(layer.bias, np.float64), 0)
    return x.ravel()


@pytest.mark.parametrize(
    "shape, num_channels, size",
    [
        ((10, 10, 4), (16,), 16 * 8 * 8),  # MinAtar's
        ((5, 7, 2), (3, 5), 5 * 1 * 3),
        ((2, 5, 1), (4,), 4 * 1 * 3),  # smaller than a kernel
        ((1, 1, 6), (4, 4), 4),
        ((21, 18, 3), (2, 3), 3 * 8 * 6),  # the first stride is 2
    ],
)
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_images(shape: tuple, num_channels: tuple, size: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    high = 255 if dtype == np.uint8 else 1
    image = random.uniform(0, high + (dtype != np.float32), shape).astype(dtype)
    encoder = build(gymnasium.Box(0, high, shape, dtype), num_channels=num_channels)
    noise = lambda shape: random.uniform(size=shape).astype(np.float32)  # noqa: E731
    # With biases other than 0, like those of a trained encoder.
    biases = lambda e: [layer.bias for layer in e.parts[0].layers]  # noqa: E731
    encoder = eqx.tree_at(biases, encoder, replace_fn=lambda b: b + 3 * noise(b.shape))
    seen = eqx.filter_jit(encoder)(jnp.asarray(image))
    assert seen.shape == (encoder.size,) == (size,) and seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, convolved(encoder, image / high), rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(seen)) > 0.1


def test_an_image_without_convolutions_is_a_flat_vector() -> None:
    image = np.arange(24.0).reshape(2, 3, 4)
    encoder = build(gymnax.Box(0, 30, (2, 3, 4)), num_channels=())
    np.testing.assert_array_equal(encoder(jnp.asarray(image)), np.arange(24))
    assert arrays(encoder) == []


def test_kernels_are_orthogonal_with_a_gain_of_root_two() -> None:
    encoder = build(gymnax.Box(0, 1, (10, 10, 4)), num_channels=(8, 60))
    part: Any = encoder.parts[0]
    for layer in part.layers:
        rows = np.asarray(layer.weight, np.float64)
        np.testing.assert_allclose(rows @ rows.T, 2 * np.eye(len(rows)), atol=1e-5)
        assert (np.asarray(layer.bias) == 0).all()
    other: Any = build(gymnax.Box(0, 1, (10, 10, 4)), seed=1, num_channels=(8, 60)).parts[0]
    assert np.abs(part.layers[0].weight - other.layers[0].weight).max() > 0.1


def test_images_and_layers_have_kernels_of_their_own() -> None:
    image = gymnax.Box(0, 1, (5, 5, 2))
    encoder = build(gymnax.Tuple([image, image]))
    first, second = (part.layers[0].weight for part in encoder.parts)  # pyright: ignore
    assert np.abs(first - second).max() > 0.1
    assert encoder.size == 2 * 16 * 9
    # Two layers of equal shape.
    part: Any = build(gymnax.Box(0, 1, (5, 5, 4)), num_channels=(4, 4)).parts[0]
    assert np.abs(part.layers[0].weight - part.layers[1].weight).max() > 0.1


def test_construction_maps_over_keys() -> None:
    space = gymnax.Box(0, 1, (5, 5, 2))
    keys = jax.random.split(rlscan.key(0), 3)
    many = eqx.filter_vmap(lambda key: Encoder(space, key=key))(keys)
    for i in range(3):
        one = Encoder(space, key=keys[i])
        for a, b in zip(arrays(many), arrays(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


# Invalid input.


@pytest.mark.parametrize(
    "observation, told",
    [
        ({"a": jnp.zeros(3), "b": (0,)}, "observations['a'] of shape (2,), got one of shape (3,)"),
        ({"a": jnp.zeros(2)}, "a part ['b'][0], got one of structure PyTreeDef({'a': *})"),
        (jnp.zeros(2), "a part ['a'], got"),
        ({"a": jnp.zeros(2), "b": (jnp.zeros(1),)}, "['b'][0] of shape (), got one of shape (1,)"),
    ],
)
def test_observations_of_another_space_are_refused(observation: Any, told: str) -> None:
    space = {"a": gymnax.Box(-1, 1, (2,)), "b": gymnax.Tuple([gymnax.Discrete(2)])}
    with pytest.raises(ValueError) as error:
        build(gymnax.Dict(space))(observation)
    assert told in str(error.value) and "for the environment that it acts in" in str(error.value)


@pytest.mark.parametrize("num_channels", [(0,), (8, -1), (True,)])
def test_numbers_of_channels_that_cannot_be_are_refused(num_channels: Any) -> None:
    with pytest.raises(ValueError, match="num_channels must be positive integers, got .*; such as"):
        check_num_channels(num_channels)


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.Text(3),
        gymnax.Dict({}),
        gymnax.Dict({"action_mask": gymnasium.MultiBinary(2)}),
        gymnasium.Tuple([gymnasium.Sequence(gymnasium.Discrete(2))]),
    ],
)
def test_spaces_without_numbers_are_refused(space: Any) -> None:
    with pytest.raises(ValueError, match="takes observations of a Discrete.*write a policy of"):
        build(space)
