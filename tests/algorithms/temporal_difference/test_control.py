"""Control: identities between the algorithms, exact expectations, ends and limits, ties, and runs in pieces."""

import dataclasses
import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from operant.algorithms.planning import dyna_q, policy_iteration, prioritized_dyna
from operant.algorithms.temporal_difference import (
    double_q_learning,
    expected_sarsa,
    monte_carlo_control,
    n_step_sarsa,
    q_learning,
    sarsa,
    sarsa_lambda,
)
from operant.algorithms.temporal_difference.episode import Episode, episode
from operant.core.control import Learning, Rule, explore
from operant.core.errors import InputError
from operant.core.linear import Active
from operant.core.random import stream
from operant.core.traces import KINDS, REPLACING, fade, mark, traces_of
from operant.experiment import checkpoint
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import MDP, from_transitions
from operant.mdp.problems import cliff, treasure_walk, windy_grid
from operant.mdp.simulator import Simulator, simulator
from tests.algorithms.temporal_difference.worlds import returning, slippery, trajectories

PLAIN = {"glie": False, "average": False, "first_visit": False}
"""Monte Carlo with constant ε and α and every visit."""
ALGORITHMS: list[tuple[ModuleType, dict[str, Any]]] = [
    (q_learning, {}),
    (double_q_learning, {}),
    (sarsa, {}),
    (expected_sarsa, {}),
    *((sarsa_lambda, {"lambda_": 0.7, "trace": trace}) for trace in KINDS),
    (n_step_sarsa, {"n": 3}),
    (n_step_sarsa, {"n": 2, "expected": True}),
    (monte_carlo_control, PLAIN),
    (monte_carlo_control, {}),
    (dyna_q, {"planning_steps": 3}),
    (prioritized_dyna, {"planning_steps": 3}),
]
TABLES_ONLY = (dyna_q, prioritized_dyna)


def label(case: tuple[ModuleType, dict[str, Any]]) -> str:
    return "-".join([case[0].__name__.rpartition(".")[2], *map(str, case[1].values())])


every = pytest.mark.parametrize(("module", "settings"), ALGORITHMS, ids=map(label, ALGORITHMS))


def learned(module: ModuleType, world: Any, seed: int = 0, **settings: Any) -> Any:
    """The state of a whole run."""
    config = module.Config(**settings)
    state = module.init(world, config, seed)
    for _ in module.train(state, config):
        pass
    return state


def same(a: Any, b: Any) -> None:
    """Equal to the bit, everything that is saved of two states."""
    assert a.step == b.step
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        x, y = (v.state_dict() if hasattr(v, "state_dict") else {"": v} for v in (x, y))
        for name in x:
            np.testing.assert_array_equal(x[name], y[name], err_msg=f"{field.name} {name}")


def rule(alpha: float = 0.1, gamma: float = 0.9) -> Rule:
    clock, visits = np.zeros(1, dtype=np.int64), np.zeros((0, 0), dtype=np.int64)
    return Rule(gamma, alpha, 0.0, 0.0, 0.0, 0.0, clock, visits, stream(0))


# One loop, many worlds


@every
def test_compiled_and_in_python_are_equal_to_the_bit(module, settings, monkeypatch):
    compiled = learned(module, simulator(slippery(), 0, limit=9), steps=700, **settings)
    monkeypatch.setattr(module, "loop_on", lambda _, loop: loop.py_func)
    same(compiled, learned(module, simulator(slippery(), 0, limit=9), steps=700, **settings))


@every
def test_a_table_is_one_hot_features_to_the_bit(module, settings):
    def world(features: Any) -> Simulator:
        return simulator(slippery(), 0, limit=9, features=features)

    settings = {**settings, **(PLAIN if module is monte_carlo_control else {})}
    if module in TABLES_ONLY:
        with pytest.raises(InputError, match="takes a table"):
            learned(module, world(np.eye(5)), **settings)
        return
    table = learned(module, world(None), steps=700, **settings)
    np.testing.assert_array_equal(table.w, learned(module, world(np.eye(5)), steps=700, **settings).w)
    sparse = Active(np.arange(5)[:, None], np.ones((5, 1)))
    np.testing.assert_array_equal(table.w, learned(module, world(sparse), steps=700, **settings).w)


