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


def record(
    world: Runner, policy: Any, episodes: int = 1, greedy: bool = True, longest: int = 10_000
) -> Iterator[NDArray[np.uint8]]:
    """Frames [H, W, 3] of `episodes` whole episodes, or of `longest` steps: the first state, and that after every step.

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
    for _ in range(longest):
        if len(world.tally.lengths) >= ended:
            return
        world.play(policy, 1, greedy)
        yield _frame(world)


def _frame(world: Runner) -> NDArray[np.uint8]:
    try:
        drawn = world.env.render()
    except DependencyNotInstalled as error:
        raise InputError(f"{world.name} cannot be drawn: {error}") from error
    return np.asarray(drawn[0], dtype=np.uint8)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write frames [H, W, 3] to a .gif, or to an .mp4 where imageio and its ffmpeg are installed: all of them or none.

    A GIF shows at most 50 frames a second. Raises `InputError` for another kind of file, for no frames at all, and
    where imageio is missing.
    """
    require_kind(path)
    rest = iter(frames)
    if (first := next(rest, None)) is None:
        raise InputError(f"no frames for {path}: record at least one episode")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".gif":
            _write_gif(partial, first, rest, fps)
        else:
            _write_mp4(partial, chain([first], rest), fps)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def require_kind(path: Path) -> None:
    """Raise `InputError` for a file of another kind than .gif and .mp4."""
    if path.suffix not in (".gif", ".mp4"):
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
        raise InputError("an .mp4 needs imageio with ffmpeg: pip install imageio[ffmpeg], or write a .gif") from error
    writer: Any = imageio.get_writer(path, fps=fps, macro_block_size=2, ffmpeg_log_level="error")
    with writer:
        for frame in frames:
            writer.append_data(frame)
