"""DQN: its targets are those of the papers, it learns, and broken twins do not."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant.algorithms.temporal_difference import dqn
from operant.core.errors import InputError
from operant.core.record import Transition
from operant.networks.action_values import q_network
from tests.algorithms.temporal_difference.environments import Constant, Corridor, greedy_return, world

CORRIDOR = dqn.Config(
    steps=600, report_every=200, capacity=1000, learning_starts=100, train_every=8, gradient_steps=4, batch=32,
    learning_rate=1e-2, gamma=0.9, target_every=24, epsilon_end=0.3, epsilon_steps=600,
)  # fmt: skip
EXTENSIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "duelling": {"duelling": True},
    "three steps": {"n_step": 3},
    "prioritised": {"prioritised": True},
    "slow target": {"target_every": 8, "tau": 0.3},
}


def start(config: dqn.Config, make: Any = Corridor, envs: int = 1, **settings: Any) -> dqn.State:
    torch.manual_seed(0)
    runner = world(make, envs, **settings)
    spaces_ = runner.env.single_observation_space, runner.env.single_action_space
    return dqn.init(q_network(*spaces_, (32,), config.duelling), runner, config)


def learned(config: dqn.Config, make: Any = Corridor, **settings: Any) -> dqn.State:
    state = start(config, make, **settings)
    for _ in dqn.train(state, config):
        pass
    return state


def never(*_: Any) -> None:
    """A target network that is left as it is."""


def bootstrapping_always(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    return reward + 0.9 * next_value


class TestLearning:
    """Going right pays 1, going left 0.2: more than a network believes that has not heard of the far end."""

    @pytest.mark.parametrize("name", EXTENSIONS)
    def test_it_walks_to_the_far_end(self, name, unchecked_types):
        assert greedy_return(Corridor, learned(dataclasses.replace(CORRIDOR, **EXTENSIONS[name])).policy) == 1

    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
    def test_it_does_so_in_four_environments_of_any_kind(self, mode, unchecked_types):
        config = dataclasses.replace(CORRIDOR, steps=1200)
        assert greedy_return(Corridor, learned(config, envs=4, mode=mode).policy) == 1

    def test_a_random_agent_and_broken_twins_do_not(self, monkeypatch, unchecked_types):
        state = learned(dataclasses.replace(CORRIDOR, epsilon_end=1.0, learning_starts=10_000))
        returns = state.world.pop_returns()
        assert np.mean(returns) < 0.5
        with monkeypatch.context() as patch:
            patch.setattr(dqn, "move_towards", never)
            assert greedy_return(Corridor, learned(CORRIDOR).policy) < 0.5
        with monkeypatch.context() as patch:
            patch.setattr(
                dqn, "td_target", lambda reward, discount, value: bootstrapping_always(-reward, discount, value)
            )
            assert greedy_return(Corridor, learned(CORRIDOR).policy) < 0.5


class TestEnds:
    """Always 1 a step with γ = 0.8: worth 5 for ever, and less where five steps are all there is."""

    config = dataclasses.replace(
        CORRIDOR, steps=800, gamma=0.8, learning_rate=2e-2, target_every=16, huber_threshold=float("inf")
    )

    def value(self, terminates: bool, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> float:
        state = learned(self.config, lambda: Constant(spaces.Discrete(2), terminates), mode=mode)
        return state.policy(torch.ones(1, 1)).mean().item()

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_a_truncated_episode_is_worth_what_would_have_come(self, mode, unchecked_types):
        assert self.value(False, mode) == pytest.approx(5, abs=0.2)

    def test_a_terminated_one_is_not(self, monkeypatch, unchecked_types):
        """All steps look alike, and one of five is the last: v = 1 + 0.8 · 4/5 v = 2.8."""
        assert self.value(True) == pytest.approx(1 / (1 - 0.8 * 0.8), abs=0.3)
        monkeypatch.setattr(dqn, "td_target", lambda reward, discount, value: reward + 0.8 * value)
        assert self.value(True) > 4


def batch_of(size: int = 7, actions: int = 3, seed: int = 1) -> Transition:
    g = torch.Generator().manual_seed(seed)
    return Transition(
        observation=torch.randn(size, 4, generator=g),
        action=torch.randint(actions, (size,), generator=g),
        reward=5 * torch.randn(size, generator=g),
        discount=0.9 * (torch.rand(size, generator=g) < 0.7),
        next_observation=torch.randn(size, 4, generator=g),
    )


class TestLoss:
    def state(self, config: dqn.Config) -> dqn.State:
        """Online and target network differ."""
        torch.manual_seed(0)
        space = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(3)
        state = dqn.init(q_network(*space, hidden=(8,)), world(Corridor), config)
        with torch.no_grad():
            state.target_parameters += torch.randn(state.target_parameters.shape)
        return state

    @pytest.mark.parametrize("double", [False, True])
    def test_is_that_of_the_papers_row_by_row(self, double):
        config = dqn.Config(double=double, huber_threshold=0.5)
        state, batch = self.state(config), batch_of()
        target_value = state.target(batch.next_observation)
        error, value, target = dqn.loss(state, batch, target_value, config)
        chosen = set()
        for i in range(7):
            after = batch.next_observation[i]
            chooser = state.policy(after) if double else state.target(after)
            best = int(chooser.argmax())
            chosen.add(best == int(state.target(after).argmax()))
            due = batch.reward[i] + batch.discount[i] * state.target(after)[best]
            now = state.policy(batch.observation[i])[batch.action[i]]
            torch.testing.assert_close(target[i], due)
            torch.testing.assert_close(value[i], now.detach())
            delta = abs((now - due).item())
            assert error[i].item() == pytest.approx(0.5 * delta**2 if delta < 0.5 else 0.5 * (delta - 0.25), rel=1e-4)
        assert (False in chosen) is double  # the two networks disagree somewhere, or the test would see nothing

    @pytest.mark.parametrize("double", [False, True])
    def test_no_gradient_goes_through_the_target(self, double):
        config = dqn.Config(double=double)
        state, batch = self.state(config), batch_of()
        error, _, target = dqn.loss(state, batch, state.target(batch.next_observation).detach(), config)
        own = torch.autograd.grad(error.sum(), state.parameters)
        value = state.policy(batch.observation).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        alone = dqn.huber_loss(value, target)
        due = torch.autograd.grad(alone.sum(), state.parameters)
        torch.testing.assert_close(own, due)


class TestTarget:
    def distance(self, state: dqn.State) -> float:
        return (state.parameters - state.target_parameters).abs().max().item()

    def test_is_a_copy_every_so_many_steps_and_stands_still_between(self):
        config = dataclasses.replace(
            CORRIDOR, steps=200, report_every=4, train_every=4, target_every=20, learning_starts=4
        )
        state = start(config)
        before, copies = state.target_parameters.clone(), []
        online = state.parameters.clone()
        for _ in dqn.train(state, config):
            if not torch.equal(state.target_parameters, before):
                assert torch.equal(state.target_parameters, online)  # what was learned by the step before
                copies.append(state.step)
            before, online = state.target_parameters.clone(), state.parameters.clone()
        assert copies == list(range(20, 201, 20))

    def test_follows_slowly_with_tau(self):
        config = dataclasses.replace(
            CORRIDOR, train_every=4, target_every=4, report_every=4, steps=40, learning_starts=4, tau=0.25
        )
        state = start(config)
        steps = dqn.train(state, config)
        for _ in range(5):
            next(steps)
        due = 0.75 * state.target_parameters + 0.25 * state.parameters
        next(steps)
        torch.testing.assert_close(state.target_parameters.detach(), due.detach())

    @pytest.mark.parametrize(("target_every", "due"), [(1, [16] * 3), (5, [3, 3, 3]), (12, [1, 1, 2]), (48, [0, 0, 1])])
    def test_makes_all_moves_that_are_due_in_a_burst(self, target_every, due):
        config = dataclasses.replace(
            CORRIDOR, train_every=16, report_every=16, steps=48, learning_starts=16, target_every=target_every, tau=0.2
        )
        state = start(config)
        steps = dqn.train(state, config)
        for moves in due:
            expected, online = state.target_parameters.detach().clone(), state.parameters.detach().clone()
            for _ in range(moves):
                expected += 0.2 * (online - expected)
            next(steps)
            torch.testing.assert_close(state.target_parameters.detach(), expected)

    def test_many_minibatches_at_once_are_the_same_as_one_by_one(self, monkeypatch):
        config = dataclasses.replace(CORRIDOR, steps=200, gradient_steps=7, double=True)
        together = learned(config).parameters.detach().clone()
        monkeypatch.setattr(dqn, "TOGETHER", 1)
        torch.testing.assert_close(learned(config).parameters.detach(), together)


class TestExploration:
    @pytest.mark.parametrize("envs", [1, 4])
    def test_the_schedule_is_in_steps_of_all_environments(self, envs):
        config = dataclasses.replace(
            CORRIDOR, steps=1000, report_every=200, learning_starts=900, epsilon_end=0.0, epsilon_steps=800
        )
        state = start(config, envs=envs)
        shown = [round(m["exploration/epsilon"], 6) for m in dqn.train(state, config)]
        assert shown == [0.75, 0.5, 0.25, 0, 0]
        assert state.world.steps * envs == state.step == 1000

    @pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
    def test_a_share_epsilon_of_actions_is_random_and_the_rest_greedy(self, epsilon):
        config = dataclasses.replace(CORRIDOR, epsilon_start=epsilon, epsilon_end=epsilon)
        state = start(config, envs=4)
        choose = dqn.epsilon_greedy(state, config, 1000)
        seen = np.random.default_rng(0).standard_normal((1000, 4, 6)).astype(np.float32)
        actions = np.stack([choose(x, t) for t, x in enumerate(seen)])
        greedy = state.policy.choose(torch.from_numpy(seen)).numpy()
        assert (actions != greedy).mean() == pytest.approx(epsilon / 2, abs=0.03)  # half of two actions are greedy

    def test_epsilon_goes_on_within_a_stretch_of_steps(self):
        config = dataclasses.replace(CORRIDOR, epsilon_end=0.0, epsilon_steps=8000)
        state = start(config, envs=4)
        state.step = 2000
        choose = dqn.epsilon_greedy(state, config, 1500)
        seen = np.random.default_rng(0).standard_normal((1500, 4, 6)).astype(np.float32)
        actions = np.stack([choose(x, t) for t, x in enumerate(seen)])
        other = actions != state.policy.choose(torch.from_numpy(seen)).numpy()
        share = other.reshape(3, 2000).mean(1)  # half of what epsilon is on average over each third
        np.testing.assert_allclose(share, [0.3125, 0.1875, 0.0625], atol=0.03)

    def test_before_learning_starts_nothing_is_learned(self):
        config = dataclasses.replace(CORRIDOR, steps=200, learning_starts=144, report_every=48)
        state = start(config)
        before = state.parameters.clone()
        shown = []
        for metrics in dqn.train(state, config):
            shown.append((state.step, "loss/value" in metrics, torch.equal(before, state.parameters)))
        assert shown == [
            (48, False, True),
            (96, False, True),
            (144, True, False),
            (192, True, False),
            (200, True, False),
        ]


class TestPriorities:
    config = dataclasses.replace(CORRIDOR, prioritised=True, priority_alpha=1.0, gradient_steps=1)

    def state(self) -> dqn.State:
        """One that remembers 40 transitions, with priorities from 1 to 40."""
        state = start(self.config)
        state.world.collect(dqn.epsilon_greedy(state, self.config, 40), state.replay, 40)
        state.replay.update(np.arange(40), 1.0 + torch.arange(40))
        return state

    def of(self, state: dqn.State, rows: np.ndarray) -> np.ndarray:
        return state.replay.tree[state.replay.leaves + rows]

    def test_are_the_errors_of_what_was_drawn(self):
        state = self.state()
        torch.manual_seed(1)
        batch, rows, _ = dqn.draw(state, self.config.batch, self.config)
        _, value, target = dqn.loss(state, batch, state.target(batch.next_observation).detach(), self.config)
        torch.manual_seed(1)
        dqn.update(state, self.config)
        np.testing.assert_allclose(self.of(state, rows), (target - value).abs() + 1e-6, rtol=1e-5)

    @pytest.mark.parametrize(("step", "beta"), [(0, 0.4), (300, 0.7), (600, 1.0), (700, 1.0)])
    def test_their_bias_is_corrected_more_and_more_until_the_run_ends(self, step, beta):
        state = self.state()
        state.step = step
        _, rows, weight = dqn.draw(state, 20, self.config)
        assert weight is not None
        np.testing.assert_allclose(weight, (self.of(state, rows) / self.of(state, rows).min()) ** -beta, rtol=1e-5)


def test_the_run_ends_at_its_steps_exactly_and_learns_as_often_as_asked(monkeypatch):
    config = dataclasses.replace(CORRIDOR, steps=110, report_every=30, learning_starts=20, train_every=8)
    state, updates = start(config, envs=2), []
    update = dqn.update
    monkeypatch.setattr(dqn, "update", lambda state, config: updates.append(state.step) or update(state, config))
    stops = [state.step for _ in dqn.train(state, config)]
    assert stops == [32, 64, 96, 110]
    assert updates == [*range(24, 105, 8), 110]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_every": 4}, r"train_every 4 .* 3 environments"),
        ({"tau": 0.0}, r"tau 0\.0"),
        *(
            ({name: wrong}, f"{name} is {wrong}: give a whole number, 1 or more")
            for name in ("report_every", "train_every", "gradient_steps", "batch", "target_every", "epsilon_steps")
            for wrong in (0, -3)
        ),
        *(({name: wrong}, f"{name} is") for name in ("epsilon_start", "epsilon_end") for wrong in (-0.1, 1.5)),
        *(({"huber_threshold": wrong}, "huber_threshold is") for wrong in (0.0, -1.0, float("nan"))),
        ({"priority_alpha": 0.5}, r"priority_alpha 0\.5 .* switch prioritised on"),
        ({"priority_beta": 0.5}, r"priority_beta 0\.5 .* switch prioritised on"),
        ({"priority_epsilon": 0.5}, r"priority_epsilon 0\.5 .* switch prioritised on"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        start(dataclasses.replace(CORRIDOR, **{"train_every": 3} | settings), envs=3)


@pytest.mark.parametrize(
    "settings",
    [
        {"huber_threshold": float("inf")},
        {"epsilon_start": 0.0, "epsilon_end": 0.0},
        {"prioritised": True, "priority_alpha": 0.5, "priority_beta": 0.5, "priority_epsilon": 0.5},
    ],
)
def test_settings_at_the_edge_are_not(settings):
    start(dataclasses.replace(CORRIDOR, **settings))


def test_a_network_that_is_not_the_one_of_the_settings_is_refused():
    network, settings = start(CORRIDOR).policy, dataclasses.replace(CORRIDOR, duelling=True)
    with pytest.raises(InputError, match="duelling is True and the network's is False"):
        dqn.init(network, world(Corridor), settings)
