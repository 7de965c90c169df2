"""n-step TD: wait for n rewards, then go on with the value of the state that was reached.

    repeat
        act by π, observe r, s'
        for the state s that was left n steps ago
            G = r_1 + γ r_2 + ... + γ^(n-1) r_n + γ^n v(s')          (Sutton and Barto, equation 7.1)
            v(s) <- v(s) + α [ G - v(s) ]                            (equation 7.2; with features 9.15)
        at the end of the episode: for all that are left, with the rewards that there were

n = 1 is TD(0); an n as long as the episode is Monte Carlo. The value is 0 where the episode terminated, and counts
where it was only cut off.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.episode import Episode, episode, forget, keep, kept
from operant.algorithms.temporal_difference.prediction import Policy, act, value, weights
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Metrics, Sampling, discount_of, finished
from operant.core.linear import toward
from operant.core.random import Stream, stream
from operant.mdp.simulator import current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Sampling):
    alpha: float = 0.1
    """α: the step size; with features that of every weight."""
    n: int = 4
    """Rewards in a return before a value takes over."""


@dataclasses.dataclass
class State:
    world: Any
    policy: Policy = dataclasses.field(metadata={"saved": False})
    w: NDArray[np.float64]
    """[X, 1]: v(s) = w[:, 0]·x(s)."""
    latest: Episode
    """A ring of the last n decisions; decision t is at t modulo n."""
    random: Stream
    step: int = 0


def init(world: Any, policy: Policy, config: Config, seed: int = 0) -> State:
    return State(world, policy, weights(world, config, policy), episode(world, config.n), stream(seed, 1))


@numba.njit(cache=True)
def update(w: NDArray[np.float64], latest: Episode, first: int, last: float, gamma: float, alpha: float) -> None:
    """v(s) += α [G - v(s)] for decision `first`; `last` is the value of what followed the newest, 0 at an end."""
    n, g = len(latest.reward), last
    for i in range(latest.length[0] - 1, first - 1, -1):
        g = latest.reward[i % n] + gamma * g
    toward(w, kept(latest.x, first % n), 0, g, alpha)


@njit_loop
def learn(
    world: Any,
    policy: Policy,
    w: NDArray[np.float64],
    latest: Episode,
    gamma: float,
    alpha: float,
    random: Stream,
    steps: int,
) -> None:
    n, x = len(latest.reward), current(world)
    for _ in range(steps):
        reward, after, terminated, truncated = step(world, act(world, policy, random))
        t = latest.length[0]
        keep(latest.x, t % n, x)
        latest.reward[t % n] = reward
        latest.length[0] = t + 1
        over = terminated or truncated
        for first in range(max(0, t + 1 - n), t + 1 if over else t + 2 - n):
            update(w, latest, first, 0.0 if terminated else value(w, after), gamma, alpha)
        x = after
        if over:
            forget(latest)
            x = reset(world)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, gamma = loop_on(state.world, learn), discount_of(state.world, config)
    while state.step < config.steps:
        steps, episodes = config.until_report(state.step), int(state.world.place[2])
        run(state.world, state.policy, state.w, state.latest, gamma, config.alpha, state.random, steps)
        state.step += steps
        yield finished(state.world, episodes)
