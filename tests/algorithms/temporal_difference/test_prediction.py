"""What holds for every algorithm that values a policy, and where they meet one another."""

import copy
import dataclasses
import doctest
import importlib

import gymnasium
import numpy as np
import pytest

from operant.algorithms.temporal_difference import (
    emphatic_td,
    gradient_td,
    lambda_return,
    least_squares_monte_carlo,
    lstd,
    monte_carlo,
    n_step_td,
    off_policy_monte_carlo,
    off_policy_td,
    td,
    td_lambda,
)
from operant.algorithms.temporal_difference.prediction import covers, policy_table, values
from operant.core.errors import InputError
from operant.core.features import aggregation, of_states, tiles
from operant.core.linear import Active
from operant.envs.world import World
from operant.experiment import checkpoint
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import from_gymnasium
from operant.mdp.problems import jumping_grid, random_walk, recycling_robot
from operant.mdp.simulator import simulator

from .worlds import BEHAVIOUR, TARGET, drawn, learn_all, returning

ON_POLICY = {
    td: td.Config(alpha=0.1),
    monte_carlo: monte_carlo.Config(alpha=0.1),
    n_step_td: n_step_td.Config(alpha=0.1, n=3),
    td_lambda: td_lambda.Config(alpha=0.1, lambda_=0.7),
    lambda_return: lambda_return.Config(alpha=0.1, lambda_=0.7),
    lstd: lstd.Config(lambda_=0.7),
    least_squares_monte_carlo: least_squares_monte_carlo.Config(),
}
OFF_POLICY = {
    off_policy_monte_carlo: off_policy_monte_carlo.Config(alpha=0.02),
    off_policy_td: off_policy_td.Config(alpha=0.1, lambda_=0.7),
    gradient_td: gradient_td.Config(alpha=0.05, beta=0.1),
    emphatic_td: emphatic_td.Config(alpha=0.01, lambda_=0.7),
}
ALL = {**ON_POLICY, **OFF_POLICY}
every = pytest.mark.parametrize(("module", "config"), ALL.items(), ids=[m.__name__.split(".")[-1] for m in ALL])

MODEL = returning()
SHARED = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.3]])
FEATURES = {"table": None, "features": SHARED}
over_features = pytest.mark.parametrize("features", list(FEATURES.values()), ids=list(FEATURES))


def begun(module, config, features=None, seed=3, limit=2):
    """A run on the model in which episodes are cut after two steps."""
    world = simulator(MODEL, np.array([0.7, 0.3, 0.0]), seed=seed, limit=limit, features=features)
    policies = (TARGET, BEHAVIOUR) if module in OFF_POLICY else (TARGET,)
    return module.init(world, *policies, config, seed)


def finish(module, state, config, steps=600, report_every=10**9):
    return list(module.train(state, dataclasses.replace(config, steps=steps, report_every=report_every)))


def bits(state) -> list[bytes]:
    """The weights, random numbers and counts."""
    return [np.ascontiguousarray(x).tobytes() for x in (state.w, state.random, *state.world.state_dict().values())]


