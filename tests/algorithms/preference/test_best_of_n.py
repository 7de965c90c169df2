"""Best of n picks the maximum; its law and its distance from the policy are known where responses can be listed."""

import math

import pytest
import torch
from torch import Tensor

from operant.algorithms.preference.best_of_n import best_of_n, kl_bound
from operant.text.language_model import LanguageModel, small_model
from operant.text.sampling import Samples, sample

VOCABULARY = 8
SCORE = torch.tensor([0.3, -1.0, 2.0, 0.9, -0.2, 1.1, 0.0, -3.0])


@pytest.fixture
def policy() -> LanguageModel:
    return LanguageModel(small_model(VOCABULARY, 16, 1, 2, 16))


def first_token(samples: Samples) -> Tensor:
    return SCORE[[r[0] for r in samples.responses]]


def law(log_p: Tensor, n: int) -> Tensor:
    """P(best of n = y) = F(y)^n - F(y-)^n, F the distribution function of the scores, all different."""
    order = SCORE.argsort()
    below = log_p.exp()[order].cumsum(0).clamp(max=1)
    probability = torch.empty_like(log_p)
    probability[order] = below**n - torch.cat([torch.zeros(1), below[:-1]]) ** n
    return probability


def test_it_returns_the_best_of_the_very_responses_that_were_sampled(policy):
    prompts = [[1, 2], [3], [4, 5, 6], [7]]

    def reward(samples: Samples) -> Tensor:
        return torch.tensor([sum(r) - 0.1 * len(p) for p, r in zip(samples.prompts, samples.responses, strict=True)])

    torch.manual_seed(5)
    responses, scores = best_of_n(policy, reward, prompts, {0}, 5, 6)
    torch.manual_seed(5)
    samples = sample(policy, prompts, {0}, 5, completions=6)
    every = reward(samples).view(4, 6)
    assert len({tuple(r) for r in samples.responses}) > 12
    for p in range(4):
        best = max(range(6), key=lambda k: every[p, k].item())
        assert scores[p] == every[p, best]
        assert responses[p] == samples.responses[6 * p + best]


@pytest.mark.parametrize("n", [1, 2, 4, 16, 100])
def test_its_distance_from_the_policy_is_within_the_bound(policy, n):
    log_p = policy.model(torch.tensor([[1, 2]])).logits[0, -1].log_softmax(-1).detach()
    found = law(log_p, n)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    distance = torch.special.xlogy(found, found).sum() - (found * log_p).sum()
    assert -1e-6 <= distance.item() <= kl_bound(n) + 1e-6


def test_it_follows_its_law(policy):
    n, draws = 4, 3000
    log_p = policy.model(torch.tensor([[1, 2]])).logits[0, -1].log_softmax(-1).detach()
    responses, scores = best_of_n(policy, first_token, [[1, 2]] * draws, set(), 1, n)
    count = torch.bincount(torch.tensor([r[0] for r in responses]), minlength=VOCABULARY)
    expected = law(log_p, n) * draws
    assert torch.equal(scores, SCORE[[r[0] for r in responses]])
    assert ((count - expected).abs() <= 4 * (expected + 1).sqrt()).all()
    assert (law(log_p, n) - log_p.exp()).abs().sum() > 0.3


def test_the_bound_is_0_for_one_response_and_grows():
    assert kl_bound(1) == 0
    bounds = [kl_bound(n) for n in range(1, 50)]
    assert bounds == sorted(bounds)
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
