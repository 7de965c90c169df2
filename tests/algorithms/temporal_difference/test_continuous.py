"""DDPG, TD3 and SAC: targets and gradients of the papers, ends of episodes, noise, and learning with broken twins."""

import dataclasses
import math
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant.algorithms.temporal_difference import ddpg, sac, td3
from operant.core.errors import InputError
from operant.core.record import Transition
from operant.networks.continuous import deterministic_actor_critic, soft_actor_critic
from tests.algorithms.temporal_difference.environments import Constant, Reach, greedy_return, world

SEEN, BOX = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(np.float32([-3, -0.4]), np.float32([3, 1.0]))
REACH: dict[str, Any] = {
    "steps": 900, "report_every": 300, "capacity": 2000, "learning_starts": 200, "train_every": 4, "gradient_steps": 2,
    "batch": 48, "actor_learning_rate": 5e-3, "critic_learning_rate": 5e-3, "gamma": 0.8, "tau": 0.1,
}  # fmt: skip
CONFIGS: dict[ModuleType, Any] = {
    ddpg: ddpg.Config(**REACH, noise=0.3),
    td3: td3.Config(**REACH, noise=0.3),
    sac: sac.Config(**REACH, alpha=0.05),
}
ALL = pytest.mark.parametrize("algorithm", list(CONFIGS), ids=lambda x: x.__name__.rpartition(".")[2])


def network(algorithm: ModuleType, seen: Any, actions: Any, hidden: tuple[int, ...] = (16,)) -> Any:
    if algorithm is sac:
        return soft_actor_critic(seen, actions, hidden)
    return deterministic_actor_critic(seen, actions, hidden, critics=2 if algorithm is td3 else 1)


def start(algorithm: ModuleType, config: Any, make: Any = Reach, envs: int = 1, **settings: Any) -> Any:
    torch.manual_seed(0)
    runner = world(make, envs, **settings)
    fitting = network(algorithm, runner.env.single_observation_space, runner.env.single_action_space, (32,))
    return algorithm.init(fitting, runner, config)


def learned(algorithm: ModuleType, config: Any, make: Any = Reach, **settings: Any) -> Any:
    state = start(algorithm, config, make, **settings)
    for _ in algorithm.train(state, config):
        pass
    return state


