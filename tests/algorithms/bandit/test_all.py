"""What holds for every bandit algorithm: a row each."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy.special import betaincinv

from operant.algorithms.bandit import (
    epsilon_greedy,
    exp3,
    gradient,
    kl_ucb,
    linear_thompson,
    linucb,
    thompson,
    ucb,
)  # fmt: skip
from operant.bandits import problems
from operant.bandits.worlds import World
from operant.core.errors import InputError
from operant.experiment import checkpoint

R, K, STEPS = 5, 4, 60
IDLE = object()
"""In place of a changed value: the field belongs to another model and has no say."""


class Draws(np.random.Generator):
    """Draws for `rows` runs, of which only those in `kept` are seen: one run alone meets what it meets among others."""

    def __init__(self, seed: int, rows: int, kept: slice) -> None:
        super().__init__(np.random.PCG64(seed))
        self.rows, self.kept = rows, kept

    def random(self, size: Any) -> Any:
        return super().random((self.rows, *np.atleast_1d(size)[1:]))[self.kept]

    def standard_normal(self, size: Any) -> Any:
        return super().standard_normal((self.rows, *np.atleast_1d(size)[1:]))[self.kept]

    def beta(self, a: Any, b: Any) -> Any:
        return betaincinv(a, b, self.random(a.shape))


@dataclasses.dataclass(frozen=True)
class Algorithm:
    module: Any
    world: Callable[[int, int, Any], World]
    changed: dict[str, Any]
    """Another value for every field of the Config."""
    threshold: float
    """Regret after 1,000 steps of 10 arms that it stays below."""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


TABLE = {
    "epsilon_greedy": Algorithm(
        epsilon_greedy,
        problems.bernoulli,
        {"epsilon": 0.5, "decay": 1.0, "initial": 5.0, "step_size": 0.3},
        110,
    ),
    "optimistic": Algorithm(
        epsilon_greedy,
        problems.bernoulli,
        {"epsilon": 0.3, "decay": 0.9, "initial": 0.5, "step_size": None},
        130,
        {"epsilon": 0.05, "initial": 1.0, "step_size": 0.1},
    ),
    "ucb": Algorithm(ucb, problems.bernoulli, {"c": 0.5}, 160),
    "kl_ucb": Algorithm(kl_ucb, problems.bernoulli, {"c": 3.0}, 60),
    "thompson, beta": Algorithm(
        thompson,
        problems.bernoulli,
        {
            "model": "gaussian",
            "alpha": 5.0,
            "beta": 5.0,
            "prior_mean": IDLE,
            "prior_deviation": IDLE,
            "deviation": IDLE,
        },
        50,
    ),
    "thompson, gaussian": Algorithm(
        thompson,
        problems.gaussian,
        {"model": IDLE, "alpha": IDLE, "beta": IDLE, "prior_mean": 3.0, "prior_deviation": 0.3, "deviation": 3.0},
        130,
    ),
    "gradient": Algorithm(gradient, problems.gaussian, {"step_size": 0.5, "baseline": "none"}, 350),
    "exp3": Algorithm(exp3, problems.bernoulli, {"gamma": 0.1}, 230),
    "linucb": Algorithm(linucb, problems.linear, {"alpha": 3.0, "ridge": 9.0}, 30),
    "linucb, disjoint": Algorithm(linucb, problems.disjoint, {"alpha": 3.0, "ridge": 9.0}, 150),
    "linear_thompson": Algorithm(linear_thompson, problems.linear, {"v": 3.0, "ridge": 9.0}, 40),
    "linear_thompson, disjoint": Algorithm(linear_thompson, problems.disjoint, {"v": 3.0, "ridge": 9.0}, 200),
}


@pytest.fixture(params=TABLE)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return TABLE[request.param]


def start(algorithm: Algorithm, seed: int = 0, **settings: Any) -> tuple[Any, Any]:
    config = algorithm.module.Config(**algorithm.config | settings)
    world = algorithm.world(R, K, np.random.default_rng([seed, 1]))
    return algorithm.module.init(world, config, seed), config


def arrays(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a state."""
    for field in dataclasses.fields(value):
        inner, name = getattr(value, field.name), f"{path}.{field.name}"
        if isinstance(inner, np.ndarray):
            yield name, inner
        elif dataclasses.is_dataclass(inner):
            yield from arrays(inner, name)


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    pairs = zip(arrays(a), arrays(b), strict=True)
    return all(x == y and np.array_equal(p, q) for (x, p), (y, q) in pairs)


def test_metrics_are_finite_and_regret_never_falls(algorithm):
    state, config = start(algorithm)
    metrics = list(algorithm.module.train(state, config, STEPS, every=7))
    assert len(metrics) == math.ceil(STEPS / 7)
    assert all(isinstance(x, float) and math.isfinite(x) for m in metrics for x in m.values())
    regret = [0.0, *(m["bandit/regret"] for m in metrics)]
    assert regret == sorted(regret)
    assert (state.totals.regret >= 0).all()
    assert all(0 <= m["bandit/optimal_action"] <= 1 for m in metrics)
    assert all(m["bandit/regret_low"] <= m["bandit/regret"] <= m["bandit/regret_high"] for m in metrics)


def test_chunks_of_metrics_add_up(algorithm):
    fine, config = start(algorithm)
    each = list(algorithm.module.train(fine, config, STEPS, every=1))
    coarse, _ = start(algorithm)
    (all_,) = algorithm.module.train(coarse, config, STEPS, every=STEPS)
    assert same(fine, coarse)
    for name in ("bandit/reward", "bandit/optimal_action"):
        assert all_[name] == pytest.approx(np.mean([m[name] for m in each]))
    assert all_["bandit/regret"] == each[-1]["bandit/regret"]


