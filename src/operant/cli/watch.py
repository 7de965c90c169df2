"""`operant watch`: see what a trained policy does."""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from operant.core.errors import InputError

LONGEST_DELAY = 3600.0


@dataclasses.dataclass(frozen=True)
class Options:
    """See an episode of a policy that operant train trained, as a video or in the terminal.

    operant watch runs/ppo-cartpole-v1 --video pole.gif
    """

    run: Positional[Path] = Path()
    """The run folder of the policy; by default the present folder."""
    video: Path | None = None
    """The file to write, .gif or .mp4; none = play in the terminal."""
    episodes: int = 1
    """Episodes to show, one after another."""
    stochastic: bool = False
    """Draw actions from the policy instead of taking its best one."""
    seed: int = 0
    """Seed of the environment, and of the actions if they are drawn."""
    steps: int = 10_000
    """Steps at most, for episodes that do not end."""
    delay: float = 0.0
    """Seconds between steps in the terminal."""


def run(options: Options, resume: bool) -> None:
    import torch

    from operant.cli.train import require_seed
    from operant.cli.trained import load, stage

    require_seed(options.seed)
    if options.delay > LONGEST_DELAY:
        raise InputError(f"--delay is {options.delay} seconds: give {LONGEST_DELAY} or less")
    trained = load(options.run)
    modes = render_modes(trained.options)
    if options.video is not None and "rgb_array" not in modes:
        raise InputError(
            f"{trained.options.environment} draws no pictures (its render modes: {', '.join(modes) or 'none'}): leave "
            "out --video, and it plays in the terminal"
        )
    mode = "rgb_array" if options.video is not None else "ansi" if "ansi" in modes else None
    world = stage(trained.options, trained.observations, 1, options.seed, mode)
    torch.manual_seed(options.seed)
    if options.video is not None:
        film(options, world, trained)
    else:
        play(options, world, trained)
    world.env.close()


def render_modes(options: Any) -> list[str]:
    """How the environment can show itself."""
    from operant.cli.train import make_environments

    env = make_environments(options, 1, training=False)
    env.close()
    return list(env.metadata.get("render_modes", []))


def film(options: Options, world: Any, trained: Any) -> None:
    """Write the video."""
    from operant.cli.folder import make_room
    from operant.envs.make import require_pygame
    from operant.envs.video import record, require_kind, write_video
    from operant.experiment.files import writing

    assert options.video is not None
    require_kind(options.video)
    require_pygame(trained.options.environment)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory and looks for no screen
    make_room(options.video)
    fps = world.env.metadata.get("render_fps") or 30
    frames = record(world, trained.policy, options.episodes, not options.stochastic, options.steps)
    with writing(options.video):
        write_video(options.video, frames, fps)
    returns, lengths = world.pop_returns(), world.pop_lengths()
    shown = ", ".join(f"{x:.6g}" for x in returns)
    print(f"{options.video}: {sum(lengths)} steps, return {shown}" if returns else f"{options.video}: no whole episode")
    if len(returns) < options.episodes:
        print(f"no end within {options.steps} steps: --steps gives more")


def play(options: Options, world: Any, trained: Any) -> None:
    """A line for every step, or what the environment draws in characters."""
    drawn = world.env.render_mode == "ansi"
    episode, step, total = 1, 0, 0.0
    for _ in range(options.steps):
        if step == 0 and not world.resetting[0]:
            print(f"episode {episode}")
            show(world, drawn)
        seen, decided = world.observation[0], not world.resetting[0]
        action = world.choose(trained.policy, not options.stochastic)
        reward, terminated, truncated, _ = world.step(action)
        if not decided:
            continue
        step, total = step + 1, total + float(reward[0])
        words = "" if drawn else f"  sees {_words(seen)}"
        print(f"step {step:<5} action {_words(action[0])}  reward {reward[0]:<8.4g} return {total:<8.4g}{words}")
        if not terminated[0]:
            show(world, drawn)
        if options.delay:
            sys.stdout.flush()
            time.sleep(options.delay)
        if terminated[0] or truncated[0]:
            print(f"{'terminated' if terminated[0] else 'cut off'} after {step} steps, return {total:.6g}\n")
            episode, step, total = episode + 1, 0, 0.0
            if episode > options.episodes:
                return
    print(f"no end within {options.steps} steps: --steps gives more")


def show(world: Any, drawn: bool) -> None:
    if drawn:
        print(world.env.render()[0])


def _words(x: Any) -> str:
    """Numbers in few characters; an image by its shape."""
    import numpy as np

    x = np.asarray(x)
    if x.ndim > 1:
        return f"an image of {' x '.join(map(str, x.shape))}"
    return " ".join(f"{value:.3g}" for value in x.tolist()) if x.ndim else f"{x.item():.3g}"
