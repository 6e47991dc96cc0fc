"""`render`: an animation of an episode, with the disagreement of dropout masks beside it."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._core.require import require_extra
from .colours import BLUE, RED
from .episode import Episode
from .scenes import SECONDS_PER_STEP, SECONDS_PER_STEP_OF_GAMES, Scene, make_scene

MOST_FRAMES = 400
_MIN_SECONDS = 0.04  # per frame, because many viewers slow down shorter ones


def render(episode: Episode, name: str, *, max_frames: int = MOST_FRAMES) -> tuple[bytes, int]:
    """Draw an episode as a GIF, at the speed of its environment.

    If the episode has the outputs of several networks, two panels show their disagreement over the
    steps: the standard deviation of an action's probability (or of the mean action) over networks,
    averaged over actions; and the mean value, with a band of one standard deviation.

    **Arguments:**

    - `episode`: the result of `record`, on the host.
    - `name`: the name of the environment.
    - `max_frames`: the episode is cut after this many frames.

    **Returns:** the content of the file, and the number of steps of the episode in it.

    **Raises:** `ModuleNotFoundError` without `rlscan[plot]`.
    """
    require_extra("pictures of episodes", "plot", "matplotlib", "PIL")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    episode = _cut(episode, int(episode.length))
    seconds = SECONDS_PER_STEP.get(name, SECONDS_PER_STEP_OF_GAMES)
    stride = math.ceil(_MIN_SECONDS / seconds)
    steps = list(range(0, len(episode.reward), stride))[:max_frames]
    has_networks = episode.networks is not None
    figure = Figure(figsize=(9.6, 4.4) if has_networks else (5.2, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    scenes = _network_panels(figure, episode) if has_networks else []
    scenes.append(_titled(figure.axes[0] if has_networks else figure.subplots(), name, episode))
    canvas.draw()  # the background, which is drawn only once
    background = canvas.copy_from_bbox(figure.bbox)  # pyright: ignore
    frames = []
    for t in steps:
        canvas.restore_region(background)  # pyright: ignore
        for artist in (artist for scene in scenes for artist in scene(t)):
            artist.axes.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    frames = _in_one_palette(frames)
    stream = io.BytesIO()
    duration = round(1000 * seconds * stride)
    durations = [duration] * (len(frames) - 1) + [1500]  # a pause at the end
    rest = frames[1:]
    frames[0].save(stream, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return stream.getvalue(), min(len(episode.reward), len(steps) * stride)


def _in_one_palette(frames: Sequence[Any]) -> list[Any]:
    """Reduce all frames to one palette, so that a GIF stores only the pixels that change."""
    from PIL import Image

    some = [np.asarray(frames[i * (len(frames) - 1) // 3]) for i in range(4)]
    palette = Image.fromarray(np.concatenate(some)).quantize(128, Image.Quantize.MAXCOVERAGE)
    colours = np.array(palette.getpalette() or []).reshape(-1, 3)
    colours[colours.min(axis=1) > 240] = 255  # quantization makes the background nearly white
    palette.putpalette(colours.ravel().tolist())
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _titled(ax: Any, name: str, episode: Episode) -> Scene:
    scene, total = make_scene(name, ax, episode), np.cumsum(episode.reward)
    ax.set_title(" ")  # reserves the space
    title = ax.text(0.5, 1.02, "", transform=ax.transAxes, ha="center", va="bottom", animated=True)

    def draw(t: int) -> Any:
        title.set_text(f"{name}   step {t + 1}   return {total[t]:.4g}")
        return [*scene(t), title]

    return draw


def _network_panels(figure: Any, episode: Episode) -> list[Scene]:
    """Panels of the disagreement of K networks, and of their values."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    left.subplots()
    upper, lower = right.subplots(2, 1, sharex=True)
    networks: Any = episode.networks
    step = np.arange(1, len(episode.reward) + 1)
    is_probability = bool(np.allclose(networks.policy.sum(axis=-1), 1, atol=1e-3))
    disagreement = networks.policy.std(axis=1).mean(axis=-1)
    upper.plot(step, disagreement, color=RED, linewidth=1.3)
    upper.set_ylabel(
        "sd of an action's\nprobability" if is_probability else "sd of the mean action"
    )
    upper.set_ylim(0, 1.1 * disagreement.max())
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
        veil.set_x(t + 1)
        now.set_xdata([t + 1, t + 1])
        return veil, now

    return draw


def _cut(episode: Episode, length: int) -> Episode:
    """Keep only the steps of the episode."""
    import jax

    return jax.tree.map(lambda x: np.asarray(x)[:length] if np.ndim(x) else x, episode)
