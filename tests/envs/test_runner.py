"""The runner against an environment whose every step is known, and against rollouts taken apart by hand."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from operant.core.errors import InputError
from operant.core.record import Evaluation
from operant.core.returns import discounted_sum, gae
from operant.envs.normalise import RewardNormalizer
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic, actor_critic


class Count(gymnasium.Env):
    """Shows (its own number, the steps so far); gives the action plus 10 x the step; ends after `length` steps."""

    action_space = gymnasium.spaces.Discrete(5)
    observation_space = gymnasium.spaces.Box(0, 1000, (2,), np.float32)

    def __init__(self, number: int, length: int, truncates: bool = False) -> None:
        self.number, self.length, self.truncates, self.steps = number, length, truncates, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        over = self.steps == self.length
        return self._seen(), float(action + 10 * self.steps), over and not self.truncates, over and self.truncates, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.number, self.steps], dtype=np.float32)


class Scripted:
    """Takes the action steps % 5; the value of a state is 100 x number + steps."""

    memory = False

    def act(self, observation: Tensor, state: None = None, greedy: bool = False) -> tuple[Tensor, Tensor, Tensor, None]:
        return observation[:, 1].long() % 5, -observation[:, 1], self.value(observation), None

    def evaluate(self, observation: Tensor, action: Tensor) -> Evaluation:
        return Evaluation(-observation[..., 1], torch.zeros(action.shape), self.value(observation))

    @staticmethod
    def value(observation: Tensor) -> Tensor:
        return 100 * observation[..., 0] + observation[..., 1]


def runner(*lengths: tuple[int, bool], **settings: Any) -> Runner:
    makers = [lambda i=i, n=n, cut=cut: Count(i, n, cut) for i, (n, cut) in enumerate(lengths)]
    own = {name: settings.pop(name) for name in ("observations", "rewards") if name in settings}
    return Runner(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP, **settings), **own)


TERMINATES, TRUNCATES = (3, False), (4, True)


class TestRollout:
    def test_is_the_environments_own_steps(self):
        t = runner(TERMINATES, TRUNCATES).rollout(Scripted(), 9)
        # The observation counts up to the end of the episode, then one reset step shows the last state and leads to 0.
        assert t.observation[0, :, 1].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
        assert t.observation[1, :, 1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
        assert t.mask.tolist() == [
            [True, True, True, False, True, True, True, False, True],
            [True, True, True, True, False, True, True, True, True],
        ]
        assert t.action[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
        assert t.reward[0].tolist() == [10, 21, 32, 0, 10, 21, 32, 0, 10]
        assert t.reward[1].tolist() == [10, 21, 32, 43, 0, 10, 21, 32, 43]
        assert t.terminated[0].nonzero().flatten().tolist() == [2, 6]
        assert t.truncated[1].nonzero().flatten().tolist() == [3, 8]
        assert not t.terminated[1].any()
        assert not t.truncated[0].any()

    def test_only_termination_ends_the_discount(self):
        t = runner(TERMINATES, TRUNCATES).rollout(Scripted(), 9)
        assert torch.equal(t.discount, (~t.terminated).float())
        assert (t.discount[1] == 1).all()

    def test_what_ends_in_both_ways_at_once_is_terminated(self):
        env = SyncVectorEnv([lambda: TimeLimit(Count(0, 3), 3)])
        t = Runner(env).rollout(Scripted(), 3)
        assert t.terminated.tolist() == t.truncated.tolist() == [[False, False, True]]
        assert t.discount.tolist() == [[1, 1, 0]]

    def test_the_next_value_is_that_of_the_state_really_reached(self):
        """Also where an episode was truncated, and at the end of the rollout; not that of the reset state."""
        t = runner(TERMINATES, TRUNCATES).rollout(Scripted(), 9)
        reached = t.observation[..., 1] + 1 + 100 * t.observation[..., 0]
        assert torch.equal(t.next_value[t.mask], reached[t.mask])

    def test_advantages_are_those_of_each_episode_alone(self):
        """By definition: Σ (γλ)^k δ, up to the end of the episode or of the rollout."""
        t = runner(TERMINATES, TRUNCATES, (7, False)).rollout(Scripted(), 23)
        found = gae(t.reward, t.value, t.next_value, 0.9 * t.discount, t.done, 0.8)
        delta = t.reward + 0.9 * t.discount * t.next_value - t.value
        for b in range(3):
            start = 0
            for stop in [*t.done[b].nonzero().flatten().tolist(), 22]:
                episode = [i for i in range(start, stop + 1) if t.mask[b, i]]
                due = [sum(0.72 ** (j - i) * delta[b, j] for j in episode if j >= i) for i in episode]
                torch.testing.assert_close(found[b, episode], torch.tensor(due), rtol=1e-5, atol=1e-3)
                start = stop + 1
                # The reset step is no decision, and what follows it does not leak into the episode before.
                assert start > 22 or not t.mask[b, start]

    def test_short_rollouts_go_on_where_the_last_one_stopped(self):
        whole, parts = runner(TERMINATES, TRUNCATES), runner(TERMINATES, TRUNCATES)
        due = whole.rollout(Scripted(), 12)
        pieces = [parts.rollout(Scripted(), n) for n in (1, 3, 2, 5, 1)]
        for name in ("observation", "action", "log_prob", "value", "next_value", "reward", "discount", "mask"):
            assert torch.equal(torch.cat([getattr(p, name) for p in pieces], 1), getattr(due, name)), name
        assert parts.pop_returns() == whole.pop_returns()

    def test_environments_side_by_side_are_environments_one_by_one(self):
        lengths = [TERMINATES, TRUNCATES, (1, False), (1, True)]
        together = runner(*lengths).rollout(Scripted(), 10)
        for b, length in enumerate(lengths):
            alone = runner(length).rollout(Scripted(), 10)
            for name in ("action", "reward", "discount", "terminated", "truncated", "mask"):
                assert torch.equal(getattr(together, name)[b], getattr(alone, name)[0]), name

    def test_an_environment_may_use_its_arrays_again(self):
        """Without copies the next step would overwrite the record of this one."""
        t = runner(TERMINATES, TRUNCATES, copy=False).rollout(Scripted(), 9)
        assert t.observation[1, :, 1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
        assert t.observation[:, 0, 0].tolist() == [0, 1]


class TestReturns:
    def test_are_those_of_finished_episodes_each_once(self):
        r = runner(TERMINATES, TRUNCATES)
        r.rollout(Scripted(), 3)
        assert r.pop_returns() == [63.0]
        r.rollout(Scripted(), 6)
        assert r.pop_returns() == [106.0, 63.0, 106.0]
        assert r.pop_returns() == []

    def test_are_the_sums_of_recorded_rewards(self):
        r = runner(TERMINATES)
        t = r.rollout(Scripted(), 12)
        sums = discounted_sum(t.reward, (~t.done).float())[t.observation[..., 1] == 0]
        assert r.pop_returns() == sums.tolist() == [63.0] * 3


def test_normalised_rewards_are_those_of_each_episode_alone():
    """In a rollout and for a replay: both ways of an end begin a new running return."""
    raw = runner(TERMINATES, TRUNCATES).rollout(Scripted(), 14)
    due = RewardNormalizer(2, 0.9)(*(x.numpy() for x in (raw.reward, raw.done, raw.mask))).astype(np.float32)
    normalised = runner(TERMINATES, TRUNCATES, rewards=RewardNormalizer(2, 0.9))
    np.testing.assert_array_equal(normalised.rollout(Scripted(), 14).reward, due)
    normalised = runner(TERMINATES, TRUNCATES, rewards=RewardNormalizer(2, 0.9))
    replay = normalised.replay(100, 0.9)
    normalised.collect(lambda seen, _: seen[:, 1].astype(int) % 5, replay, 14)
    np.testing.assert_array_equal(replay.columns["reward"][: len(replay)], due.T[raw.mask.numpy().T])


class TestGymnasium:
    def test_a_name_is_enough_and_the_seed_decides(self):
        def rollout(seed: int) -> Tensor:
            torch.manual_seed(seed)
            return Runner("CartPole-v1", envs=3, seed=seed).rollout(ActorCritic(4, 2), 40).observation

        first = rollout(1)
        assert first.shape == (3, 40, 4)
        assert torch.equal(first, rollout(1))
        assert not torch.equal(first, rollout(2))
        assert len(first[:, 0].unique(dim=0)) == 3

    def test_what_is_recorded_is_what_the_policy_says(self):
        policy = ActorCritic(4, 2)
        r = Runner("CartPole-v1", envs=4)
        t = r.rollout(policy, 60)
        again = policy.evaluate(t.observation, t.action)
        torch.testing.assert_close((again.log_prob, again.value), (t.log_prob, t.value))
        assert t.done.any()
        # A pole that stands gives 1 a step: every finished episode returns its length.
        ends = (t.terminated[0] | t.truncated[0]).nonzero().flatten()
        assert float(ends[0] + 1) in r.pop_returns()


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
DECIDED = ("observation", "action", "log_prob", "value", "next_value", "reward", "discount", "terminated", "truncated")


def in_mode(mode: AutoresetMode, *lengths: tuple[int, bool], **settings: Any) -> Runner:
    makers = [lambda i=i, n=n, cut=cut: Count(i, n, cut) for i, (n, cut) in enumerate(lengths)]
    return Runner(SyncVectorEnv(makers, autoreset_mode=mode), **settings)


@pytest.mark.parametrize("mode", MODES)
class TestModes:
    LENGTHS = (TERMINATES, TRUNCATES, (1, False), (1, True), (7, True))

    def test_decisions_are_those_of_environments_stepped_by_hand(self, mode):
        t = in_mode(mode, *self.LENGTHS).rollout(Scripted(), 15)
        for b, (length, cut) in enumerate(self.LENGTHS):
            due: list[tuple[Any, ...]] = []
            env, steps = Count(b, length, cut), 0
            env.reset()
            while len(due) < int(t.mask[b].sum()):
                (_, after), reward, terminated, truncated, _ = env.step(steps % 5)
                due.append((steps, steps % 5, 100 * b + steps, 100 * b + after, reward, terminated, truncated))
                steps = int(after)
                if terminated or truncated:
                    env.reset()
                    steps = 0
            columns = (t.observation[b, :, 1], t.action[b], t.value[b], t.next_value[b], t.reward[b])
            found = zip(*(x[t.mask[b]].tolist() for x in (*columns, t.terminated[b], t.truncated[b])), strict=True)
            assert list(found) == due

    def test_side_by_side_is_one_by_one(self, mode):
        together = in_mode(mode, *self.LENGTHS).rollout(Scripted(), 12)
        for b, length in enumerate(self.LENGTHS):
            alone = in_mode(mode, length).rollout(Scripted(), 12)
            for name in ("action", "reward", "discount", "terminated", "truncated", "mask"):
                assert torch.equal(getattr(together, name)[b], getattr(alone, name)[0]), name
            torch.testing.assert_close(together.next_value[b] - 100 * b, alone.next_value[0])

    def test_short_rollouts_go_on_where_the_last_one_stopped(self, mode):
        whole, parts = in_mode(mode, *self.LENGTHS), in_mode(mode, *self.LENGTHS)
        due = whole.rollout(Scripted(), 12)
        pieces = [parts.rollout(Scripted(), n) for n in (1, 3, 2, 5, 1)]
        for name in DECIDED:
            # A reset step is no decision: what it records is free.
            found = torch.cat([getattr(p, name) for p in pieces], 1)
            assert torch.equal(found[due.mask], getattr(due, name)[due.mask]), name
        assert parts.pop_returns() == whole.pop_returns()
        assert parts.pop_lengths() == whole.pop_lengths()

    def test_advantages_are_those_of_each_episode_alone(self, mode):
        t = in_mode(mode, *self.LENGTHS).rollout(Scripted(), 20)
        found = gae(t.reward, t.value, t.next_value, 0.9 * t.discount, t.done, 0.8)
        for b in range(len(self.LENGTHS)):
            due, following = [], 0.0
            for i in reversed(range(20)):
                if not t.mask[b, i]:
                    continue
                delta = t.reward[b, i] - t.value[b, i] + (0 if t.terminated[b, i] else 0.9 * t.next_value[b, i])
                following = delta + (0 if t.done[b, i] else 0.72 * following)
                due.append(following)
            torch.testing.assert_close(found[b][t.mask[b]], torch.stack(due[::-1]), rtol=1e-5, atol=1e-3)

    def test_lengths_and_returns_are_those_of_whole_episodes(self, mode):
        r = in_mode(mode, TERMINATES, TRUNCATES)
        r.rollout(Scripted(), 5)
        assert r.pop_lengths() == [3, 4]
        assert r.pop_returns() == [63.0, 106.0]
        assert r.pop_lengths() == []

    def test_one_pass_over_the_rollout_is_a_pass_at_every_step(self, mode):
        """A policy that can only `act` is asked at every step, one with a `reflex` once at the end."""
        policy = ActorCritic(2, 5)

        class Acts:
            memory, act, evaluate = False, policy.act, policy.evaluate

        found, due = (in_mode(mode, *self.LENGTHS).rollout(p, 15, greedy=True) for p in (policy, Acts()))
        for name in DECIDED:
            torch.testing.assert_close(getattr(found, name)[due.mask], getattr(due, name)[due.mask])


class Push(gymnasium.Env):
    """Shows the last action it was given; the reward is what `script` says, and so is the observation."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, action_space: gymnasium.Space, script: dict[int, tuple[float, float]] | None = None) -> None:
        self.action_space, self.script, self.steps = action_space, script or {}, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action) or isinstance(self.action_space, gymnasium.spaces.Box)
        self.steps += 1
        seen, reward = self.script.get(self.steps, (None, 0.0))
        last = np.broadcast_to(np.asarray(action, np.float32), (2,)) if seen is None else np.full(2, seen, np.float32)
        return last.astype(np.float32), reward, False, False, {}


