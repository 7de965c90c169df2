"""Sampling: one prefill for all completions of a prompt, a KV cache, and no work for rows that have ended."""

import copy
import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from operant.core.errors import InputError
from operant.text.context import Context, rows
from operant.text.language_model import DecodeState, LanguageModel, RewardModel, cast, context_limit, decode


@dataclasses.dataclass(frozen=True)
class Samples:
    """Responses to prompts as they were sampled, with what the policy thought of them at that moment.

    Row p * K + k is completion k of prompt p. `context`, `action` and `mask` are ready for `evaluate`.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    context: Context
    action: Int[Tensor, "B T"]
    log_prob: Float[Tensor, "B T"]
    value: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    ended: Bool[Tensor, " B"]
    """The response ends with a stop token; otherwise it was cut at its length limit."""


@torch.no_grad()
def sample(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    stop: Collection[int],
    max_new_tokens: int,
    completions: int = 1,
    greedy: bool = False,
    batch: int = 256,
) -> Samples:
    """`completions` responses to each prompt from the policy itself: no top-k, no top-p, no minimum length.

    Any such filter would make the recorded log-probs those of another policy. `stop` are the token ids that end a
    response; they are part of it. At most `batch` rows (or those of one prompt) are decoded side by side; prompts of
    like length go together. Raises `InputError` for an empty prompt, or one that leaves no room for the response.
    """
    check_prompts(prompts, max_new_tokens, completions, policy.model)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    together = max(batch // completions, 1)
    pieces: list[tuple[int, list[_Row]]] = []
    for start in range(0, len(order), together):
        index = order[start : start + together]
        decoded = _sample_batch(policy, [prompts[i] for i in index], set(stop), max_new_tokens, completions, greedy)
        pieces += [(i, decoded[n * completions : (n + 1) * completions]) for n, i in enumerate(index)]
    found = [row for _, group in sorted(pieces, key=lambda piece: piece[0]) for row in group]
    repeated = [list(p) for p in prompts for _ in range(completions)]
    context, action, mask = rows(repeated, [row.token for row in found])
    log_prob, value = torch.zeros(mask.shape), torch.zeros(mask.shape)
    log_prob[mask] = torch.tensor([x for row in found for x in row.log_prob])
    value[mask] = torch.tensor([x for row in found for x in row.value])
    ended = torch.tensor([row.token[-1] in stop for row in found])
    device = policy.model.device
    return Samples(
        repeated, [row.token for row in found], context.to(device), action.to(device), log_prob.to(device),
        value.to(device), mask.to(device), ended.to(device),
    )  # fmt: skip


def check_prompts(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, completions: int = 1, model: Any = None
) -> None:
    """Raise `InputError` where nothing could be sampled: no prompt, an empty one, no room for a response."""
    if not len(prompts):
        raise InputError("there are no prompts to respond to: give at least one")
    if max_new_tokens < 1 or completions < 1:
        raise InputError(f"{completions} completions of at most {max_new_tokens} tokens: both must be 1 or more")
    shortest, longest = (f([len(p) for p in prompts]) for f in (min, max))
    if shortest == 0:
        empty = next(i for i, p in enumerate(prompts) if not len(p))
        raise InputError(f"prompt {empty} has no tokens: a model needs one to go on from, such as BOS")
    if model is not None and longest + max_new_tokens > (limit := context_limit(model)):
        raise InputError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} exceed the model's context of {limit}: "
            "use shorter prompts or fewer new tokens"
        )


@dataclasses.dataclass
class _Row:
    token: list[int]
    log_prob: list[float]
    value: list[float]


def _sample_batch(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    stop: set[int],
    max_new_tokens: int,
    completions: int,
    greedy: bool,
) -> list[_Row]:
    device = policy.model.device
    token, state = _prefill(policy, prompts)
    if state is not None and completions > 1:
        state.repeat(completions)
    token = token.repeat_interleave(completions, 0)
    count = len(token)
    alive = torch.arange(count, device=device)
    stops = torch.tensor(sorted(stop), device=device)
    length = torch.full((count,), max_new_tokens, device=device)
    actions = torch.zeros(count, max_new_tokens, dtype=torch.long, device=device)
    log_probs, values = (torch.zeros(count, max_new_tokens, device=device) for _ in range(2))
    running = torch.ones(count, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        action, log_prob, value, state = policy.act(token, state, greedy)
        actions[alive, step], log_probs[alive, step], values[alive, step] = action, log_prob, value
        ends = torch.isin(action, stops) & running
        length[alive[ends]] = step + 1
        running = running & ~ends
        left = int(running.sum())
        if left == 0:
            break
        token = action.unsqueeze(-1)
        # Leaving rows out copies the cache, so it waits until an eighth of them has ended.
        if left <= 0.875 * len(running):
            keep = running.nonzero().squeeze(-1)
            state.keep(keep)
            alive, token, running = alive[keep], token[keep], running[keep]
    table = zip(length.tolist(), actions.tolist(), log_probs.tolist(), values.tolist(), strict=True)
    return [_Row(a[:n], p[:n], v[:n]) for n, a, p, v in table]


def _prefill(policy: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, DecodeState | None]:
    """The last token of each prompt, and a cache of all before it.

    Prompts are padded on the right: what follows a row's end is masked for good, and no query sees only padding.
    """
    device = policy.model.device
    lengths = torch.tensor([len(p) - 1 for p in prompts], device=device)
    last = torch.tensor([[p[-1]] for p in prompts], device=device)
    width = int(lengths.max())
    if width == 0:
        return last, None
    token = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, p in enumerate(prompts):
        token[row, : len(p) - 1] = torch.tensor(p[:-1])
    _, state = decode(policy.model, token.to(device), None)
    state.readable = torch.arange(width, device=device) < lengths.unsqueeze(-1)
    state.position = lengths
    return last, state


def decoding_copy(policy: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """The policy with its weights in `dtype`, for decoding only; the policy itself when it has that type already.

    A value model of its own is left out: it reads whole responses.
    """
    if policy.model.dtype == dtype:
        return policy
    value = None if isinstance(policy.value, RewardModel) else copy.deepcopy(policy.value)
    twin = LanguageModel(copy.deepcopy(policy.model), value, policy.temperature)
    return cast(twin, dtype).requires_grad_(False)


@torch.no_grad()
def fastest_decoding_dtype(model: Any, rows: int = 32) -> str:
    """float32 or bfloat16, whichever takes a decoding step sooner on this machine (float32 unless a fifth faster)."""
    if model.device.type != "cpu":
        return "bfloat16"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        twin = model if model.dtype == dtype else cast(copy.deepcopy(model), dtype)
        token = torch.zeros(rows, 1, dtype=torch.long)
        state, times = None, []
        for _ in range(12):
            start = time.perf_counter()
            hidden, state = decode(twin, token, state)
            twin.get_output_embeddings()(hidden)
            times.append(time.perf_counter() - start)
        seconds[dtype] = sorted(times)[len(times) // 2]
    return "bfloat16" if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else "float32"
