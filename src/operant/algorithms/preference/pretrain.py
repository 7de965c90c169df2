"""Pretraining: maximum likelihood of the next token on plain text.

    repeat
        take        a batch of documents, or pieces of long ones
        optimise    -mean log π(token | tokens before it in its document)

The same imitation as `sft.py`, with every token a decision. A document is a row of its own: packed into one stream with
attention across documents, short facts are learned several times more slowly.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from operant.algorithms.preference import sft
from operant.text.tokenizer import Example


@dataclasses.dataclass(frozen=True)
class Config(sft.Config):
    batch: int = 64
    """Documents, or pieces of long ones, in a step."""
    block: int = 128
    """Longer documents are cut into pieces of so many tokens."""
    learning_rate: float = 2e-3
    """Peak step size of AdamW."""
    warmup: float = 0.02
    """Fraction of the run over which the step size rises from 0."""


State = sft.State
init, steps, train, loss_of = sft.init, sft.steps, sft.train, sft.loss_of


def documents(texts: Iterable[Sequence[int]], end: int, block: int) -> list[Example]:
    """Token ids of documents as rows: each begins and ends with `end`; pieces of long ones overlap in one token."""
    found = []
    for text in texts:
        row = [end, *text, end]
        found += [Example([row[i]], row[i + 1 : i + 1 + block]) for i in range(0, len(row) - 1, block)]
    return found