@every
def test_a_run_in_pieces_is_the_whole_run(module, settings):
    settings = {"steps": 701, "epsilon": 0.5, "epsilon_end": 0.1, "alpha_power": 0.6, **settings}
    whole = learned(module, simulator(slippery(), 0), report_every=10**6, **settings)
    same(whole, learned(module, simulator(slippery(), 0), report_every=7, **settings))


@every
def test_a_resumed_run_is_the_whole_run(module, settings, tmp_path):
    """Long episodes: the first is still under way when it is saved, and has outgrown the room that it had."""

    def world(seed: int) -> Simulator:
        return simulator(windy_grid(), 30, seed, limit=3000)

    config = module.Config(steps=5000, report_every=1250, epsilon=1.0, gamma=0.9, **settings)
    state = module.init(world(4), config, seed=2)
    for _ in itertools.islice(module.train(state, config), 1):
        pass
    checkpoint.save(tmp_path / "half", state)
    resumed = module.init(world(5), config, seed=9)
    checkpoint.load(tmp_path / "half", resumed)
    for s in (state, resumed):
        for _ in module.train(s, config):
            pass
    same(state, resumed)


# Ends, limits and ties


def paying(end: bool) -> MDP:
    """A step pays 1 and leads back, or to an end."""
    return from_transitions([0], [0], [int(end)], [1.0], [1.0], 0.5, 2, [1])


@every
def test_a_time_limit_goes_on_with_the_value_and_an_end_does_not(module, settings):
    settings = {"steps": 20_000, "alpha": 0.1, **settings}
    assert learned(module, simulator(paying(True), 0), **settings).w[0, 0] == pytest.approx(1.0, abs=1e-3)
    cut = learned(module, simulator(paying(False), 0, limit=1), **settings).w[0, 0]
    assert cut == pytest.approx(2.0, abs=0.03)  # 1 / (1 - γ), as if it had not been cut


@every
def test_high_values_of_an_end_are_never_read(module, settings):
    state = learned(module, simulator(paying(True), 0), steps=2000, alpha=0.5, initial=1000.0, **settings)
    assert state.w[0, 0] == pytest.approx(1.0, abs=1e-3)


class Recorder:
    """One state, four actions, no rewards; it writes down what is done."""

    features, gamma, shape = None, 0.9, (1, 4)

    def __init__(self) -> None:
        self.place, self.returns, self.lengths = np.zeros(3, np.int64), np.zeros(1), np.zeros(1, np.int64)
        self.done: list[int] = []

    def current(self) -> int:
        return 0

    def actions(self) -> int:
        return 4

    def step(self, action: int) -> tuple[float, int, bool, bool]:
        self.done.append(action)
        return 0.0, 0, False, False

    def reset(self) -> int:
        raise AssertionError("no episode ends here")


@every
def test_equal_values_are_chosen_alike(module, settings):
    world = Recorder()
    learned(module, world, steps=4000, epsilon=0.0, **{**settings, **({"glie": False} if "glie" in settings else {})})
    assert len(world.done) == 4000
    counts = np.bincount(world.done, minlength=4)
    if settings == {}:
        assert stats.chisquare(counts).pvalue > 0.001
    assert counts.min() > 800


# Exact expectations


W = np.random.default_rng(1).normal(size=(5, 2))
GAMMA, ALPHA, EPSILON = 0.9, 0.25, 0.3