class Middle(gymnasium.Env[Any, Any]):
    """Nothing to see; actions in the box ±`half` are paid for being near its middle, over five steps."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, half: float) -> None:
        self.half, self.action_space = half, spaces.Box(-half, half, (1,), np.float32)

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=settings.get("seed"))
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), -float((action[0] / self.half) ** 2), False, self.steps == 5, {}


@ALL
class TestLearning:
    """A point is pushed to 0 by a box whose middle is not 0. Standing still pays -8, the best about -1.5."""

    def test_it_pushes_the_point_home_and_a_random_agent_does_not(self, algorithm, unchecked_types):
        state = learned(algorithm, CONFIGS[algorithm])
        assert greedy_return(Reach, state.policy) > -3
        random = learned(algorithm, dataclasses.replace(CONFIGS[algorithm], learning_starts=10_000))
        assert np.mean(random.world.pop_returns()) < -6

    def test_broken_twins_do_not(self, algorithm, unchecked_types, monkeypatch):
        with monkeypatch.context() as patch:
            loss = algorithm.actor_loss
            if algorithm is sac:
                patch.setattr(sac, "actor_loss", lambda *given: (-(found := loss(*given))[0], *found[1:]))
            else:
                patch.setattr(algorithm, "actor_loss", lambda *given: -loss(*given))
            assert greedy_return(Reach, learned(algorithm, CONFIGS[algorithm]).policy) < -6
        with monkeypatch.context() as patch:
            patch.setattr(algorithm, "td_target", lambda reward, discount, value: -reward + discount * value)
            assert greedy_return(Reach, learned(algorithm, CONFIGS[algorithm]).policy) < -6


@ALL
class TestEnds:
    """Always 1 a step with γ = 0.8: worth 5 for ever, and 2.8 where one step of five is the last."""

    def value(self, algorithm: ModuleType, terminates: bool, **settings: Any) -> float:
        config = dataclasses.replace(CONFIGS[algorithm], steps=600, critic_learning_rate=2e-2, tau=0.3)
        if algorithm is sac:
            config = dataclasses.replace(config, alpha=1e-4)
        state = learned(algorithm, config, lambda: Constant(spaces.Box(-1, 1, (1,)), terminates), **settings)
        return state.policy.critics(torch.ones(1, 1), torch.zeros(1, 1))[0].item()

    def test_a_truncated_episode_is_worth_what_would_have_come(self, algorithm, unchecked_types):
        """With a reset step after every end, which must not be stored."""
        assert self.value(algorithm, False, mode=AutoresetMode.NEXT_STEP) == pytest.approx(5, abs=0.4)

    def test_a_terminated_one_is_not(self, algorithm, unchecked_types, monkeypatch):
        assert self.value(algorithm, True) == pytest.approx(1 / (1 - 0.8 * 0.8), abs=0.4)

    def test_a_target_network_that_is_never_moved_is_seen(self, algorithm, unchecked_types, monkeypatch):
        monkeypatch.setattr(algorithm, "move_towards", lambda *_: None)
        assert self.value(algorithm, False) < 2.5


def some(size: int = 6, seed: int = 1) -> Transition:
    g = torch.Generator().manual_seed(seed)
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    return Transition(
        observation=torch.randn(size, 3, generator=g),
        action=low + (high - low) * torch.rand(size, 2, generator=g),
        reward=torch.randn(size, generator=g),
        discount=0.9 * (torch.rand(size, generator=g) < 0.7),
        next_observation=torch.randn(size, 3, generator=g),
    )


def each(vectors: Any) -> tuple[Any, ...]:
    """Those of actor and critics, or of critics alone."""
    return vectors if isinstance(vectors, tuple) else (vectors,)


def apart(algorithm: ModuleType, **settings: Any) -> tuple[Any, Any]:
    """(a state whose target networks differ from the online ones, its settings)."""
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIGS[algorithm], **settings)
    state = algorithm.init(network(algorithm, SEEN, BOX), world(Reach), config)
    with torch.no_grad():
        for vector in each(state.target_parameters):
            vector += 0.3 * torch.randn(vector.shape)
    return state, config


def by_hand(networks: Any, seen: Tensor, action: Tensor) -> list[Tensor]:
    """Q_i(s, a) of each critic alone."""
    unit = (action - networks.bounds.center) / networks.bounds.scale
    return [network(torch.cat([seen, unit]))[0] for network in networks.networks]


class TestTargets:
    def test_of_ddpg(self):
        state, _ = apart(ddpg)
        batch = some()
        found = ddpg.targets(state, batch)
        for i in range(6):
            after = batch.next_observation[i]
            (value,) = by_hand(state.target.critics, after, state.target.actor(after))
            torch.testing.assert_close(found[i], (batch.reward[i] + batch.discount[i] * value).detach())

    def test_of_td3_are_the_smaller_of_two(self):
        state, config = apart(td3, target_noise=0.0)
        batch = some()
        found, smaller = td3.targets(state, batch, config), set()
        for i in range(6):
            after = batch.next_observation[i]
            values = by_hand(state.target.critics, after, state.target.actor(after))
            smaller.add(int(values[1] < values[0]))
            torch.testing.assert_close(found[i], (batch.reward[i] + batch.discount[i] * min(values)).detach())
        assert smaller == {0, 1}

    @pytest.mark.parametrize(("noise", "clip"), [(0.2, 0.5), (10.0, 0.1)])
    def test_of_td3_have_noise_in_units_of_the_box_clipped_and_within_it(self, noise, clip, monkeypatch):
        state, config = apart(td3, target_noise=noise, target_noise_clip=clip)
        actions = []
        state.target.critics.register_forward_pre_hook(lambda _, given: actions.append(given[1]))
        one = some(1).next_observation
        rows = Transition(*(x.expand(20_000, *x.shape[1:]) for x in dataclasses.asdict(some(1)).values()))
        td3.targets(state, rows, config)
        (action,), center = actions, state.target.actor(one).detach()
        apart_by = ((action - center) / state.target.actor.bounds.scale).abs()
        assert ((action >= torch.from_numpy(BOX.low)) & (action <= torch.from_numpy(BOX.high))).all()
        assert apart_by.amax().item() == pytest.approx(clip, rel=1e-3)
        if noise < 1:
            inside = (action > torch.from_numpy(BOX.low)) & (action < torch.from_numpy(BOX.high)) & (apart_by < clip)
            assert apart_by[inside].square().mean().sqrt().item() == pytest.approx(noise, rel=0.1)

    def test_of_sac_are_soft_and_drawn_from_the_policy_of_today(self):
        state, _ = apart(sac, alpha=0.7)
        batch = some()
        torch.manual_seed(5)
        found = sac.targets(state, batch)
        torch.manual_seed(5)
        action, log_prob = state.policy.actor(batch.next_observation)
        for i in range(6):
            values = by_hand(state.target, batch.next_observation[i], action[i])
            due = batch.reward[i] + batch.discount[i] * (min(values) - 0.7 * log_prob[i])
            torch.testing.assert_close(found[i], due.detach())


class TestActorLoss:
    """Where the first critic is the smaller one, and where it is not."""

    def values(self, state: Any, batch: Transition, action: Tensor) -> Tensor:
        values = [by_hand(state.policy.critics, *row) for row in zip(batch.observation, action, strict=True)]
        found = torch.stack([torch.stack(row) for row in values])
        assert len(set(found.argmin(-1).tolist())) == found.shape[-1]
        return found

    @pytest.mark.parametrize("algorithm", [ddpg, td3], ids=["ddpg", "td3"])
    def test_of_ddpg_and_td3_is_by_one_critic(self, algorithm):
        state, _ = apart(algorithm)
        batch = some(20)
        due = -self.values(state, batch, state.policy.actor(batch.observation))[:, 0].mean()
        torch.testing.assert_close(algorithm.actor_loss(state, batch), due)

    def test_of_sac_is_by_the_smaller_of_two(self):
        state, config = apart(sac, alpha=0.7)
        batch = some(20)
        torch.manual_seed(5)
        found, _, _ = sac.actor_loss(state, batch, config)
        torch.manual_seed(5)
        action, log_prob = state.policy.actor(batch.observation)
        due = (0.7 * log_prob - self.values(state, batch, action).amin(-1)).mean()
        torch.testing.assert_close(found, due)


@ALL
class TestGradients:
    def losses(self, algorithm: ModuleType, state: Any, config: Any, batch: Transition) -> tuple[Tensor, Tensor]:
        given = (config,) if algorithm is td3 else ()
        critic = algorithm.critic_loss(state, batch, *given)[0]
        actor = (
            algorithm.actor_loss(state, batch, config)[0] if algorithm is sac else algorithm.actor_loss(state, batch)
        )
        return critic, actor

    def test_the_actors_is_that_of_finite_differences(self, algorithm):
        state, config = apart(algorithm)
        batch = some().map(lambda x: x.double())
        state.policy.double()
        parameters = list(state.policy.actor.network.parameters())

        def loss() -> Tensor:
            torch.manual_seed(3)
            found = algorithm.actor_loss(state, batch, *((config,) if algorithm is sac else ()))
            return found[0] if algorithm is sac else found

        gradients = torch.autograd.grad(loss(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            flat = parameter.data.view(-1)
            for i in range(0, len(flat), max(len(flat) // 3, 1)):
                before, step = flat[i].item(), 1e-5
                flat[i] = before + step
                above = loss().item()
                flat[i] = before - step
                below = loss().item()
                flat[i] = before
                assert gradient.view(-1)[i].item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-8)

    def test_the_critics_learn_nothing_from_the_actors_loss_and_the_actor_nothing_from_theirs(self, algorithm):
        config = dataclasses.replace(CONFIGS[algorithm], gradient_steps=1)
        for frozen in ("actor", "critics"):
            settings = {f"{frozen.rstrip('s')}_learning_rate": 0.0}
            config = dataclasses.replace(CONFIGS[algorithm], gradient_steps=2, **settings)
            state = start(algorithm, config)
            state.world.collect(algorithm.explore(state, config, 40), state.replay, 40)
            before = {name: x.clone() for name, x in state.policy.named_parameters()}
            algorithm.update(state, config, *(({},) if algorithm is td3 else ()))
            moved = {
                name.partition(".")[0]
                for name, x in state.policy.named_parameters()
                if not torch.equal(x, before[name])
            }
            assert moved == {"actor", "critics"} - {frozen}
            assert all(p.requires_grad for p in state.policy.parameters())

    def test_no_gradient_goes_through_the_targets(self, algorithm):
        state, config = apart(algorithm)
        critic, _ = self.losses(algorithm, state, config, some())
        critic.backward()
        assert all(not vector.grad.any() for vector in each(state.target_parameters))
        assert not any(p.grad.any() for p in state.policy.actor.parameters())


@ALL
class TestExploration:
    def actions(self, algorithm: ModuleType, config: Any, step: int, size: int = 4000) -> tuple[Any, np.ndarray]:
        torch.manual_seed(0)
        state = algorithm.init(network(algorithm, SEEN, BOX), world(Reach), config)
        state.world.actions = BOX
        state.step = step
        choose = algorithm.explore(state, config, size)
        return state, np.stack([choose(np.zeros((1, 3), np.float32), t)[0] for t in range(size)])

    def test_is_uniform_at_first(self, algorithm):
        _, actions = self.actions(algorithm, CONFIGS[algorithm], step=0)
        for column, low, high in zip(actions.T, BOX.low, BOX.high, strict=True):
            count = np.histogram(column, 8, (low, high))[0]
            assert count.sum() == 4000
            assert (abs(count - 500) < 120).all()

    def test_stays_in_the_box_and_is_in_its_units_later(self, algorithm):
        state, actions = self.actions(algorithm, CONFIGS[algorithm], step=200)
        assert (actions >= BOX.low).all()
        assert (actions <= BOX.high).all()
        if algorithm is not sac:
            apart_by = (
                actions - state.policy.choose(torch.zeros(1, 3)).numpy()
            ) / state.policy.actor.bounds.scale.numpy()
            np.testing.assert_allclose(apart_by.std(0), 0.3, rtol=0.1)


def test_ornstein_uhlenbeck_noise_goes_on_from_update_to_update():
    config = dataclasses.replace(CONFIGS[ddpg], noise=0.05, noise_kind="ornstein_uhlenbeck")
    state = start(ddpg, config, envs=2)
    state.step, seen = 200, np.zeros((2, 2), np.float32)
    center = state.policy.choose(torch.zeros(1, 2)).numpy()
    noise = []
    for _ in range(200):
        choose = ddpg.explore(state, config, 10)
        noise += [choose(seen, t) - center for t in range(10)]
    noise = np.array(noise)[..., 0] / 2.0
    np.testing.assert_allclose(noise.std(0), 0.05 / math.sqrt(0.15 * 1.85), rtol=0.2)
    for lag in (1, 4):
        assert np.corrcoef(noise[lag:, 0], noise[:-lag, 0])[0, 1] == pytest.approx(0.85**lag, abs=0.08)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.3


@ALL
def test_all_target_networks_move_a_little_towards_the_online_ones(algorithm):
    settings = {"policy_every": 1} if algorithm is td3 else {}
    config = dataclasses.replace(CONFIGS[algorithm], gradient_steps=1, **settings)
    state = start(algorithm, config)
    state.world.collect(algorithm.explore(state, config, 40), state.replay, 40)
    before = [x.detach().clone() for x in each(state.target_parameters)]
    algorithm.update(state, config, *(({},) if algorithm is td3 else ()))
    for old, new, online in zip(before, each(state.target_parameters), each(state.parameters), strict=True):
        assert not torch.equal(old, online)
        torch.testing.assert_close(new.detach(), (0.9 * old + 0.1 * online).detach(), rtol=1e-6, atol=1e-8)


def test_the_actor_and_the_targets_of_td3_wait():
    config = dataclasses.replace(CONFIGS[td3], gradient_steps=1, policy_every=3)
    state = start(td3, config)
    state.world.collect(td3.explore(state, config, 40), state.replay, 40)
    moved = []
    for _ in range(7):
        before = [x.clone() for x in (state.parameters[0], *state.target_parameters)]
        td3.update(state, config, {})
        after = (state.parameters[0], *state.target_parameters)
        moved.append([not torch.equal(*pair) for pair in zip(before, after, strict=True)])
    assert moved == [[False] * 3, [False] * 3, [True] * 3] * 2 + [[False] * 3]


class TestTemperature:
    def test_its_gradient_is_the_lack_of_entropy(self):
        state, config = apart(sac, alpha=None, alpha_start=0.3, target_entropy=1.5)
        _, loss, entropy = sac.actor_loss(state, some(), config)
        (gradient,) = torch.autograd.grad(loss, state.policy.actor.log_alpha)
        torch.testing.assert_close(gradient, 0.3 * (entropy - 1.5))

    def test_the_target_is_minus_1_for_each_number_in_halves_of_its_box_unless_told_otherwise(self):
        state, config = apart(sac, alpha=None)
        _, loss, entropy = sac.actor_loss(state, some(), config)
        torch.testing.assert_close(loss, entropy - math.log(3.0) - math.log(0.7) + 2)

    def in_a_box(self, half: float, **settings: Any) -> tuple[float, Tensor, Tensor]:
        """(α, means, log σ) after learning to stay in the middle of the box ±`half`."""
        config = dataclasses.replace(
            CONFIGS[sac], alpha=None, steps=600, report_every=600, actor_learning_rate=0.01, **settings
        )
        state = learned(sac, config, lambda: Middle(half))
        with torch.no_grad():
            mean, log_std = state.policy.actor.network(torch.zeros(1))
        return state.policy.actor.log_alpha.exp().item(), mean, log_std

    def test_the_same_task_in_another_box_is_learned_alike(self, unchecked_types):
        """To the last digits with γ = 0; otherwise values contain log scale too, which the critics have to learn."""
        known = self.in_a_box(1.0, gamma=0.0)
        assert known[0] < 0.5
        for half in (0.1, 100.0):
            torch.testing.assert_close(self.in_a_box(half, gamma=0.0), known, rtol=1e-2, atol=1e-3)
        alpha = self.in_a_box(1.0, gamma=0.5)[0]
        for half in (0.1, 100.0):
            assert self.in_a_box(half, gamma=0.5)[0] == pytest.approx(alpha, rel=0.2)
        assert self.in_a_box(0.1, gamma=0.0, target_entropy=-1.0)[0] > 1 > 2 * known[0]

    def test_a_learned_one_leads_to_the_target_entropy(self, unchecked_types):
        config = dataclasses.replace(CONFIGS[sac], alpha=None, alpha_start=0.1, target_entropy=0.3, steps=1500)
        state = start(sac, config)
        *_, last = sac.train(state, config)
        assert last["policy/entropy"] == pytest.approx(0.3, abs=0.3)

    def test_a_fixed_one_stands_still(self):
        state = learned(sac, dataclasses.replace(CONFIGS[sac], steps=240))
        assert state.policy.actor.log_alpha.exp().item() == pytest.approx(0.05)

    @pytest.mark.parametrize(
        "settings",
        [{"alpha": 0.1, "target_entropy": -1.0}, {"alpha": 0.0}, {"alpha": None, "alpha_start": -1.0}],
    )
    def test_settings_that_cannot_be_meant_are_refused(self, settings):
        with pytest.raises(InputError, match="alpha"):
            start(sac, dataclasses.replace(CONFIGS[sac], **settings))


@ALL
def test_the_run_is_counted_in_steps_of_all_environments(algorithm):
    config = dataclasses.replace(CONFIGS[algorithm], steps=230, report_every=100)
    state = start(algorithm, config, envs=2)
    stops = [(state.step, sorted(metrics)) for metrics in algorithm.train(state, config)]
    assert [step for step, _ in stops] == [100, 200, 230]
    assert [bool(names) for _, names in stops] == [False, True, True]
    assert state.world.steps == 115
    assert len(state.replay) == 230


@ALL
def test_settings_that_do_not_fit_are_refused(algorithm):
    counts = ("report_every", "train_every", "gradient_steps", "batch", "policy_every")
    wrong: list[dict[str, Any]] = [{"train_every": 3}, {"tau": 1.5}, *({name: x} for name in counts for x in (0, -2))]
    wrong += [{name: x} for name in ("noise", "target_noise", "target_noise_clip") for x in (-0.5, math.nan)]
    wrong += [{"noise_theta": x, "noise_kind": "ornstein_uhlenbeck"} for x in (-0.1, 2.5)]
    known = {field.name for field in dataclasses.fields(CONFIGS[algorithm])}
    for settings in wrong:
        if settings.keys() <= known:
            with pytest.raises(InputError, match=next(iter(settings))):
                start(algorithm, dataclasses.replace(CONFIGS[algorithm], **settings), envs=2)


def test_a_wrong_number_of_critics_is_refused():
    for algorithm, other in ((ddpg, td3), (td3, ddpg)):
        with pytest.raises(InputError, match="critics="):
            algorithm.init(network(other, SEEN, BOX), world(Reach), CONFIGS[algorithm])


@pytest.mark.parametrize("settings", [{"noise_kind": "pink"}, {"noise_theta": 0.5}])
def test_noise_that_there_is_not_is_refused(settings, unchecked_types):
    with pytest.raises(InputError, match="noise_kind"):
        start(ddpg, dataclasses.replace(CONFIGS[ddpg], **settings))
