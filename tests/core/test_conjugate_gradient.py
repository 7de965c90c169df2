"""Conjugate gradient against a solver, and Fisher matrices against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from operant.core.conjugate_gradient import (
    conjugate_gradient,
    fisher_product,
    flat_gradient,
    sampled_fisher_product,
)
from operant.core.errors import InputError
from operant.networks.heads import Categorical, Gaussian, Head, MultiCategorical


def positive_definite(n: int, seed: int, condition: float = 100.0) -> Tensor:
    """A random symmetric matrix with eigenvalues from 1 to `condition`."""
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))
    return q * torch.logspace(0, math.log10(condition), n, dtype=torch.float64) @ q.T


class TestConjugateGradient:
    @given(st.integers(1, 12), st.integers(0, 10_000), st.floats(1e-3, 1e3))
    def test_n_products_solve_n_equations_as_numpy_does(self, n, seed, scale):
        a, b = scale * positive_definite(n, seed), torch.randn(n, dtype=torch.float64)
        x = conjugate_gradient(lambda v: a @ v, b, n, tolerance=0.0)
        np.testing.assert_allclose(x.numpy(), np.linalg.solve(a.numpy(), b.numpy()), rtol=1e-5, atol=1e-8 / scale)

    def test_fewer_products_are_best_in_the_span_of_what_they_saw(self):
        """½ xᵀAx - bᵀx is smallest over b, Ab, A²b: and so gᵀx = xᵀAx, which the length of a natural step needs."""
        a, b = positive_definite(8, 0), torch.randn(8, dtype=torch.float64)
        x = conjugate_gradient(lambda v: a @ v, b, 3)
        basis = torch.stack([b, a @ b, a @ a @ b], 1)
        due = basis @ torch.linalg.solve(basis.T @ a @ basis, basis.T @ b)
        torch.testing.assert_close(x, due)
        torch.testing.assert_close(x @ a @ x, b @ x)

    def test_it_ends_where_the_residual_is_small_enough(self):
        a, b, calls = positive_definite(50, 1), torch.randn(50, dtype=torch.float64), []

        def product(v: Tensor) -> Tensor:
            calls.append(1)
            return a @ v

        x = conjugate_gradient(product, b, 1000, tolerance=0.01)
        assert len(calls) < 50
        assert (b - a @ x).norm() <= 0.0101 * b.norm()

    def test_nothing_to_solve_needs_no_product(self):
        assert conjugate_gradient(lambda v: v / 0, torch.zeros(3), 10).tolist() == [0, 0, 0]

    @pytest.mark.parametrize("diagonal", [[1.0, -1.0], [0.0, 0.0], [1.0, math.nan]])
    def test_a_matrix_that_is_not_positive_definite_is_refused(self, diagonal):
        with pytest.raises(InputError, match="curvature"):
            conjugate_gradient(lambda v: torch.tensor(diagonal) * v, torch.tensor([1.0, 2.0]))


def policy(head: Head) -> tuple[nn.Sequential, list[nn.Parameter]]:
    """A small network for the head's outputs, and the parameters of both."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, head.size)).double()
    head.double()
    return network, [*network.parameters(), *head.parameters()]


HEADS = [Categorical(3), MultiCategorical([2, 3]), Gaussian(2)]


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_fisher_products_are_those_of_the_explicit_hessian_of_the_kl(head: Head):
    network, parameters = policy(head)
    seen = torch.randn(7, 3, dtype=torch.float64)
    old = head.describe(network(seen)).detach()
    shapes = [p.shape for p in parameters]

    def kl(vector: Tensor) -> Tensor:
        """The mean KL from the old policy to the one whose parameters are `vector`."""
        parts = vector.split([s.numel() for s in shapes])
        w, b, w2, b2, *log_std = (x.view(s) for x, s in zip(parts, shapes, strict=True))
        output = (seen @ w.T + b).tanh() @ w2.T + b2
        new = torch.cat([output, log_std[0].expand_as(output)], -1) if log_std else output
        return head.kl(old, new).mean()

    vector = torch.cat([p.detach().flatten() for p in parameters])
    hessian = torch.autograd.functional.hessian(kl, vector)
    assert isinstance(hessian, Tensor)
    product = fisher_product(head.kl(old, head.describe(network(seen))).mean(), parameters, damping=0.3)
    rows = torch.stack([product(e) for e in torch.eye(len(vector), dtype=torch.float64)])
    torch.testing.assert_close(rows, hessian + 0.3 * torch.eye(len(vector), dtype=torch.float64))
    assert torch.linalg.eigvalsh(hessian).min() > -1e-10


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_sampled_fisher_products_are_those_of_the_mean_outer_product(head: Head):
    network, parameters = policy(head)
    seen = torch.randn(7, 3, dtype=torch.float64)
    action = head.sample(network(seen)).detach()
    log_prob = head.log_prob(network(seen), action)
    psi = torch.stack([flat_gradient(x, parameters, retain_graph=True) for x in log_prob])
    product = sampled_fisher_product(log_prob, parameters, damping=0.3)
    v = torch.randn(psi.shape[1], dtype=torch.float64)
    torch.testing.assert_close(product(v), psi.T @ (psi @ v) / 7 + 0.3 * v)


def test_the_two_fisher_matrices_agree_over_all_actions_by_their_probabilities():
    """Σ_a π(a) ∇log π ∇log πᵀ is the Hessian of the KL: for one state and every action as often as it is taken."""
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    action = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    v = torch.randn(3, dtype=torch.float64)
    head = Categorical(3)
    sampled = sampled_fisher_product(head.log_prob(logits.expand(10, -1), action), [logits])
    exact = fisher_product(head.kl(logits.detach(), logits), [logits])
    torch.testing.assert_close(sampled(v), exact(v))


def test_the_weights_of_the_compatible_critic_are_the_natural_gradient():
    """The least squares of xᵀ∇log π to the advantages, by numpy, solve F x = g (Peters and Schaal 2008)."""
    head = Gaussian(2)
    network = nn.Linear(2, 2).double()
    head.double()
    parameters = [*network.parameters(), *head.parameters()]
    seen, advantage = torch.randn(60, 2, dtype=torch.float64), torch.randn(60, dtype=torch.float64)
    log_prob = head.log_prob(network(seen), head.sample(network(seen)).detach())
    psi = torch.stack([flat_gradient(x, parameters, retain_graph=True) for x in log_prob])
    due = np.linalg.lstsq(psi.numpy(), advantage.numpy())[0]
    g = flat_gradient((log_prob * advantage).mean(), parameters, retain_graph=True)
    found = conjugate_gradient(sampled_fisher_product(log_prob, parameters), g, len(g), tolerance=0.0)
    np.testing.assert_allclose(found.numpy(), due, rtol=1e-5)


def test_a_parameter_that_nothing_depends_on_has_gradient_0():
    x, idle = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    assert flat_gradient(x.sum(), [x, idle]).tolist() == [1, 1, 0]
