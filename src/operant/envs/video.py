"""What a policy does, as a film: frames of an environment that draws itself, in a GIF or in an MP4."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.envs.runner import Runner

SHORTEST = 20
"""Milliseconds: what shows GIFs shows frames that are shorter much longer."""


def record(world: Runner, policy: Any, episodes: int = 1, greedy: bool = True) -> Iterator[NDArray[np.uint8]]:
    """Frames [H, W, 3] of `episodes` whole episodes: the first state, and the state after every step.

    `world` is a runner of one environment that was made with `render_mode="rgb_array"`, such as
    `Runner(gymnasium.make_vec(name, 1, render_mode="rgb_array"))`; it is left at the end of the last episode. With
    SAME_STEP autoreset the last state of an episode is never drawn. Frames are made one by one as they are asked for.
    Raises `InputError` for an environment that draws nothing.
    """
    if world.env.num_envs != 1 or world.env.render_mode != "rgb_array":
        raise InputError(
            f"a film is of one environment with render_mode='rgb_array', not of {world.env.num_envs} with "
            f"{world.env.render_mode!r}: make it so with gymnasium.make_vec"
        )
    yield _frame(world)
    ended = len(world.tally.lengths) + episodes
    while len(world.tally.lengths) < ended:
        world.play(policy, 1, greedy)
        yield _frame(world)


def _frame(world: Runner) -> NDArray[np.uint8]:
    try:
        drawn = world.env.render()
    except DependencyNotInstalled as error:
        raise InputError(f"{world.name} cannot be drawn: {error}") from error
    return np.asarray(drawn[0], dtype=np.uint8)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write frames [H, W, 3] to a .gif, or to an .mp4 where imageio and its ffmpeg are installed.

    A GIF shows at most 50 frames a second. Raises `InputError` for another kind of file, for no frames at all, and
    where imageio is missing.
    """
    rest = iter(frames)
    if (first := next(rest, None)) is None:
        raise InputError(f"no frames for {path}: record at least one episode")
    if path.suffix == ".gif":
        _write_gif(path, first, rest, fps)
    elif path.suffix == ".mp4":
        _write_mp4(path, chain([first], rest), fps)
    else:
        raise InputError(f"no video can be written to {path}: end its name in .gif or .mp4")


def _write_gif(path: Path, first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]], fps: float) -> None:
    from PIL import Image

    more = (Image.fromarray(frame) for frame in rest)
    duration = max(SHORTEST, round(1000 / fps))
    Image.fromarray(first).save(path, save_all=True, append_images=more, duration=duration, loop=0)


def _write_mp4(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    try:
        import imageio  # pyright: ignore[reportMissingImports]
        import imageio_ffmpeg  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{path} needs imageio with ffmpeg: pip install imageio[ffmpeg], or write a .gif") from error
    writer: Any = imageio.get_writer(path, fps=fps, macro_block_size=2, ffmpeg_log_level="error")
    with writer:
        for frame in frames:
            writer.append_data(frame)
