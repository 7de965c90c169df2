"""Atari games against the bare emulator and ale-py's own wrappers, and what is said of lives, rewards and states."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from operant.algorithms.policy_gradient import ppo
from operant.cli.main import main
from operant.core.errors import InputError
from operant.envs.atari import EMULATOR, Atari, Game, areas, is_atari, shrink
from operant.envs.make import make
from operant.envs.runner import Runner
from operant.networks.actor_critic import actor_critic
from tests.envs.test_saving import goes_on

ale_py = pytest.importorskip("ale_py")

PONG, BREAKOUT, PACMAN = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4", "MsPacmanNoFrameskip-v4"
PLAIN = {"noops": 0, "fire": False, "lives": False, "sign": False}


def actions(env: Atari, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, env.single_action_space.n, (steps, env.num_envs))


def bare(name: str) -> Any:
    assert is_atari(name)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(str(ale_py.roms.get_rom_path(gymnasium.spec(name).kwargs["game"])))
    ale.reset_game()
    return ale


def shrunk(frames: list[np.ndarray]) -> np.ndarray:
    """Means over areas: 2 x 21 copies of every pixel of 210 x 160 make blocks of 5 x 40 for 84 x 84."""
    fine = np.max(frames, axis=0).repeat(2, 0).repeat(21, 1)
    return fine.reshape(84, 5, 84, 40).mean((1, 3))


class TestPictures:
    @pytest.mark.parametrize("name", [PONG, BREAKOUT])
    def test_are_those_of_the_bare_emulator(self, name):
        env, ale = Atari(name, 1, **PLAIN), bare(name)
        observation, _ = env.reset(seed=0)
        first = shrunk([ale.getScreenGrayscale()])
        assert all(np.abs(picture - first).max() < 0.501 for picture in observation[0])
        for action in actions(env, 60)[:, 0]:
            before = observation
            observation, reward, *_ = env.step(np.array([action]))
            frames, points = [], 0
            for _ in range(4):
                points += ale.act(ale.getMinimalActionSet()[action])
                frames.append(ale.getScreenGrayscale())
            assert np.abs(observation[0, -1] - shrunk(frames[-2:])).max() < 0.501
            assert np.array_equal(observation[:, :-1], before[:, 1:])
            assert reward == points

    def test_are_almost_to_the_letter_those_of_opencv(self):
        """ale-py's own vector environment is linked with it. It fills the first stack with black."""
        from ale_py.vector_env import AtariVectorEnv

        env = Atari(BREAKOUT, 2, **PLAIN)
        theirs = AtariVectorEnv("breakout", 2, num_threads=1, noop_max=0, use_fire_reset=False, reward_clipping=False)
        observation, _ = env.reset(seed=1)
        due, _ = theirs.reset(seed=1)
        other = []
        for action in actions(env, 80):
            other.append(np.abs(observation[:, -1].astype(int) - due[:, -1]))
            observation, reward, terminated, *_ = env.step(action)
            due, paid, ended, *_ = theirs.step(action)
            assert np.array_equal(reward, paid)
            assert np.array_equal(terminated, ended)
        assert np.max(other) <= 1
        assert np.mean(other) < 1e-4

    def test_areas_cover_a_row_once(self):
        for size in (160, 210, 250):
            first, share = areas(size)
            cover = np.zeros(size + share.shape[1])
            for left, weights in zip(first, share, strict=True):
                cover[left : left + len(weights)] += weights
            np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)
            np.testing.assert_allclose(cover[:size], 84 / size, rtol=1e-6)
            np.testing.assert_allclose(cover[size:], 0, atol=1e-9)

    def test_of_one_grey_are_of_that_grey(self):
        picture = np.zeros((84, 84), np.uint8)
        for grey in (0, 1, 127, 255):
            shrink(np.full((2, 210, 160), grey, np.uint8), areas(210), areas(160), picture)
            assert (picture == grey).all()

    @pytest.mark.parametrize("skip", [1, 2, 3])
    def test_the_last_two_frames_of_any_number_count(self, skip):
        env, ale = Atari(BREAKOUT, 1, **PLAIN | {"skip": skip}), bare(BREAKOUT)
        env.reset(seed=0)
        for action in actions(env, 20)[:, 0]:
            observation, *_ = env.step(np.array([action]))
            frames = []
            for _ in range(skip):
                ale.act(ale.getMinimalActionSet()[action])
                frames.append(ale.getScreenGrayscale())
            assert np.abs(observation[0, -1] - shrunk(frames[-2:])).max() < 0.501


