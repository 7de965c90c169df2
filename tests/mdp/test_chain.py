"""Chains and reward processes, against textbook values, simulation-free identities and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from operant.core.errors import InputError
from operant.mdp import chain as module
from operant.mdp.chain import MarkovChain, MarkovRewardProcess, policy_reward_process
from operant.mdp.model import from_transitions

GAMBLER = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 1.0]])


def random_chain(seed: int, states: int = 5, zeros: float = 0.5) -> MarkovChain:
    generator = np.random.default_rng(seed)
    p = generator.random((states, states)) * (generator.random((states, states)) > zeros) + 1e-3 * np.eye(states)
    return MarkovChain(p / p.sum(1, keepdims=True))


@given(st.integers(0, 10**6))
def test_a_stationary_distribution_stays(seed):
    chain = random_chain(seed)
    if chain.classes()[1].sum() > 1:
        with pytest.raises(InputError, match="classes that are never left"):
            chain.stationary()
        return
    found = chain.stationary()
    np.testing.assert_allclose(found @ chain.transition.toarray(), found, atol=1e-10)
    np.testing.assert_allclose(found.sum(), 1)
    assert (found >= 0).all()


def test_hitting_times_of_the_gamblers_ruin():
    """From i of N = 3 a fair game lasts i (N - i) rounds on average."""
    np.testing.assert_allclose(MarkovChain(GAMBLER).hitting_time([0, 3]), [0, 2, 2, 0])
    assert MarkovChain(GAMBLER).hitting_time([0]).tolist() == [0, np.inf, np.inf, np.inf]


@given(st.integers(0, 10**6))
def test_hitting_times_satisfy_their_equation(seed):
    chain = random_chain(seed)
    h = chain.hitting_time([0])
    assert h[0] == 0
    p = chain.transition.toarray()
    for s in range(1, chain.states):
        due = 1 + sum(p[s, t] * h[t] for t in range(chain.states) if p[s, t] > 0)
        assert h[s] == due == np.inf or abs(h[s] - due) < 1e-6 * due


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.9, 0.999]))
def test_values_are_discounted_sums(seed, gamma):
    chain = random_chain(seed)
    reward = np.random.default_rng(seed).normal(size=chain.states)
    found = MarkovRewardProcess(chain, reward, gamma).value()
    due, p = np.zeros(chain.states), chain.transition.toarray()
    for _ in range(40_000 if gamma > 0.9 else 500):
        due = reward + gamma * p @ due
    np.testing.assert_allclose(found, due, rtol=1e-8, atol=1e-8)


def test_large_models_are_solved_the_same(monkeypatch):
    chain = random_chain(1, 300, 0.98)
    process = MarkovRewardProcess(chain, np.arange(300.0), 0.95)
    due = process.value()
    monkeypatch.setattr(module, "DIRECT", 10)
    np.testing.assert_allclose(process.value(), due, rtol=1e-8)


def test_without_a_discount_an_end_must_be_certain():
    end = np.array([True, False, False, True])
    process = MarkovRewardProcess(MarkovChain(GAMBLER), np.ones(4), 1.0, end)
    np.testing.assert_allclose(process.value(), [0, 2, 2, 0])
    with pytest.raises(InputError, match="gamma is 1 and from state 1 no end is reached for certain"):
        MarkovRewardProcess(MarkovChain(GAMBLER), np.ones(4), 1.0, np.array([True, False, False, False])).value()


def test_a_policy_makes_a_process():
    """Two actions in state 0: stay for 1, or leave for 5."""
    mdp = from_transitions([0, 0], [0, 1], [0, 1], [1.0, 1.0], [1.0, 5.0], 0.5, ends=[1])
    assert policy_reward_process(mdp, [0, -1]).value().tolist() == [2.0, 0.0]
    assert policy_reward_process(mdp, [1, -1]).value().tolist() == [5.0, 0.0]
    mixed = policy_reward_process(mdp, [[0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(mixed.value(), [3 / 0.75, 0.0])
    for policy, words in (
        ([2, 0], r"takes action 2 in state 0, which has only \[0, 1\]"),
        ([0], r"the shape \(1,\)"),
        ([[0.5, 0.6], [0, 0]], "in state 0 has the probabilities"),
        ([[1.5, -0.5], [0, 0]], "in state 0 has the probabilities"),
    ):
        with pytest.raises(InputError, match=words):
            policy_reward_process(mdp, policy)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"state 1: the probabilities sum to 0\.9"):
        MarkovChain(np.array([[1.0, 0.0], [0.4, 0.5]]))
    with pytest.raises(InputError, match=r"state 0: a probability is -1\.0"):
        MarkovChain(np.array([[2.0, -1.0], [0.0, 1.0]]))
    with pytest.raises(InputError, match=r"the shape \(1, 2\)"):
        MarkovChain(sparse.csr_array(np.ones((1, 2))))
    chain = MarkovChain(np.eye(2))
    with pytest.raises(InputError, match="state 1: the reward is nan"):
        MarkovRewardProcess(chain, np.array([0.0, np.nan]), 0.5)
    with pytest.raises(InputError, match=r"reward has the shape \(3,\)"):
        MarkovRewardProcess(chain, np.zeros(3), 0.5)
    with pytest.raises(InputError, match="the discount gamma is 2"):
        MarkovRewardProcess(chain, np.zeros(2), 2.0)


@given(st.integers(0, 10**6))
def test_a_policys_process_as_a_decision_process_has_its_values(seed):
    generator = np.random.default_rng(seed)
    s, a, t = (x.ravel() for x in np.indices((4, 2, 5)))
    p = generator.dirichlet(np.ones(5), 8).ravel()
    mdp = from_transitions(s, a, t, p, generator.normal(size=40), 0.9, ends=[4])
    process = policy_reward_process(mdp, np.concatenate([generator.dirichlet(np.ones(2), 4), np.zeros((1, 2))]))
    found = module.as_decision_process(process)
    assert (found.actions, found.end.tolist(), len(found.action)) == (1, mdp.end.tolist(), 4)
    value = process.value()
    np.testing.assert_allclose(found.reward + 0.9 * found.matrix() @ value, value[:4], atol=1e-12)
    assert value[4] == 0


def test_what_has_no_chance_is_no_way():
    """A zero that a sparse matrix stores connects nothing."""
    stored = sparse.csr_array((np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 1, 1, 0]), np.array([0, 2, 4])))
    assert len(MarkovChain(stored).classes()[1]) == 2
    with pytest.raises(InputError, match="2 classes that are never left"):
        MarkovChain(stored).stationary()