def policy(w: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """[S, A]: ε-greedy, from its definition."""
    best = w == w.max(1, keepdims=True)
    return epsilon / w.shape[1] + (1 - epsilon) * best / best.sum(1, keepdims=True)


def successors(mdp: MDP, s: int, a: int):
    """(probability, reward, next state, discount) of all that may happen."""
    row = mdp.first[s] + a
    rewards = mdp.transition_reward if mdp.transition_reward is not None else np.repeat(mdp.reward, np.diff(mdp.start))
    for i in range(mdp.start[row], mdp.start[row + 1]):
        t = int(mdp.next_state[i])
        yield float(mdp.probability[i]), float(rewards[i]), t, 0.0 if mdp.end[t] else GAMMA


def exact_target(after_value: np.ndarray, s: int, a: int) -> float:
    """E[r + γ v(s')], v = 0 at an end, by the model's matrix."""
    mdp = slippery()
    row = mdp.first[s] + a
    return float(mdp.reward[row] + GAMMA * (mdp.matrix()[[row]] @ np.where(mdp.end, 0.0, after_value))[0])


ONE_STEP = list(itertools.product(range(4), range(2)))


@pytest.mark.parametrize(("s", "a"), ONE_STEP)
def test_mean_updates_are_the_exact_expectations(s, a):
    """Of Q-learning, SARSA and expected SARSA: α times (the target's expectation minus Q), and nothing elsewhere."""
    pi = policy(W)
    q_mean, sarsa_mean, expected_mean = (np.zeros_like(W) for _ in range(3))
    for p, reward, t, discount in successors(slippery(), s, a):
        w = W.copy()
        q_learning.q_update(w, s, a, reward, discount, t, 2, ALPHA)
        q_mean += p * w
        w = W.copy()
        expected_sarsa.update(w, s, a, reward, discount, t, 2, EPSILON, ALPHA)
        expected_mean += p * w
        for b in range(2):
            w = W.copy()
            sarsa.update(w, s, a, reward, discount, t, b, ALPHA)
            sarsa_mean += p * pi[t, b] * w
    for found, after in ((q_mean, W.max(1)), (sarsa_mean, (pi * W).sum(1)), (expected_mean, (pi * W).sum(1))):
        due = W.copy()
        due[s, a] += ALPHA * (exact_target(after, s, a) - W[s, a])
        np.testing.assert_allclose(found, due, atol=1e-14)


@pytest.mark.parametrize(("s", "a"), ONE_STEP)
def test_mean_updates_of_double_q_learning(s, a):
    """Each table moves towards the other's value of its own best action; exchanged tables are exchanged answers."""
    other = np.random.default_rng(2).normal(size=W.shape)
    means = []
    for own, opposite in ((W, other), (other, W)):
        mean = np.zeros_like(W)
        for p, reward, t, discount in successors(slippery(), s, a):
            x, y, middle = own.copy(), opposite.copy(), (own + opposite) / 2
            double_q_learning.update(x, y, middle, s, a, reward, discount, t, 2, ALPHA, stream(0))
            np.testing.assert_allclose(middle, (x + y) / 2, atol=1e-15)
            np.testing.assert_array_equal(y, opposite)
            mean += p * x
        due = own.copy()
        due[s, a] += ALPHA * (exact_target(opposite[np.arange(5), own.argmax(1)], s, a) - own[s, a])
        np.testing.assert_allclose(mean, due, atol=1e-14)
        means.append(mean)
    assert not np.allclose(means[0], means[1])


def test_both_tables_of_double_q_learning_learn_alike():
    finals = [learned(double_q_learning, simulator(slippery(), 0, seed), seed, steps=200) for seed in range(200)]
    differences = np.array([state.first - state.second for state in finals])[:, :4]
    scores = differences.mean(0) / (differences.std(0) / np.sqrt(len(finals)))
    assert np.abs(scores).max() < 3.5
    assert np.abs(differences).max() > 0.1
    for state in finals[:10]:
        np.testing.assert_allclose(state.w, (state.first + state.second) / 2, atol=1e-12)


def recorded(path: Any, room: int) -> tuple[Episode, np.ndarray]:
    """The decisions of a trajectory as an algorithm keeps them."""
    kept, action = episode(simulator(returning(), 0), room), np.zeros(room, dtype=np.int64)
    for t, taken in enumerate(path):
        kept.x[t % room], kept.reward[t % room], action[t % room] = taken.state, taken.reward, taken.action
    kept.length[0] = len(path)
    return kept, action


def test_the_mean_n_step_target_is_the_operator_applied_n_times():
    mdp, w = returning(), np.random.default_rng(4).normal(size=(3, 2))
    pi = policy(w)
    value = np.where(mdp.end, 0.0, (pi * w).sum(1))
    process = policy_reward_process(mdp, pi)
    for n in (1, 2, 3):
        mean, total = w.copy() * 0, 0.0
        for p, path in trajectories(mdp, pi, 0, limit=n, least=0.0):
            final = path[-1]
            for b in range(2):
                moved, chance = w.copy(), p * pi[final.next_state, b]
                last = 0.0 if final.terminated else w[final.next_state, b]
                n_step_sarsa.update(moved, *recorded(path, n), 0, last, rule(1.0))
                mean[path[0].state, path[0].action] += chance * moved[path[0].state, path[0].action]
                total += chance
        assert total == pytest.approx(1.0)
        after = value
        for _ in range(n - 1):
            after = np.where(mdp.end, 0.0, process.reward + GAMMA * process.chain.transition @ after)
        row = mdp.reward + GAMMA * mdp.matrix() @ after
        np.testing.assert_allclose(mean[0], pi[0] * row[: mdp.first[1]], atol=1e-12)


@pytest.mark.parametrize("first_visit", [True, False])
def test_monte_carlo_means_are_over_the_visits_that_count(first_visit):
    """By hand from the definition, on trajectories that visit pairs again."""
    mdp, pi = returning(), np.full((3, 2), 0.5)
    w, sums, counts = np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    settings = rule()._replace(alpha=1.0, alpha_power=1.0, visits=np.zeros((3, 2), dtype=np.int64))
    seen = np.zeros((3, 2) if first_visit else (0, 0), dtype=np.int64)
    for n, (_, path) in enumerate(trajectories(mdp, pi, 0, limit=6, least=1e-6)):
        kept, action = recorded(path, len(path))
        kept.length[1] = n
        before = set()
        for t, taken in enumerate(path):
            g = sum(GAMMA**k * later.reward for k, later in enumerate(path[t:]))
            kept.target[t] = g
            if not (first_visit and (taken.state, taken.action) in before):
                sums[taken.state, taken.action] += g
                counts[taken.state, taken.action] += 1
            before.add((taken.state, taken.action))
        actions = monte_carlo_control.Actions(action, np.zeros(1, dtype=np.int64))
        monte_carlo_control.update(w, kept, actions, seen, settings)
    np.testing.assert_allclose(w[:2], sums[:2] / counts[:2], atol=1e-12)
    np.testing.assert_array_equal(settings.visits, counts)


def test_mean_first_visit_returns_are_the_values_of_the_policy():
    """Over all trajectories with their probabilities: E[G of the first visit] = q, which is what has no bias."""
    mdp, pi = returning(), np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
    value = policy_reward_process(mdp, pi).value()
    q = mdp.reward + GAMMA * mdp.matrix() @ value
    sums, chances = np.zeros((3, 2)), np.zeros((3, 2))
    for p, path in trajectories(mdp, pi, 0):
        w = np.zeros((3, 2))
        kept, action = recorded(path, len(path))
        g = 0.0
        for t in reversed(range(len(path))):
            g = path[t].reward + GAMMA * g
            kept.target[t] = g
        actions, seen = monte_carlo_control.Actions(action, np.zeros(1, np.int64)), np.zeros((3, 2), np.int64)
        monte_carlo_control.update(w, kept, actions, seen, rule(1.0))
        visited = seen > 0
        sums, chances = sums + p * w * visited, chances + p * visited
    np.testing.assert_allclose((sums / np.where(chances > 0, chances, 1))[:2].ravel(), q, atol=1e-6)


# Identities


@pytest.mark.parametrize("limit", [0, 5])
def test_n_step_sarsa_goes_from_sarsa_to_monte_carlo(limit):
    def world() -> Simulator:
        return simulator(slippery(), 0, limit=limit)

    one = learned(sarsa, world(), steps=3000)
    np.testing.assert_array_equal(one.w, learned(n_step_sarsa, world(), steps=3000, n=1).w)
    zero = learned(sarsa_lambda, world(), steps=3000, lambda_=0.0, trace="accumulating")
    np.testing.assert_array_equal(one.w, zero.w)
    np.testing.assert_array_equal(one.w, learned(sarsa_lambda, world(), steps=3000, lambda_=0.0).w)
    dutch = learned(sarsa_lambda, world(), steps=300, lambda_=0.0, trace="dutch")
    np.testing.assert_allclose(learned(sarsa, world(), steps=300).w, dutch.w, atol=1e-12)
    whole = learned(monte_carlo_control, world(), steps=3000, **PLAIN)
    np.testing.assert_array_equal(whole.w, learned(n_step_sarsa, world(), steps=3000, n=1000).w)
    assert not np.allclose(one.w, whole.w)


def test_expected_sarsa_with_a_greedy_target_is_q_learning():
    a = learned(q_learning, simulator(slippery(), 0), steps=3000)
    b = learned(expected_sarsa, simulator(slippery(), 0), steps=3000, target_epsilon=0.0)
    np.testing.assert_array_equal(a.w, b.w)
    on_policy = learned(expected_sarsa, simulator(slippery(), 0), steps=3000)
    assert not np.allclose(a.w, on_policy.w)
    same_epsilon = learned(expected_sarsa, simulator(slippery(), 0), steps=3000, target_epsilon=0.1)
    np.testing.assert_array_equal(on_policy.w, same_epsilon.w)


def test_one_step_of_expected_n_step_sarsa_is_expected_sarsa_in_the_mean():
    """The same targets, though the two draw their actions at other moments."""
    mdp = returning()
    w = np.random.default_rng(4).normal(size=(3, 2))
    for s, a in itertools.product(range(2), range(2)):
        for _, reward, t, discount in successors(mdp, s, a):
            one, other = w.copy(), w.copy()
            expected_sarsa.update(one, s, a, reward, discount, t, 2, EPSILON, ALPHA)
            last = 0.0 if discount == 0 else float(policy(w)[t] @ w[t])
            path = (type("Step", (), {"state": s, "action": a, "reward": reward})(),)
            n_step_sarsa.update(other, *recorded(path, 1), 0, last, rule(ALPHA))
            np.testing.assert_allclose(one, other, atol=1e-14)


def test_without_imagined_steps_dyna_is_q_learning():
    a = learned(q_learning, simulator(slippery(), 0), steps=3000)
    b = learned(dyna_q, simulator(slippery(), 0), steps=3000, planning_steps=0)
    np.testing.assert_array_equal(a.w, b.w)


def interim_lambda_return(path, w_before, t, horizon, lambda_, features) -> float:
    """G^λ_{t:h} with the weights of each time, from the definition (Sutton and Barto, equation 12.18, for actions)."""

    def n_step(n: int) -> float:
        g = sum(GAMMA**k * path[t + k][2] for k in range(n))
        state, action = path[t + n][:2] if t + n < len(path) else (None, None)
        return g if state is None else g + GAMMA**n * float(features[state] @ w_before[t + n - 1][:, action])

    weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, horizon - t)]
    parts = [weight * n_step(n + 1) for n, weight in enumerate(weights)]
    return sum(parts) + lambda_ ** (horizon - t - 1) * n_step(horizon - t)


