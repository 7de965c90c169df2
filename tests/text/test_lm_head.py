"""Log-probs and entropies, kept or tiled, against the whole table of logits."""

import math

import pytest
import torch
from torch import Tensor

from operant.text import lm_head
from operant.text.lm_head import linear_log_prob

N, D, V = 13, 7, 19


def inputs(bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    hidden, weight = torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    return hidden, weight, torch.randn(V, requires_grad=True) if bias else None, torch.randint(V, (N,))


def table(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float = 1.0):
    """The same through log_softmax, all logits at once."""
    log_p = (torch.nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(-1)
    return log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


@pytest.fixture(params=[1, 2 * V, 5 * V, 10**6], ids=["one row", "2 rows", "5 rows", "all rows"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head, "TILE", request.param)
    monkeypatch.setattr(lm_head, "BLOCK", request.param)


@pytest.fixture(params=[0, N * V], ids=["computed again", "kept"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head, "KEPT", request.param)


@pytest.mark.usefixtures("tile", "kept")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_values_and_gradients_are_those_of_log_softmax(temperature, bias):
    hidden, weight, b, target = inputs(bias)
    of = [x for x in (hidden, weight, b) if x is not None]
    for use in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0]):
        upstream = [scale * torch.randn(N) for scale in use]
        found = linear_log_prob(hidden, weight, b, target, temperature)
        due = table(hidden, weight, b, target, temperature)
        torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            torch.autograd.grad(found, of, upstream), torch.autograd.grad(due, of, upstream), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("which", [0, 1], ids=["log-prob", "entropy"])
def test_either_output_may_go_unused(which):
    hidden, weight, b, target = inputs()
    found = linear_log_prob(hidden, weight, b, target)[which].sum()
    due = table(hidden, weight, b, target)[which].sum()
    torch.testing.assert_close(
        torch.autograd.grad(found, [hidden, weight, b]), torch.autograd.grad(due, [hidden, weight, b])
    )


def test_going_back_twice_gives_the_same_gradient_twice():
    """What was kept is overwritten the first time."""
    hidden, weight, b, target = inputs()
    log_prob, _ = linear_log_prob(hidden, weight, b, target)
    once, again = (torch.autograd.grad(log_prob.sum(), [hidden, weight, b], retain_graph=True) for _ in range(2))
    torch.testing.assert_close(once, again)


def test_no_large_table_of_logits_is_kept_for_the_way_back(monkeypatch):
    monkeypatch.setattr(lm_head, "KEPT", N * V - 1)
    kept: list[int] = []
    hidden, weight, b, target = inputs()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        found, _ = linear_log_prob(hidden, weight, b, target)
    assert found.grad_fn.probabilities is None
    assert kept
    assert max(kept) < N * V


def test_entropy_is_log_v_for_equal_logits_and_never_negative():
    target = torch.zeros(2, dtype=torch.long)
    _, entropy = linear_log_prob(torch.zeros(2, D), torch.randn(V, D), None, target)
    torch.testing.assert_close(entropy, torch.full((2,), math.log(V)))
    _, entropy = linear_log_prob(100 * torch.randn(50, D), torch.randn(V, D), None, torch.zeros(50, dtype=torch.long))
    assert (entropy > -1e-5).all()


def test_huge_logits_do_not_overflow():
    hidden, weight, _, target = inputs()
    far = linear_log_prob(hidden, weight, torch.full((V,), 1e4), target)
    torch.testing.assert_close(far, linear_log_prob(hidden, weight, None, target), rtol=0, atol=5e-3)
    log_prob, entropy = linear_log_prob(1e5 * hidden, weight, None, target)
    assert torch.isfinite(log_prob).all()
    torch.testing.assert_close(entropy, torch.zeros(N))


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, b, target = inputs()
    weight.requires_grad_(False)
    linear_log_prob(hidden, weight, b, target)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_no_rows():
    hidden = torch.zeros(0, D, requires_grad=True)
    log_prob, entropy = linear_log_prob(hidden, torch.randn(V, D), None, torch.zeros(0, dtype=torch.long))
    (log_prob.sum() + entropy.sum()).backward()
    assert log_prob.shape == entropy.shape == (0,)


def test_a_second_derivative_is_refused_and_not_wrong():
    hidden, weight, _, target = inputs()
    (first,) = torch.autograd.grad(linear_log_prob(hidden, weight, None, target)[0].sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()


@pytest.mark.usefixtures("tile", "kept")
def test_mixed_precision_is_that_of_autocast():
    """Logits in bfloat16, everything after them and all gradients in float32."""
    hidden, weight, b, target = inputs()
    exact = table(hidden, weight, b, target)
    exact_gradient = torch.autograd.grad(exact[0].sum() + exact[1].sum(), [hidden, weight, b])
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_log_prob(hidden, weight, b, target)
        low = torch.nn.functional.linear(hidden, weight, b)
    gradient = torch.autograd.grad(found[0].sum() + found[1].sum(), [hidden, weight, b])
    log_p = low.float().log_softmax(-1)
    torch.testing.assert_close(found[0], log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(found[1], -(log_p.exp() * log_p).sum(-1))
    assert {x.dtype for x in (*found, *gradient)} == {torch.float32}
    for x, y in zip(gradient, exact_gradient, strict=True):
        assert (x - y).norm() < 0.05 * y.norm()


def test_weights_in_bfloat16_give_float32_log_probs():
    hidden, weight, _, target = inputs()
    low = linear_log_prob(hidden.bfloat16(), weight.bfloat16(), None, target)
    assert {x.dtype for x in low} == {torch.float32}
    torch.testing.assert_close(low, linear_log_prob(hidden, weight, None, target), rtol=0.05, atol=0.1)
