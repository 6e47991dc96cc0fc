"""The part of an environment that is drawn, and how an environment draws itself."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from .._core.environment import reset_env
from .._core.scan import describe
from .._core.types import Environment, PyTree
from ..envs._gymnax import GymnaxEnvironment
from ..envs._wrappers import Wrapper

Picture = UInt8[np.ndarray, "H W 3"]
Renderer = Callable[[PyTree], Picture]  # takes a state


def drawn_part(env: Environment, state: PyTree) -> tuple[Environment, PyTree]:
    """The outermost environment that draws itself, else the innermost, with its own state."""
    layers = list(_layers(env, state))
    return next((layer for layer in layers if _arguments_of_render(layer[0])), layers[-1])


def drawn_environment(env: Environment) -> Environment:
    """The environment of `drawn_part`."""
    return drawn_part(env, _first_state(env))[0]


def same_shapes(tree: PyTree, other: PyTree) -> bool:
    """Whether two trees have the same structure, and arrays of the same shapes and dtypes."""
    (leaves, structure), (others, its) = map(jax.tree.flatten, (tree, other))
    shapes = [[(jnp.shape(x), getattr(x, "dtype", None)) for x in xs] for xs in (leaves, others)]
    return structure == its and shapes[0] == shapes[1]


def _layers(env: Environment, state: PyTree) -> Iterator[tuple[Environment, PyTree]]:
    """An environment and those inside of it, as far as their states can be told."""
    while True:
        yield env, state
        if not isinstance(env, Wrapper):
            return
        env = env.env
        # A wrapper hands its state on, or keeps the inner one as a field of its own.
        fields = jax.tree.leaves(state, is_leaf=lambda node, whole=state: node is not whole)
        like = _first_state(env)
        inner = [x for x in (state, *fields) if same_shapes(x, like)]
        if not inner:
            return
        state = inner[0]


def _first_state(env: Environment) -> PyTree:
    return eqx.filter_eval_shape(lambda key: reset_env(env, key)[1], jax.random.key(0))


def own_renderer(env: Environment) -> Renderer | None:
    """How an environment draws itself: by `render(state)`, or `render(state, params)`.

    `params` are the environment's attribute of this name. `render` returns an RGB array
    `[H, W, 3]`, uint8 or floats from 0 to 1. It is called on the host, once for each picture.
    """
    arguments = _arguments_of_render(env)
    return None if arguments is None else _renderer(env, arguments)


def gymnax_renderer(env: Environment) -> Renderer | None:
    """How a gymnax environment draws itself: an array, or a figure of matplotlib."""
    inner: Any = env.env if isinstance(env, GymnaxEnvironment) else None
    if not callable(getattr(inner, "render", None)):
        return None
    return _renderer(inner, (env.params,))  # pyright: ignore[reportAttributeAccessIssue]


def _arguments_of_render(env: Any) -> tuple | None:
    """What `env.render` takes after the state; `None` if it does not draw a state."""
    if not callable(render := getattr(env, "render", None)):
        return None
    try:
        signature = inspect.signature(render)
    except ValueError:  # not written in Python
        return None
    for arguments in [(), *([(env.params,)] if hasattr(env, "params") else [])]:
        try:
            signature.bind(None, *arguments)
        except TypeError:
            continue
        return arguments
    return None


def _renderer(env: Any, arguments: tuple) -> Renderer:
    def draw(state: PyTree) -> Picture:
        found = env.render(state, *arguments)
        picture = _of_figure(found)
        picture = np.asarray(found if picture is None else picture)
        if picture.ndim == 3 and picture.shape[-1] == 3 and 0 not in picture.shape:
            if picture.dtype == np.uint8:
                return picture
            if np.issubdtype(picture.dtype, np.floating) and 0 <= picture.min() <= picture.max():
                if picture.max() <= 1:
                    return np.round(255 * picture).astype(np.uint8)
        span = (
            f" from {picture.min():.3g} to {picture.max():.3g}" if picture.dtype != object else ""
        )
        raise ValueError(
            f"{type(env).__name__}.render must return an RGB array [H, W, 3] of uint8, or of "
            f"floats from 0 to 1, got {describe(found)}{span}; convert it there"
        )

    return draw


def _of_figure(found: Any) -> Picture | None:
    """The picture of a figure, or of `(figure, axes)`; `None` for anything else."""
    figure: Any = found[0] if isinstance(found, tuple) and found else found
    if not hasattr(figure, "savefig"):
        return None
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pyplot.close(figure)  # pyplot keeps all that it makes
    return np.array(canvas.buffer_rgba())[..., :3]
