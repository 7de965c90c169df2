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
    """Who may attend to whom; None: everyone to all before it, unless there are spans."""
    spans: Int[Tensor, "S 4"] | None
    """(a, b, c, d): tokens c to d attend to tokens a to b, and to those before them from c on. Needs R = 1."""
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


def pack(context: Context, share: bool = True, multiple: int = 1, flat: bool = False) -> Packed:
    """Lay rows out for the network. With `share`, each prompt is stored once and its responses branch off from it.

    A branch attends to its prompt and to itself; positions go on from the prompt in every branch. Tokens after a row's
    last place are dropped: nothing depends on them. Rows are padded to a width that `multiple` divides; with `flat`
    they stand behind one another in a single row, padded only at its end, and spans say who attends to whom.
    """
    c = context
    needed = c.place.amax(-1).clamp(min=0) + 1
    number = c.prompt if share else torch.arange(len(c.prompt), device=c.prompt.device)
    prompts, group = torch.unique(number, return_inverse=True)
    if not flat and len(prompts) == len(number):
        width = _up(needed.max(), multiple)
        place = torch.arange(len(c.token), device=c.token.device).unsqueeze(-1) * width + c.place
        token = c.token.where(c.extent, 0)
        token = torch.nn.functional.pad(token, (0, max(width - token.shape[1], 0)))[:, :width]
        return Packed(token, None, None, None, place.where(c.mask, 0))

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
    if flat:
        height, width = 1, _up(row_length.sum(), multiple)
        start = (row_length.cumsum(0) - row_length)[group]
    else:
        height, width = len(prompts), _up(row_length.max(), multiple)
        start = group * width

    column = torch.arange(c.token.shape[1], device=group.device).expand_as(c.token)
    in_prompt = first.unsqueeze(-1) & (column < prompt_length[group].unsqueeze(-1))
    in_branch = (column >= c.shared.unsqueeze(-1)) & (column < needed.unsqueeze(-1))
    shift = (offset - c.shared).unsqueeze(-1)
    to = start.unsqueeze(-1) + torch.where(in_prompt, column, column + shift)
    written = in_prompt | in_branch

    token = c.token.new_zeros(height * width)
    position = torch.zeros_like(token)
    token[to[written]] = c.token[written]
    position[to[written]] = column[written]
    place = start.unsqueeze(-1) + torch.where(c.place < c.shared.unsqueeze(-1), c.place, c.place + shift)
    place = place.where(c.mask, torch.zeros_like(place))
    attention = spans = None
    if flat:
        # The first branch follows its prompt, so the two are one stretch.
        end = start + offset + branch_length
        ends_prompt = (start + prompt_length[group]).masked_fill(first, 0)
        begins = torch.where(first, start, start + offset)
        spans = torch.stack([start.masked_fill(first, 0), ends_prompt, begins, end], -1)
        spans = spans[end > begins]
    else:
        branch = torch.full_like(token, -1)
        number = torch.arange(1, len(group) + 1, device=group.device).unsqueeze(-1).expand_as(column)
        branch[to[written]] = torch.where(in_prompt, 0, number)[written]
        branch = branch.view(height, width)
        key, query = branch.unsqueeze(1), branch.unsqueeze(2)
        causal = torch.ones(width, width, dtype=torch.bool, device=group.device).tril()
        attention = (causal & ((key == 0) | (key == query))).unsqueeze(1)
    return Packed(token.view(height, width), position.view(height, width), attention, spans, place)


def _up(n: Tensor, multiple: int) -> int:
    """The smallest multiple that is at least n."""
    return -(-int(n) // multiple) * multiple
