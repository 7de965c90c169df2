"""Films against an environment whose frames are known."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from PIL import Image, ImageSequence
from torch import Tensor

from operant.core.errors import InputError
from operant.envs.runner import Runner
from operant.envs.video import record, write_video


class Lamp(gymnasium.Env):
    """Three steps long. Its picture is as bright as there were steps, times ten, with a red corner for action 1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(0, 10, (1,), np.float32)

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode, self.steps, self.last = render_mode, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = self.last = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps, self.last = self.steps + 1, int(action)
        return np.array([self.steps], np.float32), 1.0, self.steps == 3, False, {}

    def render(self) -> np.ndarray:
        picture = np.full((6, 8, 3), 10 * self.steps, np.uint8)
        picture[0, 0] = [255 * self.last, 0, 0]
        return picture


class Odd:
    """Takes action 1 after an odd number of steps."""

    memory = False

    def choose(self, observation: Tensor, greedy: bool = False) -> Tensor:
        return observation[:, 0].long() % 2


def world(envs: int = 1, render_mode: str | None = "rgb_array") -> Runner:
    return Runner(SyncVectorEnv([lambda: Lamp(render_mode)] * envs))


def test_frames_are_the_states_of_whole_episodes():
    frames = list(record(world(), Odd(), episodes=2))
    assert [int(f[3, 3, 0]) for f in frames] == [0, 10, 20, 30, 0, 10, 20, 30]
    assert [int(f[0, 0, 0]) for f in frames] == [0, 0, 255, 0, 0, 0, 255, 0]


def test_frames_are_made_as_they_are_asked_for():
    runner = world()
    frames = record(runner, Odd(), episodes=1000)
    next(frames)
    next(frames)
    assert runner.steps == 1


def test_a_gif_holds_the_frames_and_their_speed(tmp_path):
    write_video(tmp_path / "a.gif", record(world(), Odd()), fps=10)
    with Image.open(tmp_path / "a.gif") as film:
        frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(film)]
        assert film.info["duration"] == 100
    assert [f.shape for f in frames] == [(6, 8, 3)] * 4
    assert [int(f[3, 3, 0]) for f in frames] == [0, 10, 20, 30]


def test_a_gif_is_not_faster_than_it_can_be_shown(tmp_path):
    write_video(tmp_path / "a.gif", record(world(), Odd()), fps=1000)
    with Image.open(tmp_path / "a.gif") as film:
        film.seek(1)
        assert film.info["duration"] == 20


@pytest.mark.parametrize("made", [{"envs": 2}, {"render_mode": None}])
def test_a_world_that_draws_nothing_is_refused(made):
    with pytest.raises(InputError, match="render_mode='rgb_array'"):
        next(record(world(**made), Odd()))


def test_what_is_needed_to_draw_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    runner = Runner(gymnasium.make_vec("CartPole-v1", 1, render_mode="rgb_array"))
    with pytest.raises(InputError, match=r"classic.control"):
        next(record(runner, Odd()))


def test_files_that_cannot_be_are_refused(tmp_path, monkeypatch):
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=r"film\.avi: end its name in \.gif or \.mp4"):
        write_video(tmp_path / "film.avi", [frame], 10)
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "film.gif", [], 10)
    monkeypatch.setitem(sys.modules, "imageio", None)
    with pytest.raises(InputError, match="imageio"):
        write_video(tmp_path / "film.mp4", [frame], 10)
