"""Prioritised Dyna (Moore and Atkeson 1993; Peng and Williams 1993): imagined updates where they change most.

    repeat
        choose a ε-greedily in Q, observe r, s'; the model counts what (s, a) led to
        (s, a) enters a queue with the priority p = | T Q(s, a) - Q(s, a) | if p > θ, where
            T Q(s, a) = Σ_s' p(s' | s, a) [ r(s, a, s') + γ max_a' Q(s', a') ]          in the learned model
        n times, as long as the queue has any
            take the first (s, a); Q(s, a) <- Q(s, a) + α [ T Q(s, a) - Q(s, a) ]
            all pairs that were seen to lead to s enter the queue with their priorities if above θ

Sutton and Barto, section 8.4, with expected updates in place of sampled ones: in a world that is not random they are
the same, and in a random one a single outcome does not say how wrong a value is.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from operant.core.compiled import loop_on, njit_loop
from operant.core.control import Learning, Metrics, Rule, begin, explore, finished, rate
from operant.core.errors import InputError
from operant.core.heap import Heap, heap, pop, push
from operant.core.linear import epsilon_greedy, largest, toward
from operant.core.random import Stream
from operant.mdp.learned import LearnedModel, learned_model, record
from operant.mdp.simulator import actions, current, reset, step


@dataclasses.dataclass(frozen=True)
class Config(Learning):
    planning_steps: int = 10
    """n: updates after every real step, as long as any are due."""
    threshold: float = 1e-4
    """θ: changes up to this are not worth an update."""


@dataclasses.dataclass
class State:
    world: Any
    w: NDArray[np.float64]
    """[S, A]: Q."""
    visits: NDArray[np.int64]
    random: Stream
    model: LearnedModel
    queue: Heap
    """Of pairs s A + a."""
    step: int = 0


def init(world: Any, config: Config, seed: int = 0) -> State:
    """`world`: a `simulator`, or a Gymnasium environment as a `World`; a table, since the model counts states."""
    if world.features is not None:
        raise InputError("the learned model counts single states: prioritised Dyna takes a table, no features")
    if config.planning_steps < 1:
        raise InputError(f"planning_steps is {config.planning_steps}: give a whole number, 1 or more")
    if not config.threshold >= 0:
        raise InputError(f"threshold is {config.threshold}: give a number, 0 or more")
    w, visits, random = begin(world, config, seed)
    return State(world, w, visits, random, learned_model(*w.shape), heap(w.size))


@numba.njit(cache=True)
def backup(w: NDArray[np.float64], model: LearnedModel, s: int, a: int, gamma: float) -> float:
    """T Q(s, a) in the learned model."""
    total, i = 0.0, model.first[s, a]
    while i >= 0:
        after = model.after[i]
        best = 0.0 if model.terminated[i] else largest(w, after, model.actions[after])
        total += model.paid[i] + model.times[i] * gamma * best
        i = model.sibling[i]
    return total / model.visits[s, a]


@numba.njit(cache=True)
def enqueue(
    w: NDArray[np.float64], model: LearnedModel, queue: Heap, pair: int, gamma: float, threshold: float
) -> None:
    s, a = divmod(pair, w.shape[1])
    priority = abs(backup(w, model, s, a, gamma) - w[s, a])
    if priority > threshold:
        push(queue, pair, priority)


@numba.njit(cache=True)
def plan(w: NDArray[np.float64], model: LearnedModel, queue: Heap, rule: Rule, threshold: float, times: int) -> None:
    """Update the pairs whose values are most wrong, and put into the queue those that lead to them."""
    for _ in range(times):
        pair = pop(queue)
        if pair < 0:
            return
        s, a = divmod(pair, w.shape[1])
        toward(w, s, a, backup(w, model, s, a, rule.gamma), rate(rule, s, a))
        i = model.into[s]
        while i >= 0:
            if not model.terminated[i]:
                enqueue(w, model, queue, model.pair[i], rule.gamma, threshold)
            i = model.fellow[i]


@njit_loop
def learn(
    world: Any,
    w: NDArray[np.float64],
    rule: Rule,
    model: LearnedModel,
    queue: Heap,
    threshold: float,
    times: int,
    steps: int,
) -> int:
    """Steps done: fewer than asked for where the model has no room for what it may see next."""
    s, n, done = current(world), actions(world), 0
    model.actions[s] = n
    while done < steps and model.size[1] < len(model.after):
        a = epsilon_greedy(w, s, n, explore(rule), rule.random)
        reward, after, terminated, truncated = step(world, a)
        model.actions[after] = actions(world)
        record(model, s, a, reward, after, terminated)
        enqueue(w, model, queue, s * w.shape[1] + a, rule.gamma, threshold)
        plan(w, model, queue, rule, threshold, times)
        s, done = after, done + 1
        if terminated or truncated:
            s = reset(world)
        n = actions(world)
        model.actions[s] = n
    return done


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Yields every `report_every` steps."""
    run, settings = loop_on(state.world, learn), (config.threshold, config.planning_steps)
    while state.step < config.steps:
        left, episodes = config.until_report(state.step), int(state.world.place[2])
        while left:
            done = run(state.world, state.w, config.rule(state), state.model, state.queue, *settings, left)
            state.step, left = state.step + done, left - done
            if state.model.full:
                state.model.make_room(2 * len(state.model.after))
        yield finished(state.world, episodes)
