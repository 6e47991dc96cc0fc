"""Moving pictures of an episode, with what a policy is unsure of beside it."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .episode import Episode
from .scenes import BLUE, RED, SECONDS_PER_STEP, SECONDS_PER_STEP_OF_GAMES, Scene, make_scene

MOST_FRAMES = 400


_LEAST_SECONDS = 0.04  # of a frame: many viewers slow down what is faster


def render(episode: Episode, name: str, *, max_frames: int = MOST_FRAMES) -> tuple[bytes, int]:
    """A GIF of an episode, in its own time.

    Where it has opinions of several networks, they are drawn beside it over the steps: how far the
    networks disagree on what to do, as the standard deviation over them of an action's probability
    (or of the mean action), averaged over actions; and the value, in a band of one deviation.

    **Arguments:**

    - `episode`: from `record`, on the host.
    - `name`: of its environment.
    - `max_frames`: the episode is cut after them.

    **Returns:** the content of the file, and how many steps of the episode are in it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    episode = _cut(episode, int(episode.length))
    seconds = SECONDS_PER_STEP.get(name, SECONDS_PER_STEP_OF_GAMES)
    stride = math.ceil(_LEAST_SECONDS / seconds)
    steps = list(range(0, len(episode.reward), stride))[:max_frames]
    has_opinions = episode.opinions is not None
    figure = Figure(figsize=(9.6, 4.4) if has_opinions else (5.2, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    scenes = _beside(figure, episode) if has_opinions else []
    scenes.append(_titled(figure.axes[0] if has_opinions else figure.subplots(), name, episode))
    canvas.draw()  # what does not move, once
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
    ends = [duration] * (len(frames) - 1) + [1500]  # at its end it stands still for a while
    rest = frames[1:]
    frames[0].save(stream, "GIF", save_all=True, append_images=rest, duration=ends, loop=0)
    return stream.getvalue(), min(len(episode.reward), len(steps) * stride)


def _in_one_palette(frames: Sequence[Any]) -> list[Any]:
    """The pictures in few colours, the same for all: so only what has moved is written anew."""
    from PIL import Image

    some = [np.asarray(frames[i * (len(frames) - 1) // 3]) for i in range(4)]
    palette = Image.fromarray(np.concatenate(some)).quantize(128, Image.Quantize.MAXCOVERAGE)
    colours = np.array(palette.getpalette() or []).reshape(-1, 3)
    colours[colours.min(axis=1) > 240] = 255  # the ground is white, not nearly so
    palette.putpalette(colours.ravel().tolist())
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _titled(ax: Any, name: str, episode: Episode) -> Scene:
    scene, total = make_scene(name, ax, episode), np.cumsum(episode.reward)
    ax.set_title(" ")  # the room for it
    title = ax.text(0.5, 1.02, "", transform=ax.transAxes, ha="center", va="bottom", animated=True)

    def draw(t: int) -> Any:
        title.set_text(f"{name}   step {t + 1}   return {total[t]:.4g}")
        return [*scene(t), title]

    return draw


def _beside(figure: Any, episode: Episode) -> list[Scene]:
    """The panels of what K networks think: how far they disagree, and the value."""
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    left.subplots()
    upper, lower = right.subplots(2, 1, sharex=True)
    opinions: Any = episode.opinions
    step = np.arange(1, len(episode.reward) + 1)
    is_probability = bool(np.allclose(opinions.policy.sum(axis=-1), 1, atol=1e-3))
    disagreement = opinions.policy.std(axis=1).mean(axis=-1)
    upper.plot(step, disagreement, color=RED, linewidth=1.3)
    upper.set_ylabel(
        "sd of an action's\nprobability" if is_probability else "sd of the mean action"
    )
    upper.set_ylim(0, 1.1 * disagreement.max())
    upper.set_title(f"disagreement of {opinions.value.shape[1]} dropout masks", fontsize="medium")
    mean, deviation = opinions.value.mean(axis=1), opinions.value.std(axis=1)
    if deviation.max() > 0:  # the critic has dropout, too
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
    """What is still to come, pale."""
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
    """The steps that are the episode's."""
    import jax

    return jax.tree.map(lambda x: np.asarray(x)[:length] if np.ndim(x) else x, episode)
