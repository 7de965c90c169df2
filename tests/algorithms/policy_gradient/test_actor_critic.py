"""Actor-critic with traces: they are the forward view, one step is that of the book, and broken twins do not learn."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import actor_critic
from operant.core.errors import Diverged, InputError
from operant.core.flat import vector
from operant.core.record import Trajectory
from operant.core.returns import gae
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic

PLAIN = actor_critic.Config(
    actor_learning_rate=0.1,
    critic_learning_rate=0.3,
    schedule="constant",
    gamma=0.9,
    entropy_coefficient=0.0,
    actor_bound=0.0,
    critic_bound=0.0,
)
STILL = dataclasses.replace(PLAIN, actor_learning_rate=0.0, critic_learning_rate=0.0)


def episode(policy: Any, steps: int = 6) -> Trajectory:
    """Random decisions of `policy`, [1, steps]; the last one ends the episode."""
    observation, action = torch.randn(1, steps, 4), torch.randint(2, (1, steps))
    with torch.no_grad():
        log_prob, _, value = policy.evaluate(observation, action)
    over = torch.arange(steps).unsqueeze(0) == steps - 1
    return Trajectory(
        observation=observation,
        action=action,
        log_prob=log_prob,
        value=value,
        next_value=torch.cat([value[:, 1:], torch.zeros(1, 1)], 1),
        reward=torch.randn(1, steps),
        discount=(~over).float(),
        terminated=over,
        truncated=torch.zeros_like(over),
        mask=torch.ones_like(over),
    )


def pole(policy: Any, config: actor_critic.Config = STILL) -> actor_critic.State:
    return actor_critic.init(policy, Runner("CartPole-v1", envs=1), config)


def gradient(policy: Any, loss: Tensor) -> Tensor:
    """[N], in the order of the parameters."""
    (found,) = torch.autograd.grad(loss, [vector(policy)])
    return found


@pytest.mark.parametrize("discount_states", [False, True])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_a_trace_is_the_sum_of_faded_gradients(lambda_, discount_states):
    """z_t = Σ_k (γλ)^(t-k) [I_k ∇log π_k, ∇v_k] (S&B section 13.6)."""
    policy: Any = ActorCritic(4, 2, (8,))
    t = episode(policy)
    config = dataclasses.replace(STILL, lambda_=lambda_, discount_states=discount_states)
    state = pole(policy, config)
    for last in range(5):
        actor_critic.update(state, t[:, last : last + 1], config)
        so_far = t[:, : last + 1]
        log_prob, _, value = policy.evaluate(so_far.observation, so_far.action)
        fade = (0.9 * lambda_) ** torch.arange(last, -1, -1)
        counts = 0.9 ** torch.arange(last + 1) if discount_states else torch.ones(last + 1)
        expected = gradient(policy, (fade * (counts * log_prob + value)).sum())
        torch.testing.assert_close(state.trace, expected)
    actor_critic.update(state, t[:, 5:], config)
    assert not state.trace.any()
    assert state.emphasis == 1


def test_backward_and_forward_view_agree_over_an_episode():
    """Σ_t δ_t z_t = Σ_t (G_t^λ - v_t) ∇(log π_t + v_t), weights held still (S&B section 12.4)."""
    policy: Any = ActorCritic(4, 2, (8,))
    t = episode(policy)
    config = dataclasses.replace(STILL, lambda_=0.7)
    state, total = pole(policy, config), torch.zeros(())
    for i in range(6):
        alone = t[:, i : i + 1]
        delta = alone.reward + 0.9 * alone.discount * alone.next_value - alone.value
        unfinished = dataclasses.replace(alone, terminated=torch.zeros_like(alone.terminated))
        actor_critic.update(state, unfinished, config)
        total = total + delta.squeeze() * state.trace
    log_prob, _, value = policy.evaluate(t.observation, t.action)
    advantage = gae(t.reward, t.value, t.next_value, 0.9 * t.discount, t.done, 0.7)
    torch.testing.assert_close(total, gradient(policy, (advantage * (log_prob + value)).sum()))


def test_one_step_is_that_of_the_book():
    """θ += α_θ δ I ∇log π, w += α_w δ ∇v, without a gradient through δ (S&B section 13.5)."""
    config = dataclasses.replace(PLAIN, lambda_=0.0, discount_states=True)
    policy: Any = ActorCritic(4, 2, (8,))
    t, state = episode(policy)[:, :1], pole(policy, config)
    state.emphasis = 0.9**3
    before = state.weights.detach().clone()
    delta = (t.reward + 0.9 * t.next_value - t.value).squeeze()
    log_prob, _, value = policy.evaluate(t.observation, t.action)
    expected = before + delta * gradient(policy, (0.1 * 0.9**3 * log_prob + 0.3 * value).sum())
    actor_critic.update(state, t, config)
    torch.testing.assert_close(state.weights.data, expected)
    assert state.emphasis == pytest.approx(0.9**4)


def test_the_entropy_moves_a_step_by_its_gradient_times_the_error():
    config = dataclasses.replace(PLAIN, lambda_=0.0, entropy_coefficient=0.5)
    policy: Any = ActorCritic(4, 2, (8,))
    policy.actor[-1].weight.data.mul_(100)
    t, state = episode(policy)[:, :1], pole(policy, config)
    before = state.weights.detach().clone()
    delta = (t.reward + 0.9 * t.next_value - t.value).squeeze()
    log_prob, _, value = policy.evaluate(t.observation, t.action)
    plain = gradient(policy, (delta * (0.1 * log_prob + 0.3 * value)).sum())
    bonus = gradient(policy, policy.evaluate(t.observation, t.action).entropy.sum())
    actor_critic.update(state, t, config)
    moved = state.weights.data - before - plain
    torch.testing.assert_close(moved, 0.1 * delta.abs() * 0.5 * bonus, atol=1e-6, rtol=1e-3)
    assert moved.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("rate", "bound", "delta", "norm", "expected"),
    [(1.0, 2.0, 0.5, 10.0, 1 / 20), (1.0, 2.0, -4.0, 10.0, 1 / 80), (0.01, 2.0, 0.5, 10.0, 0.01), (1, 0, 9, 99, 1)],
)
def test_long_steps_are_bounded(rate, bound, delta, norm, expected):
    assert actor_critic.step_size(rate, bound, delta, norm) == pytest.approx(expected)


def test_reset_steps_are_not_learned_from(constant):
    """The step after an end decides nothing: neither trace nor weights change."""
    policy: Any = ActorCritic(1, 2, (8,))
    config = dataclasses.replace(PLAIN, steps=11, report_every=1, lambda_=0.9)
    state = actor_critic.init(policy, constant(True, envs=1), config)
    weights = [state.weights.detach().clone() for _ in actor_critic.train(state, config)]
    same = [torch.equal(a, b) for a, b in pairwise(weights)]
    assert same == [False] * 9 + [True]
    assert not state.trace.any()


@pytest.mark.parametrize(("truncates", "standing"), [(True, 10.0), (False, 5.3)])
def test_a_limit_of_time_is_no_end_of_the_world(truncates, standing, constant, unchecked_types):
    """Reward 1 for ever is worth 1 / (1 - γ); if one step in ten is a termination, v = 1 + 0.9 γ v is 5.3."""
    policy = ActorCritic(1, 2, ())
    config = dataclasses.replace(PLAIN, steps=1200, critic_learning_rate=0.1, schedule="linear", lambda_=0.0)
    for _ in actor_critic.train(actor_critic.init(policy, constant(truncates, envs=1), config), config):
        pass
    assert policy.value(torch.ones(1)).item() == pytest.approx(standing, abs=0.5)


def test_what_cannot_be_meant_is_refused(unchecked_types):
    policy = ActorCritic(4, 2)
    with pytest.raises(InputError, match="one environment, not of 2: set envs to 1"):
        actor_critic.init(policy, Runner("CartPole-v1", envs=2), PLAIN)
    with pytest.raises(InputError, match="report_every is 0"):
        actor_critic.init(policy, Runner("CartPole-v1", envs=1), dataclasses.replace(PLAIN, report_every=0))


def test_an_error_that_is_no_number_stops_the_run():
    policy: Any = ActorCritic(4, 2, (8,))
    t = episode(policy)[:, :1]
    with pytest.raises(Diverged, match="step 0: the TD error is nan"):
        actor_critic.update(pole(policy), dataclasses.replace(t, reward=t.reward * math.nan), STILL)


class Flipped:
    """The advantages of a world with the other sign."""

    def __init__(self, world: Runner) -> None:
        self.world = world

    def rollout(self, policy: Any, size: int) -> Trajectory:
        t = self.world.rollout(policy, size)
        return dataclasses.replace(t, reward=-t.reward, value=-t.value, next_value=-t.next_value)


def test_it_learns_to_walk_and_broken_twins_do_not(corridor, unchecked_types):
    def learn(broken: bool = False, **settings: Any) -> float:
        """Mean return of the last 30 episodes."""
        torch.manual_seed(0)
        policy, world = ActorCritic(7, 2, (16,)), corridor(1)
        config = dataclasses.replace(actor_critic.Config(steps=1000), **settings)
        for _ in actor_critic.train(actor_critic.init(policy, Flipped(world) if broken else world, config), config):
            pass
        return sum(world.pop_returns()[-30:]) / 30

    threshold = 0.9
    assert learn() > threshold
    assert learn(lambda_=0.0) > threshold
    wrong = {"random agent": learn(actor_learning_rate=0.0), "advantage flipped": learn(broken=True)}
    assert all(score < 0.8 * threshold for score in wrong.values()), wrong
