"""Proximal policy optimisation (Schulman et al. 2017, "Proximal policy optimization algorithms").

    repeat
        roll out   a batch of decisions with π_old
        evaluate   advantages Â by GAE, targets Â + v
        optimise   for some epochs over shuffled minibatches: min(ρ Â, clip(ρ) Â) - c_v value loss + c_e entropy

One file for every world. What a decision is (an environment step, a token), how it is recorded and how likely it is
today are the business of the world and the policy: `world.rollout(policy, size)` and `policy.evaluate`.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from operant.core.adam import adam
from operant.core.divergences import AdaptiveKL, kl_estimate
from operant.core.errors import InputError
from operant.core.flat import trainable
from operant.core.losses import (
    importance_ratio,
    masked_mean,
    masked_means,
    ppo_clip_loss,
    ppo_kl_loss,
    standardize,
    value_loss,
)
from operant.core.optimise import descend
from operant.core.record import Policy, Record, Trajectory, World, micro_batches, minibatches
from operant.core.returns import gae
from operant.core.schedules import Schedule, scheduled

Metrics = dict[str, float]
SHOWN: tuple[str, ...] = (
    "loss/policy", "loss/value", "policy/entropy", "policy/approx_kl", "policy/clip_fraction", "policy/ratio",
    "policy/gradient_norm", "loss/auxiliary",
)  # fmt: skip
"""What a dashboard shows of every step of the optimiser."""


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
    clip_schedule: Schedule = "constant"
    """How ε goes down to 0 over the run."""
    stop_kl: float | None = None
    """Passes over a rollout end after one whose approximate KL was above this; none = all are made."""
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


def init(policy: Any, world: World, config: Config) -> State:
    target = config.old_policy_target
    if config.objective not in ("clip", "kl"):
        raise InputError(f'objective is "clip" or "kl", not {config.objective!r}')
    if target is not None and (config.objective != "kl" or target <= 0):
        raise InputError(
            f'old_policy_target {target} steers the KL penalty of objective "kl" (here "{config.objective}") to a '
            "distance above 0; set both, or leave it out"
        )
    if target is not None and config.old_policy_beta == 0:
        raise InputError("old_policy_beta is 0, which stays 0 when old_policy_target doubles it: give a number above 0")
    penalty = AdaptiveKL(config.old_policy_beta, target or 1.0, "schulman" if target else "fixed")
    return State(policy, adam(trainable(policy), config.learning_rate, config.adam_epsilon), world, penalty)


def prepare(trajectory: Trajectory, config: Config) -> Batch:
    """Advantages by GAE; the critic's target is advantage + value."""
    t = trajectory
    advantage = gae(t.reward, t.value, t.next_value, config.gamma * t.discount, t.done, config.lambda_)
    return Batch(t, advantage, advantage + t.value)


def loss(policy: Policy, batch: Batch, config: Config, beta: float, count: Tensor) -> tuple[Tensor, Tensor]:
    """-surrogate + c_v value loss - c_e entropy, and the means that are `SHOWN`."""
    t = batch.trajectory
    log_prob, entropy, value = policy.evaluate(t.observation, t.action)
    if config.objective == "clip":
        surrogate = ppo_clip_loss(log_prob, t.log_prob, batch.advantage, config.clip)
    else:
        surrogate = ppo_kl_loss(log_prob, t.log_prob, batch.advantage, kl_estimate(t.log_prob, log_prob), beta)
    critic = value_loss(value, batch.target, t.value, config.value_clip)
    total = surrogate + config.value_coefficient * critic
    if config.entropy_coefficient:  # its way back costs as much where the coefficient is 0
        total = total - config.entropy_coefficient * entropy
    with torch.no_grad():
        ratio, kl = importance_ratio(log_prob, t.log_prob), kl_estimate(t.log_prob, log_prob)
        clipped = ((ratio - 1).abs() > config.clip).to(ratio.dtype)
        shown = masked_means(torch.stack([surrogate, critic, entropy, kl, clipped, ratio]), t.mask, count)
    return masked_mean(total, t.mask, count), shown


