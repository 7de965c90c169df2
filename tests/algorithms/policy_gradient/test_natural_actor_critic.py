"""The natural step: its direction, its length, what it does not depend on; and that it learns."""

import copy
import dataclasses
import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from operant.algorithms.policy_gradient import natural_actor_critic, trpo
from operant.algorithms.policy_gradient.natural_actor_critic import Config, prepare
from operant.core.conjugate_gradient import flat_gradient
from operant.core.errors import Diverged, InputError
from operant.core.record import Trajectory
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic
from operant.networks.heads import Gaussian, MultiCategorical
from operant.networks.image import ImageActorCritic
from tests.algorithms.policy_gradient.target import Target, parameters, pointer

EXACT = Config(damping=0.0, conjugate_gradient_iterations=50, standardize_advantages=False)
"""Nothing that is not in the equation."""


def one_step(policy: ActorCritic, trajectory: Trajectory, config: Config) -> natural_actor_critic.State:
    state = natural_actor_critic.init(policy, Target(), config)
    natural_actor_critic.update(state, prepare(trajectory, config), config)
    return state


def decisions(policy: ActorCritic, rows: int = 6, steps: int = 5) -> Trajectory:
    """Random decisions of `policy` on 3 numbers, a quarter of the places masked out."""
    observation = torch.randn(rows, steps, 3).to(next(policy.parameters()).dtype)
    action, log_prob, value, _ = policy.act(observation.flatten(0, 1))
    terminated, limited = torch.rand(2, rows, steps) < 0.2
    return Trajectory(
        observation=observation,
        action=action.unflatten(0, (rows, steps)),
        log_prob=log_prob.view(rows, steps),
        value=value.view(rows, steps),
        next_value=torch.randn(rows, steps).to(value.dtype),
        reward=torch.randn(rows, steps).to(value.dtype),
        discount=(~terminated).to(value.dtype),
        terminated=terminated,
        truncated=limited & ~terminated,
        mask=torch.rand(rows, steps) < 0.75,
    )


def test_advantages_and_targets_are_those_of_the_definition():
    """A terminated trace is cut and its last state worth nothing; a truncated one is cut alone."""
    t = decisions(ActorCritic(3, 3, (4,)))
    assert t.truncated[:, :-1].any()
    batch = prepare(t, Config(gamma=0.9, lambda_=0.8, standardize_advantages=False))
    due = torch.zeros(6, 5)
    for i in reversed(range(5)):
        delta = t.reward[:, i] + 0.9 * t.next_value[:, i] * ~t.terminated[:, i] - t.value[:, i]
        due[:, i] = delta + 0.72 * (due[:, i + 1] * ~t.done[:, i] if i < 4 else 0)
    torch.testing.assert_close(batch.advantage, due[t.mask])
    torch.testing.assert_close(batch.target, (due + t.value)[t.mask])


def test_the_step_is_the_inverse_of_the_fisher_matrix_times_the_gradient():
    """Against the matrix written down, from ∇log π of every action by its probability."""
    policy = ActorCritic(3, 3, (4,)).double()
    batch = prepare(decisions(policy), EXACT)
    config = dataclasses.replace(EXACT, damping=0.05, max_kl=0.01)
    state = natural_actor_critic.init(policy, Target(), config)
    actor = list(policy.actor.parameters())
    log_prob = policy.actor(batch.observation).log_softmax(-1)
    fisher = torch.zeros(len(state.weights), len(state.weights), dtype=torch.float64)
    for row in log_prob:
        for x in row:
            psi = flat_gradient(x, actor, retain_graph=True)
            fisher += x.exp().item() * torch.outer(psi, psi) / len(log_prob)
    chosen = log_prob.gather(1, batch.action[:, None]).squeeze(1)
    g = flat_gradient((chosen * batch.advantage).mean(), actor)
    x = torch.linalg.solve(fisher + 0.05 * torch.eye(len(g)), g)
    step, _ = natural_actor_critic.natural_step(state, batch, config)
    torch.testing.assert_close(step, (2 * 0.01 / (g @ x)).sqrt() * x, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("hidden", "products"), [((), 50), ((4,), 2)])
