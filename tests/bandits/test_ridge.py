"""One example at a time, by Sherman and Morrison, is the whole regression at once."""

import numpy as np
import pytest

from operant.bandits import problems
from operant.bandits.ridge import ridge
from operant.core.errors import InputError


@pytest.mark.parametrize("make", [problems.linear, problems.disjoint])
def test_learning_step_by_step_is_the_inverse_and_the_solution(make):
    rng = np.random.default_rng(0)
    runs, arms, features = 3, 4, 5
    world = make(runs, arms, rng, features)
    learned = ridge(world, 2.0, "linucb")
    models = learned.theta.shape[1]
    a = np.tile(2.0 * np.eye(features), (runs, models, 1, 1))
    b = np.zeros((runs, models, features))
    for _ in range(40):
        arm = rng.integers(0, arms, runs)
        reward, context = world.pull(arm)[0], world.context
        for r, k in enumerate(arm):
            x, m = context[r, k if context.shape[1] > 1 else 0], k if models > 1 else 0
            a[r, m] += np.outer(x, x)
            b[r, m] += reward[r] * x
        learned.learn(context, arm, reward)
        world.advance()
    np.testing.assert_allclose(learned.inverse, np.linalg.inv(a), atol=1e-12)
    np.testing.assert_allclose(learned.theta, np.linalg.solve(a, b[..., None])[..., 0], atol=1e-12)
    x = world.context
    for r in range(runs):
        for k in range(arms):
            m, f = k if models > 1 else 0, x[r, k if x.shape[1] > 1 else 0]
            assert learned.mean(x)[r, k] == pytest.approx(f @ learned.theta[r, m])
            assert learned.variance(x)[r, k] == pytest.approx(f @ np.linalg.inv(a[r, m]) @ f)


def test_what_cannot_be_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="linucb chooses by contexts, and this world has none"):
        ridge(problems.bernoulli(2, 2, rng), 1.0, "linucb")
    with pytest.raises(InputError, match="ridge is 0"):
        ridge(problems.linear(2, 2, rng), 0.0, "linucb")