class TestEpisodes:
    def test_a_life_is_an_episode_and_the_game_goes_on(self):
        env = Atari(BREAKOUT, 1, sign=False)
        env.reset(seed=3)
        ale, frame, lives, paid, games = env.games[0].ale, 0, [5], 0.0, 0
        for action in actions(env, 2500):
            _, reward, terminated, truncated, info = env.step(action)
            paid += reward[0]
            new = ale.getEpisodeFrameNumber() < frame
            frame = ale.getEpisodeFrameNumber()
            assert not truncated.any()
            assert ("final_obs" in info) == terminated[0]
            if terminated[0]:
                lives.append(ale.lives())
            assert new == (len(env.tally.returns) > games)
            if new:
                assert terminated[0]
                assert lives == [5, 4, 3, 2, 1, 5]
                assert env.tally.returns[-1] == paid
                lives, paid, games = [5], 0.0, games + 1
        assert games >= 2

    def test_whole_games_where_lives_are_no_episodes(self):
        env = Atari(BREAKOUT, 2, lives=False)
        env.reset(seed=0)
        ended = sum(int(env.step(action)[2].sum()) for action in actions(env, 800))
        assert ended == len(env.tally.returns) >= 2

    def test_last_observations_are_those_before_the_next_life(self):
        env = Atari(BREAKOUT, 2)
        before, _ = env.reset(seed=0)
        seen = 0
        for action in actions(env, 300):
            observation, _, terminated, _, info = env.step(action)
            if terminated.any():
                assert np.array_equal(info["final_obs"][:, :-1], before[:, 1:])
                assert np.array_equal(info["final_obs"][~terminated], observation[~terminated])
                assert (observation[terminated] == observation[terminated][:, :1]).all()
                assert not np.array_equal(info["final_obs"][terminated], observation[terminated])
                assert np.array_equal(info["_final_obs"], terminated)
                seen += 1
            before = observation
        assert seen

    def test_time_that_runs_out_truncates(self):
        env = Atari(PONG, 1, emulator={"max_num_frames_per_episode": 200})
        env.reset(seed=0)
        ends = [env.step(action)[2:4] for action in actions(env, 120)]
        assert not any(terminated.any() for terminated, _ in ends)
        assert sum(int(truncated.sum()) for _, truncated in ends) == len(env.tally.lengths) >= 2

    def test_fire_opens_every_life(self):
        """Who does nothing loses no ball in Breakout as long as nobody serves."""
        lost = {}
        for fire in (True, False):
            env = Atari(BREAKOUT, 1, fire=fire)
            env.reset(seed=0)
            lost[fire] = sum(int(env.step(np.array([0]))[2].sum()) for _ in range(300))
        assert lost[True] >= 4
        assert lost[False] == 0

    def test_a_game_begins_after_1_to_30_frames(self):
        for noops in (12, 3, 0):
            game = Game(EMULATOR | gymnasium.spec(PONG).kwargs, noops, 4, True, False)
            begun = []
            for _ in range(6 * noops + 1):
                game.begin()
                begun.append(game.ale.getEpisodeFrameNumber())
            assert (min(begun), max(begun)) == (min(1, noops), noops)


class TestRewards:
    def test_are_signs_while_games_count_points(self):
        signed, plain = Atari(PACMAN, 2), Atari(PACMAN, 2, sign=False)
        signed.reset(seed=0)
        plain.reset(seed=0)
        rewards = []
        for action in actions(plain, 800):
            one, other = signed.step(action), plain.step(action)
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], np.sign(other[1]))
            rewards.append(other[1])
        assert np.max(rewards) >= 10
        assert signed.tally.returns == plain.tally.returns
        assert max(signed.tally.returns) >= 100

    def test_may_be_negative(self):
        env = Atari(PONG, 1)
        env.reset(seed=0)
        assert {float(env.step(np.array([0]))[1][0]) for _ in range(120)} == {-1.0, 0.0}

    def test_a_runner_reports_games(self):
        env = Atari(BREAKOUT, 2)
        runner = Runner(env, 2, 0)
        policy = actor_critic(env.single_observation_space, env.single_action_space)
        trajectory = runner.rollout(policy, 400)
        returns, lengths = runner.pop_returns(), runner.pop_lengths()
        assert 1 <= len(returns) < int(trajectory.done.sum()) / 3
        assert sum(lengths) <= 800
        assert runner.pop_returns() == []
        assert trajectory.mask.all()
        assert set(trajectory.reward.unique().tolist()) == {0.0, 1.0}


def test_the_action_before_sticks_with_the_probability_of_the_id():
    assert Atari("ALE/Pong-v5", 1).games[0].sticky == 0.25
    assert Atari(PONG, 1).games[0].sticky == 0
    for probability, alike in ((1.0, True), (0.0, False)):
        envs = [Atari(PONG, 1, **PLAIN, emulator={"repeat_action_probability": probability}) for _ in range(2)]
        for env in envs:
            env.reset(seed=0)
        seen = [
            np.array([env.step(np.array([action]))[0] for _ in range(30)])
            for env, action in zip(envs, (2, 3), strict=True)
        ]
        assert np.array_equal(*seen) == alike
    game = Game(EMULATOR | gymnasium.spec("ALE/Pong-v5").kwargs, 0, 4, True, False)
    game.begin()
    held = []
    for t in range(2000):
        before = game.held
        game._frame(t % 2)
        held.append(game.held == before)
    assert abs(np.mean(held) - 0.25) < 0.17  # half of what sticks is the action that is chosen anyway


