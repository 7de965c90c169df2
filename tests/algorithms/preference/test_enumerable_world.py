"""A world small enough to list every response: PPO, RLOO and DPO end at the optimum that is known in closed form.

max E[r] - β KL(π || π_ref) has the solution π*(y|x) = π_ref(y|x) exp(r(x, y) / β) / Z(x) (Rafailov et al. 2023, eq. 4).
"""

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from operant.algorithms.preference import dpo, rlhf, rloo
from operant.core.losses import dpo_loss
from operant.text.context import rows
from operant.text.language_model import LanguageModel, frozen, small_model, value_head
from operant.text.sampling import Samples
from operant.text.tokenizer import Comparison
from operant.text.world import PromptWorld

STOP, VOCABULARY, LENGTH, BETA = 0, 5, 2, 0.6
PROMPTS = [[1, 2], [3, 1]]
RESPONSES = [[STOP], *([a, b] for a, b in itertools.product(range(1, VOCABULARY), range(VOCABULARY)))]
TOLERANCE = 0.02

pytestmark = pytest.mark.usefixtures("unchecked_types")


def log_probs(policy: LanguageModel) -> Float[Tensor, "X Y"]:
    """log π(y|x) of every response to every prompt."""
    pairs = list(itertools.product(PROMPTS, RESPONSES))
    context, action, mask = rows([x for x, _ in pairs], [y for _, y in pairs])
    log_prob = policy.evaluate(context, action).log_prob
    return torch.where(mask, log_prob, 0.0).sum(-1).view(len(PROMPTS), len(RESPONSES))


def kl(log_p: Tensor, log_q: Tensor) -> Float[Tensor, " X"]:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@dataclasses.dataclass
class Solved:
    policy: LanguageModel
    reference: LanguageModel
    score: Float[Tensor, "X Y"]
    log_reference: Float[Tensor, "X Y"]
    log_optimum: Float[Tensor, "X Y"]

    def reward(self, samples: Samples) -> Tensor:
        pairs = zip(samples.prompts, samples.responses, strict=True)
        return torch.stack([self.score[PROMPTS.index(x), RESPONSES.index(y)] for x, y in pairs])

    @torch.no_grad()
    def distance(self) -> Float[Tensor, " X"]:
        """KL(π || π*) for each prompt."""
        return kl(log_probs(self.policy), self.log_optimum)


@torch.no_grad()
def solved(seed: int) -> Solved:
    torch.manual_seed(seed)
    model = small_model(VOCABULARY, 32, 1, 2, 16)
    reference = frozen(LanguageModel(copy.deepcopy(model)))
    log_reference = log_probs(reference)
    score = 4 * torch.rand(log_reference.shape) - 2
    unnormalised = log_reference + score / BETA
    optimum = unnormalised - unnormalised.logsumexp(-1, keepdim=True)
    return Solved(LanguageModel(model, value_head(model)), reference, score, log_reference, optimum)


def world(problem: Solved, completions: int = 1) -> PromptWorld:
    return PromptWorld(PROMPTS, problem.reward, {STOP}, LENGTH, completions, missing_stop_score=None)


@pytest.fixture(params=range(3))
def problem(request: pytest.FixtureRequest) -> Solved:
    return solved(request.param)


def test_the_list_is_complete_and_the_optimum_is_far_and_optimal(problem):
    assert torch.allclose(problem.log_reference.exp().sum(-1), torch.ones(2), atol=1e-5)
    assert torch.allclose(problem.log_optimum.exp().sum(-1), torch.ones(2), atol=1e-5)
    assert kl(problem.log_reference, problem.log_optimum).mean() >= 0.5
    assert torch.allclose(problem.distance(), kl(problem.log_reference, problem.log_optimum))

    def objective(log_p: Tensor) -> Tensor:
        return (log_p.exp() * problem.score).sum(-1) - BETA * kl(log_p, problem.log_reference)

    dearer = (problem.log_reference + problem.score / (1.5 * BETA)).log_softmax(-1)
    assert (kl(dearer, problem.log_optimum) > 2 * TOLERANCE).all()
    best = objective(problem.log_optimum)
    for _ in range(20):
        other = (problem.log_optimum + 0.3 * torch.randn(problem.score.shape)).log_softmax(-1)
        assert (objective(other) < best).all()


SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-3,
    "schedule": "linear",
    "epochs": 2,
    "minibatch": 256,
    "reference_beta": BETA,
    "max_gradient_norm": 10.0,
    "standardize_advantages": False,
}


def test_ppo_ends_at_the_optimum(problem):
    config = rlhf.Config(iterations=70, rollout=512, lambda_=1.0, value_coefficient=0.5, value_clip=None, **SETTINGS)
    for _ in rlhf.train(rlhf.init(problem.policy, problem.reference, world(problem), config), config):
        pass
    assert (problem.distance() <= TOLERANCE).all()


def test_rloo_ends_at_the_optimum():
    problem = solved(0)
    config = rloo.Config(iterations=70, rollout=128, completions=4, **SETTINGS)
    state = rloo.init(problem.policy, problem.reference, world(problem, completions=4), config)
    for _ in rloo.train(state, config):
        pass
    assert (problem.distance() <= TOLERANCE).all()


def test_dpo_on_exact_preferences_ends_at_the_optimum(problem):
    """Every pair of responses, with the probability σ(r_a - r_b) that a is preferred as its target."""
    a, b = torch.triu_indices(len(RESPONSES), len(RESPONSES), 1)
    target = torch.sigmoid(problem.score[:, a] - problem.score[:, b])
    reference = problem.log_reference
    optimizer = torch.optim.Adam(problem.policy.model.parameters())
    steps = 300
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        x = log_probs(problem.policy)
        loss = dpo_loss(x[:, a], x[:, b], reference[:, a], reference[:, b], BETA, target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (problem.distance() <= TOLERANCE).all()


def test_dpo_on_rankings_ends_at_the_optimum():
    """`dpo.train` itself, on rankings by r plus Gumbel noise.

    Of each pair, a then comes before b with the probability σ(r_a - r_b) (Luce 1959; Yellott 1977).
    """
    problem, comparisons = solved(0), []
    for x, score in zip(PROMPTS, problem.score, strict=True):
        for _ in range(300):
            noisy = score - torch.log(-torch.log(torch.rand(score.shape)))
            ranks = noisy.argsort(descending=True).argsort() + 1
            comparisons.append(Comparison(x, RESPONSES, ranks.tolist()))
    config = dpo.Config(epochs=8, batch=24, reference_beta=BETA, learning_rate=5e-3, warmup=0.0, max_gradient_norm=10.0)
    state = dpo.init(problem.policy, problem.reference, comparisons, config)
    for _ in dpo.train(state, config):
        pass
    assert (problem.distance() <= TOLERANCE).all()
