"""Dyna-Q (Sutton 1990): every real step is followed by imagined ones, drawn from a model that is learned meanwhile.

    repeat
        choose a ε-greedily in Q, observe r, s'
        Q(s, a) <- Q(s, a) + α [ r + γ max_a' Q(s', a') - Q(s, a) ]
        learn       the model counts what (s, a) led to
        n times     take a pair (s, a) that was tried before, imagine r, s' from the model,
                    and update Q(s, a) in the same way          (Sutton and Barto, section 8.2)

n = 0 is Q-learning. The model is p(s' | s, a) = N(s, a, s') / N(s, a) with mean rewards, so worlds may be random.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, q_update, rate
from operant.core.errors import InputError
from operant.core.linear import epsilon_greedy
from operant.core.random import Stream, below
from operant.mdp.learned import LearnedModel, imagine, learned_model, record
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    planning_steps: int = 10
    """n: imagined steps after every real one."""


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[S, A]: Q."""
    visits: NDArray[np.int64]
    random: Stream
    model: LearnedModel
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`; a table, since the model counts states."""
    if world.features is not None:
        raise InputError("the learned model counts single states: Dyna-Q takes a table, no features")
    if config.planning_steps < 0:
        raise InputError(f"planning_steps is {config.planning_steps}: give a whole number, 0 or more")
    w, visits, random = begin(world, config, seed)
    return State(world, w, visits, random, learned_model(*w.shape))


@numba.njit(cache=True)
def plan(w: NDArray[np.float64], model: LearnedModel, rule: Rule, times: int) -> None:
    """Q-learning's update on steps that the model imagines."""
    for _ in range(times):
        s, a = divmod(model.known[below(rule.random, model.size[0])], w.shape[1])
        i = imagine(model, s, a, rule.random)
        after, discount = model.after[i], 0.0 if model.terminated[i] else rule.gamma
        q_update(w, s, a, model.paid[i] / model.times[i], discount, after, model.actions[after], rate(rule, s, a))


@njit_loop
def learn(world: Any, w: NDArray[np.float64], rule: Rule, model: LearnedModel, times: int, steps: int) -> int:
    """Steps done: fewer than asked for where the model has no room for what it may see next."""
    s, n, done = current(world), actions(world), 0
    model.actions[s] = n
    while done < steps and model.size[1] < len(model.after):
        a = epsilon_greedy(w, s, n, explore(rule), rule.random)
        reward, after, terminated, truncated = step(world, a)
        n = actions(world)
        q_update(w, s, a, reward, 0.0 if terminated else rule.gamma, after, n, rate(rule, s, a))
        model.actions[after] = n
        record(model, s, a, reward, after, terminated)
        plan(w, model, rule, times)
        s, done = after, done + 1
        if terminated or truncated:
            s = reset(world)
            n = actions(world)
            model.actions[s] = n
    return done


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run = loop_on(state.world, learn)
    while state.step < config.steps:
        left, episodes = config.until_report(state.step), int(state.world.place[2])
        while left:
            done = run(state.world, state.w, config.rule(state), state.model, config.planning_steps, left)
            state.step, left = state.step + done, left - done
            if state.model.full:
                state.model.make_room(2 * len(state.model.after))
        yield finished(state.world, episodes)