@pytest.mark.parametrize("head", [Gaussian(2), MultiCategorical([2, 3])], ids=repr)
def test_without_damping_a_small_step_makes_the_kl_that_is_asked_for(head, hidden, products):
    """½ xᵀFx is δ also where conjugate gradient ends early. Damping makes the KL smaller."""
    policy = ActorCritic(3, head, hidden).double()
    trajectory, kl = decisions(policy), {}
    for damping in (1e-9, 0.3):
        config = dataclasses.replace(EXACT, max_kl=1e-6, conjugate_gradient_iterations=products, damping=damping)
        state = natural_actor_critic.init(copy.deepcopy(policy), Target(), config)
        kl[damping] = natural_actor_critic.update(state, prepare(trajectory, config), config)["policy/kl"]
    assert kl[1e-9] == pytest.approx(1e-6, rel=0.02)
    assert kl[0.3] < 0.9e-6


def test_the_step_does_not_depend_on_how_the_policy_is_written_down():
    """A policy that sees the observation in other units and has weights to match takes the same step in policies.

    A plain gradient step does not.
    """
    policy = ActorCritic(3, Gaussian(2), ()).double()
    nn.init.normal_(policy.actor[0].weight)
    trajectory = decisions(policy)
    scale = torch.tensor([10.0, 0.1, 1.0]).double()
    other = copy.deepcopy(policy)
    other.actor[0].weight.data /= scale
    scaled = dataclasses.replace(trajectory, observation=trajectory.observation * scale)
    probe = torch.randn(20, 3).double()
    torch.testing.assert_close(other.actor(probe * scale), policy.actor(probe))
    plain = []
    for twin, record in ((copy.deepcopy(policy), trajectory), (copy.deepcopy(other), scaled)):
        batch = prepare(record, EXACT)
        loss = -natural_actor_critic.surrogate(twin, batch, EXACT)
        torch.optim.SGD(twin.actor.parameters(), lr=0.01).step(lambda loss=loss: loss.backward())
        plain.append(twin)
    config = dataclasses.replace(EXACT, max_kl=0.05)
    first, second = one_step(policy, trajectory, config).policy, one_step(other, scaled, config).policy
    assert not torch.allclose(plain[1].actor(probe * scale), plain[0].actor(probe), rtol=1e-3)
    torch.testing.assert_close(second.actor(probe * scale), first.actor(probe), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.head.log_std, first.head.log_std, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fisher", ["exact", "sampled"])
def test_log_std_is_in_the_vector_and_the_critic_is_not(fisher):
    policy = pointer()
    config = Config(fisher=fisher, epochs=1)
    state = natural_actor_critic.init(policy, Target(), config)
    assert len(state.weights) == sum(p.numel() for p in policy.actor.parameters()) + 1
    batch = prepare(Target().rollout(policy, 8), config)
    critic = [p.clone() for p in policy.critic.parameters()]
    step, _ = natural_actor_critic.natural_step(state, batch, config)
    before = policy.head.log_std.item()
    natural_actor_critic.move(state, batch, step, config)
    assert abs(policy.head.log_std.item() - before) > 1e-3
    assert all(map(torch.equal, critic, policy.critic.parameters()))
    actor = state.weights.clone()
    natural_actor_critic.fit_critic(state, batch, config)
    assert torch.equal(actor, state.weights)
    assert not any(map(torch.equal, critic, policy.critic.parameters()))


def test_a_step_does_not_see_what_the_mask_hides():
    policy = ActorCritic(3, Gaussian(2), (4,))
    t = decisions(policy)
    nothing = torch.full_like(t.reward, math.nan)
    spoiled = dataclasses.replace(
        t,
        observation=torch.where(t.mask[..., None], t.observation, math.nan),
        log_prob=torch.where(t.mask, t.log_prob, nothing),
        action=torch.where(t.mask[..., None], t.action, 77.0),
    )
    torch.manual_seed(0)
    due = parameters(one_step(copy.deepcopy(policy), t, Config()).policy)
    torch.manual_seed(0)
    assert all(map(torch.equal, due, parameters(one_step(copy.deepcopy(policy), spoiled, Config()).policy)))


def test_advantages_that_are_all_0_move_nothing():
    policy = ActorCritic(3, 2, (4,))
    state = natural_actor_critic.init(policy, Target(), EXACT)
    batch = prepare(decisions(policy), EXACT)
    batch = dataclasses.replace(batch, advantage=torch.zeros_like(batch.advantage))
    step, _ = natural_actor_critic.natural_step(state, batch, EXACT)
    assert (step == 0).all()


def test_a_number_that_is_none_stops_the_run_before_the_step():
    policy = pointer()
    t = Target().rollout(policy, 8)
    t.reward[0, 0] = math.nan
    before = parameters(policy)
    with pytest.raises(Diverged, match="step 0"):
        one_step(policy, t, Config())
    assert all(map(torch.equal, before, parameters(policy)))


@pytest.mark.parametrize("module", [natural_actor_critic, trpo])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fisher": "diagonal"}, "diagonal"),
        ({"max_kl": 0.0}, "max_kl is 0"),
        ({"fisher_every": 0}, "fisher_every is 0"),
        ({"conjugate_gradient_iterations": 0}, "conjugate_gradient_iterations is 0"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(module, settings, message, unchecked_types):
    with pytest.raises(InputError, match=message):
        module.init(pointer(), Target(), module.Config(**settings))


@pytest.mark.parametrize("module", [natural_actor_critic, trpo])
def test_a_policy_whose_actor_shares_layers_is_refused(module):
    with pytest.raises(InputError, match="ImageActorCritic"):
        module.init(ImageActorCritic((1, 36, 36), Gaussian(1)), Target(), module.Config())


def learn(module: ModuleType, policy: ActorCritic, world: Any, **settings: Any) -> None:
    torch.manual_seed(0)
    config = module.Config(**settings)
    for _ in module.train(module.init(policy, world, config), config):
        pass


def actor_without_log_std(policy: ActorCritic) -> nn.ModuleList:
    return nn.ModuleList([policy.actor])


def worst_first(trajectory: Trajectory, config: Config) -> natural_actor_critic.Batch:
    batch = prepare(trajectory, config)
    return dataclasses.replace(batch, advantage=-batch.advantage)


@pytest.mark.parametrize("module", [natural_actor_critic, trpo])
def test_it_learns_to_hit_a_target_and_broken_twins_do_not(module, monkeypatch, unchecked_types):
    """Deviation 1 costs 1 a step: above -0.5 the aim and log σ have both been learned."""

    def score(**settings: Any) -> float:
        torch.manual_seed(0)
        world = Target()
        learn(module, pointer(), world, **{"iterations": 20, "rollout": 32, "max_kl": 0.1, "epochs": 2} | settings)
        return sum(world.scores[-5:]) / 5

    assert score() > -0.5
    assert score(fisher="sampled") > -0.5
    broken = {"random agent": score(max_kl=1e-12)}
    with monkeypatch.context() as patch:
        patch.setattr(natural_actor_critic, "actor", actor_without_log_std)
        broken["log_std dropped"] = score()
    monkeypatch.setattr(module, "prepare", worst_first)
    broken["advantage flipped"] = score()
    assert all(x < -0.9 for x in broken.values()), broken


@pytest.mark.parametrize("module", [natural_actor_critic, trpo])
def test_it_learns_cartpole(module, monkeypatch, unchecked_types):
    """A random agent gets 22."""

    def score() -> float:
        torch.manual_seed(0)
        world = Runner("CartPole-v1", envs=8, seed=0)
        learn(
            module, ActorCritic(4, 2), world, iterations=14, rollout=128, max_kl=0.02, minibatch=256, learning_rate=3e-3
        )
        return sum(world.pop_returns()[-20:]) / 20

    assert score() > 100
    monkeypatch.setattr(module, "prepare", worst_first)
    assert score() < 30
