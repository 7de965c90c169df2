"""Policies with memory in the runner: state goes on where an episode does, and nowhere else."""

from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from operant.algorithms.policy_gradient import ppo
from operant.core.record import Evaluation
from operant.envs.runner import Runner
from operant.experiment import checkpoint
from operant.networks.actor_critic import ActorCritic
from operant.networks.heads import Categorical
from operant.networks.recurrent import RecurrentActorCritic, Remembered
from tests.envs.test_runner import Count

MODES = pytest.mark.parametrize("mode", list(AutoresetMode))
LENGTHS = [(3, False), (4, True), (1, False), (1, True), (9, True)]


class Adds:
    """Its state is the sum of 1 + the number of steps, of all it saw in this episode; its value is the state after."""

    memory = True

    @staticmethod
    def initial_state(rows: int) -> Tensor:
        return torch.zeros(rows, 1)

    def act(self, observation: Tensor, state: Tensor | None = None, greedy: bool = False) -> Any:
        after = observation[:, 1:] + 1 + (0 if state is None else state)
        return after[:, 0].long() % 5, -after[:, 0], after[:, 0], after

    def evaluate(self, observation: Remembered, action: Tensor) -> Evaluation:
        raise NotImplementedError


def counters(mode: AutoresetMode, *lengths: tuple[int, bool]) -> Runner:
    makers = [lambda i=i, n=n, cut=cut: Count(i, n, cut) for i, (n, cut) in enumerate(lengths or LENGTHS)]
    return Runner(SyncVectorEnv(makers, autoreset_mode=mode))


def sums(steps: Tensor) -> Tensor:
    """The state after the step that shows `steps`: 1 + 2 + ... of an episode."""
    return (steps + 1) * (steps + 2) / 2


@MODES
def test_a_state_holds_what_was_seen_in_its_own_episode(mode):
    """In `next_value` also the last state of the episode, which the policy sees after it or never acts in."""
    t = counters(mode).rollout(Adds(), 20)
    steps = t.observation.observation[..., 1]
    assert torch.equal(t.value[t.mask], sums(steps)[t.mask])
    assert torch.equal(t.next_value[t.mask], sums(steps + 1)[t.mask])
    assert torch.equal(t.action[t.mask], sums(steps)[t.mask].long() % 5)


@MODES
def test_an_episode_begins_after_each_end_and_nowhere_else(mode):
    t = counters(mode).rollout(Adds(), 20)
    assert torch.equal(t.observation.begins[t.mask], (t.observation.observation[..., 1] == 0)[t.mask])
    # A reset step belongs to the episode that ended.
    assert not t.observation.begins[~t.mask].any()


@MODES
def test_short_rollouts_go_on_where_the_last_one_stopped(mode):
    whole, parts = counters(mode), counters(mode)
    due = whole.rollout(Adds(), 20)
    pieces = [parts.rollout(Adds(), n) for n in (1, 4, 2, 6, 3, 4)]
    for name in ("action", "value", "next_value", "reward"):
        found = torch.cat([getattr(p, name) for p in pieces], 1)
        assert torch.equal(found[due.mask], getattr(due, name)[due.mask]), name
    assert torch.equal(torch.cat([p.observation.begins for p in pieces], 1), due.observation.begins)


@MODES
def test_side_by_side_is_one_by_one(mode):
    together = counters(mode).rollout(Adds(), 12)
    for b, length in enumerate(LENGTHS):
        alone = counters(mode, length).rollout(Adds(), 12)
        for name in ("action", "value", "next_value", "reward", "mask"):
            assert torch.equal(getattr(together, name)[b], getattr(alone, name)[0]), name


@MODES
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_rollout_evaluated_says_what_was_recorded(mode, cell):
    """From the first state of any rollout, over ends and reset steps: the first ratio is 1."""
    policy, world = RecurrentActorCritic((2,), Categorical(5), cell, 8), counters(mode)
    for size in (7, 20, 1):
        t = world.rollout(policy, size)
        again = policy.evaluate(t.observation, t.action)
        torch.testing.assert_close((again.log_prob, again.value), (t.log_prob, t.value))


