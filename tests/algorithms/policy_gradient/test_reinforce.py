"""REINFORCE: its mean gradient is that of the expected return, exactly, and it learns where broken twins do not."""

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import reinforce
from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic

GAMMA = 0.8
PATHS = list(itertools.product((0, 1), repeat=3))
REWARD = {path[:k]: torch.randn((), generator=torch.Generator().manual_seed(k * 8 + sum(path) * 3)) for path in PATHS
          for k in range(1, 4)}  # fmt: skip
PLAIN = reinforce.Config(
    gamma=GAMMA, baseline="none", discount_states=True, standardize_returns=False, value_coefficient=0.0
)


def tree() -> Trajectory:
    """Every sequence of three choices, [8, 3]; what is seen is what was chosen so far, and a reward follows each."""
    seen = torch.zeros(8, 3, 7)
    for row, path in enumerate(PATHS):
        for t in range(3):
            seen[row, t, 2**t - 1 + int("0" + "".join(map(str, path[:t])), 2)] = 1
    over = torch.tensor([[False, False, True]]).expand(8, 3)
    unknown = torch.full((8, 3), torch.nan)
    return Trajectory(
        observation=seen,
        action=torch.tensor(PATHS),
        log_prob=unknown,
        value=unknown,
        next_value=unknown,
        reward=torch.tensor([[REWARD[path[: t + 1]] for t in range(3)] for path in PATHS]),
        discount=(~over).float(),
        terminated=over,
        truncated=torch.zeros(8, 3, dtype=torch.bool),
        mask=torch.ones(8, 3, dtype=torch.bool),
    )


def small() -> Any:
    """A policy whose parameters are tensors of their own."""
    return copy.deepcopy(ActorCritic(7, 2, (5,)))


def chances(policy: Any, t: Trajectory) -> Tensor:
    """The probability of each sequence."""
    return policy.evaluate(t.observation, t.action).log_prob.sum(-1).exp()


def expected_gradient(policy: Any, t: Trajectory, config: reinforce.Config) -> list[Tensor]:
    """Of the loss of one episode, over all that may happen."""
    losses = torch.stack([reinforce.loss(policy, t[row : row + 1], config)[0] for row in range(8)])
    return list(torch.autograd.grad((chances(policy, t).detach() * losses).sum(), list(policy.actor.parameters())))


def exact_gradient(policy: Any, t: Trajectory) -> list[Tensor]:
    """Of minus the expected discounted return."""
    returns = (t.reward * GAMMA ** torch.arange(3)).sum(-1)
    return list(torch.autograd.grad(-(chances(policy, t) * returns).sum(), list(policy.actor.parameters())))


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        dataclasses.replace(PLAIN, baseline="value"),
        dataclasses.replace(PLAIN, reward_to_go=False, discount_states=False),
        dataclasses.replace(PLAIN, reward_to_go=False, discount_states=False, baseline="value"),
    ],
    ids=["reward to go", "with a baseline", "whole return", "whole return with a baseline"],
)
def test_the_mean_gradient_is_that_of_the_expected_return(config):
    """Williams 1992, theorem 1, with the sum over all episodes in place of a sample."""
    policy = small()
    policy.actor[-1].weight.data.mul_(100)
    t = tree()
    torch.testing.assert_close(expected_gradient(policy, t, config), exact_gradient(policy, t))


def test_without_the_discount_of_states_it_is_another_gradient():
    policy = small()
    t = tree()
    practice = expected_gradient(policy, t, dataclasses.replace(PLAIN, discount_states=False))
    assert (practice[-1] - exact_gradient(policy, t)[-1]).abs().max() > 0.01


