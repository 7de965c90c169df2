"""Q actor-critic: its loss is the definition, exact values give the exact gradient, and broken twins do not learn."""

import dataclasses
from typing import Any

import pytest
import torch

from operant.algorithms.policy_gradient import q_actor_critic
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.envs.runner import Runner
from operant.networks.q_actor_critic import QActorCritic


def decisions(policy: Any) -> Trajectory:
    """Every action in each of five states, [5, 3]; some of them end an episode."""
    observation = torch.randn(5, 1, 4).expand(5, 3, 4)
    action = torch.arange(3).expand(5, 3)
    log_prob, _, value = policy.evaluate(observation, action)
    terminated = torch.rand(5, 3) < 0.3
    return Trajectory(
        observation=observation,
        action=action,
        log_prob=log_prob.detach(),
        value=value,
        next_value=torch.randn(5, 3),
        reward=torch.randn(5, 3),
        discount=(~terminated).float(),
        terminated=terminated,
        truncated=torch.zeros_like(terminated),
        mask=torch.ones_like(terminated),
    )


@pytest.mark.parametrize("advantage", [False, True])
def test_the_loss_is_that_of_the_definition(advantage):
    policy: Any = QActorCritic(4, 3, (8,))
    t, terms = decisions(policy), []
    config = q_actor_critic.Config(gamma=0.9, advantage=advantage, entropy_coefficient=0.3)
    for row in range(5):
        for a in range(3):
            seen = t.observation[row, a]
            chosen, values = torch.distributions.Categorical(logits=policy.actor(seen)), policy.critic(seen)
            target = t.reward[row, a] + (0 if t.terminated[row, a] else 0.9 * t.next_value[row, a])
            credit = values[a].item() - advantage * (chosen.probs * values).sum().item()
            terms.append(
                -credit * chosen.log_prob(torch.tensor(a)) + 0.5 * (values[a] - target) ** 2 - 0.3 * chosen.entropy()
            )
    total, _ = q_actor_critic.loss(policy, t, config)
    assert total.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)


@pytest.mark.parametrize("advantage", [False, True])
def test_exact_values_give_the_gradient_of_the_expected_value(advantage):
    """Σ_a π(a) Q(a) ∇log π(a) = ∇Σ_a π(a) Q(a) (Sutton et al. 2000, theorem 1); taking v from Q changes nothing."""
    policy: Any = QActorCritic(4, 3, (8,))
    policy.actor[-1].weight.data.mul_(100)
    t = decisions(policy)
    actor = list(policy.actor.parameters())
    values = policy.critic(t.observation[:, 0]).detach()
    exact = torch.autograd.grad((policy.actor(t.observation[:, 0]).softmax(-1) * values).sum(), actor)
    chances = t.log_prob.exp()
    total = torch.zeros(())
    config = q_actor_critic.Config(advantage=advantage, entropy_coefficient=0.0)
    for row in range(5):
        for a in range(3):
            one = t[row : row + 1, a : a + 1]
            total = total + chances[row, a] * q_actor_critic.loss(policy, one, config)[0]
    torch.testing.assert_close(torch.autograd.grad(-total, actor), exact)


def test_the_value_of_a_state_is_the_mean_of_its_actions():
    policy = QActorCritic(4, 3, (8,))
    seen = torch.randn(6, 1, 4)
    values = torch.stack([policy.action_value(seen, torch.full((6, 1), a)) for a in range(3)], -1)
    chances = torch.stack([policy.evaluate(seen, torch.full((6, 1), a)).log_prob.exp() for a in range(3)], -1)
    torch.testing.assert_close(policy.value(seen), (chances * values).sum(-1).detach())
    assert policy.choose(seen, greedy=True).tolist() == chances.argmax(-1).tolist()


@pytest.mark.parametrize(("truncates", "standing"), [(True, 10.0), (False, 5.3)])
def test_a_limit_of_time_is_no_end_of_the_world(truncates, standing, constant, unchecked_types):
    policy = QActorCritic(1, 2, ())
    config = q_actor_critic.Config(iterations=300, rollout=11, gamma=0.9, critic_learning_rate=0.1)
    for _ in q_actor_critic.train(q_actor_critic.init(policy, constant(truncates, envs=2), config), config):
        pass
    assert policy.value(torch.ones(1)).item() == pytest.approx(standing, abs=0.5)


def test_a_report_needs_an_update(unchecked_types):
    with pytest.raises(InputError, match="report_every is 0"):
        q_actor_critic.init(QActorCritic(4, 2), Runner("CartPole-v1", envs=2), q_actor_critic.Config(report_every=0))


class Flipped:
    """Rewards and values of a world with the other sign."""

    def __init__(self, world: Runner) -> None:
        self.world = world

    def rollout(self, policy: Any, size: int) -> Trajectory:
        t = self.world.rollout(policy, size)
        return dataclasses.replace(t, reward=-t.reward)


@pytest.mark.parametrize("advantage", [False, True])
def test_it_learns_to_walk_and_broken_twins_do_not(advantage, corridor, unchecked_types):
    def learn(broken: bool = False, rate: float = 1e-2) -> float:
        """Mean return of the last 30 episodes."""
        torch.manual_seed(0)
        policy, world = QActorCritic(7, 2, (16,)), corridor(8)
        config = q_actor_critic.Config(
            iterations=150, actor_learning_rate=rate, critic_learning_rate=2e-2, advantage=advantage
        )
        for _ in q_actor_critic.train(q_actor_critic.init(policy, Flipped(world) if broken else world, config), config):
            pass
        return sum(world.pop_returns()[-30:]) / 30

    threshold = 0.9
    assert learn() > threshold
    wrong = {"random agent": learn(rate=0.0), "rewards flipped": learn(broken=True)}
    assert all(score < 0.8 * threshold for score in wrong.values()), wrong
