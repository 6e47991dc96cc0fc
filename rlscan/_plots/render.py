"""`render`: an animation of an episode, with the disagreement of dropout masks beside it."""

import math
from typing import Any

import numpy as np

from .._core.require import require_extra
from .._core.tree import is_key
from .._core.types import Environment
from .animation import encode, require_format
from .colours import BLUE, RED
from .episode import Episode
from .scenes import Scene, make_scene, seconds_per_step

MOST_FRAMES = 400
_MIN_SECONDS = 0.04  # per frame, because many viewers slow down shorter ones
_LEAST_RANGE = 0.05  # of an axis, relative to what it shows, so that rounding looks flat


def render(
    episode: Episode,
    name: str,
    env: Environment | None = None,
    *,
    max_frames: int = MOST_FRAMES,
    is_thinned: bool = False,
    suffix: str = ".gif",
) -> tuple[bytes, int]:
    """Draw an episode as an animation, at the speed of its environment.

    The first frame shows the start, and the last one the end of the episode. If the episode has the
    outputs of several networks, two panels show their disagreement over the steps: the standard
    deviation of an action's probability (or of the mean action) over networks, averaged over
    actions; and the mean value, with a band of one standard deviation.

    **Arguments:**

    - `episode`: the result of `record`, on the host.
    - `name`: the name of the environment.
    - `env`: the environment, for one that draws itself; see `make_scene`.
    - `max_frames`: the episode is cut after this many frames.
    - `is_thinned`: whether frames are left out instead, as many as needed.
    - `suffix`: `".gif"` or `".mp4"`.

    **Returns:** the content of the file, and the number of steps of the episode in it.

    **Raises:** `ModuleNotFoundError` without `rlscan[plot]`, or `rlscan[video]` for MP4;
    `ValueError` if what the environment draws is no picture.
    """
    require_extra("pictures of episodes", "plot", "matplotlib", "PIL")
    require_format(suffix)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    episode = _cut(episode)
    seconds = seconds_per_step(name, env)
    stride = math.ceil(_MIN_SECONDS / seconds)
    duration, last = seconds * stride, int(episode.num_frames) - 1
    if is_thinned:
        stride = max(stride, math.ceil(last / (max_frames - 1)))
    steps = [*range(0, last, stride), last][:max_frames]
    has_networks = episode.networks is not None
    figure = Figure(figsize=(9.6, 4.4) if has_networks else (5.2, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    scenes = _network_panels(figure, episode) if has_networks else []
    ax = figure.axes[0] if has_networks else figure.subplots()
    scenes.append(_titled(ax, name, make_scene(name, ax, episode, env), episode))
    canvas.draw()  # the background, which is drawn only once
    background = canvas.copy_from_bbox(figure.bbox)  # pyright: ignore
    frames = []
    for t in steps:
        canvas.restore_region(background)  # pyright: ignore
        for artist in (artist for scene in scenes for artist in scene(t)):
            artist.axes.draw_artist(artist)
        frames.append(np.array(canvas.buffer_rgba())[..., :3])
    # The step to a last state that is not known counts as drawn.
    num_drawn = int(episode.length) if steps[-1] == last else steps[-1]
    return encode(frames, duration, suffix), num_drawn


def _titled(ax: Any, name: str, scene: Scene, episode: Episode) -> Scene:
    total = np.cumsum([0, *episode.reward])
    ax.set_title(" ")  # reserves the space
    title = ax.text(0.5, 1.02, "", transform=ax.transAxes, ha="center", va="bottom", animated=True)

    def draw(t: int) -> Any:
        title.set_text(f"{name}   step {t}   return {total[t]:.4g}")
        return [*scene(t), title]

    return draw


def _network_panels(figure: Any, episode: Episode) -> list[Scene]:
    """Panels of the disagreement of K networks, and of their values."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    left.subplots()
    upper, lower = right.subplots(2, 1, sharex=True)
    networks: Any = episode.networks
    step = np.arange(len(episode.reward))  # steps made when the networks are asked
    is_probability = bool(np.allclose(networks.policy.sum(axis=-1), 1, atol=1e-3))
    disagreement = networks.policy.std(axis=1).mean(axis=-1)
    upper.plot(step, disagreement, color=RED, linewidth=1.3)
    upper.set_ylabel(
        "sd of an action's\nprobability" if is_probability else "sd of the mean action"
    )
    scale = 1.0 if is_probability else np.abs(networks.policy).max()
    upper.set_ylim(0, 1.1 * max(disagreement.max(), _LEAST_RANGE * (scale or 1.0)))
    upper.set_title(f"disagreement of {networks.value.shape[1]} dropout masks", fontsize="medium")
    mean, deviation = networks.value.mean(axis=1), networks.value.std(axis=1)
    if deviation.max() > 0:  # only if the critic has dropout
        lower.fill_between(
            step, mean - deviation, mean + deviation, color=BLUE, alpha=0.25, linewidth=0
        )
    lower.plot(step, mean, color=BLUE, linewidth=1.3)
    band = " ± sd" if deviation.max() > 0 else ""
    lower.set_ylabel(f"value{band}\n(discounted return)")
    lower.set_xlabel("environment step")
    lower.set_xlim(0, max(len(step), 2))
    lower.xaxis.get_major_locator().set_params(integer=True)
    scale = max(np.abs(mean).max(), np.abs(episode.reward).max()) or 1.0
    low, high = lower.get_ylim()
    if (missing := _LEAST_RANGE * scale - (high - low)) > 0:
        lower.set_ylim(low - missing / 2, high + missing / 2)
    for ax in (upper, lower):
        ax.spines[["top", "right"]].set_visible(False)
    right.align_ylabels([upper, lower])
    return [_veil(ax, len(step)) for ax in (upper, lower)]


def _veil(ax: Any, length: int) -> Scene:
    """Fade the part of a panel that belongs to later steps."""
    from matplotlib.patches import Rectangle

    over = ax.get_xaxis_transform()
    veil = Rectangle((0, 0), length, 1, transform=over, color="white", alpha=0.75, animated=True)
    ax.add_patch(veil)
    (now,) = ax.plot([0, 0], [0, 1], transform=over, color="0.3", linewidth=1, animated=True)

    def draw(t: int) -> Any:
        veil.set_x(t)
        now.set_xdata([t, t])
        return veil, now

    return draw


def _cut(episode: Episode) -> Episode:
    """Keep only what belongs to the episode."""
    import jax

    def first(number: Any, tree: Any) -> Any:
        def cut(x: Any) -> Any:
            return (x if is_key(x) else np.asarray(x))[: int(number)]

        return jax.tree.map(lambda x: cut(x) if np.ndim(x) else x, tree)

    env_state, observation = first(episode.num_frames, (episode.env_state, episode.observation))
    steps = episode.action, episode.reward, episode.networks
    action, reward, networks = first(episode.length, steps)
    ends = episode.length, episode.num_frames
    return Episode(env_state, observation, action, reward, networks, *ends)
