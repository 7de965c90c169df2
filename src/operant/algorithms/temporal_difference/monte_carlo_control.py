"""Monte Carlo control: values are means of whole returns; the policy becomes greedy in the limit (GLIE).

    repeat, k = 1, 2, ...
        play an episode, ε-greedily in Q with ε = 1/k
        for every (s, a) of it, or its first visit only, with G the discounted rewards that followed
            N(s, a) <- N(s, a) + 1
            Q(s, a) <- Q(s, a) + [ G - Q(s, a) ] / N(s, a)          (Sutton and Barto, section 5.4 and equation 2.3)

First visits of different episodes are independent, so their mean has no bias; every visit uses more of the data, and
its bias vanishes. Without `average` steps are constant (equation 6.1). An episode that was only cut off goes on with
the value of the state and action at which it was.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from operant.algorithms.temporal_difference.episode import Episode, episode, forget, is_new, kept, record, returns
from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.errors import InputError
from operant.core.linear import epsilon_greedy, toward, value_of
from operant.core.random import Stream
from operant.mdp.simulator import actions, current, reset, step

LONGEST = 2**22
"""Steps after which an episode is taken to be endless."""


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    glie: bool = True
    """ε = 1/k in episode k, in place of epsilon."""
    average: bool = True
    """Values are means of all returns so far, in place of steps by alpha."""
    first_visit: bool = True
    """Only the first visit of a pair in an episode counts."""


class Actions(NamedTuple):
    taken: NDArray[np.int64]
    chosen: NDArray[np.int64]
    """[T] in the episode so far, with the room that it has; [1] for the present state."""

    def state_dict(self) -> dict[str, NDArray[np.int64]]:
        return self._asdict()

    def load_state_dict(self, state: dict[str, NDArray[np.int64]]) -> None:
        self.taken.resize(len(state["taken"]), refcheck=False)
        self.taken[...], self.chosen[...] = state["taken"], state["chosen"]


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[X, A]: Q(s, a) = w[:, a]·x(s)."""
    visits: NDArray[np.int64]
    random: Stream
    past: Episode
    """The episode so far."""
    action: Actions
    seen: NDArray[np.int64]
    """[X, A]: the last episode in which each pair was, counted from 1; empty where every visit counts."""
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`. Features have no first visits and no means."""
    if world.features is not None and (config.first_visit or config.average):
        raise InputError(
            "first_visit and average count visits to single states; with features set both to false, and give alpha"
        )
    w, visits, random = begin(world, _paced(config), seed)
    past = episode(world)
    a = epsilon_greedy(w, current(world), actions(world), chance_to_explore(config.glie, config.epsilon, past), random)
    action = Actions(np.zeros(len(past.reward), dtype=np.int64), np.array([a]))
    seen = np.zeros(w.shape if config.first_visit else (0, 0), dtype=np.int64)
    return State(world, w, visits, random, past, action, seen)


@numba.njit(cache=True)
def chance_to_explore(glie: bool, epsilon: float, past: Episode) -> float:
    """ε = 1/k in episode k, counted from 1; without `glie` as given."""
    return 1 / (past.length[1] + 1) if glie else epsilon


def _paced(config: Config) -> Config:
    """α = 1/N where values are means."""
    return dataclasses.replace(config, alpha=1.0, alpha_power=1.0) if config.average else config


@numba.njit(cache=True)
def update(w: NDArray[np.float64], past: Episode, action: Actions, seen: NDArray[np.int64], rule: Rule) -> None:
    """Q(s, a) += α [G - Q(s, a)] for all visits that count, in their order; the targets of `past` are the G."""
    for t in range(past.length[0]):
        x, a = kept(past.x, t), action.taken[t]
        if len(seen) == 0 or is_new(seen[:, a], x, past.length[1] + 1):
            toward(w, x, a, past.target[t], rate(rule, x, a))


@njit_loop
def learn(
    world: Any,
    w: NDArray[np.float64],
    rule: Rule,
    past: Episode,
    action: Actions,
    seen: NDArray[np.int64],
    glie: bool,
    steps: int,
) -> int:
    """Steps done: fewer than asked for where there is no more room for the episode."""
    x, a, done = current(world), int(action.chosen[0]), 0
    while done < steps and past.length[0] < len(past.reward):
        epsilon = explore(rule)
        reward, after, terminated, truncated = step(world, a)
        action.taken[past.length[0]] = a
        record(past, x, reward, 1.0)
        b = epsilon_greedy(w, after, actions(world), chance_to_explore(glie, epsilon, past), rule.random)
        x, a, done = after, b, done + 1
        if terminated or truncated:
            returns(past, rule.gamma, 0.0 if terminated else value_of(w, after, b))
            update(w, past, action, seen, rule)
            forget(past)
            x = reset(world)
            a = epsilon_greedy(w, x, actions(world), chance_to_explore(glie, epsilon, past), rule.random)
    action.chosen[0] = a
    return done


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps. Raises InputError for an episode that does not end."""
    run, paced = loop_on(state.world, learn), _paced(config)
    while state.step < config.steps:
        left, episodes = config.until_report(state.step), int(state.world.place[2])
        while left:
            done = run(state.world, state.w, paced.rule(state), state.past, state.action, state.seen, config.glie, left)
            state.step, left = state.step + done, left - done
            if left:
                _make_room(state)
        yield finished(state.world, episodes)


def _make_room(state: State) -> None:
    """For an episode twice as long."""
    room = 2 * len(state.past.reward)
    if room > LONGEST:
        raise InputError(f"an episode has not ended in {room // 2} steps: Monte Carlo needs ends, or a time limit")
    state.past.make_room(room)
    state.action.taken.resize(room, refcheck=False)
