"""What the algorithms that value a given policy share: policies to follow, checks, the TD error.

A policy is a table [S, A] of the probabilities of each state's actions. A world that is no `Simulator` says itself what
a policy does in it:

    act(policy, random)       an action of the policy in the present state
    chance(policy, action)    its probability
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from operant.core.control import Sampling, discount_of
from operant.core.errors import InputError
from operant.core.features import Groups
from operant.core.linear import Active, Features, value_of
from operant.core.random import Stream, draw
from operant.mdp.chain import policy_reward_process
from operant.mdp.model import MDP, ROUNDING
from operant.mdp.simulator import Simulator

Policy = NDArray[np.float64] | Callable[[Any], Any]
"""[S, A]: probabilities of the actions in their order; on an environment also a function of what is observed."""


RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "steps": (lambda x: x >= 1, "a whole number, 1 or more"),
    "alpha": (lambda x: 0 < x < np.inf, "a number above 0"),
    "beta": (lambda x: 0 < x < np.inf, "a number above 0"),
    "gamma": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "lambda_": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "n": (lambda x: x >= 1, "a whole number, 1 or more"),
    "ridge": (lambda x: 0 < x < np.inf, "a number above 0"),
}
"""What settings must be, and how to say it."""


def weights(world: Any, config: Sampling, *policies: Any) -> NDArray[np.float64]:
    """w [X, 1], all 0: a value for each state or feature.

    Raises `InputError` for settings out of their range, and for policies that are none in this world.
    """
    for name, x in {**dataclasses.asdict(config), "gamma": discount_of(world, config)}.items():
        good, needed = RANGES.get(name, (lambda _: True, ""))
        if not good(x):
            raise InputError(f"{name} is {x}: give {needed}")
    for policy in policies:
        fits(world, policy)
    return np.zeros((world.shape[0], 1))


def fits(world: Any, policy: Any) -> None:
    """Raise `InputError` unless a policy is a table of probabilities for the states and actions of a world."""
    if not isinstance(world, Simulator):
        if isinstance(policy, np.ndarray) and world.features is None and len(policy) < world.shape[0]:
            raise InputError(
                f"the policy has {len(policy)} rows; the environment has {world.shape[0]} states: give each one"
            )
        return
    counts = np.diff(world.first)
    shape = (len(world.end), int(counts.max()))
    if not isinstance(policy, np.ndarray) or policy.shape != shape:
        given = f"has the shape {policy.shape}" if isinstance(policy, np.ndarray) else f"is a {type(policy).__name__}"
        raise InputError(f"the policy {given}; for this model it is a table {shape} of probabilities: see policy_table")
    allowed = np.where(np.arange(shape[1]) < counts[:, None], policy, 0.0)
    wrong = ~world.end & (~(np.abs(allowed.sum(1) - 1) <= ROUNDING) | ~(policy >= 0).all(1))
    if wrong.any():
        s = int(np.argmax(wrong))
        raise InputError(
            f"the policy in state {s} has the probabilities {policy[s].tolist()}; those of its {counts[s]} actions "
            "must be 0 or more and sum to 1"
        )


def may_be_counted(world: Any) -> None:
    """Raise `InputError` unless each state belongs to one place of w, so that a mean over its visits has a meaning."""
    features = world.features
    one = isinstance(features, Active) and (features.weight.sum(1) == 1) & ((features.weight == 1).sum(1) == 1)
    if features is not None and not isinstance(features, Groups) and not np.all(one):
        raise InputError("alpha is 0, for means over visits, and states share their features: give a step size above 0")


def policy_table(mdp: MDP, policy: Any) -> NDArray[np.float64]:
    """[S, A]: the probabilities of each state's actions, in their order, as a `Simulator` of the model counts them.

    `policy` is [S], an action for each state, or [S, A], their probabilities by number. Raises `InputError` for a
    policy of another model.
    """
    policy_reward_process(mdp, policy)
    given, state = np.asarray(policy), mdp.row_states()
    place = np.arange(len(state)) - mdp.first[state]
    table = np.zeros((mdp.states, int(place.max(initial=0)) + 1))
    table[state, place] = given[state, mdp.action] if given.ndim == 2 else mdp.action == given[state]
    return table


def covers(policy: Any, behaviour: Any) -> None:
    """Raise `InputError` if `behaviour` never does what `policy` may do: nothing could be learned of that."""
    if isinstance(policy, np.ndarray) and isinstance(behaviour, np.ndarray):
        if policy.shape != behaviour.shape:
            raise InputError(
                f"the policies have the shapes {policy.shape} and {behaviour.shape}: give two for one model"
            )
        if ((behaviour == 0) & (policy > 0)).any():
            s, a = np.argwhere((behaviour == 0) & (policy > 0))[0]
            raise InputError(
                f"in state {s} the policy takes action {a} with probability {policy[s, a]}, the behaviour never does: "
                "give it some chance"
            )


def act(world: Any, policy: Any, random: Stream) -> int:
    """An action of the policy in the present state."""
    return _act(world, policy, random) if isinstance(world, Simulator) else world.act(policy, random)


def chance(world: Any, policy: Any, action: int) -> float:
    """The probability of an action in the present state."""
    return _chance(world, policy, action) if isinstance(world, Simulator) else world.chance(policy, action)


@numba.njit(cache=True)
def _act(world: Simulator, policy: NDArray[np.float64], random: Stream) -> int:
    s = world.place[0]
    n = world.first[s + 1] - world.first[s]
    return draw(random, policy[s, :n]) if n > 1 else 0


@numba.njit(cache=True)
def _chance(world: Simulator, policy: NDArray[np.float64], action: int) -> float:
    return policy[world.place[0], action]


@overload(act, strict=False, inline="always")
def _act_compiled(world: Any, policy: Any, random: Any) -> Any:
    return _act.py_func


@overload(chance, strict=False, inline="always")
def _chance_compiled(world: Any, policy: Any, action: Any) -> Any:
    return _chance.py_func


@numba.njit(cache=True)
def td_error(w: NDArray[np.float64], x: Features, reward: float, discount: float, after: Features) -> float:
    """δ = r + discount v(s') - v(s); the value at s' is not read where the discount is 0 (equation 6.5)."""
    return (reward + discount * value_of(w, after, 0) if discount > 0 else reward) - value_of(w, x, 0)


@numba.njit(cache=True)
def value(w: NDArray[np.float64], x: Features) -> float:
    """v(s) = w·x(s)."""
    return value_of(w, x, 0)


def values(w: NDArray[np.float64], features: Active | None = None) -> NDArray[np.float64]:
    """[S]: the values of all states; `features` are those of each state, None for a table."""
    return w[:, 0].copy() if features is None else np.einsum("sk,sk->s", w[features.index, 0], features.weight)


@numba.njit(cache=True)
def shrink(e: NDArray[np.float64], factor: float) -> None:
    """e *= factor."""
    for i in range(len(e)):
        e[i, 0] *= factor


@numba.njit(cache=True)
def add_all(w: NDArray[np.float64], step: float, e: NDArray[np.float64]) -> None:
    """w += step e."""
    for i in range(len(e)):
        w[i, 0] += step * e[i, 0]
