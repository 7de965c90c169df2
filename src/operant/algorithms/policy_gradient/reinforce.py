"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms", Machine Learning 8).

    repeat
        roll out   a whole episode of every environment with π
        evaluate   the return G_t that followed every decision, less v(s_t) where there is a baseline
        optimise   one step of Adam on -Σ_t γ^t (G_t - v(s_t)) log π(a_t|s_t) + c_v value loss - c_e entropy

The sum over an episode, averaged over episodes, has the gradient of the expected return as its mean. Nothing is
bootstrapped, so nothing is biased, except where a limit of time cuts an episode: a baseline says what was cut off.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from operant.core.adam import adam
from operant.core.errors import InputError
from operant.core.flat import trainable
from operant.core.losses import masked_means, policy_gradient_loss, standardize, value_loss
from operant.core.optimise import descend
from operant.core.record import Trajectory
from operant.core.returns import lambda_return
from operant.core.schedules import Schedule, scheduled

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 200_000
    """Decisions of all environments in whole episodes; those whose episode is over play on meanwhile, uncounted."""
    learning_rate: float = 1e-2
    """Peak step size of Adam."""
    schedule: Schedule = "linear"
    """How the step size goes down to 0 over the run."""
    gamma: float = 0.99
    """Discount γ."""
    baseline: Literal["none", "value"] = "value"
    """What is taken from a return: nothing, or a learned value of the state."""
    reward_to_go: bool = True
    """A decision is credited with what followed it; off: with the return G_0 of its whole episode."""
    discount_states: bool = False
    """The decision at time t counts γ^t, as the gradient of the discounted return has it; practice leaves it out."""
    standardize_returns: bool = True
    """Returns (less the baseline) get mean 0 and deviation 1 over the episodes of an update."""
    value_coefficient: float = 0.5
    """Weight c_v of the value loss (baseline "value")."""
    entropy_coefficient: float = 0.0
    """Weight c_e of the entropy bonus."""
    max_gradient_norm: float = float("inf")
    """Gradients longer than this are shortened to it."""
    adam_epsilon: float = 1e-5
    """Adam's ε."""


@runtime_checkable
class World(Protocol):
    """Environments whose episodes end."""

    def episodes(self, policy: Any) -> Trajectory: ...


@dataclasses.dataclass
class State:
    policy: Any
    optimizer: torch.optim.Optimizer
    world: World
    step: int = 0


def init(policy: Any, world: World, config: Config) -> State:
    if config.baseline not in ("none", "value"):
        raise InputError(f'baseline is "none" or "value", not {config.baseline!r}')
    if config.baseline == "none" and config.value_coefficient not in (0.0, Config.value_coefficient):
        raise InputError(
            f'value_coefficient {config.value_coefficient} weighs a value that baseline "none" has not: leave it out, '
            'or set baseline to "value"'
        )
    if config.discount_states and not config.reward_to_go:
        raise InputError(
            "discount_states goes with reward_to_go: the return of a whole episode has γ^t in it already; choose one"
        )
    optimizer = adam(trainable(policy), config.learning_rate, config.adam_epsilon)
    return State(policy, optimizer, world)


def returns(trajectory: Trajectory, config: Config) -> Float[Tensor, "B T"]:
    """G_t = r_t + γ r_{t+1} + ...; with a baseline, the value of the state where time ran out stands for the rest."""
    t = trajectory
    beyond = t.next_value if config.baseline == "value" else torch.zeros_like(t.next_value)
    return lambda_return(t.reward, beyond, config.gamma * t.discount, t.done, 1.0)


def loss(policy: Any, trajectory: Trajectory, config: Config) -> tuple[Tensor, Tensor]:
    """-γ^t (G_t - v) log π(a|s) + c_v value loss - c_e entropy, summed over an episode; and its three parts, means."""
    t = trajectory
    target = returns(t, config)
    log_prob, entropy, value = policy.evaluate(t.observation, t.action)
    credit = target if config.reward_to_go else target[:, :1].expand_as(target)
    if config.baseline == "value":
        credit = credit - value.detach()
    if config.standardize_returns:
        credit = standardize(credit, t.mask)
    if config.discount_states:
        credit = credit * config.gamma ** torch.arange(credit.shape[1], device=credit.device)
    parts = torch.stack([policy_gradient_loss(log_prob, credit), value_loss(value, target), entropy])
    critic = config.value_coefficient if config.baseline == "value" else 0.0
    weight = torch.tensor([1.0, critic, -config.entropy_coefficient], device=parts.device)
    return weight @ masked_means(parts, t.mask, len(t)), masked_means(parts.detach(), t.mask)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields after every update."""
    while state.step < config.steps:
        trajectory = state.world.episodes(state.policy)
        total, parts = loss(state.policy, trajectory, config)
        rate = config.learning_rate * scheduled(config.schedule, state.step / config.steps)
        norm = descend(state.optimizer, [total], rate, config.max_gradient_norm, state.step, trajectory)
        state.step += int(trajectory.mask.sum())
        actor, critic, entropy = parts.tolist()
        metrics = {"loss/policy": actor, "policy/entropy": entropy, "policy/gradient_norm": norm.item()}
        yield metrics | ({"loss/value": critic} if config.baseline == "value" else {})
