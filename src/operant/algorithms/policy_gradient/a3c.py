"""Asynchronous advantage actor-critic, A3C (Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning").

    in every process, with weights w and RMSProp's mean square m in memory that all share
        repeat
            copy       the shared weights
            roll out   a few steps with the copy
            optimise   one step of RMSProp on the shared weights along the copy's gradient of A2C's loss, without a lock

Two processes may write one weight at the same time, and one of the two steps to it is then lost (Recht et al. 2011,
"Hogwild!"): a run is never repeated exactly. A saved state does resume, in new episodes. If a process dies, the others
go on; if all do, the run stops.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import a2c
from operant.core.errors import InputError
from operant.core.finite import require_finite
from operant.core.flat import Flat, flatten, shorten
from operant.core.rmsprop import rmsprop
from operant.core.schedules import scheduled
from operant.core.workers import workers

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(a2c.Config):
    workers: int = 2
    """Processes, each with environments of its own."""


@dataclasses.dataclass
class Worlds:
    """What every process makes its own world from, and what is known of the episodes there."""

    make: Callable[[int], Any] = dataclasses.field(metadata={"saved": False})
    """A `Runner` from a seed; it is pickled."""
    seed: int = dataclasses.field(default=0, metadata={"saved": False})
    env: Any = dataclasses.field(default=None, metadata={"saved": False})
    """The environments of one process, for those who want to look at them."""
    steps: int = 0
    """Steps that were reported, of all processes."""
    returns: list[float] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)

    @property
    def resumes(self) -> bool:
        """A resumed run begins new episodes."""
        return False

    @property
    def observations(self) -> None:
        """Nothing is normalised: every process would do it by what it sees alone."""

    def pop_returns(self) -> list[float]:
        """Returns of the episodes that were reported since the last call."""
        returns, self.returns = self.returns, []
        return returns

    def pop_lengths(self) -> list[int]:
        """Their steps."""
        lengths, self.lengths = self.lengths, []
        return lengths


@dataclasses.dataclass
class State:
    policy: Any
    """As it was at the last report; the processes work on memory of their own."""
    world: Worlds
    weights: Flat = dataclasses.field(metadata={"saved": False})
    """All parameters of the policy, as one vector."""
    mean_square: Tensor
    """RMSProp's running mean of squared gradients."""
    step: int = 0
    """Updates of all processes together."""


@dataclasses.dataclass(frozen=True)
class Shared:
    """Memory that all processes write without a lock."""

    weights: Tensor
    mean_square: Tensor
    updates: Tensor
    """[workers + 2]: each process counts its own; then come those of the run before, and 1 once all shall stop."""


def init(policy: Any, world: Worlds, config: Config) -> State:
    if config.workers < 1:
        raise InputError(f"workers is {config.workers}: a run needs 1 or more")
    if config.report_every < 1:
        raise InputError(f"report_every is {config.report_every} updates: a run reports after 1 or more")
    weights = flatten(policy)
    return State(policy, world, weights, torch.zeros_like(weights))


def work(
    send: Callable[[Any], None],
    rank: int,
    make: Callable[[int], Any],
    seed: int,
    policy: Any,
    shared: Shared,
    c: Config,
) -> None:
    """Updates of one process, until all together have made enough. It reports after every `report_every` of its own."""
    torch.manual_seed(seed)
    world, weights, shown = make(seed), flatten(policy), []
    assert weights.grad is not None

    def report() -> None:
        send((torch.stack(shown).mean(0).tolist(), c.rollout * len(shown), world.pop_returns(), world.pop_lengths()))
        shown.clear()

    while (done := int(shared.updates[:-1].sum())) < c.iterations and not shared.updates[-1]:
        weights.data.copy_(shared.weights)
        trajectory = world.rollout(policy, c.rollout)
        gradient = weights.grad.zero_()
        total, parts = a2c.loss(policy, trajectory, c)
        total.backward()
        norm = shorten(gradient, c.max_gradient_norm)
        require_finite(norm, "gradient's norm", done)
        rate = c.learning_rate * scheduled(c.schedule, (done + 1) / (c.iterations + 1))
        rmsprop(shared.weights, gradient, shared.mean_square, rate, c.rmsprop_decay, c.rmsprop_epsilon)
        shared.updates[rank] += 1
        shown.append(torch.cat([parts, norm[None]]))
        if len(shown) == c.report_every:
            report()
    if shown:
        report()


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Start the processes; yields whenever one of them reports, with what they have learned by then."""
    updates = torch.zeros(config.workers + 2, dtype=torch.int64)
    updates[-2] = state.step
    shared = Shared(*(x.detach().clone().share_memory_() for x in (state.weights, state.mean_square, updates)))
    seeds = np.random.SeedSequence([state.world.seed, state.step]).generate_state(config.workers) // 2
    given = [
        (rank, state.world.make, int(seed), copy.deepcopy(state.policy), shared, config)
        for rank, seed in enumerate(seeds)
    ]
    last: list[list[float]] = []
    with workers(work, given if state.step < config.iterations else []) as reports:
        try:
            for shown, steps, returns, lengths in reports:
                state.weights.data.copy_(shared.weights)
                state.mean_square.copy_(shared.mean_square)
                state.step = min(int(shared.updates[:-1].sum()), config.iterations)
                state.world.steps += steps
                state.world.returns += returns
                state.world.lengths += lengths
                if state.step < config.iterations:
                    yield dict(zip(a2c.SHOWN, shown, strict=True))
                else:  # each process reports what is left
                    last.append(shown)
            if last:
                yield dict(zip(a2c.SHOWN, np.mean(last, 0).tolist(), strict=True))
        finally:
            shared.updates[-1] = 1