def test_a_baseline_makes_the_gradient_less_noisy(unchecked_types):
    policy = small()
    t = dataclasses.replace(tree(), reward=tree().reward + 5)
    optimizer = torch.optim.Adam(policy.critic.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        reinforce.loss(policy, t, dataclasses.replace(PLAIN, baseline="value", value_coefficient=1.0))[0].backward()
        optimizer.step()

    def noise(config: reinforce.Config) -> float:
        losses = [reinforce.loss(policy, t[row : row + 1], config)[0] for row in range(8)]
        bias = policy.actor[-1].bias
        each = torch.stack([torch.autograd.grad(x, bias, retain_graph=True)[0] for x in losses])
        return each.var(0).sum().item()

    assert noise(dataclasses.replace(PLAIN, baseline="value")) < 0.2 * noise(PLAIN)


def test_standardised_returns_do_not_depend_on_the_scale_of_rewards():
    policy = small()
    t = tree()
    config = dataclasses.replace(PLAIN, standardize_returns=True)
    scaled = dataclasses.replace(t, reward=1000 * t.reward)
    torch.testing.assert_close(reinforce.loss(policy, scaled, config)[0], reinforce.loss(policy, t, config)[0])


def test_padding_is_not_learned_from():
    policy = small()
    t = tree()
    rest = t.map(lambda x: torch.full_like(x, 77) if x.is_floating_point() else x)
    rest = dataclasses.replace(rest, mask=torch.zeros_like(t.mask), terminated=torch.zeros_like(t.mask))
    fields = [f.name for f in dataclasses.fields(Trajectory)]
    padded = Trajectory(**{name: torch.cat([getattr(t, name), getattr(rest, name)], 1) for name in fields})
    for config in (PLAIN, reinforce.Config()):
        torch.testing.assert_close(reinforce.loss(policy, padded, config), reinforce.loss(policy, t, config))


@pytest.mark.parametrize(("truncates", "standing"), [(True, 10.0), (False, 4.1)])
def test_a_limit_of_time_is_no_end_of_the_world(truncates, standing, constant, unchecked_types):
    """Reward 1 for ever is worth 1 / (1 - γ); taken for a termination it is worth the mean of 1, 1.9, 2.71, ..."""
    policy = ActorCritic(1, 2, (8,))
    config = reinforce.Config(steps=15_000, gamma=0.9, learning_rate=0.05)
    for _ in reinforce.train(reinforce.init(policy, constant(truncates), config), config):
        pass
    assert policy.value(torch.ones(1)).item() == pytest.approx(standing, abs=0.35)


def test_what_cannot_be_meant_is_refused(unchecked_types):
    refused: list[tuple[dict[str, Any], str]] = [
        ({"baseline": "mean"}, 'baseline is "none" or "value"'),
        ({"discount_states": True, "reward_to_go": False}, "discount_states goes with reward_to_go"),
        ({"baseline": "none", "value_coefficient": 0.9}, r"value_coefficient 0\.9 .* baseline"),
    ]
    for changes, message in refused:
        with pytest.raises(InputError, match=message):
            reinforce.init(ActorCritic(4, 2), Runner("CartPole-v1", envs=2), reinforce.Config(**changes))


def test_steps_are_decisions_of_whole_episodes_and_not_what_is_played_meanwhile(unchecked_types):
    torch.manual_seed(0)
    world, lengths = Runner("CartPole-v1", envs=8, seed=0), []
    state = reinforce.init(ActorCritic(4, 2), world, config := reinforce.Config(steps=1))
    for _ in reinforce.train(state, config):
        lengths += world.pop_lengths()
    assert len(lengths) == 8
    assert state.step == sum(lengths) < 8 * max(lengths) <= 8 * world.steps


def test_the_step_size_goes_down_to_0_over_the_steps_of_the_run(unchecked_types):
    config = reinforce.Config(steps=300, learning_rate=0.1)
    state, before, updates = reinforce.init(ActorCritic(4, 2), Runner("CartPole-v1", envs=2), config), 0, 0
    for _ in reinforce.train(state, config):
        assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 - before / 300))
        before, updates = state.step, updates + 1
    assert updates > 2


def learn(seed: int = 0, spoil: Any = None, **settings: Any) -> float:
    """Mean return of the last 30 episodes on CartPole."""
    torch.manual_seed(seed)
    policy, world = ActorCritic(4, 2), Runner("CartPole-v1", envs=8, seed=seed)
    config = dataclasses.replace(reinforce.Config(steps=25_000), **settings)
    state = reinforce.init(policy, world, config)
    if spoil is not None:
        episodes = world.episodes
        state.world.episodes = lambda policy: spoil(episodes(policy))  # pyright: ignore[reportAttributeAccessIssue]
    found = []
    for _ in reinforce.train(state, config):
        found += world.pop_returns()
    return sum(found[-30:]) / 30


def flipped(t: Trajectory) -> Trajectory:
    return dataclasses.replace(t, reward=-t.reward, value=-t.value, next_value=-t.next_value)


def unmasked(t: Trajectory) -> Trajectory:
    """What follows an episode counts as a part of it."""
    return dataclasses.replace(t, mask=torch.ones_like(t.mask), discount=torch.ones_like(t.discount),
                               terminated=torch.zeros_like(t.mask), truncated=torch.zeros_like(t.mask))  # fmt: skip


@pytest.mark.parametrize("baseline", ["none", "value"])
def test_it_learns_cartpole_and_broken_twins_do_not(baseline, unchecked_types):
    threshold = 120.0
    assert learn(baseline=baseline) > threshold
    small = {"baseline": baseline, "steps": 8_000}
    broken = {
        "random agent": learn(learning_rate=0.0, **small),
        "return flipped": learn(spoil=flipped, **small),
        "mask ignored": learn(spoil=unmasked, **small),
    }
    assert all(score < 0.6 * threshold for score in broken.values()), broken