def update(
    state: State, batch: Batch, config: Config, auxiliary_loss: Callable[[], Iterator[Tensor]] | None = None
) -> Metrics:
    """Some epochs of minibatch steps on one rollout. `auxiliary_loss` adds micro-batches to every step (PPO-ptx)."""
    clip = config.clip * scheduled(config.clip_schedule, _done(state, config))
    config = dataclasses.replace(config, clip=clip)
    rows = batch if state.policy.memory else batch.flatten()
    parts = minibatches(len(rows), config.minibatch)
    steps: list[Tensor] = []
    for _ in range(config.epochs):
        shuffled = rows[torch.randperm(len(rows))] if len(parts) > 1 else rows
        for part in parts:
            minibatch = shuffled[part] if len(parts) > 1 else rows
            steps.append(_minibatch_step(state, minibatch, config, auxiliary_loss))
            if state.step == 0 and len(steps) == 1:
                _check_first_ratio(steps[0][SHOWN.index("policy/ratio")].item())
        if config.stop_kl is not None and _mean(steps[-len(parts) :], "policy/approx_kl") > config.stop_kl:
            break
    metrics: Metrics = dict(zip(SHOWN, torch.stack(steps).mean(0).tolist(), strict=True))
    metrics["policy/old_policy_beta"] = state.old_policy_penalty.coefficient
    if config.value_coefficient:
        metrics["value/explained_variance"] = _explained_variance(batch)
    if auxiliary_loss is None:
        del metrics["loss/auxiliary"]
    if config.old_policy_target is not None:
        metrics["policy/kl"] = distance(state.policy, rows, config)
        state.old_policy_penalty.update(metrics["policy/kl"])
    return metrics


@torch.no_grad()
def distance(policy: Policy, rows: Batch, config: Config) -> float:
    """KL(old || now) per decision, estimated from the actions that were taken."""
    count, total = rows.trajectory.mask.sum().clamp(min=1), 0.0
    for part in minibatches(len(rows), config.minibatch):
        for index in micro_batches(rows[part].trajectory.extent, config.micro_batch):
            t = rows[part][index].trajectory
            kl = kl_estimate(t.log_prob, policy.evaluate(t.observation, t.action)[0])
            total += masked_mean(kl, t.mask, count).item()
    return total


def _minibatch_step(
    state: State, batch: Batch, config: Config, auxiliary_loss: Callable[[], Iterator[Tensor]] | None
) -> Tensor:
    """One step of the optimiser; what is `SHOWN` of it."""
    mask = batch.trajectory.mask
    if config.standardize_advantages:
        batch = dataclasses.replace(batch, advantage=standardize(batch.advantage, mask))
    count = mask.sum().clamp(min=1)
    shown, auxiliary = torch.zeros(()), torch.zeros(())

    def losses() -> Iterator[Tensor]:
        nonlocal shown, auxiliary
        for index in micro_batches(batch.trajectory.extent, config.micro_batch):
            piece = batch[index] if config.micro_batch else batch
            total, means = loss(state.policy, piece, config, state.old_policy_penalty.coefficient, count)
            shown = shown + means.cpu()
            yield total
        for extra in auxiliary_loss() if auxiliary_loss is not None else ():
            auxiliary = auxiliary + extra.detach().cpu()
            yield extra

    rate = config.learning_rate * scheduled(config.schedule, _done(state, config), config.warmup)
    norm = descend(state.optimizer, losses(), rate, config.max_gradient_norm, state.step, batch)
    return torch.cat([shown, torch.stack([norm.cpu(), auxiliary])])


def _done(state: State, config: Config) -> float:
    """The fraction of the run that is over, with this update."""
    return (state.step + 1) / (config.iterations + 1)


def _mean(steps: list[Tensor], name: str) -> float:
    """What is `SHOWN` by this name, over some steps of the optimiser."""
    return torch.stack(steps)[:, SHOWN.index(name)].mean().item()


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
