"""Deterministic policy gradient: its gradients against differences, its critic against a known slope; it learns."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from torch import Tensor

from operant.algorithms.temporal_difference import dpg
from operant.core.errors import Diverged, InputError
from operant.core.record import Trajectory
from operant.envs.runner import Runner
from operant.networks.linear import LinearActorCritic, linear

SEEN, ACTIONS = spaces.Box(-1, 1, (2,)), spaces.Box(-2, 2, (3,))
CONFIG = dpg.Config(tilings=2, across=3, gamma=0.9)


class Nowhere:
    def rollout(self, policy: Any, size: int) -> Trajectory:
        raise AssertionError("nothing is to be rolled out")


def started(config: dpg.Config = CONFIG, actions: spaces.Box = ACTIONS) -> dpg.State:
    """A state with random weights, in double precision."""
    policy = LinearActorCritic(SEEN, actions, config.tilings, config.across).double()
    state = dpg.init(policy, Nowhere(), config)
    for x in (policy.actor, policy.critic, state.weights):
        x.normal_()
    return state


def steps(policy: Any, rows: int = 8) -> Trajectory:
    """One step of `rows` environments; some end, some are cut, one begins anew."""
    observation, next_observation = torch.rand(2, rows, 1, 2, dtype=torch.float64) * 2 - 1
    terminated = torch.arange(rows).view(rows, 1) % 4 == 1
    return Trajectory(
        observation=observation,
        action=policy.choose(observation),
        log_prob=torch.zeros(rows, 1, dtype=torch.float64),
        value=policy.value(observation),
        next_value=policy.value(next_observation),
        reward=torch.randn(rows, 1, dtype=torch.float64),
        discount=(~terminated).double(),
        terminated=terminated,
        truncated=torch.arange(rows).view(rows, 1) % 4 == 2,
        mask=torch.arange(rows).view(rows, 1) != 5,
    )


def critic(state: dpg.State, w: Tensor, v: Tensor, observation: Any, action: Tensor) -> Tensor:
    """Q(s, a) = v(s) + (a - μ(s))ᵀ ∇_θ μ(s)ᵀ w, with ∇_θ μ by autograd and not by what it is for tiles."""
    policy, rows = state.policy, []
    for s, a in zip(observation, action, strict=True):
        theta = policy.actor.clone().requires_grad_()
        mean = linear(theta, policy.features(s))
        jacobian = torch.stack([torch.autograd.grad(m, theta, retain_graph=True)[0] for m in mean])
        apart = (a - policy.center) / policy.scale - mean.detach()
        rows.append(linear(v, policy.features(s)) + apart @ (jacobian * w).sum((1, 2)))
    return torch.stack(rows)


def test_the_actor_climbs_the_critic_s_value_of_what_it_does():
    """Its step is ∇_θ Q(s, μ_θ(s)), by differences in every parameter, with Q held fixed."""
    state = started()
    policy, t = state.policy, steps(state.policy)
    fixed, seen = policy.actor.clone(), t.observation[t.mask]

    def objective() -> float:
        x = policy.features(seen)
        apart = linear(policy.actor, x) - linear(fixed, x)
        return (linear(policy.critic, x) + (apart * linear(state.weights, x)).sum(-1)).sum().item()

    due = torch.zeros_like(policy.actor)
    for i in range(policy.actor.numel()):
        ends = []
        for h in (1e-5, -1e-5):
            policy.actor.view(-1)[i] += h
            ends.append(objective())
            policy.actor.copy_(fixed)
        due.view(-1)[i] = (ends[0] - ends[1]) / 2e-5
    dpg.update(state, t, dataclasses.replace(CONFIG, actor_step=0.1))
    assert (due != 0).any()
    torch.testing.assert_close((policy.actor - fixed) * CONFIG.tilings / 0.1, due, rtol=1e-6, atol=1e-8)


def test_the_critic_follows_the_semi_gradient_of_its_compatible_features():
    """δ ∇Q(s, a) with Q by autograd; the next value counts after a truncation and not after an end."""
    state = started()
    policy, t = state.policy, steps(state.policy)
    w, v = state.weights.clone().requires_grad_(), policy.critic.clone().requires_grad_()
    action_value = critic(state, w, v, t.observation[t.mask], t.action[t.mask])
    following = torch.where(t.terminated, 0.0, t.next_value)[t.mask]
    delta = t.reward[t.mask] + 0.9 * following - action_value.detach()
    due = torch.autograd.grad((delta * action_value).sum(), [w, v])
    before = state.weights.clone(), policy.critic.clone()
    shown = dpg.update(state, t, dataclasses.replace(CONFIG, advantage_step=0.2, value_step=0.4))
    torch.testing.assert_close((state.weights - before[0]) * CONFIG.tilings / 0.2, due[0])
    torch.testing.assert_close((policy.critic - before[1]) * CONFIG.tilings / 0.4, due[1])
    torch.testing.assert_close(shown, torch.stack([0.5 * delta**2, action_value.detach()]))


def test_a_reset_step_teaches_nothing():
    state = started()
    t = steps(state.policy)
    nonsense = torch.where(t.mask, 0.0, 1e6)
    spoiled = dataclasses.replace(t, reward=t.reward + nonsense, next_value=t.next_value - nonsense)
    weights = []
    for record in (t, spoiled):
        torch.manual_seed(0)
        twin = started()
        dpg.update(twin, record, CONFIG)
        weights.append([twin.policy.actor.clone(), twin.policy.critic.clone(), twin.weights])
    assert all(map(torch.equal, *weights))


def test_the_units_of_actions_do_not_matter():
    """The same world with actions in [10, 11] in place of [-2, 2] teaches the same."""
    learned = []
    for actions in (ACTIONS, spaces.Box(10, 11, (3,))):
        torch.manual_seed(0)
        state = started(actions=actions)
        dpg.update(state, steps(state.policy), CONFIG)
        learned.append([state.policy.actor.clone(), state.weights])
    torch.testing.assert_close(learned[0], learned[1])


def test_the_critic_s_slope_becomes_that_of_the_true_value(unchecked_types):
    """r = -(a - x)², one step: ∇_a Q at μ is -2 (μ - x), without the noise in it (theorem 3)."""
    config = dataclasses.replace(CONFIG, actor_step=0.0, advantage_step=0.05, value_step=0.05, tilings=1, across=1)
    policy = LinearActorCritic(SEEN, spaces.Box(-1, 1, (1,)), 1, 1)
    state = dpg.init(policy, Nowhere(), config)
    policy.actor.fill_(0.3)
    for i in range(400):
        share = 1 / (i + 20)
        fading = dataclasses.replace(config, advantage_step=share, value_step=share)
        observation = torch.full((32, 1, 2), 0.5)
        action = policy.choose(observation)
        t = Trajectory(
            observation=observation,
            action=action,
            log_prob=torch.zeros(32, 1),
            value=policy.value(observation),
            next_value=torch.full((32, 1), 1e3),
            reward=-(action.squeeze(-1) - 0.7).square(),
            discount=torch.zeros(32, 1),
            terminated=torch.ones(32, 1, dtype=torch.bool),
            truncated=torch.zeros(32, 1, dtype=torch.bool),
            mask=torch.ones(32, 1, dtype=torch.bool),
        )
        dpg.update(state, t, fading)
    assert linear(state.weights, policy.features(torch.full((2,), 0.5))).item() == pytest.approx(0.8, abs=0.08)


class Slide(gymnasium.Env):
    """A place in [-1, 1], moved by up to 0.2 a step and pushed outwards; a step costs the square of the place."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-3, 3, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.time = self.np_random.uniform(-1, 1), 0
        return np.array([self.place], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = float(np.clip(1.1 * self.place + 0.2 * action[0] / 3, -1, 1))
        self.time += 1
        return np.array([self.place], np.float32), -(self.place**2), False, self.time == 20, {}


def test_it_learns_to_hold_a_place_and_broken_twins_do_not(monkeypatch, unchecked_types):
    def score(**settings: Any) -> float:
        """Mean return of the greedy policy after 6,400 steps."""
        torch.manual_seed(0)
        world = Runner(SyncVectorEnv([Slide] * 16), seed=0)
        config = dpg.Config(**{"steps": 6400, "gamma": 0.9, "actor_step": 0.05} | settings)
        state = dpg.init(LinearActorCritic(Slide.observation_space, Slide.action_space), world, config)
        for _ in dpg.train(state, config):
            pass
        test = Runner(SyncVectorEnv([Slide] * 32), seed=10_000)
        test.rollout(state.policy, 20, greedy=True)
        return float(np.mean(test.pop_returns()))

    assert score() > -3
    broken = {
        "random agent": score(actor_step=0.0),
        "down the slope": score(actor_step=-0.05),
        "no slope": score(advantage_step=0.0),
    }
    assert all(x < -10 for x in broken.values()), broken


def test_a_number_that_is_none_stops_the_run_before_the_step():
    state = started()
    t = steps(state.policy)
    t.reward[0, 0] = torch.nan
    before = state.policy.actor.clone()
    with pytest.raises(Diverged, match="step 0"):
        dpg.update(state, t, CONFIG)
    assert torch.equal(before, state.policy.actor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tilings": 3}, "tilings is 3"), ({"exploration": 0.0}, "exploration is 0"), ({"report_every": 0}, "report_e")],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    policy = LinearActorCritic(SEEN, ACTIONS, CONFIG.tilings, CONFIG.across)
    with pytest.raises(InputError, match=message):
        dpg.init(policy, Nowhere(), dataclasses.replace(CONFIG, **settings))
