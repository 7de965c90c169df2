"""Every algorithm against its definition, written down without regard to cost, on episodes of anything.

Values, weights and features are plain vectors here; the episodes visit states again, and half of them are cut off.
"""

import itertools

import numpy as np
import pytest
import torch

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
from operant.core import returns

from .worlds import drawn, learn_all

GAMMA, ALPHA = 0.9, 0.2
RANDOM = np.random.default_rng(5)
TABLE, DENSE = np.eye(4), RANDOM.normal(size=(4, 3))
PI = RANDOM.dirichlet([1, 1], 4)
B = RANDOM.dirichlet([3, 3], 4)
SETS = [[drawn(np.random.default_rng([n, k])) for k in range(4)] for n in range(8)]

over_features = pytest.mark.parametrize("x", [TABLE, DENSE], ids=["table", "features"])


def check(module, config, definition, x, *policies):
    """The weights after each set of episodes are those of the definition, from weights of all kinds."""
    for n, episodes in enumerate(SETS):
        start = np.random.default_rng(n).normal(size=x.shape[1])
        given = None if x is TABLE else x
        state = learn_all(module, config, episodes, *policies, features=given, gamma=GAMMA, w=start)
        np.testing.assert_allclose(state.w[:, 0], definition(start.copy(), episodes, x), rtol=1e-9, atol=1e-10)


def after(x, step):
    """The features of the next state, and γ there: 0 at an end."""
    return x[step.next_state], 0.0 if step.terminated else GAMMA


def delta(w, x, step):
    following, discount = after(x, step)
    return step.reward + discount * w @ following - w @ x[step.state]


def rho(step):
    return PI[step.state, step.action] / B[step.state, step.action]


def whole_return(w, x, episode, t):
    """G_t: the rewards to the end, and the value of the state where the episode was cut off."""
    g = sum(GAMMA**k * step.reward for k, step in enumerate(episode[t:]))
    last = episode[-1]
    return g + (0.0 if last.terminated else GAMMA ** (len(episode) - t) * w @ x[last.next_state])


def n_step_return(w, x, episode, t, n):
    """G_{t:t+n}."""
    if t + n >= len(episode):
        return whole_return(w, x, episode, t)
    return sum(GAMMA**k * episode[t + k].reward for k in range(n)) + GAMMA**n * w @ x[episode[t + n].state]


def lambda_mean(w, x, episode, t, lambda_, horizon=None):
    """G^λ_{t:h}: a mean of n-step returns with the weights (1 - λ) λ^(n-1), what is left of 1 on the longest."""
    longest = (len(episode) if horizon is None else horizon) - t
    found = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step_return(w, x, episode, t, n) for n in range(1, longest))
    return found + lambda_ ** (longest - 1) * n_step_return(w, x, episode, t, longest)


def mean(weighted):
    """Of (value, weight)."""
    return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted)


@over_features
def test_td(x):
    def definition(w, episodes, x):
        for step in itertools.chain(*episodes):
            w = w + ALPHA * delta(w, x, step) * x[step.state]
        return w

    check(td, td.Config(alpha=ALPHA), definition, x, PI)


@over_features
def test_monte_carlo_with_constant_steps(x):
    def definition(w, episodes, x):
        for episode in episodes:
            targets = [whole_return(w, x, episode, t) for t in range(len(episode))]
            for step, g in zip(episode, targets, strict=True):
                w = w + ALPHA * (g - w @ x[step.state]) * x[step.state]
        return w

    check(monte_carlo, monte_carlo.Config(alpha=ALPHA), definition, x, PI)


@pytest.mark.parametrize("visits", ["first", "every"])
def test_monte_carlo_means(visits):
    def definition(w, episodes, x):
        found = {s: [] for s in range(4)}
        for episode in episodes:
            for t, step in enumerate(episode):
                if visits == "every" or all(before.state != step.state for before in episode[:t]):
                    found[step.state].append(whole_return(w, x, episode, t))
            w = np.array([np.mean(found[s]) if found[s] else w[s] for s in range(4)])
        return w

    check(monte_carlo, monte_carlo.Config(visits=visits), definition, TABLE, PI)


@over_features
@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_n_step_td(x, n):
    def definition(w, episodes, x):
        for episode in episodes:
            for now in range(1, len(episode) + n):
                t = now - n
                if 0 <= t < len(episode):
                    w = w + ALPHA * (n_step_return(w, x, episode, t, n) - w @ x[episode[t].state]) * x[episode[t].state]
        return w

    check(n_step_td, n_step_td.Config(alpha=ALPHA, n=n), definition, x, PI)