def pushed(space: gymnasium.Space, envs: int = 3, **settings: Any) -> Runner:
    return Runner(SyncVectorEnv([lambda: Push(space)] * envs), **settings)


class TestActions:
    def test_box_actions_are_recorded_as_chosen_and_clipped_for_the_environment(self):
        box = gymnasium.spaces.Box(-0.4, 0.4, (2,))
        t = pushed(box).rollout(actor_critic(Push.observation_space, box), 20)
        assert t.action.shape == (3, 20, 2)
        assert (t.action.abs() > 0.4).any()
        torch.testing.assert_close(t.observation[:, 1:], t.action[:, :-1].clamp(-0.4, 0.4))

    def test_clipping_can_be_switched_off(self):
        box = gymnasium.spaces.Box(-0.4, 0.4, (2,))
        t = pushed(box, clip_actions=False).rollout(actor_critic(Push.observation_space, box), 20)
        torch.testing.assert_close(t.observation[:, 1:], t.action[:, :-1])

    @pytest.mark.parametrize("shift", [0, 3])
    def test_multi_discrete_and_discrete_actions_count_from_0_and_are_executed_from_their_start(self, shift):
        for space in (
            gymnasium.spaces.MultiDiscrete([3, 4], start=[shift, shift]),
            gymnasium.spaces.Discrete(4, start=shift),
        ):
            policy = actor_critic(Push.observation_space, space)
            t = pushed(space).rollout(policy, 20)
            assert t.action.shape == (3, 20, *space.shape)
            executed = t.action[:, :-1].view(3, 19, -1).expand(3, 19, 2) + shift
            assert torch.equal(t.observation[:, 1:], executed.float())
            again = policy.evaluate(t.observation, t.action)
            torch.testing.assert_close((again.log_prob, again.value), (t.log_prob, t.value))


