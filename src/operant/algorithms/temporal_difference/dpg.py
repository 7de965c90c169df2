"""Deterministic policy gradient, step by step (Silver et al. 2014, "Deterministic policy gradient algorithms").

    repeat
        act        a = μ(s) + noise, observe r, s'
        evaluate   Q(s, a) = v(s) + (a - μ(s))ᵀ ∇_θ μ(s)ᵀ w;  δ = r + γ Q(s', μ(s')) - Q(s, a)
        actor      θ ← θ + α_θ ∇_θ μ(s) ∇_a Q(s, a),  where ∇_a Q = ∇_θ μ(s)ᵀ w
        critic     w ← w + α_w δ ∇_θ μ(s) (a - μ(s));  v ← v + α_v δ ∇_v v(s)

The actor climbs the critic's slope in the action: no probability of an action is needed, and what is learned is the
policy without the noise. The critic is compatible with the actor, so its slope gives the gradient of the true Q once
it fits (theorem 3); with that it is the paper's COPDAC-Q. Both are linear in tiles, which keeps a method without replay
and target networks stable.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from operant.core.errors import InputError
from operant.core.finite import require_finite
from operant.core.record import Trajectory, World
from operant.core.returns import td_error
from operant.networks.linear import LinearActorCritic, linear, step_linear

Metrics = dict[str, float]
SHOWN = ("loss/value", "value/action_value")


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 100_000
    """Steps of all environments together."""
    report_every: int = 1000
    """Steps between two lines of metrics."""
    gamma: float = 0.98
    """Discount γ."""
    actor_step: float = 0.015
    """α_θ: step size of the actor, shared by the tilings; actions count in halves of their box."""
    advantage_step: float = 0.8
    """α_w: step size of the critic's slope, shared by the tilings."""
    value_step: float = 0.2
    """α_v: step size of the critic's value, shared by the tilings."""
    exploration: float = 0.5
    """Deviation of the noise on actions, in halves of their box."""
    tilings: int = 8
    """Grids of tiles, each displaced against the others."""
    across: int = 8
    """Tiles of a grid in every dimension of the observation."""


@dataclasses.dataclass
class State:
    policy: Any
    world: World
    weights: Float[Tensor, "F A"]
    """w, the weights of the compatible critic, for actions in halves of their box."""
    step: int = 0


def init(policy: LinearActorCritic, world: World, config: Config) -> State:
    """Raises `InputError` for a policy with other tiles, and where nothing would be explored or reported."""
    for name in ("tilings", "across"):
        if getattr(policy, name) != getattr(config, name):
            raise InputError(f"{name} is {getattr(config, name)} and the policy's {getattr(policy, name)}: give one")
    if not config.exploration > 0:
        raise InputError(f"exploration is {config.exploration}: without noise no slope can be learned; give 0.5")
    if config.report_every < 1:
        raise InputError(f"report_every is {config.report_every} steps: a run reports after 1 or more")
    policy.exploration = config.exploration
    return State(policy, world, torch.zeros_like(policy.actor))


def update(state: State, trajectory: Trajectory, config: Config) -> Float[Tensor, "2 k"]:
    """One step of actor and critic for every decision, all from the same weights; what is `SHOWN` of each."""
    t, policy, share = trajectory, state.policy, 1 / config.tilings
    x = policy.features(t.observation)
    noise = (t.action - policy.center) / policy.scale - linear(policy.actor, x)
    slope = linear(state.weights, x)
    action_value = t.value + (noise * slope).sum(-1)
    delta = td_error(t.reward, action_value, t.next_value, config.gamma * t.discount)
    delta = torch.where(t.mask, delta, 0.0)
    require_finite(delta.sum(), "sum of TD errors", state.step, t, "smaller steps are the usual cure")
    step_linear(policy.actor, x, config.actor_step * share * torch.where(t.mask.unsqueeze(-1), slope, 0.0))
    step_linear(state.weights, x, config.advantage_step * share * delta.unsqueeze(-1) * noise)
    step_linear(policy.critic, x, config.value_step * share * delta)
    return torch.stack([0.5 * delta.square(), action_value])[:, t.mask]


def train(state: State, config: Config) -> Iterator[Metrics]:
    """One step of every environment, one step of actor and critic; yields means of every `report_every` steps."""
    shown: list[Tensor] = []
    while state.step < config.steps:
        trajectory, before = state.world.rollout(state.policy, 1), state.step
        shown.append(update(state, trajectory, config))
        state.step += trajectory.reward.numel()
        if state.step // config.report_every > before // config.report_every or state.step >= config.steps:
            yield dict(zip(SHOWN, torch.cat(shown, 1).mean(1).tolist(), strict=True))
            shown.clear()