def test_runs_side_by_side_are_runs_one_by_one(algorithm, monkeypatch):
    module, config = algorithm.module, algorithm.module.Config(**algorithm.config)
    played = {}
    for kept in (slice(0, R), *(slice(r, r + 1) for r in range(R))):
        rng, rows = Draws(1, R, kept), len(range(R)[kept])
        world = algorithm.world(rows, K, rng)
        state = module.init(world, config, 0)
        state.rng = Draws(2, R, kept)
        for _ in module.train(state, config, STEPS):
            pass
        played[kept.start, kept.stop] = dict(arrays(state))
    for name, together in played[0, R].items():
        alone = np.concatenate([played[r, r + 1][name] for r in range(R)])
        np.testing.assert_allclose(alone, together, rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_run_resumed_at_any_yield_ends_as_if_uninterrupted(algorithm, tmp_path):
    state, config = start(algorithm)
    metrics = []
    for metric in algorithm.module.train(state, config, STEPS, every=13):
        metrics.append(metric)
        checkpoint.save(tmp_path / str(len(metrics)), state)
    for stopped in range(1, len(metrics)):
        resumed, _ = start(algorithm)
        next(algorithm.module.train(resumed, config, STEPS, every=4))  # what is loaded must replace all of it
        checkpoint.load(tmp_path / str(stopped), resumed)
        assert list(algorithm.module.train(resumed, config, STEPS, every=13)) == metrics[stopped:]
        assert same(resumed, state)


def test_a_seed_gives_one_result_and_another_seed_another(algorithm):
    results = []
    for seed in (0, 0, 1):
        state, config = start(algorithm, seed)
        list(algorithm.module.train(state, config, STEPS))
        results.append(state)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_every_setting_changes_the_result(algorithm):
    assert algorithm.changed.keys() == {field.name for field in dataclasses.fields(algorithm.module.Config)}
    base, config = start(algorithm)
    list(algorithm.module.train(base, config, STEPS))
    for name, value in algorithm.changed.items():
        if value is IDLE:
            continue
        other, changed = start(algorithm, **{name: value})
        list(algorithm.module.train(other, changed, STEPS))
        assert not same(base, other), name


class Learning:
    runs, arms, steps = 200, 10, 1000


def regret_of(algorithm: Algorithm, update: Any = None, choose: Any = None) -> float:
    """Mean regret after 1,000 steps, with the functions that are given in place of the algorithm's."""
    module, config = algorithm.module, algorithm.module.Config(**algorithm.config)
    world = algorithm.world(Learning.runs, Learning.arms, np.random.default_rng([3, 1]))
    with pytest.MonkeyPatch.context() as patch:
        if update:
            patch.setattr(module, "update", update)
        if choose:
            patch.setattr(module, "choose", choose)
        (metrics,) = module.train(module.init(world, config, 3), config, Learning.steps, every=Learning.steps)
    return metrics["bandit/regret"]


def test_it_learns_and_neither_chance_nor_a_broken_twin_does(algorithm):
    learn = algorithm.module.update

    def told_of_others(state: Any, config: Any, arm: Any, reward: Any) -> None:
        learn(state, config, arm, np.roll(reward, 1))

    def any_arm(state: Any, config: Any) -> Any:
        return state.rng.integers(0, Learning.arms, Learning.runs)

    assert regret_of(algorithm) < algorithm.threshold
    assert regret_of(algorithm, update=told_of_others) > 1.3 * algorithm.threshold
    assert regret_of(algorithm, choose=any_arm, update=lambda *_: None) > 1.3 * algorithm.threshold


BAD = {
    "epsilon is 1.5: give a number from 0 to 1": (epsilon_greedy, {"epsilon": 1.5}),
    "step_size is 0: give a number above 0, up to 1": (epsilon_greedy, {"step_size": 0}),
    "c is 0: give a number above 0": (ucb, {"c": 0}),
    "beta is 0: give a number above 0": (thompson, {"beta": 0}),
    "step_size is -1: give a number above 0": (gradient, {"step_size": -1}),
    "gamma is 2: give a number above 0, up to 1": (exp3, {"gamma": 2}),
    "alpha is -1: give a number, 0 or more": (linucb, {"alpha": -1}),
    "ridge is 0: give a number above 0": (linucb, {"ridge": 0}),
    "v is -1: give a number, 0 or more": (linear_thompson, {"v": -1}),
}


@pytest.mark.parametrize("message", BAD)
def test_settings_that_cannot_be_are_refused(message):
    module, settings = BAD[message]
    make = problems.linear if module in (linucb, linear_thompson) else problems.bernoulli
    with pytest.raises(InputError) as error:
        module.init(make(R, K, np.random.default_rng(0)), module.Config(**settings))
    assert message in str(error.value)


@pytest.mark.parametrize("module", [kl_ucb, exp3, linucb, linear_thompson])
def test_a_world_that_does_not_fit_is_refused(module):
    with pytest.raises(InputError, match=r"take another|take a world"):
        module.init(problems.gaussian(R, K, np.random.default_rng(0)), module.Config())


def test_thompson_with_beta_is_for_rewards_of_0_or_1():
    with pytest.raises(InputError, match="thompson with model beta is for rewards of 0 or 1"):
        thompson.init(problems.gaussian(R, K, np.random.default_rng(0)), thompson.Config("beta"))
