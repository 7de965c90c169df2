"""Records: what was decided, where, and what came of it. One place for the shapes that every algorithm shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Record:
    """A frozen dataclass of tensors, records or None that share their leading dimensions."""

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """The same record with `f` applied to every tensor in it."""

        def apply(x: Any) -> Any:
            return x.map(f) if isinstance(x, Record) else f(x) if isinstance(x, Tensor) else x

        return dataclasses.replace(self, **{d.name: apply(getattr(self, d.name)) for d in dataclasses.fields(self)})

    def __getitem__(self, index: Any) -> Self:
        return self.map(lambda x: x[index])

    def flatten(self) -> Self:
        """[B, T, ...] to [B * T, 1, ...]: every decision becomes a row of its own."""
        return self.map(lambda x: x.flatten(0, 1).unsqueeze(1))

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda x: x.to(device))

    def __len__(self) -> int:
        first = next(getattr(self, d.name) for d in dataclasses.fields(self) if getattr(self, d.name) is not None)
        return len(first)


@dataclasses.dataclass(frozen=True)
class Trajectory(Record):
    """B traces of T decisions, in the order in which they were made.

    `discount` is the world's part only: 1 while the trace goes on, 0 where the next state is terminal, -1 where the
    opponent moves next; an algorithm multiplies it by γ. `next_value` is the value of the state really reached, also
    where the trace was truncated. `mask` is True where the policy decided; the rest is padding or a reset step.
    """

    observation: Shaped[Tensor, "B T ..."] | Record
    action: Shaped[Tensor, "B T ..."]
    log_prob: Float[Tensor, "B T"]
    value: Float[Tensor, "B T"]
    next_value: Float[Tensor, "B T"]
    reward: Float[Tensor, "B T"]
    discount: Float[Tensor, "B T"]
    terminated: Bool[Tensor, "B T"]
    truncated: Bool[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    @property
    def done(self) -> Bool[Tensor, "B T"]:
        """Where the trace is cut. It says nothing about bootstrapping: `discount` does."""
        return self.terminated | self.truncated

    @property
    def extent(self) -> Bool[Tensor, "B L"]:
        """What a network computes to evaluate each row: its decisions, or the tokens of its context."""
        return getattr(self.observation, "extent", self.mask)


@dataclasses.dataclass(frozen=True)
class Transition(Record):
    """One step for replay. With n-step returns `reward` is the n-step sum and `discount` holds γ^n."""

    observation: Shaped[Tensor, "B ..."]
    action: Shaped[Tensor, "B ..."]
    reward: Float[Tensor, " B"]
    discount: Float[Tensor, " B"]
    next_observation: Shaped[Tensor, "B ..."]


@dataclasses.dataclass(frozen=True)
class Preference(Record):
    """K responses to one prompt with their ranks: 1 is best, equal ranks are a tie, 0 is no response. A pair is K = 2.

    `response` holds what a policy evaluates, [B, K, ...]; `.map(lambda x: x.flatten(0, 1))` makes rows of it.
    """

    response: Shaped[Tensor, "B K ..."] | Record
    rank: Int[Tensor, "B K"]


class Evaluation(NamedTuple):
    """What a policy says today about decisions already made."""

    log_prob: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    value: Float[Tensor, "B T"]


@runtime_checkable
class Policy(Protocol):
    """What acts and can say how likely its acts were.

    `memory` is True where a decision depends on the ones before it in its row (a language model, a recurrent network):
    minibatches then keep rows whole.
    """

    memory: bool

    def act(self, observation: Any, state: Any = None, greedy: bool = False) -> tuple[Any, Tensor, Tensor, Any]:
        """(action, log_prob, value, state) for one step; `state` is a recurrent state or a KV cache, None for most."""
        ...

    def evaluate(self, observation: Any, action: Any) -> Evaluation: ...


@runtime_checkable
class World(Protocol):
    """Where decisions are made: environments, or prompts with a reward. It goes on where the last rollout stopped."""

    def rollout(self, policy: Any, size: int) -> Trajectory: ...


def minibatches(rows: int, size: int) -> list[slice]:
    """The rows 0 .. rows - 1 in as few stretches of at most `size` as there can be, all as long but for one row."""
    number = -(-rows // size)
    bounds = [-(-rows * i // number) for i in range(number + 1)]
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def micro_batches(extent: Bool[Tensor, "B L"], budget: int) -> Iterator[Int[Tensor, " n"]]:
    """Row indices of micro-batches whose padded size stays within `budget`; rows of like length go together.

    A row is as long as its last True place. `budget` = 0 asks for one batch. A single row longer than the budget is a
    batch of its own.
    """
    if budget <= 0:
        yield torch.arange(len(extent), device=extent.device)
        return
    length = torch.where(extent, torch.arange(1, extent.shape[-1] + 1, device=extent.device), 0).amax(-1)
    order = torch.argsort(length, stable=True)
    chunk: list[int] = []
    for row in order.tolist():
        if chunk and (len(chunk) + 1) * max(int(length[row]), 1) > budget:
            yield torch.tensor(chunk, device=extent.device)
            chunk = []
        chunk.append(row)
    if chunk:
        yield torch.tensor(chunk, device=extent.device)