@over_features
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_lambda_return(x, lambda_):
    def definition(w, episodes, x):
        for episode in episodes:
            targets = [lambda_mean(w, x, episode, t, lambda_) for t in range(len(episode))]
            for step, g in zip(episode, targets, strict=True):
                w = w + ALPHA * (g - w @ x[step.state]) * x[step.state]
        return w

    check(lambda_return, lambda_return.Config(alpha=ALPHA, lambda_=lambda_), definition, x, PI)


@over_features
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("trace", ["accumulating", "replacing"])
def test_td_lambda(x, lambda_, trace):
    def definition(w, episodes, x):
        for episode in episodes:
            e = np.zeros(x.shape[1])
            for step in episode:
                e = GAMMA * lambda_ * e
                e = e + x[step.state] if trace == "accumulating" else np.where(x[step.state] != 0, x[step.state], e)
                w = w + ALPHA * delta(w, x, step) * e
        return w

    check(td_lambda, td_lambda.Config(alpha=ALPHA, lambda_=lambda_, trace=trace), definition, x, PI)


@over_features
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_true_online_td_is_the_lambda_return_algorithm_done_anew_at_every_horizon(x, lambda_):
    """w^h_t of section 12.5: for each horizon h all updates from the episode's start, with returns truncated at h.

    A bootstrapped value at s_{t+n} is that of the weights w_{t+n-1} of the time when s_{t+n} was reached.
    """

    def definition(w, episodes, x):
        for episode in episodes:
            start, reached = w, [w]  # reached[k] = w_k, the last weights of horizon k

            def truncated(t, horizon, reached=reached, episode=episode):
                def n_step(n):
                    g = sum(GAMMA**k * episode[t + k].reward for k in range(n))
                    step = episode[t + n - 1]
                    return g + (0.0 if step.terminated else GAMMA**n * reached[t + n - 1] @ x[step.next_state])

                longest = horizon - t
                mean = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(n) for n in range(1, longest))
                return mean + lambda_ ** (longest - 1) * n_step(longest)

            for horizon in range(1, len(episode) + 1):
                w = start
                for t in range(horizon):
                    seen = x[episode[t].state]
                    w = w + ALPHA * (truncated(t, horizon) - w @ seen) * seen
                reached.append(w)
        return w

    check(td_lambda, td_lambda.Config(alpha=ALPHA, lambda_=lambda_), definition, x, PI)


@over_features
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_off_policy_td(x, lambda_):
    """The ratio multiplies the TD error with its trace, z_t = ρ_t (γλ z_{t-1} + x_t)."""

    def definition(w, episodes, x):
        for episode in episodes:
            z = np.zeros(x.shape[1])
            for step in episode:
                z = rho(step) * (GAMMA * lambda_ * z + x[step.state])
                w = w + ALPHA * delta(w, x, step) * z
        return w

    check(off_policy_td, off_policy_td.Config(alpha=ALPHA, lambda_=lambda_), definition, x, PI, B)


@pytest.mark.parametrize("visits", ["first", "every"])
@pytest.mark.parametrize("sampling", ["ordinary", "weighted", "per_decision"])
def test_off_policy_monte_carlo_means(visits, sampling):
    """The ratio multiplies the whole return, its weight in the mean, or each reward with those up to it."""

    def definition(w, episodes, x):
        found = {s: [] for s in range(4)}
        for episode in episodes:
            for t, step in enumerate(episode):
                if visits == "first" and any(before.state == step.state for before in episode[:t]):
                    continue
                ratios = np.cumprod([rho(later) for later in episode[t:]])
                g = whole_return(w, x, episode, t)
                if sampling == "per_decision":
                    rest = g - sum(GAMMA**k * later.reward for k, later in enumerate(episode[t:]))
                    each = sum(
                        GAMMA**k * p * s.reward for k, (p, s) in enumerate(zip(ratios, episode[t:], strict=True))
                    )
                    found[step.state].append((each + ratios[-1] * rest, 1.0))
                else:
                    found[step.state].append((g, ratios[-1]) if sampling == "weighted" else (ratios[-1] * g, 1.0))
            w = np.array([mean(found[s]) if found[s] else w[s] for s in range(4)])
        return w

    config = off_policy_monte_carlo.Config(visits=visits, sampling=sampling)
    check(off_policy_monte_carlo, config, definition, TABLE, PI, B)


