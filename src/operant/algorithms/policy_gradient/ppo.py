"""Proximal policy optimisation (Schulman et al. 2017, "Proximal policy optimization algorithms").

    repeat
        roll out   a batch of decisions with π_old
        evaluate   advantages Â by GAE, targets Â + v
        optimise   for some epochs over shuffled minibatches: min(ρ Â, clip(ρ) Â) - c_v value loss + c_e entropy

One file for every world. What a decision is (an environment step, a token), how it is recorded and how likely it is
today are the business of the world and the policy: `world.rollout(policy, size)` and `policy.evaluate`.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from operant.core.divergences import AdaptiveKL, kl_estimate
from operant.core.errors import InputError
from operant.core.losses import importance_ratio, masked_mean, ppo_clip_loss, ppo_kl_loss, standardize, value_loss
from operant.core.optimise import descend
from operant.core.record import Policy, Record, Trajectory, micro_batches
from operant.core.returns import gae
from operant.core.schedules import Schedule, scheduled

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config:
    iterations: int = 100
    """Rollouts, each followed by one update."""
    rollout: int = 128
    """Size of a rollout: steps of every environment, or prompts."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatch: int = 256
    """Decisions in a minibatch; whole responses where decisions depend on one another."""
    micro_batch: int = 0
    """Decisions (for text: tokens) that go through the network at once, padding included; 0 = the whole minibatch."""
    learning_rate: float = 2.5e-4
    """Peak step size of Adam."""
    schedule: Schedule = "linear"
    """How the step size goes down to 0 over the run."""
    warmup: float = 0.0
    """Fraction of the run over which the step size rises from 0."""
    gamma: float = 0.99
    """Discount γ."""
    lambda_: float = 0.95
    """GAE's λ: 0 trusts the value function, 1 the returns."""
    objective: Literal["clip", "kl"] = "clip"
    """The surrogate: clipped ratio (eq. 7), or a KL penalty to the previous policy (eq. 8)."""
    clip: float = 0.2
    """ε of the clipped ratio; infinity switches clipping off."""
    old_policy_beta: float = 1.0
    """Coefficient of the KL to the previous policy (objective "kl")."""
    old_policy_target: float | None = None
    """KL per decision that the coefficient is steered to; none keeps it fixed."""
    value_clip: float | None = None
    """Limit on how far a value may move in one update; none = no limit."""
    value_coefficient: float = 0.5
    """Weight c_v of the value loss."""
    entropy_coefficient: float = 0.01
    """Weight c_e of the entropy bonus."""
    standardize_advantages: bool = True
    """Advantages of a minibatch get mean 0 and deviation 1."""
    max_gradient_norm: float = 0.5
    """Gradients longer than this are shortened to it."""
    adam_epsilon: float = 1e-5
    """Adam's ε."""


@runtime_checkable
class World(Protocol):
    """Where decisions are made: environments, or prompts with a reward."""

    def rollout(self, policy: Any, size: int) -> Trajectory: ...


@dataclasses.dataclass
class State:
    policy: Any
    optimizer: torch.optim.Optimizer
    world: World
    old_policy_penalty: AdaptiveKL
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Batch(Record):
    """A rollout and what is learned from it."""

    trajectory: Trajectory
    advantage: Float[Tensor, "B T"]
    target: Float[Tensor, "B T"]


def adam(policy: nn.Module, config: Config) -> torch.optim.Optimizer:
    parameters = [p for p in policy.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)


def init(policy: Any, world: World, config: Config) -> State:
    target = config.old_policy_target
    if config.objective not in ("clip", "kl"):
        raise InputError(f'objective is "clip" or "kl", not {config.objective!r}')
    if target is not None and (config.objective != "kl" or target <= 0):
        raise InputError(
            f'old_policy_target {target} steers the KL penalty of objective "kl" (here "{config.objective}") to a '
            "distance above 0; set both, or leave it out"
        )
    penalty = AdaptiveKL(config.old_policy_beta, target or 1.0, "schulman" if target else "fixed")
    return State(policy, adam(policy, config), world, penalty)


def prepare(trajectory: Trajectory, config: Config) -> Batch:
    """Advantages by GAE; the critic's target is advantage + value."""
    t = trajectory
    advantage = gae(t.reward, t.value, t.next_value, config.gamma * t.discount, t.done, config.lambda_)
    return Batch(t, advantage, advantage + t.value)


