"""Drawings of environments, with one function for each; it returns a function that draws a frame.

Frame t shows the environment after t steps, and the action that is chosen there.

They need only matplotlib. gymnax's Visualizer needs pygame for classic control.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.tree import is_key
from .._core.types import Environment
from ..envs._wrappers import Wrapper
from .colours import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, YELLOW
from .drawn import Renderer, drawn_environment, gymnax_renderer, own_renderer
from .episode import Episode

Artists = Sequence[Any]
Scene = Callable[[int], Artists]  # takes a frame, and returns the artists that have changed

# The duration of a step. Games have none, and get one that is comfortable to watch.
SECONDS_PER_STEP = {
    "CartPole-v1": 0.02,
    "Pendulum-v1": 0.05,
    "Acrobot-v1": 0.1,
    "MountainCar-v0": 0.04,
    "MountainCarContinuous-v0": 0.04,
}
SECONDS_PER_STEP_OF_GAMES = 0.1

_CHANNELS = {
    "Breakout-MinAtar": ("paddle", "ball", "trail", "brick"),
    "Asterix-MinAtar": ("player", "enemy", "trail", "gold"),
    "Freeway-MinAtar": ("chicken", "car", *(f"trail, speed {i}" for i in range(1, 6))),
    "SpaceInvaders-MinAtar": (
        "cannon",
        "alien",
        "alien, left",
        "alien, right",
        "own bullet",
        "their bullet",
    ),
    "Seaquest-MinAtar": (
        "submarine",
        "its tail",
        "own bullet",
        "trail",
        "their bullet",
        "fish",
        "enemy",
        "oxygen",
        "divers aboard",
        "diver",
    ),
    "Pong-misc": ("paddle", "ball", "trail"),
}
_COLOURS = (BLUE, RED, "#BBBBBB", GREEN, ORANGE, PINK, SKY, YELLOW, "#777777", BLACK)


def make_scene(name: str, ax: Any, episode: Episode, env: Environment | None = None) -> Scene:
    """Set up the drawing of an environment; of its observations if nothing else is known.

    **Arguments:**

    - `name`: the name of the environment, such as those in `rlscan.envs.ENVIRONMENTS`.
    - `ax`: empty matplotlib axes.
    - `episode`: on the host, cut to its length.
    - `env`: the environment, which draws itself if it has a method for that, see `own_renderer`.

    **Raises:** `ValueError` if what the environment draws is no picture.
    """
    drawn = None if env is None else drawn_environment(env)
    if (render := own_renderer(drawn) if drawn is not None else None) is not None:
        return _rendered(ax, episode, render)
    if name in _SCENES and not isinstance(drawn, Wrapper):  # else the state inside is not known
        return _SCENES[name](ax, episode)
    observation = episode.observation
    if isinstance(observation, dict):  # from `LastActionReward`
        observation = observation.get("observation", observation)
    if isinstance(observation, np.ndarray) and observation.ndim >= 3:
        channels = _CHANNELS.get(name, ())
        # Of stacked frames, draw the last, which is the newest.
        return _grid(ax, observation[..., -len(channels) :] if channels else observation, channels)
    if (render := gymnax_renderer(drawn) if drawn is not None else None) is not None:
        return _rendered(ax, episode, render)
    return _bars(ax, observation)


def seconds_per_step(name: str, env: Environment | None = None) -> float:
    """The duration of a step: as `env.metadata["render_fps"]` says, or as is known by its name."""
    drawn = None if env is None else drawn_environment(env)
    metadata = getattr(drawn, "metadata", None)
    rate = metadata.get("render_fps") if isinstance(metadata, dict) else None
    if isinstance(rate, int | float) and rate > 0:
        return 1 / rate
    return SECONDS_PER_STEP.get(name, SECONDS_PER_STEP_OF_GAMES)


def _rendered(ax: Any, episode: Episode, render: Renderer) -> Scene:
    """Show the pictures that an environment draws of itself."""

    def picture(t: int) -> np.ndarray:
        def at(x: Any) -> Any:
            return x[t] if is_key(x) else jnp.asarray(x[t])

        return render(jax.tree.map(lambda x: at(x) if np.ndim(x) else x, episode.env_state))

    first = picture(0)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("0.8")  # the picture may end in white
    height, width = first.shape[:2]
    extent, room = (0, width, height, 0), 0.01 * max(first.shape)
    image = ax.imshow(first, interpolation="nearest", extent=extent, animated=True)
    ax.set(xlim=(-room, width + room), ylim=(height + room, -room))  # keeps the frame visible

    def draw(t: int) -> Artists:
        image.set_data(now := picture(t))
        if now.shape != first.shape:
            raise ValueError(
                f"render must return pictures of one size, got {list(first.shape)} and "
                f"{list(now.shape)}"
            )
        return (image,)

    return draw


def _torque(ax: Any, radius: float) -> Callable[..., Artists]:
    """An arc with an arrowhead."""
    from matplotlib.patches import Polygon

    (arc,) = ax.plot([], [], color=RED, linewidth=2.5, animated=True)
    head = ax.add_patch(Polygon(np.zeros((3, 2)), color=RED, linewidth=0, animated=True))

    def draw(centre: Any, start: float, sweep: float) -> Artists:
        """Draw it around `centre` from the angle `start`, anticlockwise from the top, in rad."""
        angles = start + np.linspace(0, sweep, 20)
        outward = np.stack([-np.sin(angles), np.cos(angles)])
        arc.set_data(*(np.reshape(centre, (2, 1)) + radius * outward))
        end, normal = np.asarray(centre) + radius * outward[:, -1], outward[:, -1]
        forward = np.sign(sweep) * np.array([-normal[1], normal[0]])
        size = min(0.1, radius * abs(sweep))  # a small torque has a small head
        tip = end + 1.3 * size * forward
        head.set_xy([tip, end + 0.75 * size * normal, end - 0.75 * size * normal])
        return arc, head

    return draw


def _action(episode: Episode, t: int) -> float | None:
    """The action that is chosen in frame t, a number; `None` after the last step."""
    return float(np.ravel(episode.action)[t]) if t < len(episode.reward) else None


def _cart_pole(ax: Any, episode: Episode) -> Scene:
    from matplotlib.patches import Rectangle

    state, half = episode.env_state, 0.25
    ax.set(xlim=(-3, 3), ylim=(-0.6, 1.6), aspect="equal", xlabel="position (m)", yticks=[])
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.axhline(-0.16, color="0.6", linewidth=1)
    for limit in (-2.4, 2.4):  # an episode ends beyond
        ax.axvline(limit, color="0.75", linewidth=1, linestyle=":")
    cart = ax.add_patch(Rectangle((0, -0.15), 2 * half, 0.3, color=BLUE, animated=True))
    (pole,) = ax.plot([], [], color=RED, linewidth=5, solid_capstyle="round", animated=True)
    (axle,) = ax.plot([], [], "o", color="white", markersize=4, animated=True)

    def draw(t: int) -> Artists:
        x, angle = float(state.x[t]), float(state.theta[t])
        cart.set_x(x - half)
        pole.set_data([x, x + np.sin(angle)], [0.1, 0.1 + np.cos(angle)])
        axle.set_data([x], [0.1])
        return cart, pole, axle

    return draw


def _pendulum(ax: Any, episode: Episode) -> Scene:
    theta = episode.env_state.theta
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    ax.plot([0], [0], "o", color="0.3", markersize=7)
    (rod,) = ax.plot([], [], color=BLUE, linewidth=7, solid_capstyle="round", animated=True)
    arrow = _torque(ax, 0.3)
    words = ax.text(0, -1.33, "", ha="center", color=RED, animated=True)

    def draw(t: int) -> Artists:
        angle, torque = float(theta[t]), _action(episode, t)  # 0 is upright; anticlockwise
        rod.set_data([0, -np.sin(angle)], [0, np.cos(angle)])
        words.set_text("" if torque is None else f"torque {torque:+.2f} N m")
        return rod, *arrow((0, 0), 0.0, torque or 0.0), words  # an arc of 1 rad for 1 N m

    return draw


def _acrobot(ax: Any, episode: Episode) -> Scene:
    state = episode.env_state
    ax.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3), aspect="equal", xticks=[], yticks=[])
    ax.axhline(1, color="0.75", linewidth=1, linestyle=":")
    ax.text(-2.25, 1.05, "goal", color="0.4", fontsize="small")
    (upper,) = ax.plot([], [], color=BLUE, linewidth=6, solid_capstyle="round", animated=True)
    (lower,) = ax.plot([], [], color=SKY, linewidth=6, solid_capstyle="round", animated=True)
    (joints,) = ax.plot([], [], "o", color="0.2", markersize=6, animated=True)
    arrow = _torque(ax, 0.45)

    def draw(t: int) -> Artists:
        first = float(state.joint_angle1[t])
        second = first + float(state.joint_angle2[t])
        elbow = np.sin(first), -np.cos(first)
        tip = elbow[0] + np.sin(second), elbow[1] - np.cos(second)
        upper.set_data([0, elbow[0]], [0, elbow[1]])
        lower.set_data([elbow[0], tip[0]], [elbow[1], tip[1]])
        joints.set_data([0, elbow[0]], [0, elbow[1]])
        action = _action(episode, t)
        torque = 0.0 if action is None else action - 1  # on the lower link, which hangs down at 0
        return upper, lower, joints, *arrow(elbow, np.pi + second, torque)

    return draw


def _mountain_car(ax: Any, episode: Episode) -> Scene:
    position = episode.env_state.position
    x = np.linspace(-1.2, 0.6, 200)
    ax.fill_between(x, np.sin(3 * x), -1.2, color="0.85", linewidth=0)
    ax.plot(x, np.sin(3 * x), color="0.5", linewidth=1.5)
    ax.plot([0.5, 0.5], [np.sin(1.5), np.sin(1.5) + 0.25], color=GREEN, linewidth=2)
    ax.text(0.5, np.sin(1.5) + 0.28, "goal", color=GREEN, ha="center", fontsize="small")
    ax.set(xlim=(-1.2, 0.6), ylim=(-1.2, 1.5), xlabel="position", yticks=[])
    (car,) = ax.plot([], [], "o", color=BLUE, markersize=14, animated=True)

    def draw(t: int) -> Artists:
        at = float(position[t])
        car.set_data([at], [np.sin(3 * at) + 0.08])
        return (car,)

    return draw


def _grid(ax: Any, observation: np.ndarray, names: Sequence[str]) -> Scene:
    """Draw planes of zeros and ones, each in one colour, with the first on top."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    planes = observation[..., None] if observation.ndim == 3 else observation
    colours = [to_rgb(_COLOURS[i % len(_COLOURS)]) for i in range(planes.shape[-1])]
    height, width = planes.shape[1:3]
    ax.set(xticks=[], yticks=[])
    extent = (0, width, height, 0)
    image = ax.imshow(np.ones((height, width, 3)), extent=extent, animated=True)
    ax.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1))  # a margin keeps the frame visible
    handles = [Patch(color=c, label=n) for c, n in zip(colours, names, strict=False)]
    if handles:
        columns = 4 if len(handles) <= 8 else 5
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.02),
            ncols=columns,
            frameon=False,
            fontsize="x-small",
            handlelength=1,
            columnspacing=1,
        )

    def draw(t: int) -> Artists:
        pixels = np.ones((height, width, 3))
        for i in reversed(range(len(colours))):
            shade = np.clip(planes[t, ..., i, None], 0, 1)
            pixels = (1 - shade) * pixels + shade * np.array(colours[i])
        pixels = pixels.repeat(16, axis=0).repeat(16, axis=1)
        pixels[::16] = pixels[:, ::16] = 1  # white lines between cells
        image.set_data(pixels)
        return (image,)

    return draw


def _bars(ax: Any, observation: Any) -> Scene:
    """Draw the numbers of an observation as bars."""
    leaves = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(observation)]
    numbers = np.concatenate(leaves, axis=1).astype(float)
    where = np.arange(numbers.shape[1])
    low, high = min(0.0, numbers.min()), max(0.0, numbers.max())
    room = 0.05 * (high - low or 1.0)
    ax.set(ylim=(low - room, high + room), xlabel="entry of the observation", ylabel="its value")
    ax.set_xlim(-0.6, numbers.shape[1] - 0.4)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.axhline(0, color="0.5", linewidth=1)
    bars = ax.bar(where, numbers[0], color=BLUE, animated=True)

    def draw(t: int) -> Artists:
        for bar, height in zip(bars, numbers[t], strict=True):
            bar.set_height(height)
        return tuple(bars)

    return draw


_SCENES = {
    "CartPole-v1": _cart_pole,
    "Pendulum-v1": _pendulum,
    "Acrobot-v1": _acrobot,
    "MountainCar-v0": _mountain_car,
    "MountainCarContinuous-v0": _mountain_car,
}