class TestEvery:
    @every
    @over_features
    def test_compiled_is_python_to_the_last_bit(self, module, config, features, monkeypatch):
        one, other = begun(module, config, features), begun(module, config, features)
        finish(module, one, config)
        monkeypatch.setattr(module, "loop_on", lambda world, loop: loop.py_func)
        finish(module, other, config)
        assert np.isfinite(one.w).all()
        assert bits(one) == bits(other)

    @every
    @over_features
    def test_in_pieces_is_in_one_go(self, module, config, features):
        # There a cut episode goes on with the values of the last report.
        limit = 0 if module is least_squares_monte_carlo else 2
        one, other = (begun(module, config, features, limit=limit) for _ in range(2))
        assert len(finish(module, one, config)) == 1
        assert len(finish(module, other, config, report_every=7)) == 86
        assert bits(one) == bits(other)
        assert one.step == other.step == 600

    @every
    @over_features
    def test_resumed_is_uninterrupted(self, module, config, features, tmp_path):
        one, saved, resumed = (begun(module, config, features, seed) for seed in (3, 3, 4))
        finish(module, one, config, report_every=100)
        finish(module, saved, config, steps=300, report_every=100)
        checkpoint.save(tmp_path / "here", saved)
        checkpoint.load(tmp_path / "here", resumed)
        finish(module, resumed, config, report_every=100)
        assert bits(one) == bits(resumed)

    @every
    def test_a_table_is_one_hot_features_to_the_last_bit(self, module, config):
        table = begun(module, config)
        finish(module, table, config)
        for features in (np.eye(3), of_states(aggregation(3, 3), range(3))):
            linear = begun(module, config, features)
            finish(module, linear, config)
            assert bits(table) == bits(linear)

    @every
    def test_what_stands_at_an_end_is_never_read(self, module, config):
        """Infinite features there would show."""
        one, other = (begun(module, config, f, limit=0) for f in (np.eye(3), np.diag([1, 1, np.inf])))
        finish(module, one, config)
        finish(module, other, config)
        assert bits(one) == bits(other)

    @every
    def test_metrics_are_those_of_the_episodes(self, module, config):
        *_, last = finish(module, begun(module, config, limit=0), config)
        assert last["rollout/episodes"] > 400
        assert 1 <= last["rollout/episode_length"] < 1.5

    @every
    def test_it_finds_the_values_of_the_policy(self, module, config):
        """Within what its noise allows; the values of the other policy, of no policy and of 0 are farther away."""
        true = policy_reward_process(MODEL, TARGET).value()[:2]
        change = {} if module in (lstd, least_squares_monte_carlo) else {"alpha": 0.0005}
        config = dataclasses.replace(config, **change)
        state = begun(module, config, limit=0)
        finish(module, state, config, steps=400_000)
        assert np.abs(state.w[:2, 0] - true).max() < 0.1
        other = policy_reward_process(MODEL, BEHAVIOUR).value()[:2]
        assert np.abs(other - true).max() > 0.3
        assert np.abs(true).max() > 0.3

    @every
    def test_settings_out_of_their_range_are_refused(self, module, config):
        for name, x in {
            "steps": 0,
            "alpha": -0.1,
            "gamma": 1.5,
            "lambda_": 2.0,
            "n": 0,
            "beta": 0.0,
            "ridge": 0.0,
        }.items():
            if hasattr(config, name):
                with pytest.raises(InputError, match=f"{name} is {x}: give"):
                    begun(module, dataclasses.replace(config, **{name: x}))


SETS = [[drawn(np.random.default_rng([7, n, k])) for k in range(3)] for n in range(5)]
EVEN = np.full((4, 2), 0.5)


def ended(episodes):
    """The same episodes, none of them cut off."""
    over = (s.terminated or s.truncated for episode in episodes for s in episode)
    return [tuple(s._replace(terminated=next(over), truncated=False) for s in episode) for episode in episodes]


class TestLimits:
    def same(self, one, first, other, second, exact=True):
        for episodes in SETS:
            for features in (None, np.random.default_rng(0).normal(size=(4, 3))):
                a, b = (
                    learn_all(m, c, episodes, EVEN, features=features).w for m, c in ((one, first), (other, second))
                )
                if exact:
                    assert a.tobytes() == b.tobytes()
                else:
                    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)

    def test_one_step_is_td(self):
        self.same(n_step_td, n_step_td.Config(n=1), td, td.Config())

    def test_as_many_steps_as_the_episode_has_are_monte_carlo(self):
        """Episodes that are cut off go on with a value that is read at once here, and step by step there."""
        for episodes in map(ended, SETS):
            a = learn_all(n_step_td, n_step_td.Config(n=50), episodes, EVEN).w
            assert a.tobytes() == learn_all(monte_carlo, monte_carlo.Config(alpha=0.1), episodes, EVEN).w.tobytes()

    @pytest.mark.parametrize("trace", ["accumulating", "replacing", "dutch"])
    def test_no_trace_is_td(self, trace):
        self.same(td_lambda, td_lambda.Config(lambda_=0, trace=trace), td, td.Config(), exact=trace != "dutch")

    def test_the_whole_lambda_return_is_monte_carlo(self):
        self.same(
            lambda_return, lambda_return.Config(lambda_=1), monte_carlo, monte_carlo.Config(alpha=0.1), exact=False
        )

    def test_true_online_td_1_is_monte_carlo_at_the_end_of_an_episode(self):
        """Where it terminates: the last of its λ-return algorithms then has no value in it."""
        (episode,) = ended(SETS[0][:1])
        a = learn_all(td_lambda, td_lambda.Config(lambda_=1), [episode], EVEN).w
        b = learn_all(monte_carlo, monte_carlo.Config(alpha=0.1), [episode], EVEN).w
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)

    def test_lstd_1_is_least_squares_monte_carlo(self):
        a = learn_all(lstd, lstd.Config(lambda_=1), ended(SETS[0]), EVEN).w
        b = learn_all(least_squares_monte_carlo, least_squares_monte_carlo.Config(), ended(SETS[0]), EVEN).w
        np.testing.assert_allclose(a, b, rtol=1e-9)

    def test_on_policy_every_ratio_is_1(self):
        usual = "accumulating"
        for episodes in SETS:
            for one, first, second in (
                (off_policy_td, off_policy_td.Config(), td.Config()),
                (off_policy_td, off_policy_td.Config(lambda_=0.5), td_lambda.Config(lambda_=0.5, trace=usual)),
                (off_policy_monte_carlo, off_policy_monte_carlo.Config(), monte_carlo.Config()),
                (emphatic_td, emphatic_td.Config(lambda_=1), td_lambda.Config(alpha=0.01, lambda_=1, trace=usual)),
            ):
                a = learn_all(one, first, episodes, EVEN, EVEN).w
                other = next(m for m in ON_POLICY if m.Config is type(second))
                np.testing.assert_allclose(a, learn_all(other, second, episodes, EVEN).w, rtol=1e-12, atol=1e-15)