@MODES
def test_a_reset_step_leaves_no_trace(mode):
    """What is seen or done there changes nothing: neither the decisions after it nor the gradient of the loss."""
    policy, world = RecurrentActorCritic((2,), Categorical(5), "gru", 8), counters(mode)
    t = world.rollout(policy, 20)
    seen = t.observation
    spoiled = torch.where(t.mask.unsqueeze(-1), seen.observation, 1e3)

    def loss(observation: Tensor) -> Tensor:
        found = policy.evaluate(Remembered(observation, seen.begins, seen.state), t.action)
        return torch.where(t.mask, found.log_prob + found.value, 0.0).sum()

    torch.testing.assert_close(loss(spoiled), loss(seen.observation), rtol=0, atol=0)
    found, due = (torch.autograd.grad(loss(x), list(policy.parameters())) for x in (spoiled, seen.observation))
    torch.testing.assert_close(found, due, rtol=0, atol=0)


def test_episodes_are_whole_for_a_policy_with_memory():
    world = counters(AutoresetMode.NEXT_STEP, (3, False), (70, True))
    t = world.episodes(Adds())
    assert t.observation.observation.shape[:2] == t.observation.begins.shape == t.mask.shape == (2, 70)
    assert t.mask.sum(1).tolist() == [3, 70]
    assert torch.equal(t.value[t.mask], sums(t.observation.observation[..., 1])[t.mask])
    assert t.observation.state.shape == (2, 1)


def test_playing_remembers_too():
    world = counters(AutoresetMode.NEXT_STEP, (5, True))
    world.play(Adds(), 3)
    assert world.memory.tolist() == [[1 + 2 + 3]]
    world.play(Adds(), 3)
    assert world.pop_lengths() == [5]
    world.play(Adds(), 1)
    assert world.memory.tolist() == [[1]]


def test_policies_with_and_without_memory_take_turns():
    world = counters(AutoresetMode.NEXT_STEP)
    world.rollout(Adds(), 5)
    assert isinstance(world.rollout(ActorCritic(2, 5), 5).observation, Tensor)
    assert world.rollout(Adds(), 5).observation.state.tolist() == [[0.0]] * 5


CONFIG = ppo.Config(iterations=4, rollout=24, minibatch=2, learning_rate=1e-2)


def start(cell: Any) -> ppo.State:
    torch.manual_seed(0)
    world = Runner("CartPole-v1", envs=4, seed=3)
    return ppo.init(RecurrentActorCritic((4,), Categorical(2), cell, 8), world, CONFIG)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_first_ratio_is_one_and_the_first_distance_zero(cell):
    config = ppo.Config(iterations=1, rollout=200, epochs=1, minibatch=4)
    torch.manual_seed(0)
    policy = RecurrentActorCritic((4,), Categorical(2), cell, 8)
    metrics = next(ppo.train(ppo.init(policy, Runner("CartPole-v1", envs=4), config), config))
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/approx_kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, cell):
    whole = start(cell)
    metrics = []
    for m in ppo.train(whole, CONFIG):
        metrics.append(m)
        if whole.step == 2:
            checkpoint.save(tmp_path / "half", whole)
    again = start(cell)
    checkpoint.load(tmp_path / "half", again)
    assert list(ppo.train(again, CONFIG)) == metrics[2:]
    due = whole.policy.state_dict()
    assert all(torch.equal(x, due[name]) for name, x in again.policy.state_dict().items())
    assert torch.equal(again.world.memory, whole.world.memory)


def test_forgetting_the_state_would_be_noticed(tmp_path):
    """The check of the resumed run above fails without the state."""
    state = start("lstm")
    train = ppo.train(state, CONFIG)
    next(train)
    checkpoint.save(tmp_path / "half", state)
    due = next(train)
    again = start("lstm")
    checkpoint.load(tmp_path / "half", again)
    again.world.memory = torch.zeros_like(again.world.memory)
    assert next(ppo.train(again, CONFIG)) != due
