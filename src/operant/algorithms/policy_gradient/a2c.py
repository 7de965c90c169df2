"""Advantage actor-critic, A2C: A3C without the waiting (Mnih et al. 2016; Dhariwal et al. 2017, OpenAI Baselines).

    repeat
        roll out   a few steps of every environment with π
        evaluate   advantages Â, the n-step return less v where λ = 1, by GAE otherwise; targets Â + v
        optimise   one step of RMSProp on -Â log π(a|s) + c_v value loss - c_e entropy

Every decision is learned from once, so nothing needs to hold the policy near the one that acted. Updates are small and
many: their fixed cost is the speed of the algorithm.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from operant.core.errors import InputError
from operant.core.finite import require_finite
from operant.core.flat import Flat, flatten, shorten
from operant.core.losses import masked_means, policy_gradient_loss, standardize, value_loss
from operant.core.record import Trajectory, World
from operant.core.returns import gae
from operant.core.rmsprop import rmsprop
from operant.core.schedules import Schedule, scheduled

Metrics = dict[str, float]
SHOWN = ("loss/policy", "loss/value", "policy/entropy", "policy/gradient_norm")


@dataclasses.dataclass(frozen=True)
class Config:
    iterations: int = 12500
    """Rollouts, each followed by one step of the optimiser."""
    rollout: int = 5
    """Size of a rollout: steps of every environment."""
    learning_rate: float = 7e-4
    """Peak step size of RMSProp."""
    schedule: Schedule = "linear"
    """How the step size goes down to 0 over the run."""
    gamma: float = 0.99
    """Discount γ."""
    lambda_: float = 1.0
    """GAE's λ: 1 gives n-step returns up to the end of the rollout, 0 the one-step TD error."""
    value_coefficient: float = 0.5
    """Weight c_v of the value loss."""
    entropy_coefficient: float = 0.01
    """Weight c_e of the entropy bonus."""
    standardize_advantages: bool = False
    """Advantages of a rollout get mean 0 and deviation 1."""
    max_gradient_norm: float = 0.5
    """Gradients longer than this are shortened to it."""
    rmsprop_decay: float = 0.99
    """RMSProp's memory of squared gradients."""
    rmsprop_epsilon: float = 1e-5
    """RMSProp's ε, inside the root."""
    report_every: int = 100
    """Updates between two reports, which are means over them; the run may be saved there."""


@dataclasses.dataclass
class State:
    policy: Any
    world: World
    weights: Flat = dataclasses.field(metadata={"saved": False})
    """All parameters of the policy, as one vector."""
    mean_square: Tensor
    """RMSProp's running mean of squared gradients."""
    step: int = 0


def init(policy: Any, world: World, config: Config) -> State:
    if config.report_every < 1:
        raise InputError(f"report_every is {config.report_every} updates: a run reports after 1 or more")
    weights = flatten(policy)
    return State(policy, world, weights, torch.zeros_like(weights))


def loss(policy: Any, trajectory: Trajectory, config: Config) -> tuple[Tensor, Tensor]:
    """-Â log π(a|s) + c_v value loss - c_e entropy, and its three parts [3]."""
    t = trajectory
    advantage = gae(t.reward, t.value, t.next_value, config.gamma * t.discount, t.done, config.lambda_)
    target = advantage + t.value
    if config.standardize_advantages:
        advantage = standardize(advantage, t.mask)
    log_prob, entropy, value = policy.evaluate(t.observation, t.action)
    parts = torch.stack([policy_gradient_loss(log_prob, advantage), value_loss(value, target), entropy])
    weight = torch.tensor([1.0, config.value_coefficient, -config.entropy_coefficient], device=parts.device)
    parts = masked_means(parts, t.mask)
    return weight @ parts, parts.detach()


def update(state: State, trajectory: Trajectory, config: Config) -> Tensor:
    """One step of the optimiser on a rollout; what a report shows, [4]."""
    assert state.weights.grad is not None
    gradient = state.weights.grad.zero_()
    total, parts = loss(state.policy, trajectory, config)
    total.backward()
    norm = shorten(gradient, config.max_gradient_norm)
    require_finite(norm, "gradient's norm", state.step, trajectory)
    rate = config.learning_rate * scheduled(config.schedule, (state.step + 1) / (config.iterations + 1))
    rmsprop(state.weights, gradient, state.mean_square, rate, config.rmsprop_decay, config.rmsprop_epsilon)
    return torch.cat([parts, norm[None]])


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