@over_features
@pytest.mark.parametrize("sampling", ["ordinary", "weighted", "per_decision"])
def test_off_policy_monte_carlo_with_constant_steps(x, sampling):
    def definition(w, episodes, x):
        for episode in episodes:
            updates = []
            for t in range(len(episode)):
                ratios = np.cumprod([rho(later) for later in episode[t:]])
                g = whole_return(w, x, episode, t)
                rest = g - sum(GAMMA**k * later.reward for k, later in enumerate(episode[t:]))
                each = sum(GAMMA**k * p * s.reward for k, (p, s) in enumerate(zip(ratios, episode[t:], strict=True)))
                updates.append({
                    "ordinary": (1.0, ratios[-1] * g),
                    "weighted": (ratios[-1], g),
                    "per_decision": (1.0, each + ratios[-1] * rest),
                }[sampling])  # fmt: skip
            for step, (weight, target) in zip(episode, updates, strict=True):
                w = w + ALPHA * weight * (target - w @ x[step.state]) * x[step.state]
        return w

    config = off_policy_monte_carlo.Config(alpha=ALPHA, sampling=sampling)
    check(off_policy_monte_carlo, config, definition, x, PI, B)


@over_features
@pytest.mark.parametrize("rule", ["gtd2", "tdc"])
def test_gradient_td(x, rule):
    def definition(w, episodes, x):
        h = np.zeros(x.shape[1])
        for step in itertools.chain(*episodes):
            following, discount = after(x, step)
            seen, error = x[step.state], delta(w, x, step)
            if rule == "gtd2":
                change = (seen - discount * following) * (seen @ h)
            else:
                change = error * seen - discount * following * (seen @ h)
            h = h + 0.3 * rho(step) * (error - h @ seen) * seen
            w = w + ALPHA * rho(step) * change
        return w

    check(gradient_td, gradient_td.Config(alpha=ALPHA, beta=0.3, rule=rule), definition, x, PI, B)


@over_features
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_emphatic_td(x, lambda_):
    def definition(w, episodes, x):
        for episode in episodes:
            z, f, before = np.zeros(x.shape[1]), 0.0, 0.0
            for step in episode:
                f = GAMMA * before * f + 1
                z = rho(step) * (GAMMA * lambda_ * z + (lambda_ + (1 - lambda_) * f) * x[step.state])
                w = w + 0.02 * delta(w, x, step) * z
                before = rho(step)
        return w

    check(emphatic_td, emphatic_td.Config(alpha=0.02, lambda_=lambda_), definition, x, PI, B)


@over_features
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_lstd(x, lambda_):
    """The solution of one linear system over all steps."""

    def definition(_, episodes, x):
        a, b = 0.5 * np.eye(x.shape[1]), np.zeros(x.shape[1])
        for episode in episodes:
            z = np.zeros(x.shape[1])
            for step in episode:
                following, discount = after(x, step)
                z = GAMMA * lambda_ * z + x[step.state]
                a += np.outer(z, x[step.state] - discount * following)
                b += step.reward * z
        return np.linalg.solve(a, b)

    check(lstd, lstd.Config(lambda_=lambda_, ridge=0.5), definition, x, PI)


@over_features
def test_least_squares_monte_carlo(x):
    """Ridge regression of returns on features."""

    def definition(w, episodes, x):
        rows = [x[step.state] for episode in episodes for step in episode]
        target = [whole_return(w, x, episode, t) for episode in episodes for t in range(len(episode))]
        rows += list(np.sqrt(0.5) * np.eye(x.shape[1]))
        return np.linalg.lstsq(np.array(rows), np.array(target + [0.0] * x.shape[1]), rcond=None)[0]

    check(least_squares_monte_carlo, least_squares_monte_carlo.Config(ridge=0.5), definition, x, PI)


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_targets_are_those_of_the_estimators_on_tensors(lambda_):
    """One step from 0 with α = 1 moves a value that is met once to its target."""
    for episodes in SETS:
        (episode, *_) = episodes
        features = np.eye(len(episode) + 1)
        w = np.random.default_rng(0).normal(size=len(features))
        once = tuple(s._replace(state=t, next_state=t + 1) for t, s in enumerate(episode))
        config = lambda_return.Config(alpha=1.0, lambda_=lambda_)
        state = learn_all(lambda_return, config, [once], features, states=len(features), gamma=GAMMA, w=w)
        reward, value = torch.tensor([s.reward for s in episode], dtype=torch.float64), torch.from_numpy(w)
        discount = torch.tensor([0.0 if s.terminated else GAMMA for s in episode], dtype=torch.float64)
        done = torch.tensor([s.terminated or s.truncated for s in episode])
        target = returns.lambda_return(reward, value[1:], discount, done, lambda_)
        np.testing.assert_allclose(state.w[:-1, 0], target.numpy(), rtol=1e-12)