class TestFixedPoints:
    """Three features for five states: TD, LSTD and Monte Carlo have other answers, and each its own equation."""

    walk = random_walk()
    x = np.random.default_rng(3).normal(size=(7, 3))
    one = np.ones((7, 1))

    def points(self):
        """(fixed point of TD, of Monte Carlo), in closed form."""
        process = policy_reward_process(self.walk, self.one)
        p = process.chain.transition.toarray()[1:6, 1:6]
        visits = np.linalg.solve(np.eye(5) - p.T, np.eye(5)[2])
        x, d = self.x[1:6], np.diag(visits)
        td_point = np.linalg.solve(x.T @ d @ (x - p @ x), x.T @ d @ process.reward[1:6])
        return td_point, np.linalg.solve(x.T @ d @ x, x.T @ d @ process.value()[1:6])

    def test_lstd_comes_to_that_of_td_and_least_squares_to_that_of_monte_carlo(self):
        td_point, mc_point = self.points()
        assert np.abs(td_point - mc_point).max() > 0.1
        for module, config, due in (
            (lstd, lstd.Config(steps=300_000), td_point),
            (lstd, lstd.Config(steps=300_000, lambda_=1.0), mc_point),
            (least_squares_monte_carlo, least_squares_monte_carlo.Config(steps=300_000), mc_point),
            (td, td.Config(steps=1_000_000, alpha=2e-4), td_point),
            (gradient_td, gradient_td.Config(steps=1_000_000, alpha=1e-3, beta=1e-2), td_point),
            (gradient_td, gradient_td.Config(steps=1_000_000, alpha=1e-3, beta=1e-2, rule="gtd2"), td_point),
            (lambda_return, lambda_return.Config(steps=1_000_000, alpha=2e-4, lambda_=1.0), mc_point),
        ):
            world = simulator(self.walk, 3, features=self.x)
            policies = (self.one, self.one) if module is gradient_td else (self.one,)
            state = module.init(world, *policies, config)
            list(module.train(state, config))
            np.testing.assert_allclose(state.w[:, 0], due, atol=0.04, err_msg=f"{config}")

    @pytest.mark.parametrize(
        ("module", "online"), [(lstd, td), (least_squares_monte_carlo, monte_carlo)], ids=["td", "mc"]
    )
    def test_a_batch_shown_again_and_again_is_its_closed_form(self, module, online):
        """Batch TD and batch Monte Carlo (section 6.3), with features."""
        episodes = ended([drawn(np.random.default_rng([11, k])) for k in range(6)])
        x = self.x[:4]
        closed = learn_all(module, module.Config(ridge=1e-9), episodes, EVEN, features=x).w
        w = None
        for alpha, times in ((0.05, 100), (0.01, 200), (0.002, 200)):
            w = learn_all(online, online.Config(alpha=alpha), episodes * times, EVEN, features=x, w=w).w[:, 0]
        np.testing.assert_allclose(w, closed[:, 0], atol=0.02)
        assert np.abs(closed).max() > 0.2


class TestLongEpisodes:
    @pytest.mark.parametrize("module", [monte_carlo, lambda_return, least_squares_monte_carlo, off_policy_monte_carlo])
    @over_features
    def test_the_record_grows(self, module, features):
        config = ALL[module]
        one, other = (begun(module, config, features, limit=50) for _ in range(2))
        other.episode.make_room(1)
        finish(module, one, config)
        finish(module, other, config)
        assert len(other.episode.reward) > 1
        assert bits(one) == bits(other)