def loss(policy: Policy, batch: Batch, config: Config, beta: float, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """-surrogate + c_v value loss - c_e entropy, and what a dashboard shows."""
    t = batch.trajectory
    log_prob, entropy, value = policy.evaluate(t.observation, t.action)
    kl = kl_estimate(t.log_prob, log_prob)
    if config.objective == "clip":
        surrogate = ppo_clip_loss(log_prob, t.log_prob, batch.advantage, config.clip)
    else:
        surrogate = ppo_kl_loss(log_prob, t.log_prob, batch.advantage, kl, beta)
    critic = value_loss(value, batch.target, t.value, config.value_clip)
    total = surrogate + config.value_coefficient * critic - config.entropy_coefficient * entropy
    ratio = importance_ratio(log_prob, t.log_prob)
    shown = {
        "loss/policy": surrogate,
        "loss/value": critic,
        "policy/entropy": entropy,
        "policy/approx_kl": kl,
        "policy/clip_fraction": ((ratio - 1).abs() > config.clip).float(),
        "policy/ratio": ratio,
    }
    return masked_mean(total, t.mask, count), {k: masked_mean(x.detach(), t.mask, count) for k, x in shown.items()}


def update(
    state: State, batch: Batch, config: Config, auxiliary_loss: Callable[[], Iterator[Tensor]] | None = None
) -> Metrics:
    """Some epochs of minibatch steps on one rollout. `auxiliary_loss` adds micro-batches to every step (PPO-ptx)."""
    rows = batch if state.policy.memory else batch.flatten()
    steps: list[dict[str, Tensor]] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(rows))
        for index in order.tensor_split(math.ceil(len(rows) / config.minibatch)):
            steps.append(_minibatch_step(state, rows[index], config, auxiliary_loss))
            if state.step == 0 and len(steps) == 1:
                _check_first_ratio(steps[0]["policy/ratio"].item())
    metrics = {name: torch.stack([s[name] for s in steps]).mean().item() for name in steps[0]}
    metrics["policy/old_policy_beta"] = state.old_policy_penalty.coefficient
    if config.value_coefficient:
        metrics["value/explained_variance"] = _explained_variance(batch)
    last_epoch = steps[-(len(steps) // config.epochs) :]
    state.old_policy_penalty.update(torch.stack([s["policy/approx_kl"] for s in last_epoch]).mean().item())
    return metrics


def _minibatch_step(
    state: State, batch: Batch, config: Config, auxiliary_loss: Callable[[], Iterator[Tensor]] | None
) -> dict[str, Tensor]:
    mask = batch.trajectory.mask
    if config.standardize_advantages:
        batch = dataclasses.replace(batch, advantage=standardize(batch.advantage, mask))
    count = mask.sum().clamp(min=1)
    shown: dict[str, Tensor] = {}

    def losses() -> Iterator[Tensor]:
        for index in micro_batches(batch.trajectory.extent, config.micro_batch):
            total, metrics = loss(state.policy, batch[index], config, state.old_policy_penalty.coefficient, count)
            shown.update({name: shown.get(name, 0.0) + x for name, x in metrics.items()})
            yield total
        for extra in auxiliary_loss() if auxiliary_loss is not None else ():
            shown["loss/auxiliary"] = shown.get("loss/auxiliary", 0.0) + extra.detach()
            yield extra

    rate = config.learning_rate * scheduled(config.schedule, (state.step + 1) / (config.iterations + 1), config.warmup)
    norm = descend(state.optimizer, losses(), rate, config.max_gradient_norm, state.step, batch)
    return shown | {"policy/gradient_norm": norm}


def _check_first_ratio(ratio: float) -> None:
    if abs(ratio - 1) > 1e-4:
        warnings.warn(
            f"the ratio π/π_old of the very first minibatch is {ratio:.6f} and should be 1: the policy that is trained "
            "is not the one that acted (another dtype, temperature or dropout)",
            stacklevel=3,
        )


def _explained_variance(batch: Batch) -> float:
    """1 - Var(target - value) / Var(target)."""
    mask = batch.trajectory.mask
    target = batch.target[mask]
    error = target - batch.trajectory.value[mask]
    return (1 - error.var(correction=0) / target.var(correction=0).clamp(min=1e-12)).item()


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields after every update."""
    while state.step < config.iterations:
        trajectory = state.world.rollout(state.policy, config.rollout)
        metrics = update(state, prepare(trajectory, config), config)
        state.step += 1
        yield metrics
