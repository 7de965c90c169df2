"""A `transformers` causal language model as a policy: actions are tokens, observations are contexts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.record import Evaluation
from operant.networks.distributions import categorical_log_prob, categorical_sample
from operant.text.attention import OwnAttention
from operant.text.context import Context, Packed, pack, rows
from operant.text.lm_head import linear_log_prob

LONG = 48
"""Mean length from which rows on a CPU are strung together: shorter ones are attended to sooner side by side."""


class RewardModel(nn.Module):
    """A scalar at every place of a context: a reward at the last token, a value before each decision.

    `model` is a `transformers` sequence classifier with one label, so what is saved loads anywhere. The score is
    head(hidden) - `offset`; the offset is kept in the model's config under "operant_score_offset". Raises `InputError`
    for a classifier of another kind. (`transformers` itself scores a row at its last token that is not PAD, so there
    the tokenizer's PAD must not be its EOS.)
    """

    def __init__(self, model: Any, dtype: str = "float32") -> None:
        super().__init__()
        self.model = model.eval()
        self.dtype = dtype
        head = getattr(model, "score", getattr(model, "classifier", None))
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            raise InputError(
                f"the head of {type(model).__name__} is {head}; a reward model has a linear head with one label. "
                "Choose a sequence classifier on a causal language model, with num_labels=1"
            )
        require_branches(model)
        learn_every_token(model)

    @property
    def head(self) -> nn.Linear:
        return self.model.score if hasattr(self.model, "score") else self.model.classifier

    @property
    def offset(self) -> float:
        return getattr(self.model.config, "operant_score_offset", 0.0)

    @offset.setter
    def offset(self, value: float) -> None:
        self.model.config.operant_score_offset = value

    def forward(self, context: Context) -> Float[Tensor, "B T"]:
        """The scalar at each place; meaningless where there is no decision."""
        packed = lay_out(self.model, context, self.dtype)
        with autocast(self.dtype, packed.token.device):
            hidden = hidden_states(self.model, packed)
            return self.head(hidden[packed.place]).squeeze(-1).float() - self.offset


class LanguageModel(nn.Module):
    """π(token | context) of a `transformers` causal model, divided by the sampling temperature everywhere.

    `value` is nothing, a linear head on the policy's own trunk, or a `RewardModel` of its own. `dtype` other than
    float32 means mixed precision: weights stay as they are, matrix products are taken in `dtype`. Raises `InputError`
    for a model whose logits or attention cannot be reproduced.
    """

    memory = True

    def __init__(
        self, model: Any, value: nn.Module | None = None, temperature: float = 1.0, dtype: str = "float32"
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.value = value
        self.temperature = temperature
        self.dtype = dtype
        if not temperature > 0:
            raise InputError(f"the sampling temperature is {temperature}; give one above 0 (1 is the model as it is)")
        if not has_plain_head(model):
            raise InputError(
                f"{type(model).__name__} does more than a linear map from hidden states to logits (scaling, a soft "
                "cap, an adapter on the head); Operant scores decisions by that map alone. Choose a model with a plain "
                "LM head, and leave the head out of the adapter"
            )
        require_branches(model)
        learn_every_token(model)

    def evaluate(self, observation: Context, action: Int[Tensor, "B T"]) -> Evaluation:
        """Log-probs, entropies and values of decisions; 0 where `observation` has no decision."""
        packed, mask = lay_out(self.model, observation, self.dtype), observation.mask
        count, multiple = int(mask.sum()), shape_multiple(self.dtype, action.device)
        place, target = (nn.functional.pad(x[mask], (0, -count % multiple)) for x in (packed.place, action))
        log_prob, entropy, value = (torch.zeros(mask.shape, device=action.device) for _ in range(3))
        with autocast(self.dtype, action.device):
            hidden = hidden_states(self.model, packed)[place]
            head = self.model.get_output_embeddings()
            chosen, uncertainty = linear_log_prob(hidden, head.weight, head.bias, target, self.temperature)
            if self.value is not None and not isinstance(self.value, RewardModel):
                value = value.masked_scatter(mask, self.value(hidden[:count]).squeeze(-1).float())
        if isinstance(self.value, RewardModel):
            value = self.value(observation) * mask
        log_prob = log_prob.masked_scatter(mask, chosen[:count])
        entropy = entropy.masked_scatter(mask, uncertainty[:count])
        return Evaluation(log_prob, entropy, value)

    @torch.no_grad()
    def act(
        self, observation: Int[Tensor, "N S"], state: DecodeState | None = None, greedy: bool = False
    ) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], DecodeState]:
        """One more token after each row of `observation`, the tokens that `state` (the KV cache) has not seen."""
        hidden, state = decode(self.model, observation, state)
        logits = self.model.get_output_embeddings()(hidden[:, -1]).float() / self.temperature
        action = logits.argmax(-1) if greedy else categorical_sample(logits)
        value = torch.zeros(len(action), device=action.device)
        if self.value is not None and not isinstance(self.value, RewardModel):
            value = self.value(hidden[:, -1]).squeeze(-1).float()
        return action, categorical_log_prob(logits, action), value, state


class DecodeState:
    """A KV cache of N rows: which of its columns each row may read, and each row's next position."""

    def __init__(self, cache: Any, readable: Tensor, position: Tensor) -> None:
        self.cache, self.readable, self.position = cache, readable, position

    def repeat(self, times: int) -> None:
        """Each row `times` times, for several completions of one prompt."""
        self.cache.batch_repeat_interleave(times)
        self.readable = self.readable.repeat_interleave(times, 0)
        self.position = self.position.repeat_interleave(times, 0)

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        self.cache.batch_select_indices(rows)
        self.readable, self.position = self.readable[rows], self.position[rows]


def trunk(model: Any) -> Any:
    """The transformer under a model's head, LoRA layers included."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.base_model


def hidden_states(model: Any, packed: Packed) -> Float[Tensor, "N D"]:
    """Last hidden states of all R * W places."""
    mask = packed.attention
    if packed.spans is not None:
        # Spans stand for the mask; one that is only a shape keeps the network from making its own.
        mask = torch.ones((), dtype=torch.bool).expand(1, 1, *2 * packed.token.shape[1:])
    with OwnAttention(packed.spans):
        output = trunk(model)(
            input_ids=packed.token,
            attention_mask=_attention_mask(model, mask),
            position_ids=packed.position,
            use_cache=False,
        )
    return output.last_hidden_state.flatten(0, 1)


def lay_out(model: Any, context: Context, dtype: str) -> Packed:
    """Rows as this machine computes them soonest: on a CPU long ones stand behind one another in a single row."""
    device = context.token.device
    lengths = context.extent.sum(-1)
    flat = device.type == "cpu" and takes_spans(model) and lengths.float().mean().item() >= LONG
    return pack(context, multiple=shape_multiple(dtype, device), flat=flat)


def takes_spans(model: Any) -> bool:
    """Whether the attention of the model is that of torch, in whose place `OwnAttention` steps."""
    return model.config._attn_implementation == "sdpa"


def _attention_mask(model: Any, readable: Tensor | None) -> Tensor | None:
    """Who may attend to whom in the form that the model's attention wants: SDPA selects by it, the others add it."""
    if readable is None or takes_spans(model):
        return readable
    return torch.zeros(readable.shape, dtype=model.dtype, device=readable.device).masked_fill(
        ~readable, torch.finfo(model.dtype).min
    )


@torch.compiler.set_stance("force_eager")
def decode(model: Any, token: Int[Tensor, "N S"], state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    """Hidden states of S more tokens a row, read through the cache."""
    new = torch.ones_like(token, dtype=torch.bool)
    if state is None:
        from operant.text.cache import roomy_cache

        output = trunk(model)(input_ids=token, past_key_values=roomy_cache(), use_cache=True)
        return output.last_hidden_state, DecodeState(output.past_key_values, new, new.sum(-1))
    steps = torch.arange(token.shape[1], device=token.device)
    readable = torch.cat([state.readable, new], -1)
    past = state.readable.shape[1]
    causal = torch.ones(len(steps), past + len(steps), dtype=torch.bool, device=token.device).tril(past)
    output = trunk(model)(
        input_ids=token,
        attention_mask=_attention_mask(model, (readable.unsqueeze(1) & causal).unsqueeze(1)),
        position_ids=state.position.unsqueeze(-1) + steps,
        past_key_values=state.cache,
        use_cache=True,
    )
    return output.last_hidden_state, DecodeState(output.past_key_values, readable, state.position + len(steps))


def compile_layers(model: Any) -> None:
    """Compile each layer in place when it is first used, for any batch and length; decoding stays as it is."""
    layers = next((part for part in trunk(model).modules() if isinstance(part, nn.ModuleList)), None)
    if layers is None:
        raise InputError(f"{type(model).__name__} has no list of layers to compile: leave --compile out")
    for layer in layers:
        layer.compile(dynamic=True)


def has_plain_head(model: Any) -> bool:
    """Whether logits are W hidden + b, without scaling, soft caps or adapters: asked of the model itself."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    token = torch.arange(4, device=model.device).unsqueeze(0) % model.config.vocab_size
    # Enlarged: the logits of fresh weights are so small that a soft cap would hardly bend them.
    hook = head.register_forward_hook(lambda *called: 100 * called[-1])
    try:
        with torch.no_grad():
            logits = model(input_ids=token, use_cache=False).logits
            plain = head(trunk(model)(input_ids=token, use_cache=False).last_hidden_state)
    finally:
        hook.remove()
    return torch.allclose(logits.float(), plain.float(), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def require_branches(model: Any) -> None:
    """Raise `InputError` unless responses that share a prompt come out of the model as they would alone."""
    ids = [i % model.config.vocab_size for i in range(8)]
    context, _, mask = rows([ids[:3]] * 2, [ids[3:6], ids[6:]])
    context = context.to(model.device)
    try:
        layouts = [pack(context, False), pack(context)]
        if model.device.type == "cpu" and takes_spans(model):
            layouts.append(pack(context, flat=True))
        alone, *others = (hidden_states(model, p)[p.place[mask]].float() for p in layouts)
        error = max((x - alone).abs().max().item() for x in others) / alone.abs().max().item()
        cause = None
    except (AttributeError, RuntimeError, TypeError, ValueError) as failure:
        error, cause = float("nan"), failure
    if not error < (1e-3 if model.dtype == torch.float32 else 1e-1):
        raise InputError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention cannot read several responses "
            "after one prompt: it must attend to earlier tokens alone, take a mask of who attends to whom, and carry "
            'no state from token to token. Load it with attn_implementation="sdpa", or choose another architecture'
        ) from cause


def learn_every_token(model: Any) -> None:
    """Let the embedding of PAD learn like any other: it may be EOS, or BOS, and padding has no gradient here anyway."""
    model.get_input_embeddings().padding_idx = None


def context_limit(model: Any) -> int:
    """How many tokens a row may have: the positions of the model, or its attention window where that is smaller.

    Inside the window attention is the plain causal one, on which packing and the KV cache rely.
    """
    names = ("max_position_embeddings", "sliding_window", "attention_chunk_size", "window_size")
    limits = [getattr(model.config, name, None) for name in names]
    return min([n for n in limits if isinstance(n, int) and n > 0], default=1 << 30)


def cast(module: nn.Module, dtype: torch.dtype) -> Any:
    """The module with its weights in `dtype`. Buffers stay: in 16 bits, rotary frequencies are wrong by radians."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


def small_model(vocabulary: int, width: int, layers: int, heads: int, context: int, feed_forward: int = 0) -> Any:
    """A Llama from scratch, input and output embeddings tied, weights from N(0, 0.02² · 768 / width).

    That is GPT-2's 0.02 at GPT-2's width; at 128, the constant 0.02 takes three times as long to learn its first facts.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward or 3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.02 * (768 / width) ** 0.5,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def reward_model_from(model: Any) -> RewardModel:
    """A reward model on a copy of a language model's trunk, head weights N(0, 1/(d + 1)), no bias.

    The initialisation is that of Ziegler et al. 2019 ("lm-human-preferences"): std 1/√(d + 1).
    """
    from transformers import AutoModelForSequenceClassification

    if hasattr(model, "get_base_model"):
        model = copy.deepcopy(model).merge_and_unload()
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    classifier = cast(AutoModelForSequenceClassification.from_config(config), model.dtype)
    classifier.base_model.load_state_dict(model.base_model.state_dict())
    reward = RewardModel(classifier.to(model.device))
    nn.init.normal_(reward.head.weight, std=(reward.head.in_features + 1) ** -0.5)
    if reward.head.bias is not None:
        nn.init.zeros_(reward.head.bias)
    return reward


def value_head(model: Any) -> nn.Linear:
    """A value on the policy's own trunk, 0 everywhere at first (Ziegler et al. 2019)."""
    head = nn.Linear(model.config.hidden_size, 1, device=model.device, dtype=model.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def frozen(module: Any) -> Any:
    """The module itself, never to be trained again."""
    return module.eval().requires_grad_(False)


@contextmanager
def as_reference(policy: LanguageModel, reference: LanguageModel | None) -> Iterator[LanguageModel]:
    """The reference model: one of its own, or the policy itself with its LoRA adapter switched off."""
    if reference is not None:
        yield reference
        return
    if not hasattr(policy.model, "disable_adapter"):
        raise InputError("a policy without a LoRA adapter needs a reference model of its own")
    with policy.model.disable_adapter():
        yield policy


def shape_multiple(dtype: str, device: torch.device) -> int:
    """What widths should be multiples of: a CPU takes milliseconds, and memory, for a new 16-bit kernel per shape."""
    return 32 if dtype != "float32" and device.type == "cpu" else 1


def autocast(dtype: str, device: torch.device) -> Any:
    """Mixed precision for 16-bit types, nothing for float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))