class TestPolicies:
    def test_a_table_by_number_becomes_one_by_place(self):
        """Waiting and recharging are actions 1 and 2 of a battery that is low, and it has searching too."""
        robot = recycling_robot()
        given = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
        assert policy_table(robot, given).tolist() == given.tolist()
        assert policy_table(robot, [1, 2]).tolist() == [[0, 1, 0], [0, 0, 1]]

    def test_one_of_another_model_is_refused(self):
        with pytest.raises(InputError, match="the policy has the shape"):
            policy_table(jumping_grid(), np.full((24, 4), 0.25))

    def test_a_behaviour_that_never_does_what_the_policy_does_is_refused(self):
        world = simulator(MODEL, 0)
        with pytest.raises(InputError, match=r"in state 1 the policy takes action 0 with probability 0\.3"):
            off_policy_td.init(world, TARGET, np.array([[0.5, 0.5], [0, 1], [0.5, 0.5]]), off_policy_td.Config())
        with pytest.raises(InputError, match="the policies have the shapes"):
            covers(TARGET, np.ones((3, 1)))

    def test_actions_are_drawn_with_their_probabilities(self):
        mdp = jumping_grid()
        policy = np.random.default_rng(0).dirichlet(np.ones(4), 25)
        world = simulator(mdp, np.full(25, 1 / 25), limit=1)
        config = lstd.Config(steps=400_000, gamma=0.5)
        state = lstd.init(world, policy_table(mdp, policy), config)
        list(lstd.train(state, config))
        true = policy_reward_process(mdp.with_gamma(0.5), policy).value()
        np.testing.assert_allclose(values(state.w), true, atol=0.06)
        assert np.abs(true - policy_reward_process(mdp.with_gamma(0.5), np.full((25, 4), 0.25)).value()).max() > 0.3


