"""The optimum in rational arithmetic, by policy iteration with no rounding anywhere."""

import itertools
from fractions import Fraction

import numpy as np

from operant.mdp.chain import MarkovRewardProcess, policy_reward_process
from operant.mdp.model import MDP, from_transitions


def exact_optimum(mdp: MDP, first: np.ndarray | None = None) -> list[Fraction]:
    """V* of the model as its numbers stand; for γ = 1 `first` chooses rows that surely lead to an end."""
    gamma = Fraction(mdp.gamma)
    rows = [
        [
            (Fraction(float(mdp.reward[row])), [
                (int(t), Fraction(float(p)))
                for t, p in zip(
                    mdp.next_state[mdp.start[row] : mdp.start[row + 1]],
                    mdp.probability[mdp.start[row] : mdp.start[row + 1]],
                    strict=True,
                )
            ])
            for row in range(mdp.first[s], mdp.first[s + 1])
        ]
        for s in range(mdp.states)
    ]  # fmt: skip
    policy = (
        [0] * mdp.states if first is None else [max(int(r - f), 0) for r, f in zip(first, mdp.first[:-1], strict=True)]
    )
    while True:
        value = _evaluate(rows, policy, gamma)
        better = list(policy)
        for s, choices in enumerate(rows):
            gain = [r + gamma * sum((p * value[t] for t, p in after), Fraction(0)) for r, after in choices]
            if gain and max(gain) > gain[policy[s]]:
                better[s] = gain.index(max(gain))
        if better == policy:
            return value
        policy = better


def _evaluate(rows: list, policy: list[int], gamma: Fraction) -> list[Fraction]:
    """(I - γ P) v = r by elimination."""
    n = len(rows)
    table = [[Fraction(int(i == j)) for j in range(n)] + [Fraction(0)] for i in range(n)]
    for s, choices in enumerate(rows):
        if choices:
            r, after = choices[policy[s]]
            table[s][n] = r
            for t, p in after:
                table[s][t] -= gamma * p
    for i in range(n):
        pivot = next(k for k in range(i, n) if table[k][i] != 0)
        table[i], table[pivot] = table[pivot], table[i]
        table[i] = [x / table[i][i] for x in table[i]]
        for k in range(n):
            if k != i and table[k][i] != 0:
                factor = table[k][i]
                table[k] = [x - factor * y for x, y in zip(table[k], table[i], strict=True)]
    return [row[n] for row in table]


def random_model(generator: np.random.Generator, gamma: float, states: int = 5, actions: int = 3) -> MDP:
    """A sparse model with rewards of any sign; half of them have an end, many have states that never meet."""
    ends = [states - 1] if generator.random() < 0.5 else []
    table = []
    for s in range(states):
        if s in ends:
            continue
        for a in range(generator.integers(1, actions + 1)):
            after = generator.choice(states, size=generator.integers(1, 4), replace=False)
            p = generator.dirichlet(np.ones(len(after)))
            table += [(s, a, int(t), float(x), float(generator.normal() * 10)) for t, x in zip(after, p, strict=True)]
    return from_transitions(*zip(*table, strict=True), gamma, states, ends)  # pyright: ignore


def random_episodic_model(generator: np.random.Generator, states: int = 6, actions: int = 3) -> MDP:
    """γ = 1: in each state some action leads on towards the end; others may circle for ever, and lose by it."""
    table = []
    for s in range(states - 1):
        for a in range(actions):
            after = generator.choice(states - 1, size=generator.integers(1, 3), replace=False)
            p = generator.dirichlet(np.ones(len(after) + 1))
            if a == 0:
                after = np.append(after, min(s + generator.integers(1, 3), states - 1))
                table += [
                    (s, a, int(t), float(x), float(generator.normal() - 1)) for t, x in zip(after, p, strict=True)
                ]
            else:
                p = p[:-1] / p[:-1].sum()
                lost = -float(generator.exponential() + 0.1)
                table += [(s, a, int(t), float(x), lost) for t, x in zip(after, p, strict=True)]
    return from_transitions(*zip(*table, strict=True), 1.0, states, [states - 1])  # pyright: ignore


def random_reaching_model(generator: np.random.Generator, states: int = 6, actions: int = 2) -> MDP:
    """γ = 1: entering the last state pays 1, entering the one before it pays 0, both are ends; all else is free."""
    table = []
    for s in range(states - 2):
        for a in range(actions):
            after = generator.choice(states, size=generator.integers(1, 3), replace=False)
            p = generator.dirichlet(np.ones(len(after)))
            table += [(s, a, int(t), float(x), float(t == states - 1)) for t, x in zip(after, p, strict=True)]
        table.append((s, actions, states - 2, 0.5, 0.0))
        table.append((s, actions, int(generator.integers(s + 1)), 0.5, 0.0))
    return from_transitions(*zip(*table, strict=True), 1.0, states, [states - 2, states - 1])  # pyright: ignore


def chance_of_reward(process: MarkovRewardProcess) -> np.ndarray:
    """[S]: the sum of all rewards in 2^14 steps, by doubling; going round for ever pays nothing."""
    going = ~np.asarray(process.end)
    value, moves = process.reward * going, process.chain.transition.toarray() * going[:, None]
    for _ in range(14):
        value, moves = value + moves @ value, moves @ moves
    return value


def best_of_all_policies(mdp: MDP) -> np.ndarray:
    """[S]: the most that any policy is worth in each state."""
    choices = [range(max(n, 1)) for n in np.diff(mdp.first)]
    best = np.zeros(mdp.states)
    for policy in itertools.product(*choices):
        best = np.maximum(best, chance_of_reward(policy_reward_process(mdp, np.array(policy))))
    return best
