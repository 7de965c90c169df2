"""Atari 2600 games as agents learn them: frames skipped, lives as episodes, small grey pictures in stacks of four.

The steps are those of Mnih et al. 2015, "Human-level control through deep reinforcement learning", in the order of
openai/baselines (`atari_wrappers.py`), which most published figures share:

    reset      1 to 30 frames without action; then FIRE and the action after it, where a game has FIRE
    step       the action for 4 frames; what is seen is the maximum of the last two, which flicker in turns
    picture    grey, 84 x 84 by the mean over areas; the last 4 pictures are one observation
    life       losing one ends the episode for the agent, but the game goes on
    reward     its sign; returns in reports are points of whole games

The emulators run one after another in this process. Their whole state can be saved, so that runs resume exactly.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import gymnasium
import numba
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from operant.core.errors import InputError
from operant.envs.tally import Tally

SIDE = 84
"""Pixels of a picture's height and width."""
NOOP, FIRE = 0, 1
"""Places in every game's list of actions; FIRE is missing in some."""
AGENT = {"noops", "skip", "stack", "lives", "fire", "sign"}
"""Settings of what an agent sees of a game."""
COUNTS = {"noops", "skip", "stack"}
"""Those that are whole numbers; the others are switches."""
EMULATOR: dict[str, Any] = {"repeat_action_probability": 0.25, "full_action_space": False}
EMULATOR |= {"max_num_frames_per_episode": 108_000, "mode": None, "difficulty": None}
"""Settings of a console where an id does not say otherwise."""


def is_atari(name: str) -> bool:
    """Whether `name` is the id of an Atari game. None is where ale-py is missing."""
    if name not in gymnasium.registry and importlib.util.find_spec("ale_py") is not None:
        importlib.import_module("ale_py")  # which registers its games
    spec = gymnasium.registry.get(name)
    return spec is not None and isinstance(spec.entry_point, str) and spec.entry_point.startswith("ale_py")