class TestRefused:
    @every
    def test_policies_that_are_none_here(self, module, config):
        world, off = simulator(MODEL, 0), module in OFF_POLICY
        for wrong, message in (
            (np.full((3, 3), 1 / 3), r"the policy has the shape \(3, 3\); for this model it is a table \(3, 2\)"),
            (np.full((4, 2), 1 / 2), r"the policy has the shape \(4, 2\)"),
            (np.array([[0.5, 0.5], [0.5, 0.4], [0, 0]]), r"in state 1 has the probabilities \[0\.5, 0\.4\]"),
            (np.array([[0.5, 0.5], [1.5, -0.5], [0, 0]]), r"in state 1 has the probabilities \[1\.5, -0\.5\]"),
            (np.array([[0.5, np.nan], [0.5, 0.5], [0, 0]]), "in state 0 has the probabilities"),
            (lambda seen: [0.5, 0.5], "the policy is a function"),
        ):
            with pytest.raises(InputError, match=message):
                module.init(world, *((TARGET, wrong) if off else (wrong,)), config)

    @pytest.mark.parametrize("module", [monte_carlo, lambda_return, least_squares_monte_carlo, off_policy_monte_carlo])
    def test_waiting_for_an_end_that_there_is_not(self, module):
        grid, policy = jumping_grid(), np.full((25, 4), 0.25)
        policies = (policy, policy) if module in OFF_POLICY else (policy,)
        with pytest.raises(InputError, match="the model has no end"):
            module.init(simulator(grid, 0), *policies, ALL[module])
        module.init(simulator(grid, 0, limit=10), *policies, ALL[module])

    def test_a_function_that_gives_other_probabilities(self):
        world = World("MountainCar-v0", features=tiles([-1.2, -0.07], [0.6, 0.07]))
        state = td.init(world, lambda seen: [0.5, 0.5], td.Config())
        with pytest.raises(InputError, match=r"probabilities of the shape \(2,\): give 3, one an action"):
            next(td.train(state, td.Config()))
        with pytest.raises(InputError, match="the policy has 15 rows; the environment has 16 states"):
            td.init(World("FrozenLake-v1"), np.full((15, 4), 0.25), td.Config())

    @pytest.mark.parametrize("module", [monte_carlo, off_policy_monte_carlo])
    def test_visits_need_states(self, module):
        with pytest.raises(InputError, match="features do not say which state"):
            begun(module, module.Config(alpha=0.1, visits="first"), SHARED)
        with pytest.raises(InputError, match="alpha is 0, for means over visits"):
            begun(module, module.Config(), SHARED)
        begun(module, module.Config(), of_states(aggregation(3, 2), range(3)))

    def test_names_that_there_are_not(self, unchecked_types):
        for module, name in (
            (monte_carlo, "visits"), (off_policy_monte_carlo, "sampling"), (td_lambda, "trace"), (gradient_td, "rule"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=f"{name} is .*'some'"):
                begun(module, dataclasses.replace(ALL[module], **{name: "some"}))


class TestGymnasium:
    def test_a_table(self):
        """The same policy on the environment and on its model."""
        env = gymnasium.make("FrozenLake-v1", is_slippery=True)
        mdp = from_gymnasium(env, 0.9)
        policy = np.random.default_rng(1).dirichlet(np.ones(4), 17)
        true = policy_reward_process(mdp, policy).value()
        world, config = World(env, seed=1), monte_carlo.Config(steps=20_000, gamma=0.9)
        state = monte_carlo.init(world, policy, config)
        *_, last = monte_carlo.train(state, config)
        assert state.w[0, 0] == pytest.approx(true[0], abs=0.01)
        assert last["rollout/episodes"] > 1000

    def test_tiles_and_a_policy_of_what_is_observed(self):
        """Mountain car pushed the way it goes: about 120 steps to the top from near the bottom, with -1 for each."""

        def along(observation):
            return np.eye(3)[2 if observation[1] >= 0 else 0]

        space = gymnasium.make("MountainCar-v0").observation_space
        world = World("MountainCar-v0", seed=0, features=tiles(space.low, space.high, 4, 4))
        config = td_lambda.Config(steps=6_000, alpha=0.1, gamma=1.0)
        state = td_lambda.init(world, along, config)
        *_, last = td_lambda.train(state, config)
        start = world.see([-0.5, 0.0])
        value = float(state.w[start.index, 0] @ start.weight)
        assert value == pytest.approx(last["rollout/episode_return"], abs=25)
        assert -150 < value < -90

    @every
    def test_a_policy_is_a_table_or_a_function(self, module, config, tmp_path):
        """Both give the same bits, and so does a run that is saved in the middle of an episode and resumed."""
        generator = np.random.default_rng(0)
        tables = generator.dirichlet(np.ones(4), 16), generator.dirichlet(np.ones(4), 16)
        config = dataclasses.replace(config, steps=300, report_every=99)

        def begun(functions):
            policies = [t.__getitem__ if functions else t for t in tables[: 2 if module in OFF_POLICY else 1]]
            return module.init(World("FrozenLake-v1", seed=3), *policies, config)

        one, other, resumed = begun(False), begun(True), begun(True)
        list(module.train(one, config))
        for n, _ in enumerate(module.train(other, config)):
            if n == 1:
                checkpoint.save(tmp_path / "here", other)
        checkpoint.load(tmp_path / "here", resumed)
        list(module.train(resumed, config))
        assert one.world.place[2] > 20
        assert one.w.tobytes() == other.w.tobytes() == resumed.w.tobytes()

    def test_a_time_limit_bootstraps(self):
        """An environment that always pays 1 and is cut off after 5 steps, with γ = 0.5: its value is 2, not 1.94."""

        class Endless(gymnasium.Env):
            observation_space, action_space = gymnasium.spaces.Discrete(1), gymnasium.spaces.Discrete(1)

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                return 0, {}

            def step(self, action):
                return 0, 1.0, False, False, {}

        for module, config in ON_POLICY.items():
            world = World(gymnasium.wrappers.TimeLimit(Endless(), 5), seed=0)
            config = dataclasses.replace(config, steps=3000, gamma=0.5)
            state = module.init(world, np.ones((1, 1)), config)
            list(module.train(state, config))
            assert state.w[0, 0] == pytest.approx(2.0, abs=0.01), module


def test_values_of_all_states():
    w = np.array([[1.0], [2.0], [3.0]])
    assert values(w).tolist() == [1, 2, 3]
    assert values(w, Active(np.array([[0, 2], [1, 1]]), np.array([[1.0, 2.0], [0.5, 0.5]]))).tolist() == [7, 2]


def test_a_copy_of_a_state_is_independent():
    state = begun(td, ON_POLICY[td])
    twin = copy.deepcopy(state)
    finish(td, state, ON_POLICY[td])
    assert not twin.w.any()


@pytest.mark.parametrize(("name", "examples"), [("monte_carlo", 8), ("td", 3)])
def test_the_examples_of_the_lectures(name, examples):
    """V(S0) = 0.3 by Monte Carlo, 0.1 by TD."""
    module = importlib.import_module(f"operant.algorithms.temporal_difference.{name}")
    assert doctest.testmod(module) == (0, examples)
