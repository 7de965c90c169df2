"""Actor-critic that learns at every step: TD, and TD(λ) with eligibility traces (Sutton and Barto 2018, 13.5, 13.6).

    I = 1, z = 0 at the start of an episode; at every step
        roll out   a ~ π(·|s), see r and s'
        evaluate   δ = r + γ v(s') - v(s)
        optimise   z_θ <- γλ z_θ + I ∇log π(a|s),  θ += α_θ δ z_θ
                   z_w <- γλ z_w + ∇v(s),          w += α_w δ z_w
                   I <- γ I

λ = 0 is the TD actor-critic of textbooks. One environment, and no memory but the traces. Long steps are bounded as in
Elsayed, Vasan and Mahmood 2024, "Streaming deep reinforcement learning finally works".
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from operant.core.errors import InputError
from operant.core.finite import require_finite
from operant.core.flat import Flat, flatten
from operant.core.record import Trajectory, World
from operant.core.returns import td_error
from operant.core.schedules import Schedule, scheduled

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 100_000
    """Steps of the environment, each followed by an update."""
    actor_learning_rate: float = 1.0
    """Peak step size α_θ of the policy."""
    critic_learning_rate: float = 1.0
    """Peak step size α_w of the value."""
    schedule: Schedule = "linear"
    """How the step sizes go down to 0 over the run."""
    gamma: float = 0.99
    """Discount γ."""
    lambda_: float = 0.8
    """How slowly traces fade: 0 credits the last decision alone."""
    discount_states: bool = False
    """The decision at time t counts I = γ^t, as the gradient of the discounted return has it; rare in practice."""
    entropy_coefficient: float = 0.01
    """Weight c_e of the entropy: sign(δ) c_e ∇H goes into the trace, so that a step moves it by |δ| c_e ∇H."""
    actor_bound: float = 3.0
    """κ: the policy's step is shortened where κ α_θ max(|δ|, 1) ‖z_θ‖₁ is above 1; 0 = never."""
    critic_bound: float = 2.0
    """κ of the value's step."""
    report_every: int = 1000
    """Steps between two reports, which are means over them; the run may be saved there."""


@dataclasses.dataclass
class State:
    policy: Any
    """Its `critic` is a network of its own."""
    world: World
    weights: Flat = dataclasses.field(metadata={"saved": False})
    """All parameters, as one vector."""
    critic: Tensor = dataclasses.field(metadata={"saved": False})
    """Which of them are the critic's: 1, or 0."""
    trace: Tensor
    """z_θ and z_w, as one vector."""
    emphasis: float = 1.0
    """I."""
    step: int = 0


def init(policy: Any, world: World, config: Config) -> State:
    envs = getattr(getattr(world, "env", None), "num_envs", 1)
    if envs != 1:
        raise InputError(f"actor_critic learns at every step of one environment, not of {envs}: set envs to 1")
    if config.report_every < 1:
        raise InputError(f"report_every is {config.report_every} steps: a run reports after 1 or more")
    if hasattr(policy, "torso"):
        raise InputError(
            "actor_critic steps actor and critic by step sizes of their own, and those of images share layers"
        )
    own = {id(p) for p in policy.critic.parameters()}
    critic = torch.cat([torch.full((p.numel(),), float(id(p) in own)) for p in policy.parameters() if p.requires_grad])
    weights = flatten(policy)
    return State(policy, world, weights, critic.to(weights.device), torch.zeros_like(weights))


def step_size(rate: float, bound: float, delta: float, norm: float) -> float:
    """α / max(1, κ α max(|δ|, 1) ‖z‖₁) (Elsayed et al. 2024, algorithm 3)."""
    return rate / max(1.0, bound * rate * max(abs(delta), 1.0) * norm)


def update(state: State, t: Trajectory, config: Config) -> list[float]:
    """One step of policy and value after one step [1, 1] of the environment; what a report shows."""
    assert state.weights.grad is not None
    delta = td_error(t.reward, t.value, t.next_value, config.gamma * t.discount).item()
    require_finite(delta, "TD error", state.step, t)
    log_prob, entropy, value = state.policy.evaluate(t.observation, t.action)
    gradient = state.weights.grad.zero_()
    bonus = math.copysign(config.entropy_coefficient, delta) * entropy
    (state.emphasis * (log_prob + bonus) + value).sum().backward()
    trace = state.trace.mul_(config.gamma * config.lambda_).add_(gradient)
    of_actor, of_critic = (trace.abs() @ part for part in (1 - state.critic, state.critic))
    rate = scheduled(config.schedule, state.step / config.steps)
    actor = step_size(rate * config.actor_learning_rate, config.actor_bound, delta, of_actor.item())
    critic = step_size(rate * config.critic_learning_rate, config.critic_bound, delta, of_critic.item())
    with torch.no_grad():
        state.weights.addcmul_(trace, actor + (critic - actor) * state.critic, value=delta)
    state.emphasis *= config.gamma if config.discount_states else 1.0
    if t.done.item():
        trace.zero_()
        state.emphasis = 1.0
    return [delta * delta, entropy.item(), actor, critic]


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields the means of every `report_every` steps."""
    names = ("loss/value", "policy/entropy", "policy/step_size", "value/step_size")
    shown = []
    while state.step < config.steps:
        t = state.world.rollout(state.policy, 1)
        if t.mask.item():
            shown.append(update(state, t, config))
        state.step += 1
        if state.step % config.report_every == 0 or state.step == config.steps:
            yield dict(zip(names, torch.tensor(shown or [[0.0] * 4]).mean(0).tolist(), strict=True))
            shown.clear()