class Screen(Push):
    """Shows a picture in which every pixel is the number of steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        gymnasium.Env.reset(self, seed=seed)
        return np.zeros((1, 36, 36), np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.full((1, 36, 36), self.steps + 1, np.uint8), *super().step(action)[1:]


def test_images_stay_bytes():
    runner = Runner(SyncVectorEnv([lambda: Screen(gymnasium.spaces.Discrete(3))] * 2))
    t = runner.rollout(actor_critic(Screen.observation_space, gymnasium.spaces.Discrete(3)), 4)
    assert t.observation.dtype == torch.uint8
    assert t.observation[1, :, 0, 5, 7].tolist() == [0, 1, 2, 3]


class TestBadWorlds:
    @pytest.mark.parametrize(("script", "what"), [((np.nan, 0.0), "observation"), ((1.0, np.inf), "reward")])
    def test_what_is_no_number_is_named_with_step_and_environment(self, script, what):
        one = gymnasium.spaces.Discrete(2)
        env = SyncVectorEnv([lambda: Push(one), lambda: Push(one, {3: script})])
        with pytest.raises(InputError, match=rf"environment 1 gave the {what} .* at step 3"):
            Runner(env).rollout(ActorCritic(2, 2), 5)

    @pytest.mark.parametrize("mode", MODES)
    def test_a_last_observation_is_looked_at_too(self, mode):
        class Breaks(Count):
            def _seen(self) -> np.ndarray:
                return np.full(2, np.nan if self.steps == self.length and self.number else 0, np.float32)

        env = SyncVectorEnv([lambda i=i: Breaks(i, 2) for i in range(2)], autoreset_mode=mode)
        with pytest.raises(InputError, match=r"environment 1 gave the observation .* at step 2"):
            Runner(env).rollout(ActorCritic(2, 5), 5)

    def test_large_numbers_are_numbers(self):
        env = SyncVectorEnv([lambda: Push(gymnasium.spaces.Discrete(2), {1: (3e38, 0.0)})] * 2)
        assert Runner(env).rollout(ActorCritic(2, 2), 3).observation.max() > 1e38

    def test_spaces_that_do_not_fit_are_refused(self, unchecked_types):
        words = Push(gymnasium.spaces.Discrete(2))
        words.observation_space = gymnasium.spaces.Text(5)
        with pytest.raises(InputError, match=r"Text\(.* is no row of numbers"):
            Runner(SyncVectorEnv([lambda: words]))
        with pytest.raises(InputError, match="Discrete, MultiDiscrete and Box actions"):
            pushed(gymnasium.spaces.MultiBinary(3))


class TestEpisodes:
    def test_are_one_of_each_environment_from_its_start_to_its_end(self):
        r = runner(TERMINATES, TRUNCATES, (70, False))
        r.rollout(Scripted(), 2)
        t = r.episodes(Scripted())
        assert t.mask.sum(1).tolist() == [3, 4, 70]
        assert t.observation[:, 0, 1].tolist() == [0, 0, 0]
        assert t.done[t.mask].sum() == 3

    def test_count_once_and_leave_what_was_finished_before(self):
        """Those that end early play on, and what they do then counts nowhere: short episodes would count most."""
        r = runner((2, False), (70, False))
        r.rollout(Scripted(), 2)
        r.episodes(Scripted())
        assert r.pop_lengths() == [2, 2, 70]
        assert len(r.pop_returns()) == 3

    def test_a_new_beginning_forgets_the_running_return(self):
        rewards = RewardNormalizer(1, 1.0)
        r = runner((70, False), rewards=rewards)
        r.rollout(Scripted(), 5)
        assert rewards.running[0] > 0
        r._begin(None)
        assert rewards.running[0] == 0
