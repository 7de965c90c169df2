"""Our own attention, in one row with spans and in padded rows, against torch's."""

import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from operant.text import attention
from operant.text.attention import OwnAttention
from operant.text.language_model import compile_layers

B, H, L, D = 2, 4, 9, 8


def gradients(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> list[Tensor]:
    """(output, gradients) of a fixed function of attention."""
    found = scaled_dot_product_attention(query, key, value, **options).float()
    slope = torch.linspace(-1, 1, found.numel()).view(found.shape)
    return [found, *torch.autograd.grad((found * slope).sum(), [query, key, value])]


def masks() -> dict[str, Any]:
    some = torch.rand(B, 1, L, L) < 0.5
    readable = (some | torch.eye(L, dtype=torch.bool)) & torch.ones(L, L, dtype=torch.bool).tril()
    added = torch.zeros(B, 1, L, L).masked_fill(~readable, float("-inf"))
    return {
        "causal": {"is_causal": True},
        "selecting": {"attn_mask": readable},
        "added": {"attn_mask": added},
        "none, scaled": {"scale": 0.3},
    }


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("which", ["causal", "selecting", "added", "none, scaled"])
def test_gradients_are_those_of_float32_within_rounding(which, groups, monkeypatch):
    options = masks()[which] | ({"enable_gqa": True} if groups > 1 else {})
    query = torch.randn(B, H, L, D, requires_grad=True)
    key, value = (torch.randn(B, H // groups, L, D, requires_grad=True) for _ in range(2))
    exact = gradients(query, key, value, **options)
    used = []
    own = attention._Attention.apply
    monkeypatch.setattr(attention._Attention, "apply", lambda *a: used.append(a) or own(*a))
    with torch.autocast("cpu", torch.bfloat16), OwnAttention(None):
        found = gradients(query, key, value, **options)
    assert len(used) == 1
    for x, due in zip(found, exact, strict=True):
        torch.testing.assert_close(x, due, rtol=0.05, atol=0.03 * due.abs().max().item())


def test_float32_is_left_as_it_is():
    query, key, value = (torch.randn(B, H, L, D, requires_grad=True) for _ in range(3))
    exact = gradients(query, key, value, is_causal=True)
    with OwnAttention(None):
        found = gradients(query, key, value, is_causal=True)
    assert all(map(torch.equal, found, exact))


SPANS = [[(0, 0, 0, 7)], [(0, 0, 0, 5), (0, 2, 5, 11), (0, 2, 11, 12), (0, 0, 12, 14)], [(0, 9, 9, 13), (0, 0, 0, 9)]]


def by_mask(spans: list[tuple[int, ...]], places: int) -> Tensor:
    """Who attends to whom; places of no span attend to themselves."""
    mask = torch.eye(places, dtype=torch.bool)
    for a, b, c, d in spans:
        mask[c:d, a:b] = True
        mask[c:d, c:d] = torch.ones(d - c, d - c, dtype=torch.bool).tril()
    return mask


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("block", [2, 3, 256])
@pytest.mark.parametrize("spans", SPANS)
def test_spans_see_what_a_mask_would_show_them(spans, block, groups, dtype, monkeypatch):
    """Whatever stands at places of no span: the row is padded there."""
    monkeypatch.setattr(attention, "BLOCK", block)
    monkeypatch.setattr(attention, "MULTIPLE", 2)
    used = max(d for *_, d in spans)
    query = torch.randn(1, H, used + 3, D, requires_grad=True)
    key, value = (torch.randn(1, H // groups, used + 3, D, requires_grad=True) for _ in range(2))
    options = {"enable_gqa": True} if groups > 1 else {}

    def learned(**mask: Any) -> list[Tensor]:
        found = scaled_dot_product_attention(query, key, value, **options, **mask).float()[:, :, :used]
        slope = torch.linspace(-1, 1, found.numel()).view(found.shape)
        return [found, *torch.autograd.grad((found * slope).sum(), [query, key, value])]

    due = learned(attn_mask=by_mask(spans, used + 3))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"), OwnAttention(torch.tensor(spans)):
        found = learned()
        assert (scaled_dot_product_attention(query, key, value, **options)[:, :, used:] == 0).all()
    error = {"float32": 1e-5, "bfloat16": 0.04}[dtype]
    for x, y in zip(found, due, strict=True):
        torch.testing.assert_close(x, y, rtol=error, atol=error * y.abs().max().item())


def test_a_compiler_is_told_the_truth_about_spans():
    tensors = [torch.randn(1, 14, H, D).transpose(1, 2).requires_grad_() for _ in range(3)]
    torch.library.opcheck(attention.span_attention, (*tensors, torch.tensor(SPANS[1]), 0.4))


@pytest.mark.parametrize(("kind", "settings"), [("OPT", {"ffn_dim": 32, "word_embed_proj_dim": 16}), ("GPTNeoX", {})])
def test_every_layer_is_compiled_wherever_the_architecture_keeps_them(kind, settings, monkeypatch):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=17,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        **settings,
    )
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **_: compiled.append(layer))
    compile_layers(getattr(transformers, f"{kind}ForCausalLM")(config))
    assert len(compiled) == 2


COMPILED = """
import torch
from operant.text import language_model
from operant.text.context import rows
from operant.text.language_model import LanguageModel, compile_layers, decode, small_model

torch.manual_seed(0)
torch.set_num_threads(1)
model = small_model(vocabulary=17, width=16, layers=1, heads=2, context=32)
context, action, mask = rows([[1, 2]] * 2 + [[3]], [[4, 5], [6], [7, 8, 9]])

def learned(policy):
    model.zero_grad()
    found = policy.evaluate(context, action)
    found.log_prob[mask].sum().backward()
    return [found.log_prob, found.entropy, *(p.grad.clone() for p in model.parameters())]

policy = LanguageModel(model, dtype="bfloat16")
plain = learned(policy)
hidden, _ = decode(model, context.token, None)
compile_layers(model)
for language_model.LONG in (1 << 30, 0):
    for x, y in zip(learned(policy), plain, strict=True):
        torch.testing.assert_close(x, y, rtol=0.05, atol=0.05 * y.abs().max().item())
assert torch.equal(decode(model, context.token, None)[0], hidden)
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_layers_learn_and_decode_the_same():
    """In a process of its own: what torch compiles it keeps for as long as the process lives."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
