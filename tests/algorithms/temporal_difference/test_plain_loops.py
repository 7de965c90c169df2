"""Whole runs of control against plain loops written from the definitions, on the same chances."""

from typing import Any

import numpy as np
import pytest

from operant.algorithms.temporal_difference import expected_sarsa, monte_carlo_control, n_step_sarsa, sarsa_lambda
from operant.core.random import Stream, below, uniform
from operant.core.traces import KINDS
from operant.mdp.simulator import reset, simulator, step

from .worlds import slippery

STEPS, GAMMA, ALPHA, EPSILON, EPSILON_END = 400, 0.9, 0.05, 0.9, 0.2
TABLE, DENSE = np.eye(5), np.random.default_rng(5).normal(size=(5, 3))

over_features = pytest.mark.parametrize("x", [TABLE, DENSE], ids=["table", "features"])


def world(x: np.ndarray = TABLE) -> Any:
    return simulator(slippery(), 0, limit=9, features=None if x is TABLE else x)


def check(module: Any, definition: Any, x: np.ndarray = TABLE, **settings: Any) -> None:
    """The weights after a run are those of `definition(w, x, random, state)`, from weights of anything."""
    config = module.Config(
        steps=STEPS, gamma=GAMMA, alpha=ALPHA, epsilon=EPSILON, epsilon_end=EPSILON_END, report_every=37, **settings
    )
    state = module.init(world(x), config, seed=1)
    state.w[...] = np.random.default_rng(6).normal(size=state.w.shape)
    due = definition(state.w.copy(), x, state.random.copy(), state)
    for _ in module.train(state, config):
        pass
    assert state.world.place[2] > 50
    np.testing.assert_allclose(state.w, due, rtol=1e-9, atol=1e-10)


def epsilon_at(t: int) -> float:
    return EPSILON + (EPSILON_END - EPSILON) * t / STEPS


def chosen(q: np.ndarray, epsilon: float, random: Stream) -> int:
    """ε-greedily; no two of these values are equal."""
    return below(random, len(q)) if uniform(random) < epsilon else int(q.argmax())


def mean_of(q: np.ndarray, epsilon: float) -> float:
    """Of the values under the ε-greedy policy."""
    return float(epsilon * q.mean() + (1 - epsilon) * q.max())


@over_features
@pytest.mark.parametrize("trace", KINDS)
def test_sarsa_lambda(x, trace):
    lambda_ = 0.7

    def definition(w, x, random, state):
        place, a = world(), int(state.action[0])
        s, z, before = 0, np.zeros_like(w), 0.0
        for t in range(STEPS):
            reward, after, terminated, truncated = step(place, a)
            b = chosen(x[after] @ w, epsilon_at(t), random)
            q, q_after = x[s] @ w[:, a], 0.0 if terminated else x[after] @ w[:, b]
            delta, gradient = reward + GAMMA * q_after - q, np.zeros_like(w)
            gradient[:, a] = x[s]
            z = GAMMA * lambda_ * z
            if trace == "accumulating":
                z = z + gradient
            elif trace == "replacing":
                z = np.where(gradient != 0, gradient, z)
            else:
                z = z + (1 - ALPHA * (z * gradient).sum()) * gradient
                w = w + ALPHA * (q - before) * (z - gradient)
            w, before = w + ALPHA * delta * z, q_after
            s, a = after, b
            if terminated or truncated:
                s, z, before = reset(place), np.zeros_like(w), 0.0
                a = chosen(x[s] @ w, epsilon_at(t), random)
        return w

    check(sarsa_lambda, definition, x, lambda_=lambda_, trace=trace)


@over_features
def test_expected_sarsa(x):
    def definition(w, x, random, state):
        place, s = world(), 0
        for t in range(STEPS):
            a = chosen(x[s] @ w, epsilon_at(t), random)
            reward, after, terminated, truncated = step(place, a)
            target = reward + (0.0 if terminated else GAMMA * mean_of(x[after] @ w, epsilon_at(t)))
            w[:, a] += ALPHA * (target - x[s] @ w[:, a]) * x[s]
            s = reset(place) if terminated or truncated else after
        return w

    check(expected_sarsa, definition, x)


@over_features
@pytest.mark.parametrize("expected", [False, True], ids=["drawn", "expected"])
def test_n_step_sarsa(x, expected):
    n = 3

    def definition(w, x, random, state):
        place, s, a, path = world(), 0, int(state.action[-1]), []
        for t in range(STEPS):
            reward, after, terminated, truncated = step(place, a)
            path.append((s, a, reward))
            q = x[after] @ w
            b = chosen(q, epsilon_at(t), random)
            last = 0.0 if terminated else mean_of(q, epsilon_at(t)) if expected else q[b]
            over = terminated or truncated
            for first in range(len(path)):
                rest = path[first:]
                if len(rest) == n or (over and len(rest) < n):
                    g = sum(GAMMA**k * r for k, (_, _, r) in enumerate(rest)) + GAMMA ** len(rest) * last
                    u, c, _ = rest[0]
                    w[:, c] += ALPHA * (g - x[u] @ w[:, c]) * x[u]
            s, a = after, b
            if over:
                s, path = reset(place), []
                a = chosen(x[s] @ w, epsilon_at(t), random)
        return w

    check(n_step_sarsa, definition, x, n=n, expected=expected)


@pytest.mark.parametrize("first_visit", [True, False], ids=["first", "every"])
def test_monte_carlo_control_with_epsilon_1_over_k(first_visit):
    """ε is 1/k in all of episode k, its first action included."""

    def definition(w, x, random, state):
        place, s, a, k, path = world(), 0, int(state.action.chosen[0]), 1, []
        found: dict[tuple[int, int], list[float]] = {}
        for _ in range(STEPS):
            reward, after, terminated, truncated = step(place, a)
            path.append((s, a, reward))
            b = chosen(w[after], 1 / k, random)
            s, a = after, b
            if terminated or truncated:
                last = 0.0 if terminated else w[after, b]
                for t, (u, c, _) in enumerate(path):
                    if not first_visit or (u, c) not in [(v, d) for v, d, _ in path[:t]]:
                        g = sum(GAMMA**i * r for i, (_, _, r) in enumerate(path[t:])) + GAMMA ** (len(path) - t) * last
                        found.setdefault((u, c), []).append(g)
                for pair, returns in found.items():
                    w[pair] = np.mean(returns)
                k, path, s = k + 1, [], reset(place)
                a = chosen(w[s], 1 / k, random)
        return w

    check(monte_carlo_control, definition, first_visit=first_visit)
