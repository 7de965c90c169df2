"""Trust region policy optimisation (Schulman et al. 2015, "Trust region policy optimization").

    repeat
        roll out   a batch of decisions with π_old
        evaluate   advantages Â by GAE, targets Â + v
        optimise   maximise mean(ρ Â) subject to mean KL(π_old || π) <= δ:
                   the natural step, halved until the KL is in bound and the surrogate has grown
                   some epochs of minibatch steps of the critic towards its targets

The natural step is right where the surrogate is a line and the KL a parabola. The line search asks whether they were,
and where no part of the step passes, the policy stays as it was.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from operant.algorithms.policy_gradient import natural_actor_critic
from operant.algorithms.policy_gradient.natural_actor_critic import (
    Batch,
    World,
    fit_critic,
    move,
    natural_step,
    prepare,
)
from operant.core.errors import InputError

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(natural_actor_critic.Config):
    max_kl: float = 0.01
    """δ: the bound on the KL to the old policy, a mean over decisions."""
    kl_tolerance: float = 1.5
    """A step is taken up to this many times the bound; 1 holds it strictly."""
    backtracks: int = 10
    """Sizes of a step that are tried, each half the one before."""


@dataclasses.dataclass
class State(natural_actor_critic.State):
    pass


def init(policy: Any, world: World, config: Config) -> State:
    """Raises `InputError` for a policy whose actor and critic share layers, or that has a memory."""
    if config.backtracks < 1:
        raise InputError(f"backtracks is {config.backtracks}: the line search tries 1 size of a step or more")
    parts = natural_actor_critic.init(policy, world, config)
    return State(parts.policy, parts.optimizer, parts.world, parts.weights)


@torch.no_grad()
def line_search(state: State, batch: Batch, step: Float[Tensor, " P"], config: Config) -> Metrics:
    """The first of step, step / 2, step / 4, ... with KL <= tolerance δ and a surrogate that has grown, or none."""
    weights = state.weights.clone()
    for part in (0.5**i for i in range(config.backtracks)):
        metrics = move(state, batch, part * step, config)
        if metrics["policy/kl"] <= config.kl_tolerance * config.max_kl and metrics["policy/improvement"] > 0:
            return metrics | {"policy/step_taken": part}
        state.weights.copy_(weights)
    return move(state, batch, torch.zeros_like(step), config) | {"policy/step_taken": 0.0}


def update(state: State, batch: Batch, config: Config) -> Metrics:
    """The natural step as far as the line search lets it, and the critic's epochs."""
    step, metrics = natural_step(state, batch, config)
    metrics |= line_search(state, batch, step, config)
    return metrics | {"loss/value": fit_critic(state, batch, config)}


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields after every update."""
    while state.step < config.iterations:
        trajectory = state.world.rollout(state.policy, config.rollout)
        metrics = update(state, prepare(trajectory, config), config)
        state.step += 1
        yield metrics
