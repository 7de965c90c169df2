"""TRPO's line search: what it accepts, and that nothing changes where it accepts nothing."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import natural_actor_critic, trpo
from operant.core.errors import InputError
from operant.networks.actor_critic import ActorCritic
from tests.algorithms.policy_gradient.target import Target, parameters, pointer


def started(**settings: Any) -> tuple[trpo.State, trpo.Batch, trpo.Config]:
    config = trpo.Config(**settings)
    policy = pointer()
    return trpo.init(policy, Target(), config), trpo.prepare(Target().rollout(policy, 32), config), config


def actor_of(policy: ActorCritic) -> list[Tensor]:
    return [p.detach().clone() for p in natural_actor_critic.actor(policy).parameters()]


@pytest.mark.parametrize("reason", ["the KL is out of bound", "the surrogate falls", "the step is no number"])
def test_where_no_part_of_the_step_passes_the_parameters_are_restored(reason):
    state, batch, config = started()
    step, _ = trpo.natural_step(state, batch, config)
    before = parameters(state.policy)
    if reason == "the KL is out of bound":
        config = dataclasses.replace(config, kl_tolerance=1e-9)
    elif reason == "the surrogate falls":
        step = -step
    else:
        step = step * math.nan
    metrics = trpo.line_search(state, batch, step, config)
    assert all(map(torch.equal, before, parameters(state.policy)))
    assert (metrics["policy/step_taken"], metrics["policy/kl"], metrics["policy/improvement"]) == (0, 0, 0)


def test_after_a_failed_search_the_critic_still_learns_and_the_actor_stays():
    state, batch, config = started(kl_tolerance=1e-9, epochs=2)
    actor, critic = actor_of(state.policy), [p.clone() for p in state.policy.critic.parameters()]
    assert trpo.update(state, batch, config)["policy/step_taken"] == 0
    assert all(map(torch.equal, actor, actor_of(state.policy)))
    assert not any(map(torch.equal, critic, state.policy.critic.parameters()))


@pytest.mark.parametrize("length", [1.0, 3.0, 30.0, 1000.0])
def test_the_first_half_of_a_half_that_passes_is_taken(length):
    """Every size is tried by hand: log-probabilities and a KL from torch.distributions."""
    state, batch, config = started(backtracks=12)
    step, _ = trpo.natural_step(state, batch, config)
    step, weights = length * step, state.weights.clone()
    normal = torch.distributions.Normal

    def there() -> torch.distributions.Normal:
        return normal(state.policy.actor(batch.observation), state.policy.head.log_std.exp())

    with torch.no_grad():
        old = normal(there().mean.clone(), there().stddev.clone())
        passes = []
        for i in range(12):
            state.weights.copy_(weights + 0.5**i * step)
            ratio = (there().log_prob(batch.action) - old.log_prob(batch.action)).exp().squeeze(-1)
            kl = torch.distributions.kl_divergence(old, there()).mean().item()
            improvement = ((ratio - 1) * batch.advantage).mean().item()
            passes.append((0.5**i, kl, improvement, kl <= 1.5 * 0.01 and improvement > 0))
        state.weights.copy_(weights)
    part, kl, improvement, _ = next(x for x in passes if x[3])
    metrics = trpo.line_search(state, batch, step, config)
    assert metrics["policy/step_taken"] == part
    assert metrics["policy/kl"] == pytest.approx(kl, rel=1e-3)
    assert metrics["policy/improvement"] == pytest.approx(improvement, rel=1e-2, abs=1e-6)
    torch.testing.assert_close(state.weights.detach(), weights + part * step)


def test_every_step_of_a_run_is_in_bound_and_an_improvement():
    config = trpo.Config(iterations=20, rollout=16, max_kl=0.02, kl_tolerance=1.0, damping=1e-3, epochs=2)
    metrics = list(trpo.train(trpo.init(pointer(), Target(), config), config))
    assert max(m["policy/kl"] for m in metrics) <= 0.02
    assert all(m["policy/improvement"] > 0 for m in metrics if m["policy/step_taken"])
    assert {0.5, 1.0} <= {m["policy/step_taken"] for m in metrics}


def test_a_line_search_without_sizes_is_refused():
    with pytest.raises(InputError, match="backtracks is 0"):
        started(backtracks=0)