class Game:
    """One console. `picture` is the newest picture, `points` what was scored since they were last set to 0."""

    def __init__(self, settings: dict[str, Any], noops: int, skip: int, lives: bool, fire: bool) -> None:
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)  # ours are drawn here: the emulator's cannot be saved
        self.ale.setInt("max_num_frames_per_episode", settings["max_num_frames_per_episode"])
        self.rom = str(roms.get_rom_path(settings["game"]))
        self.mode, self.difficulty = settings["mode"], settings["difficulty"]
        self.noops, self.skip, self.episodic = noops, skip, lives
        self.sticky = settings["repeat_action_probability"]
        self.seed(0)
        full = settings["full_action_space"]
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.fires = fire and self.actions[FIRE] == ale_py.Action.FIRE
        height, width = self.ale.getScreenDims()
        self.screens, self.areas = np.zeros((2, height, width), np.uint8), (areas(height), areas(width))
        self.picture = np.zeros((SIDE, SIDE), np.uint8)
        self.held, self.lives, self.points = self.actions[NOOP], 0, 0.0

    def seed(self, seed: int) -> None:
        """Switch the console off and on again with another seed."""
        self.random = np.random.default_rng(seed)
        self.ale.setInt("random_seed", seed % 2**31)
        self.ale.loadROM(self.rom)
        modes, levels = self.ale.getAvailableModes(), self.ale.getAvailableDifficulties()
        for name, value, known, choose in (
            ("mode", self.mode, modes, self.ale.setMode),
            ("difficulty", self.difficulty, levels, self.ale.setDifficulty),
        ):
            if value is not None:
                if value not in known:
                    raise InputError(f"{name} is {value!r}: this game has {', '.join(map(str, known))}")
                choose(value)

    @property
    def over(self) -> bool:
        return self.ale.game_over(with_truncation=True)

    def begin(self) -> None:
        """A new game, up to the first frame that the agent sees."""
        self.points = 0.0
        self._restart()
        for _ in range(self.random.integers(1, self.noops + 1) if self.noops else 0):
            self._frame(NOOP)
            if self.over:
                self._restart()
        self.ale.getScreenGrayscale(self.screens[0])
        self.screens[1] = self.screens[0]
        self._open()
        if self.over:
            self.begin()

    def go_on(self) -> None:
        """The next life of the same game. If the game ends while it is opened, so does the next step."""
        self._frames(NOOP)
        self._open()

    def _open(self) -> None:
        for action in (FIRE, FIRE + 1) if self.fires else ():
            self._frames(action)
        self.lives = self.ale.lives()
        shrink(self.screens, *self.areas, self.picture)

    def _restart(self) -> None:
        self.ale.reset_game()
        self.held = self.actions[NOOP]

    def step(self, action: int) -> tuple[float, bool, bool]:
        """(points, whether a life or the game ended, whether it ran out of time)."""
        before = self.points
        self._frames(action)
        shrink(self.screens, *self.areas, self.picture)
        lives, lost = self.ale.lives(), self.ale.game_over(with_truncation=False)
        lost |= self.episodic and 0 < lives < self.lives
        self.lives = lives
        return self.points - before, lost, self.ale.game_truncated()

    def _frames(self, action: int) -> None:
        """The action for some frames, or until the game is over; the last two frames stay in `screens`."""
        for frame in range(self.skip):
            self._frame(action)
            over = self.over
            if over or frame >= self.skip - 2:
                self.ale.getScreenGrayscale(self.screens[frame % 2])
            if over:
                self.screens[1 - frame % 2] = self.screens[frame % 2]
                return
        if self.skip == 1:
            self.screens[1] = self.screens[0]

    def _frame(self, action: int) -> None:
        if not self.sticky or self.random.random() >= self.sticky:
            self.held = self.actions[action]
        self.points += self.ale.act(self.held)

    def state_dict(self) -> dict[str, Any]:
        return {
            "emulator": np.frombuffer(self.ale.cloneState(include_rng=True).serialize(), np.uint8).copy(),
            "random": self.random.bit_generator.state,
            "held": int(self.actions.index(self.held)),
            "lives": self.lives,
            "points": self.points,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import ale_py

        self.ale.restoreState(ale_py.ALEState(np.asarray(state["emulator"]).tobytes()))
        self.random.bit_generator.state = state["random"]
        self.held, self.lives, self.points = self.actions[state["held"]], state["lives"], state["points"]


def _require_kinds(settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for a switch that is none, and for a count that is no whole number."""
    for name in (AGENT | {"full_action_space"}) & settings.keys():
        kind, words = (int, "a whole number") if name in COUNTS else (bool, "True or False")
        if type(settings[name]) is not kind:
            raise InputError(f"{name} is {settings[name]!r}: give {words}")


def _require_sense(counts: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for numbers that no game can be played with."""
    for name, value in counts.items():
        if value < (least := 0 if name == "noops" else 1):
            raise InputError(f"{name} is {value}: give a whole number, {least} or more")
    sticky, frames = settings["repeat_action_probability"], settings["max_num_frames_per_episode"]
    if not isinstance(sticky, int | float) or not 0 <= sticky <= 1:
        raise InputError(f"repeat_action_probability is {sticky!r}: give a number between 0 and 1")
    opening = counts["noops"] + 3 * counts["skip"]
    if type(frames) is not int or 0 < frames <= opening:
        raise InputError(
            f"max_num_frames_per_episode is {frames!r}: give a whole number above the {opening} frames in which a game "
            "is opened, or 0 for no limit"
        )


class Atari(VectorEnv):
    """`envs` consoles with the game `name`, in the mode SAME_STEP; observations [envs, stack, 84, 84] of bytes.

    With `lives` an episode ends with every life, and with `sign` rewards are -1, 0 or 1; `tally` counts whole games and
    their points all the same. A life's last observation, in `info["final_obs"]`, and the first of the next lie some
    frames apart: a step without action, and where a game has FIRE two that open it.

    The id says how often the action before is repeated instead of the one chosen: with 1/4 of the frames of
    "ALE/Pong-v5", never in "PongNoFrameskip-v4". `emulator` holds other settings for it than the id's:
    repeat_action_probability, full_action_space, max_num_frames_per_episode, mode, difficulty. The frames that an id
    skips of its own are not counted: `skip` is the frames in a step.
    Raises `InputError` for a name that is no game or where ale-py is missing, and for settings that do not fit.
    """

    def __init__(
        self,
        name: str,
        envs: int = 8,
        noops: int = 30,
        skip: int = 4,
        stack: int = 4,
        lives: bool = True,
        fire: bool = True,
        sign: bool = True,
        emulator: Mapping[str, Any] | None = None,
    ) -> None:
        if not is_atari(name):
            raise InputError(
                f'{name!r} is no Atari game: give an id such as "ALE/Pong-v5", and install ale-py with '
                "pip install 'operant[atari]'"
            )
        if unknown := (emulator or {}).keys() - EMULATOR.keys():
            known = ", ".join(sorted(AGENT | EMULATOR.keys()))
            raise InputError(f"Atari games have no setting {', '.join(sorted(unknown))}: there are {known}")
        self.spec = gymnasium.spec(name)
        settings = EMULATOR | self.spec.kwargs | dict(emulator or {})
        _require_sense({"envs": envs, "noops": noops, "skip": skip, "stack": stack}, settings)
        self.games = [Game(settings, noops, skip, lives, fire) for _ in range(envs)]
        self.sign, self.num_envs = sign, envs
        self.metadata = {
            "autoreset_mode": AutoresetMode.SAME_STEP,
            "render_modes": ["rgb_array"],
            "render_fps": 60 / skip,
        }
        self.render_mode = "rgb_array"
        self.single_observation_space = spaces.Box(0, 255, (stack, SIDE, SIDE), np.uint8)
        self.single_action_space = spaces.Discrete(len(self.games[0].actions))
        self.observation_space = batch_space(self.single_observation_space, envs)
        self.action_space = batch_space(self.single_action_space, envs)
        self.pictures = np.zeros((envs, stack, SIDE, SIDE), np.uint8)
        self.tally = Tally(envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """New games everywhere; console i gets the seed `seed` + i."""
        for i, game in enumerate(self.games):
            if seed is not None:
                game.seed(seed + i)
            game.begin()
            self.pictures[i] = game.picture
        self.tally = Tally(self.num_envs)
        return self.pictures.copy(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """`final_obs` in the info holds what the observations were before new lives and games began."""
        reward, paid = np.zeros((2, self.num_envs))
        terminated, truncated, over = np.zeros((3, self.num_envs), dtype=bool)
        self.pictures[:, :-1] = self.pictures[:, 1:]
        for i, game in enumerate(self.games):
            reward[i], terminated[i], truncated[i] = game.step(int(actions[i]))
            paid[i], over[i], self.pictures[i, -1] = game.points, game.over, game.picture
            game.points = 0.0
        self.tally.add(paid[:, None], over[:, None], np.ones((self.num_envs, 1), dtype=bool))
        info, ended = {}, terminated | truncated
        if ended.any():
            info = {"final_obs": self.pictures.copy(), "_final_obs": ended}
        for i in ended.nonzero()[0]:
            game = self.games[i]
            game.begin() if over[i] else game.go_on()
            self.pictures[i] = game.picture
        return self.pictures.copy(), np.sign(reward) if self.sign else reward, terminated, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """The screens in colour, [210, 160, 3] each."""
        return tuple(game.ale.getScreenRGB() for game in self.games)

    def state_dict(self) -> dict[str, Any]:
        return {"pictures": self.pictures.copy(), "games": [game.state_dict() for game in self.games]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pictures[...] = state["pictures"]
        for game, own in zip(self.games, state["games"], strict=True):
            game.load_state_dict(own)


def games(name: str, envs: int, settings: Mapping[str, Any], training: bool = True) -> Atari:
    """`Atari` with settings by name, of its own or of the emulator; whole games and true rewards unless `training`."""
    _require_kinds(settings)
    own = {key: value for key, value in settings.items() if key in AGENT}
    if not training:
        own |= {"lives": False, "sign": False}
    return Atari(name, envs, **own, emulator={key: settings[key] for key in settings.keys() - AGENT})


Areas = tuple[NDArray[np.int64], NDArray[np.float32]]


def areas(size: int) -> Areas:
    """Which of `size` pixels in a row each of 84 larger ones covers: the first [84], and weights [84, k] of sum 1."""
    edges = np.arange(SIDE + 1) * (size / SIDE)
    first = np.floor(edges[:-1]).astype(np.int64)
    pixel = first[:, None] + np.arange(int(np.ceil(size / SIDE)) + 1)
    covered = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    return first, (covered.clip(0) * (SIDE / size)).astype(np.float32)


def shrink(screens: NDArray[np.uint8], rows: Areas, columns: Areas, picture: NDArray[np.uint8]) -> None:
    """The maximum of two `screens` [2, H, W] as a `picture` [84, 84]: each of its pixels is the mean over an area.

    OpenCV's `INTER_AREA`, which other implementations use, adds in another order: one pixel in 100,000 differs, by 1.
    """
    _means(np.maximum(*screens), *rows, *columns, picture)


@numba.njit(cache=True)
def _means(screen, top, height, left, width, picture):
    wide = screen.shape[1]
    band = np.zeros(wide + width.shape[1], np.float32)  # some areas end on a pixel of weight 0, beyond the screen
    for y in range(SIDE):
        band[:] = 0
        for k in range(height.shape[1]):
            share = height[y, k]
            if share > 0:
                row = screen[top[y] + k]
                for x in range(wide):
                    band[x] += share * np.float32(row[x])
        for x in range(SIDE):
            mean = np.float32(0)
            for k in range(width.shape[1]):
                mean += width[x, k] * band[left[x] + k]
            picture[y, x] = np.uint8(np.rint(mean))