def test_dutch_traces_are_the_online_lambda_return_algorithm():
    """At every step the weights are those of the forward view done anew with the rewards so far (section 12.5)."""
    rng, lambda_, alpha = np.random.default_rng(5), 0.8, 0.2
    features = rng.normal(size=(4, 3)) / 2
    path = [(int(rng.integers(4)), int(rng.integers(2)), float(rng.normal())) for _ in range(8)]
    w = rng.normal(size=(3, 2))
    start, online, history = w.copy(), w.copy(), [w.copy()]
    traces = traces_of(w)
    for t, (s, a, reward) in enumerate(path):
        ended = t + 1 == len(path)
        after, b = path[t + 1][:2] if not ended else (0, 0)
        x, y = (Active(np.arange(3), features[i]) for i in (s, after))
        if t == 0:
            traces.before[0] = 0.0
        sarsa_lambda.update(
            online, traces, x, a, reward, 0.0 if ended else GAMMA, y, b, GAMMA * lambda_, alpha, KINDS.index("dutch")
        )
        forward = start.copy()
        for k in range(t + 1):
            target = interim_lambda_return(path, history, k, t + 1, lambda_, features)
            u, c = path[k][:2]
            forward[:, c] += alpha * (target - features[u] @ forward[:, c]) * features[u]
        np.testing.assert_allclose(online, forward, atol=1e-12)
        history.append(forward)


