"""A2C: its loss is the definition, ends are what they are, and it learns where broken twins do not."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import a2c
from operant.core.errors import Diverged, InputError
from operant.core.losses import masked_mean, policy_gradient_loss
from operant.core.record import Trajectory
from operant.core.returns import n_step_return
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic


def decisions(policy: Any, rows: int = 6, steps: int = 5) -> Trajectory:
    """Random decisions of `policy`; some episodes end, a quarter of the places is masked out."""
    observation, action = torch.randn(rows, steps, 4), torch.randint(2, (rows, steps))
    with torch.no_grad():
        log_prob, _, value = policy.evaluate(observation, action)
    terminated, truncated = torch.rand(rows, steps) < 0.2, torch.rand(rows, steps) < 0.2
    following = torch.cat([value[:, 1:], torch.randn(rows, 1)], 1)
    return Trajectory(
        observation=observation,
        action=action,
        log_prob=log_prob,
        value=value,
        next_value=torch.where(truncated, torch.randn(rows, steps), following),
        reward=torch.randn(rows, steps),
        discount=(~terminated).float(),
        terminated=terminated,
        truncated=truncated & ~terminated,
        mask=torch.rand(rows, steps) < 0.75,
    )


def n_step_advantages(t: Trajectory, gamma: float) -> Tensor:
    """Rewards until the episode or the rollout ends, the value of the state then reached unless it is terminal."""
    advantage = torch.empty_like(t.reward)
    for row in range(t.reward.shape[0]):
        for first in range(t.reward.shape[1]):
            last = first
            while last + 1 < t.reward.shape[1] and not t.done[row, last]:
                last += 1
            rewards = t.reward[row, first : last + 1]
            total = sum(gamma**i * r for i, r in enumerate(rewards.tolist()))
            if not t.terminated[row, last]:
                total += gamma ** (last + 1 - first) * t.next_value[row, last].item()
            advantage[row, first] = total - t.value[row, first].item()
    return advantage


def test_the_loss_is_that_of_the_definition():
    """-Â log π + c_v ½ (v - G)² - c_e H, decision by decision (Mnih et al. 2016, section 4)."""
    config = a2c.Config(gamma=0.9, value_coefficient=0.7, entropy_coefficient=0.3)
    policy = ActorCritic(4, 2, (8,))
    t = decisions(policy)
    advantage, terms = n_step_advantages(t, 0.9), []
    for row, column in t.mask.nonzero().tolist():
        seen = t.observation[row, column]
        chosen = torch.distributions.Categorical(logits=policy.actor(seen))
        surplus = advantage[row, column].item()
        error = policy.critic(seen).item() - (surplus + t.value[row, column].item())
        terms.append(-surplus * chosen.log_prob(t.action[row, column]) + 0.7 * 0.5 * error**2 - 0.3 * chosen.entropy())
    total, parts = a2c.loss(policy, t, config)
    assert total.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)
    assert (parts @ torch.tensor([1, 0.7, -0.3])).item() == pytest.approx(total.item(), rel=1e-5)


def test_with_lambda_1_targets_are_n_step_returns():
    t = decisions(ActorCritic(4, 2, (8,)))
    expected = n_step_return(t.reward, t.next_value, 0.9 * t.discount, t.done, 5) - t.value
    torch.testing.assert_close(n_step_advantages(t, 0.9), expected)


def test_the_actor_follows_the_policy_gradient_and_nothing_flows_through_targets():
    policy: Any = copy.deepcopy(ActorCritic(4, 2, (8,)))  # its parameters are tensors of their own
    t = decisions(policy)
    config = a2c.Config(gamma=0.9, value_coefficient=0.0, entropy_coefficient=0.0)
    expected = policy_gradient_loss(policy.evaluate(t.observation, t.action).log_prob, n_step_advantages(t, 0.9))
    actor = list(policy.actor.parameters())
    expected = torch.autograd.grad(masked_mean(expected, t.mask), actor)
    a2c.loss(policy, t, config)[0].backward()
    torch.testing.assert_close([p.grad for p in actor], list(expected))
    assert all(p.grad is None or not p.grad.any() for p in policy.critic.parameters())


def test_an_update_does_not_see_what_the_mask_hides():
    policy = ActorCritic(4, 2, (8,))
    t = decisions(policy)
    # What is hidden is a reset step or padding: the trace before it is cut.
    ends = torch.cat([~t.mask[:, 1:], torch.zeros(6, 1, dtype=torch.bool)], 1)
    t = dataclasses.replace(t, truncated=t.truncated | (ends & ~t.terminated))
    spoiled = dataclasses.replace(t, reward=t.reward.where(t.mask, 77.0), value=t.value.where(t.mask, -5.0))
    for config in (a2c.Config(), a2c.Config(standardize_advantages=True)):
        torch.testing.assert_close(a2c.loss(policy, spoiled, config), a2c.loss(policy, t, config))


def test_standardised_advantages_do_not_depend_on_the_scale_of_rewards():
    policy = ActorCritic(4, 2, (8,))
    t = decisions(policy)
    config = a2c.Config(standardize_advantages=True, value_coefficient=0.0)
    nothing = torch.zeros_like(t.value)
    t = dataclasses.replace(t, value=nothing, next_value=nothing)
    scaled = dataclasses.replace(t, reward=1000 * t.reward)
    torch.testing.assert_close(a2c.loss(policy, scaled, config)[0], a2c.loss(policy, t, config)[0])


@pytest.mark.parametrize(("truncates", "standing"), [(True, 10.0), (False, 4.1)])
def test_a_limit_of_time_is_no_end_of_the_world(truncates, standing, constant, unchecked_types):
    """Reward 1 for ever is worth 1 / (1 - γ); taken for a termination it is worth the mean of 1, 1.9, 2.71, ..."""
    policy = ActorCritic(1, 2, (8,))
    config = a2c.Config(iterations=300, rollout=11, gamma=0.9, learning_rate=0.03)
    for _ in a2c.train(a2c.init(policy, constant(truncates), config), config):
        pass
    assert policy.value(torch.ones(1)).item() == pytest.approx(standing, abs=0.35)


def test_reports_are_means_over_their_updates():
    def metrics(report_every: int) -> list[a2c.Metrics]:
        torch.manual_seed(0)
        policy, world = ActorCritic(4, 2, (8,)), Runner("CartPole-v1", envs=2)
        config = a2c.Config(iterations=5, report_every=report_every)
        return list(a2c.train(a2c.init(policy, world, config), config))

    each, pairs = metrics(1), metrics(2)
    assert len(pairs) == 3
    for name, value in pairs[0].items():
        assert value == pytest.approx((each[0][name] + each[1][name]) / 2, rel=1e-5)
    assert pairs[2] == each[4]


def test_a_gradient_that_is_no_number_stops_the_run():
    policy = ActorCritic(4, 2, (8,))
    t = decisions(policy)
    state = a2c.init(policy, Runner("CartPole-v1", envs=2), a2c.Config())
    with pytest.raises(Diverged, match="step 0: the gradient's norm is nan"):
        a2c.update(state, dataclasses.replace(t, reward=t.reward * math.nan), a2c.Config())


def test_a_report_needs_an_update(unchecked_types):
    with pytest.raises(InputError, match="report_every is 0"):
        a2c.init(ActorCritic(4, 2), Runner("CartPole-v1", envs=2), a2c.Config(report_every=0))


@dataclasses.dataclass
class Changed:
    """A world whose records are not what happened."""

    world: Runner
    change: Callable[[Trajectory], Trajectory]

    def rollout(self, policy: Any, size: int) -> Trajectory:
        return self.change(self.world.rollout(policy, size))


def as_it_is(t: Trajectory) -> Trajectory:
    return t


def flipped(t: Trajectory) -> Trajectory:
    """The advantages have the other sign."""
    return dataclasses.replace(t, reward=-t.reward, value=-t.value, next_value=-t.next_value)


def endless(t: Trajectory) -> Trajectory:
    """Terminations are taken for truncations: a fall costs nothing."""
    return dataclasses.replace(t, discount=torch.ones_like(t.discount))


def learn(change: Callable[[Trajectory], Trajectory] = as_it_is, seed: int = 0, **settings: Any) -> float:
    """Mean return of the last 30 episodes on CartPole."""
    torch.manual_seed(seed)
    policy, world = ActorCritic(4, 2), Runner("CartPole-v1", envs=16, seed=seed)
    config = a2c.Config(iterations=350, rollout=8, learning_rate=4e-3, lambda_=0.95, report_every=350)
    config = dataclasses.replace(config, **settings)
    for _ in a2c.train(a2c.init(policy, Changed(world, change), config), config):
        pass
    returns = world.pop_returns()[-30:]
    return sum(returns) / len(returns)


def test_it_learns_cartpole_and_broken_twins_do_not(unchecked_types):
    threshold = 100.0
    assert learn() > threshold
    broken = {
        "random agent": learn(learning_rate=0.0),
        "advantage flipped": learn(flipped),
        "terminations ignored": learn(endless),
    }
    assert all(score < 0.5 * threshold for score in broken.values()), broken
