"""Small episodic models, all their trajectories with their probabilities, and a world that plays a given one."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from operant.core.linear import Active
from operant.mdp.model import MDP, from_transitions


class Step(NamedTuple):
    state: int
    action: int
    reward: float
    next_state: int
    terminated: bool
    truncated: bool


Trajectory = tuple[Step, ...]

TARGET = np.array([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
BEHAVIOUR = np.array([[0.4, 0.6], [0.5, 0.5], [0.5, 0.5]])


def returning(gamma: float = 0.9) -> MDP:
    """Two states that may be visited again, and the end 2; rewards depend on where a step leads."""
    table = [
        (0, 0, 1, 0.1, 2.0), (0, 0, 2, 0.9, -1.0), (0, 1, 0, 0.1, 1.0), (0, 1, 2, 0.9, 3.0),
        (1, 0, 0, 0.1, -2.0), (1, 0, 2, 0.9, 0.5), (1, 1, 2, 1.0, 4.0),
    ]  # fmt: skip
    return from_transitions(*zip(*table, strict=True), gamma, ends=[2])  # pyright: ignore


def slippery() -> MDP:
    """Four states with two actions each, which pay and lead at random, and an end that is reached for certain."""
    rng, rows = np.random.default_rng(3), []
    for s, a in itertools.product(range(4), range(2)):
        p = rng.dirichlet(np.ones(5))
        rows += [(s, a, t, p[t], round(rng.normal(), 2)) for t in range(5)]
    return from_transitions(*zip(*rows, strict=True), 0.9, ends=[4])  # pyright: ignore


def trajectories(
    mdp: MDP, policy: np.ndarray, begin: int, limit: int = 1000, least: float = 1e-12
) -> Iterator[tuple[float, Trajectory]]:
    """(probability, steps) of every trajectory from `begin`, truncated at `limit` steps.

    Those whose probability is below `least` before they are over are left out.
    """
    arrays = mdp.transition_reward if mdp.transition_reward is not None else np.repeat(mdp.reward, np.diff(mdp.start))
    unfinished: list[tuple[float, Trajectory]] = [(1.0, ())]
    while unfinished:
        p, path = unfinished.pop()
        if p < least:
            continue
        s = path[-1].next_state if path else begin
        for row in range(mdp.first[s], mdp.first[s + 1]):
            for i in range(mdp.start[row], mdp.start[row + 1]):
                a, t = int(mdp.action[row]), int(mdp.next_state[i])
                ended = bool(mdp.end[t])
                cut = not ended and len(path) + 1 == limit
                longer = (*path, Step(s, a, float(arrays[i]), t, ended, cut))
                chance = p * policy[s, a] * float(mdp.probability[i])
                if chance > 0 and (ended or cut):
                    yield chance, longer
                elif chance > 0:
                    unfinished.append((chance, longer))


def drawn(generator: np.random.Generator, states: int = 4, actions: int = 2) -> Trajectory:
    """A trajectory of anything, which visits states again; half of them are cut off."""
    length = int(generator.integers(1, 9))
    visited = [*generator.integers(0, states, length + 1).tolist()]
    cut = bool(generator.random() < 0.5)
    return tuple(
        Step(
            visited[t], int(generator.integers(actions)), float(generator.normal()), visited[t + 1],
            t == length - 1 and not cut, t == length - 1 and cut,
        )
        for t in range(length)
    )  # fmt: skip


class Script:
    """A world in which it is written down what happens. After the last episode the first comes again."""

    def __init__(self, episodes: list[Trajectory], states: int, gamma: float, features: np.ndarray | None = None):
        self.episodes, self.states, self.gamma, self.table = episodes, states, gamma, features
        self.features = None if features is None else Active(np.zeros((0, 0), int), features)
        self.place = np.zeros(3, dtype=np.int64)
        self.returns, self.lengths = np.zeros(1000), np.zeros(1000, dtype=np.int64)
        self.episode = -1
        self.reset()

    @property
    def shape(self) -> tuple[int, int]:
        return (self.states if self.table is None else self.table.shape[1]), 2

    def see(self, s: int):
        return s if self.table is None else Active(np.arange(self.table.shape[1]), self.table[s])

    def current(self):
        return self.see(self.episodes[self.episode][self.t].state)

    def actions(self) -> int:
        return 2

    def act(self, policy, random) -> int:
        return self.episodes[self.episode][self.t].action

    def chance(self, policy, action: int) -> float:
        return float(policy[self.episodes[self.episode][self.t].state, action])

    def step(self, action: int):
        _, _, reward, after, terminated, truncated = self.episodes[self.episode][self.t]
        self.t += 1
        self.place[2] += terminated or truncated
        return reward, self.see(after), terminated, truncated

    def reset(self):
        self.episode = (self.episode + 1) % len(self.episodes)
        self.t = 0
        return self.current()


def learn_all(module, config, episodes: list[Trajectory], *policies, features=None, states=4, gamma=0.9, w=None):
    """The state of an algorithm that has met each of the episodes once, starting from the weights `w` [X] or 0."""
    world = Script(episodes, states, gamma, features)
    state = module.init(world, *policies, dataclasses.replace(config, steps=sum(map(len, episodes))))
    if w is not None:
        state.w[:, 0] = w
    for _ in module.train(state, dataclasses.replace(config, steps=sum(map(len, episodes)), report_every=10**9)):
        pass
    return state