def test_accumulating_traces_are_the_lambda_return_where_weights_hardly_move():
    rng, lambda_, alpha = np.random.default_rng(6), 0.8, 1e-9
    path = [(int(rng.integers(4)), int(rng.integers(2)), float(rng.normal())) for _ in range(12)]
    w = rng.normal(size=(4, 2))
    online, traces, due = w.copy(), traces_of(w), np.zeros_like(w)
    for t, (s, a, reward) in enumerate(path):
        ended = t + 1 == len(path)
        after, b = path[t + 1][:2] if not ended else (0, 0)
        sarsa_lambda.update(online, traces, s, a, reward, 0.0 if ended else GAMMA, after, b, GAMMA * lambda_, alpha, 0)
        g = interim_lambda_return(path, [w] * len(path), t, len(path), lambda_, np.eye(4))
        due[s, a] += g - w[s, a]
    np.testing.assert_allclose((online - w) / alpha, due, rtol=1e-5, atol=1e-5)


def test_traces_accumulate_are_replaced_and_are_forgotten():
    marks = {}
    for kind, name in enumerate(KINDS):
        w = np.zeros((2, 1))
        traces = traces_of(w)
        for _ in range(3):
            sarsa_lambda.update(w, traces, 0, 0, 0.0, 0.5, 1, 0, 0.5, 0.1, kind)
        marks[name] = traces.z[0, 0]
        assert traces.count[0] == 1
        for _ in range(60):
            fade(traces, 0.5)
            mark(traces, 1, 0, 0.1, REPLACING)
        assert (traces.count[0], traces.z.ravel().tolist(), traces.held.ravel().tolist()) == (1, [0, 1], [False, True])
        fade(traces, 0.0)
        assert (traces.count[0], traces.z.any(), traces.held.any()) == (0, False, False)
    second = 0.5 + 1 - 0.1 * 0.5
    assert marks["accumulating"] == pytest.approx(1.75)
    assert marks["replacing"] == 1.0
    assert marks["dutch"] == pytest.approx(second / 2 + 1 - 0.1 * second / 2)


