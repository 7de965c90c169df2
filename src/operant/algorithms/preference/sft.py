"""Supervised fine-tuning: maximum likelihood of demonstrated responses (Ouyang et al. 2022, step 1).

    repeat
        take        a batch of (prompt, response)
        optimise    -mean log π(token | prompt, tokens before it) over response tokens and EOS

Behaviour cloning: every demonstrated token is a decision with advantage 1, the prompt is only observed.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from operant.core.errors import InputError
from operant.core.losses import masked_mean, policy_gradient_loss
from operant.core.optimise import Descent, descend
from operant.core.record import micro_batches
from operant.core.shuffle import Shuffle
from operant.text.context import rows
from operant.text.language_model import LanguageModel
from operant.text.tokenizer import Example

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(Descent):
    epochs: int = 2
    """Passes over the demonstrations."""
    batch: int = 32
    """Demonstrations in a step."""


@dataclasses.dataclass
class State:
    policy: LanguageModel
    optimizer: torch.optim.Optimizer
    order: Shuffle
    examples: Sequence[Example] = dataclasses.field(metadata={"saved": False})
    step: int = 0


def init(policy: LanguageModel, examples: Sequence[Example], config: Config, seed: int = 0) -> State:
    if not examples:
        raise InputError("there are no demonstrations to learn from; give at least one")
    return State(policy, config.adamw(policy), Shuffle(len(examples), seed), examples)


def steps(state: State, config: Config) -> int:
    """Optimiser steps of the whole run."""
    return config.steps(len(state.examples))


def parts(policy: LanguageModel, examples: Sequence[Example], micro_batch: int) -> Iterator[Tensor]:
    """Losses of micro-batches that add up to the mean over all response tokens of `examples`."""
    context, action, mask = rows(*zip(*examples, strict=True))
    # Rows are not packed by prompt: documents all begin alike, and one long row of them would cost its length squared.
    context = dataclasses.replace(context, prompt=torch.arange(len(examples))).to(policy.model.device)
    action, mask = action.to(policy.model.device), mask.to(policy.model.device)
    count = mask.sum().clamp(min=1)
    for index in micro_batches(context.extent, micro_batch):
        log_prob = policy.evaluate(context[index], action[index]).log_prob
        yield masked_mean(policy_gradient_loss(log_prob, 1.0), mask[index], count)


def loss_of(policy: LanguageModel, examples: Sequence[Example], config: Config) -> float:
    """-mean log π(token), in nats a response token."""
    with torch.no_grad():
        return sum(part.item() for part in parts(policy, examples, config.micro_batch))


def update(state: State, examples: Sequence[Example], config: Config) -> Metrics:
    """One step on one batch."""
    losses: list[Tensor] = []

    def kept() -> Iterator[Tensor]:
        for part in parts(state.policy, examples, config.micro_batch):
            losses.append(part.detach())
            yield part

    rate = config.step_size(state.step, len(state.examples))
    norm = descend(state.optimizer, kept(), rate, config.max_gradient_norm, state.step)
    return {
        "loss/language_model": torch.stack(losses).sum().item(),
        "loss/gradient_norm": norm.item(),
        "learning_rate": rate,
    }


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields after every step."""
    while state.step < steps(state, config):
        metrics = update(state, [state.examples[i] for i in state.order.rest_of_epoch(config.batch)], config)
        state.step += 1
        yield metrics