def test_seeds_decide_and_consoles_side_by_side_are_consoles_one_by_one():
    both, first, second, again = (Atari("ALE/Breakout-v5", n) for n in (2, 1, 1, 2))
    seen = [env.reset(seed=seed)[0] for env, seed in ((both, 7), (first, 7), (second, 8), (again, 9))]
    for action in actions(both, 200):
        assert np.array_equal(seen[0], np.concatenate(seen[1:3]))
        seen = [both.step(action)[0], first.step(action[:1])[0], second.step(action[1:])[0], again.step(action)[0]]
    assert not np.array_equal(seen[0], seen[3])
    begun = both.reset(seed=7)[0]
    assert np.array_equal(begun[:1], first.reset(seed=7)[0])
    assert len({game.ale.getEpisodeFrameNumber() for game in Atari(PONG, 1).games}) == 1


@pytest.mark.parametrize("name", ["ALE/Breakout-v5", PACMAN])
def test_a_run_goes_on_bit_for_bit(name):
    runner, fresh = Runner(Atari(name, 2), 2, 0), Runner(Atari(name, 2), 2, 5)
    policy = actor_critic(runner.env.single_observation_space, runner.env.single_action_space)
    fresh.rollout(policy, 13)
    goes_on(runner, fresh, policy, 160)


def test_ppo_learns_from_pictures():
    settings = {"max_num_frames_per_episode": 200}
    config = ppo.Config(iterations=2, rollout=60, minibatch=40, epochs=2, clip=0.1)
    world = Runner(make("ALE/Pong-v5", 2, settings), 2, 0)
    policy = actor_critic(world.env.single_observation_space, world.env.single_action_space)
    state = ppo.init(policy, world, config)
    before = [p.clone() for p in state.policy.parameters()]
    metrics = list(ppo.train(state, config))
    assert all(math.isfinite(x) for update in metrics for x in update.values())
    assert not all(map(torch.equal, before, state.policy.parameters()))
    assert len(state.world.pop_returns()) >= 2


def test_makes_games_for_training_and_for_evaluation():
    trained, evaluated = make("ALE/Breakout-v5", 2, {"difficulty": 1}), make(BREAKOUT, 2, {"noops": 3}, training=False)
    assert isinstance(trained, Atari)
    assert isinstance(evaluated, Atari)
    assert (trained.sign, trained.games[0].episodic, trained.games[0].difficulty) == (True, True, 1)
    assert (evaluated.sign, evaluated.games[0].episodic, evaluated.games[0].noops) == (False, False, 3)
    assert not is_atari("CartPole-v1")
    assert trained.render()[0].shape == (210, 160, 3)
    assert Atari(PONG, 1, emulator={"full_action_space": True}).single_action_space.n == 18


def test_what_does_not_fit_is_refused():
    for arguments, words in (
        (("CartPole-v1",), "CartPole-v1.*ALE/Pong-v5"),
        ((PONG, 0), "envs is 0: give a whole number, 1 or more"),
        ((PONG, 1, -1), "noops is -1: give a whole number, 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            Atari(*arguments)
    for setting, words in (
        ({"skip": 1.5}, "skip is 1.5"),
        ({"stack": "x"}, "stack is 'x'"),
        ({"lives": "false"}, "lives is 'false': give True or False"),
        ({"sign": 1}, "sign is 1"),
        ({"full_action_space": "no"}, "full_action_space is 'no'"),
        ({"repeat_action_probability": 3}, "repeat_action_probability is 3: give a number between 0 and 1"),
        ({"max_num_frames_per_episode": 42}, "above the 42 frames in which a game is opened"),
        ({"max_num_frames_per_episode": "x"}, "max_num_frames_per_episode is 'x'"),
        ({"mode": 77}, "mode is 77: this game has 0, 1"),
        ({"difficulty": 9}, "difficulty is 9: this game has 0, 1, 2, 3"),
    ):
        with pytest.raises(InputError, match=words):
            make(PONG, 1, setting)
    make(PONG, 1, {"max_num_frames_per_episode": 43}).reset()
    with pytest.raises(InputError, match=r"obs_type.*difficulty"):
        make(PONG, 1, {"obs_type": "ram"})


def test_the_command_trains_and_evaluates_whole_games(tmp_path, capsys):
    out = tmp_path / "run"
    short = ["--env-args", "max_num_frames_per_episode", "240", "noops", "5"]
    sizes = ["--steps", "60", "--envs", "2", "--rollout", "15", "--minibatch", "30", "--evaluation-episodes", "2"]
    main(["train", "ppo", "ALE/Breakout-v5", *sizes, *short, "--out", str(out)])
    assert "in 2 episodes of evaluation" in capsys.readouterr().out
    assert (out / "report.html").is_file()