@pytest.mark.parametrize("trace", KINDS)
def test_features_of_another_scale_learn_the_same(trace):
    """Features 2^-45 as large with weights 2^45 as large: traces as small as their own features are still followed."""
    x, scale = np.random.default_rng(8).normal(size=(5, 3)), 2.0**-45
    runs = [
        learned(
            sarsa_lambda,
            simulator(slippery(), 0, limit=9, features=c * x),
            steps=500,
            alpha=0.05 / c**2,
            lambda_=0.8,
            trace=trace,
        )
        for c in (1.0, scale)
    ]
    np.testing.assert_array_equal(runs[0].w, scale * runs[1].w)
    assert runs[0].w.any()


# Convergence


@pytest.mark.parametrize(
    ("module", "steps", "settings"),
    [
        (q_learning, 2_000_000, {}),
        (double_q_learning, 2_000_000, {}),
        (expected_sarsa, 2_000_000, {"target_epsilon": 0.0}),
        (dyna_q, 200_000, {"planning_steps": 2}),
        (prioritized_dyna, 100_000, {}),
    ],
    ids=lambda x: x.__name__.rpartition(".")[2] if isinstance(x, ModuleType) else "",
)
def test_off_policy_learners_end_at_the_optimum(module, steps, settings):
    mdp = slippery()
    best = policy_iteration.solve(mdp)
    q = (mdp.reward + mdp.gamma * mdp.matrix() @ best.value).reshape(4, 2)
    state = learned(module, simulator(mdp, 0), steps=steps, alpha=1.0, alpha_power=0.75, epsilon=0.5, **settings)
    np.testing.assert_allclose(state.w[:4], q, atol=0.05)


def test_sarsa_ends_at_the_best_policy_that_explores_as_it_does():
    """With ε fixed, its values are those of an ε-greedy policy that is greedy in them; not those of the optimum."""
    mdp = slippery()
    state = learned(sarsa, simulator(mdp, 0), steps=1_000_000, alpha=1.0, alpha_power=0.75, epsilon=0.5)
    pi = policy(state.w, 0.5)
    q = (mdp.reward + mdp.gamma * mdp.matrix() @ policy_reward_process(mdp, pi).value()).reshape(4, 2)
    np.testing.assert_allclose(state.w[:4], q, atol=0.03)
    best = policy_iteration.solve(mdp)
    optimal = (mdp.reward + mdp.gamma * mdp.matrix() @ best.value).reshape(4, 2)
    assert np.abs(state.w[:4] - optimal).max() > 0.1


def test_glie_monte_carlo_ends_at_the_optimum():
    """Of the lectures' walk. It tries each other action about log k times, so harder problems want a slower ε."""
    best = policy_iteration.solve(treasure_walk())
    state = learned(monte_carlo_control, simulator(treasure_walk(), 0), steps=20_000)
    assert (state.w[:5].argmax(1) == best.policy[:5]).all()
    np.testing.assert_allclose(state.w[:5].max(1), best.value[:5], atol=2e-3)


# Settings


