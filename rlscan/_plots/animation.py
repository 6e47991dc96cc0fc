"""Files of animations: GIF and MP4."""

import contextlib
import io
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .._core.require import require_extra

Frames = Sequence[UInt8[np.ndarray, "H W 3"]]

FORMATS = (".gif", ".mp4")
PAUSE = 1.5  # seconds at the end


def require_format(suffix: str) -> None:
    """Raise `ModuleNotFoundError` if the extra that writes these files is not installed."""
    if suffix == ".mp4":
        require_extra("MP4 files", "video", "imageio_ffmpeg")


def encode(frames: Frames, seconds: float, suffix: str) -> bytes:
    """Encode frames of one size, each shown for so many seconds and the last one longer.

    **Returns:** the content of a file with the ending `suffix`, one of `FORMATS`.
    """
    return {".gif": _gif, ".mp4": _mp4}[suffix](frames, seconds)


def _gif(frames: Frames, seconds: float) -> bytes:
    from PIL import Image

    # One palette for all frames, so that only the pixels that change are stored.
    some = [frames[i * (len(frames) - 1) // 3] for i in range(4)]
    palette = Image.fromarray(np.concatenate(some)).quantize(128, Image.Quantize.MAXCOVERAGE)
    colours = np.array(palette.getpalette() or []).reshape(-1, 3)
    colours[colours.min(axis=1) > 240] = 255  # quantization makes the background nearly white
    palette.putpalette(colours.ravel().tolist())
    first, *rest = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    stream = io.BytesIO()
    durations = [round(1000 * seconds)] * len(rest) + [round(1000 * PAUSE)]
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return stream.getvalue()


def _mp4(frames: Frames, seconds: float) -> bytes:
    import imageio_ffmpeg  # pyright: ignore[reportMissingImports]

    height, width = (size - size % 2 for size in frames[0].shape[:2])  # H.264 stores pixels by four
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", 1 / seconds]
    target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", 20]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "episode.mp4")
        # Not by imageio_ffmpeg.write_frames, which forks, and JAX warns of that.
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error"]
        command = [str(word) for word in (*ffmpeg, *source, "-i", "-", *target, file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the error of ffmpeg tells more
                for frame in [*frames, *[frames[-1]] * round(PAUSE / seconds)]:
                    process.stdin.write(np.ascontiguousarray(frame[:height, :width]).data)
            _, error = process.communicate()
        if process.returncode:
            what = " ".join(error.decode(errors="replace").split())
            raise ValueError(f"ffmpeg could not encode the animation: {what}; write a .gif instead")
        return file.read_bytes()
