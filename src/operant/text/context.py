"""What a language model has seen when it decides: token rows, and the place whose logits chose each decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from operant.core.record import Record


@dataclasses.dataclass(frozen=True)
class Context(Record):
    """B token rows: a prompt, then what followed it. Lengths say what counts; no token id means padding.

    A row may be indexed, reordered and cut like any record. `pack` lays rows out for the network, so that rows of one
    prompt are computed with that prompt only once.
    """

    token: Int[Tensor, "B L"]
    """Prompt and response, padded on the right with anything."""
    place: Int[Tensor, "B T"]
    """Where in the row the logits of each decision are; -1 where there is no decision."""
    prompt: Int[Tensor, " B"]
    """Rows with the same number share their first `shared` tokens."""
    shared: Int[Tensor, " B"]
    """How many tokens of the row belong to the prompt."""

    @property
    def mask(self) -> Bool[Tensor, "B T"]:
        return self.place >= 0

    @property
    def extent(self) -> Bool[Tensor, "B L"]:
        """The tokens that the network reads: all up to the last place."""
        return torch.arange(self.token.shape[-1], device=self.token.device) <= self.place.amax(-1, keepdim=True)


class Packed(NamedTuple):
    """Rows as the network gets them: R rows of W tokens."""

    token: Int[Tensor, "R W"]
    position: Int[Tensor, "R W"] | None
    """None: 0, 1, 2, ..."""
    attention: Bool[Tensor, "R 1 W W"] | None
    """Who may attend to whom; None: everyone to all before it."""
    place: Int[Tensor, "B T"]
    """Flat index into the R * W places; 0 where there is no decision."""


def rows(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    decided: Sequence[Sequence[bool] | None] | None = None,
) -> tuple[Context, Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """(context, action, mask) of responses to prompts; equal prompts that follow one another share their tokens.

    Every response token is a decision, or those that `decided` marks (the assistant's words in a dialogue). T is at
    least 1, also where every response is empty.
    """
    lengths = [len(r) for r in responses]
    width, steps = max(len(p) + n for p, n in zip(prompts, lengths, strict=True)), max([1, *lengths])
    token = torch.zeros(len(prompts), width, dtype=torch.long)
    action = torch.zeros(len(prompts), steps, dtype=torch.long)
    place = torch.full((len(prompts), steps), -1)
    number = [0] * len(prompts)
    for b, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        number[b] = b if b == 0 or p != prompts[b - 1] else number[b - 1]
        token[b, : len(p) + len(r)] = torch.tensor([*p, *r])
        action[b, : len(r)] = torch.tensor(r)
        place[b, : len(r)] = torch.arange(len(p) - 1, len(p) - 1 + len(r))
        if decided is not None and (chosen := decided[b]) is not None:
            place[b, : len(r)].masked_fill_(~torch.tensor(chosen), -1)
    shared = torch.tensor([len(p) for p in prompts])
    return Context(token, place, torch.tensor(number), shared), action, place >= 0


def blocks(token: Int[Tensor, "B L"]) -> tuple[Context, Int[Tensor, "B T"]]:
    """(context, action) of plain text in blocks of L = T + 1 tokens: every token but the first is a decision."""
    count, length = token.shape
    place = torch.arange(length - 1, device=token.device).expand(count, -1)
    number = torch.arange(count, device=token.device)
    return Context(token, place, number, torch.ones_like(number)), token[:, 1:]


def last_places(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Context:
    """The context in which each response has just ended: one place a row, at its last token, for a score."""
    context, _, _ = rows(prompts, responses)
    ends = torch.tensor([[len(p) + len(r) - 1] for p, r in zip(prompts, responses, strict=True)])
    return dataclasses.replace(context, place=ends)


def pack(context: Context, share: bool = True, multiple: int = 1) -> Packed:
    """Lay rows out for the network. With `share`, each prompt is stored once and its responses branch off from it.

    A branch attends to its prompt and to itself; positions go on from the prompt in every branch. Tokens after a row's
    last place are dropped: nothing depends on them. Rows are padded to a width that `multiple` divides.
    """
    c = context
    needed = c.place.amax(-1).clamp(min=0) + 1
    prompts, group = torch.unique(c.prompt, return_inverse=True)
    if not share or len(prompts) == len(c.prompt):
        width = -(-int(needed.max()) // multiple) * multiple
        flat = torch.arange(len(c.token), device=c.token.device).unsqueeze(-1) * width + c.place
        token = c.token.where(c.extent, 0)
        token = torch.nn.functional.pad(token, (0, max(width - token.shape[1], 0)))[:, :width]
        return Packed(token, None, None, flat.where(c.mask, 0))

    # The first row of a group carries the prompt; every row carries its branch: the places from `shared` on.
    order = torch.argsort(group, stable=True)
    first = torch.ones_like(group, dtype=torch.bool)
    first[order[1:]] = group[order[1:]] != group[order[:-1]]
    branch_length = (needed - c.shared).clamp(min=0)
    prompt_length = torch.zeros(len(prompts), dtype=torch.long, device=group.device).scatter_reduce(
        0, group, torch.minimum(needed, c.shared), "amax"
    )
    before = torch.zeros_like(branch_length)
    before[order] = branch_length[order].cumsum(0) - branch_length[order]
    group_start = torch.full_like(prompts, torch.iinfo(torch.long).max).scatter_reduce(0, group, before, "amin")
    offset = prompt_length[group] + before - group_start[group]
    row_length = prompt_length.scatter_add(0, group, branch_length)
    height, width = len(prompts), -(-int(row_length.max()) // multiple) * multiple

    column = torch.arange(c.token.shape[1], device=group.device).expand_as(c.token)
    in_prompt = first.unsqueeze(-1) & (column < prompt_length[group].unsqueeze(-1))
    in_branch = (column >= c.shared.unsqueeze(-1)) & (column < needed.unsqueeze(-1))
    shift = (offset - c.shared).unsqueeze(-1)
    to = group.unsqueeze(-1) * width + torch.where(in_prompt, column, column + shift)
    written = in_prompt | in_branch
    number = torch.arange(1, len(group) + 1, device=group.device).unsqueeze(-1).expand_as(column)

    token = c.token.new_zeros(height * width)
    position = torch.zeros_like(token)
    branch = torch.full_like(token, -1)
    token[to[written]] = c.token[written]
    position[to[written]] = column[written]
    branch[to[written]] = torch.where(in_prompt, 0, number)[written]

    branch = branch.view(height, width)
    key, query = branch.unsqueeze(1), branch.unsqueeze(2)
    causal = torch.ones(width, width, dtype=torch.bool, device=group.device).tril()
    attention = (causal & ((key == 0) | (key == query))).unsqueeze(1)
    place = group.unsqueeze(-1) * width + torch.where(c.place < c.shared.unsqueeze(-1), c.place, c.place + shift)
    return Packed(
        token.view(height, width), position.view(height, width), attention, place.where(c.mask, torch.zeros_like(place))
    )