@pytest.mark.parametrize(
    ("module", "settings", "words"),
    [
        (q_learning, {"alpha": 0.0}, "alpha is 0.0: give a finite number above 0"),
        (q_learning, {"epsilon": 1.5}, "epsilon is 1.5"),
        (q_learning, {"epsilon": 0.1, "epsilon_end": 0.2}, "epsilon_end is 0.2: give a number from 0 to epsilon"),
        (q_learning, {"alpha_power": 2.0}, "alpha_power is 2.0"),
        (q_learning, {"gamma": -0.1}, "gamma is -0.1"),
        (q_learning, {"initial": np.inf}, "initial is inf"),
        (q_learning, {"steps": 0}, "steps is 0"),
        (expected_sarsa, {"target_epsilon": 2.0}, "target_epsilon is 2.0"),
        (n_step_sarsa, {"n": 0}, "n is 0"),
        (sarsa_lambda, {"lambda_": 1.1}, "lambda_ is 1.1"),
        (dyna_q, {"planning_steps": -1}, "planning_steps is -1"),
        (prioritized_dyna, {"planning_steps": 0}, "planning_steps is 0"),
        (prioritized_dyna, {"threshold": -1.0}, "threshold is -1.0"),
    ],
)
def test_settings_out_of_their_range_are_refused(module, settings, words):
    with pytest.raises(InputError, match=words):
        module.init(simulator(cliff(), 36), module.Config(**settings))


@pytest.mark.usefixtures("unchecked_types")
def test_a_trace_of_another_name_is_refused():
    with pytest.raises(InputError, match="trace is 'fading': give one of accumulating"):
        sarsa_lambda.init(simulator(cliff(), 36), sarsa_lambda.Config(trace="fading"))


def test_what_counts_visits_wants_a_table():
    world = simulator(cliff(), 36, features=np.eye(48))
    with pytest.raises(InputError, match=r"alpha_power is 0\.5, which counts visits"):
        q_learning.init(world, q_learning.Config(alpha_power=0.5))
    with pytest.raises(InputError, match="first_visit and average count visits"):
        monte_carlo_control.init(world, monte_carlo_control.Config())


def test_an_endless_episode_is_named(monkeypatch):
    monkeypatch.setattr(monte_carlo_control, "LONGEST", 4000)
    with pytest.raises(InputError, match="has not ended in 4000 steps"):
        learned(monte_carlo_control, simulator(paying(False), 0), steps=100_000)


COMMON = {
    "steps": 450,
    "alpha": 0.3,
    "alpha_power": 0.5,
    "epsilon": 0.5,
    "epsilon_end": 0.0,
    "gamma": 0.5,
    "initial": 1.0,
}
OWN: dict[ModuleType, dict[str, Any]] = {
    q_learning: {},
    double_q_learning: {},
    sarsa: {},
    expected_sarsa: {"target_epsilon": 0.9},
    sarsa_lambda: {"lambda_": 0.2, "trace": "dutch"},
    n_step_sarsa: {"n": 2, "expected": True},
    monte_carlo_control: {"glie": False, "average": False, "first_visit": False},
    dyna_q: {"planning_steps": 2},
    prioritized_dyna: {"planning_steps": 2, "threshold": 0.3},
}
"""Another value for every setting."""


@pytest.mark.parametrize("module", OWN, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_setting_counts(module):
    """Means of Monte Carlo have no α, and its ε = 1/k no ε; both are then looked at without."""
    changes = {**COMMON, **OWN[module]}
    assert {"report_every", *changes} == {field.name for field in dataclasses.fields(module.Config)}
    plain = learned(module, simulator(slippery(), 0), steps=400)
    for name, value in changes.items():
        given = PLAIN if module is monte_carlo_control and name in COMMON else {}
        before = learned(module, simulator(slippery(), 0), steps=400, **given) if given else plain
        after = learned(module, simulator(slippery(), 0), **{"steps": 400, **given, name: value})
        assert not np.array_equal(before.w, after.w), name


def test_gamma_is_that_of_the_model_unless_given():
    world = simulator(paying(False), 0)
    assert learned(q_learning, world, steps=3000).w[0, 0] == pytest.approx(2.0)
    assert learned(q_learning, world, steps=3000, gamma=0.75).w[0, 0] == pytest.approx(4.0)


def test_epsilon_goes_down_in_a_line():
    state = q_learning.init(simulator(cliff(), 36), q_learning.Config(steps=100, epsilon=0.9, epsilon_end=0.1))
    settings = Learning(steps=100, epsilon=0.9, epsilon_end=0.1).rule(state)
    found = [explore(settings) for _ in range(120)]
    np.testing.assert_allclose(found, np.maximum(0.1, 0.9 - 0.008 * np.arange(120)), atol=1e-12)
