"""Q actor-critic: the critic learns the values of actions (Sutton et al. 2000, "Policy gradient methods", theorem 1).

    repeat
        roll out   a few steps of every environment with π
        evaluate   r + γ Σ_b π(b|s') Q(s', b), the target of expected SARSA
        optimise   one step of Adam on -Q(s, a) log π(a|s) + ½ (Q(s, a) - target)² - c_e entropy

With `advantage` the actor follows A(s, a) = Q(s, a) - v(s) instead of Q(s, a), with v(s) = Σ_b π(b|s) Q(s, b): the same
gradient on average, with less noise. The critic alone says how good a decision was: its errors are the actor's bias.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from operant.core.errors import InputError
from operant.core.finite import require_finite
from operant.core.flat import flatten
from operant.core.losses import masked_means, policy_gradient_loss, value_loss
from operant.core.record import Trajectory, World
from operant.core.returns import n_step_return
from operant.core.schedules import Schedule, scheduled

Metrics = dict[str, float]
SHOWN = ("loss/policy", "loss/value", "policy/entropy")


@dataclasses.dataclass(frozen=True)
class Config:
    iterations: int = 5000
    """Rollouts, each followed by one step of the optimiser."""
    rollout: int = 4
    """Size of a rollout: steps of every environment."""
    actor_learning_rate: float = 5e-4
    """Peak step size of Adam for the policy."""
    critic_learning_rate: float = 2e-3
    """Peak step size of Adam for the values: faster, since the actor follows them."""
    schedule: Schedule = "linear"
    """How the step sizes go down to 0 over the run."""
    gamma: float = 0.99
    """Discount γ."""
    advantage: bool = True
    """The actor follows Q(s, a) - v(s); off: Q(s, a)."""
    entropy_coefficient: float = 0.01
    """Weight c_e of the entropy bonus."""
    adam_epsilon: float = 1e-5
    """Adam's ε."""
    report_every: int = 100
    """Updates between two reports, which are means over them; the run may be saved there."""


@dataclasses.dataclass
class State:
    policy: Any
    optimizer: torch.optim.Optimizer
    world: World
    step: int = 0


def init(policy: Any, world: World, config: Config) -> State:
    if config.report_every < 1:
        raise InputError(f"report_every is {config.report_every} updates: a run reports after 1 or more")
    groups = [{"params": [flatten(network)]} for network in (policy.actor, policy.critic)]
    return State(policy, torch.optim.Adam(groups, eps=config.adam_epsilon, fused=True), world)


def loss(policy: Any, trajectory: Trajectory, config: Config) -> tuple[Tensor, Tensor]:
    """-Q log π(a|s) + ½ (Q - target)² - c_e entropy, and its three parts [3]."""
    t = trajectory
    target = n_step_return(t.reward, t.next_value, config.gamma * t.discount, t.done, 1)
    log_prob, entropy, value = policy.evaluate(t.observation, t.action)
    action_value = policy.action_value(t.observation, t.action)
    credit = action_value - value if config.advantage else action_value
    parts = torch.stack([policy_gradient_loss(log_prob, credit), value_loss(action_value, target), entropy])
    parts = masked_means(parts, t.mask)
    return parts[0] + parts[1] - config.entropy_coefficient * parts[2], parts.detach()


def update(state: State, trajectory: Trajectory, config: Config) -> Tensor:
    """One step of the optimiser on a rollout; what a report shows, [3]."""
    state.optimizer.zero_grad(set_to_none=False)
    total, parts = loss(state.policy, trajectory, config)
    require_finite(total, "loss", state.step, trajectory)
    total.backward()
    done = (state.step + 1) / (config.iterations + 1)
    peaks = (config.actor_learning_rate, config.critic_learning_rate)
    for group, peak in zip(state.optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * scheduled(config.schedule, done)
    state.optimizer.step()
    return parts


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields the means of every `report_every` updates."""
    steps: list[Tensor] = []
    while state.step < config.iterations:
        trajectory = state.world.rollout(state.policy, config.rollout)
        steps.append(update(state, trajectory, config))
        state.step += 1
        if state.step % config.report_every == 0 or state.step == config.iterations:
            yield dict(zip(SHOWN, torch.stack(steps).mean(0).tolist(), strict=True))
            steps.clear()
