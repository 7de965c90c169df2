"""Classic problems as models, with the numbering of states and actions that each function names.

Sources are pages and examples of Sutton and Barto, "Reinforcement Learning", 2nd edition, unless said otherwise.
`PROBLEMS` is the list of them, by the names that the command line takes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from operant.mdp.model import MDP, from_function, from_transitions

UP, RIGHT, DOWN, LEFT = range(4)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""(row, column) of the actions up, right, down and left."""

Cell = tuple[int, int]


def gridworld(
    height: int,
    width: int,
    ends: Sequence[Cell],
    reward: float = -1.0,
    gamma: float = 1.0,
    jumps: dict[Cell, tuple[Cell, float]] | None = None,
    bump: float | None = None,
    slip: float = 0.0,
) -> MDP:
    """A grid of height x width cells; state = row * width + column; actions up, right, down, left.

    A move off the grid stays and pays `bump` (`reward` if not given); other moves pay `reward`. From a cell of `jumps`
    every action leads to the given cell and pays what is given. With probability `slip` the move is at a right angle
    to the one chosen, half of it on either side.
    """
    cells = dict(jumps or {})

    def move(cell: Cell, action: int) -> tuple[int, float]:
        if cell in cells:
            (row, column), paid = cells[cell]
            return row * width + column, paid
        row, column = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
        if 0 <= row < height and 0 <= column < width:
            return row * width + column, reward
        return cell[0] * width + cell[1], reward if bump is None else bump

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        chances = [(1 - slip, a), (slip / 2, (a + 1) % 4), (slip / 2, (a + 3) % 4)]
        return [(p, *move(divmod(s, width), way)) for p, way in chances if p > 0]

    return from_function(height * width, 4, step, gamma, [row * width + column for row, column in ends])


def jumping_grid(gamma: float = 0.9) -> MDP:
    """Example 3.5: 5 x 5; from (0, 1) to (4, 1) for 10, from (0, 3) to (2, 3) for 5, and -1 for leaving the grid."""
    return gridworld(5, 5, [], 0.0, gamma, {(0, 1): ((4, 1), 10.0), (0, 3): ((2, 3), 5.0)}, bump=-1.0)


def corner_grid() -> MDP:
    """Example 4.1: 4 x 4, two opposite corners are ends, -1 a step, no discount."""
    return gridworld(4, 4, [(0, 0), (3, 3)])


def cliff() -> MDP:
    """Example 6.6: 4 x 12, from state 36 to the end 47 along a cliff; stepping off it costs 100 and leads back."""

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        row, column = (max(0, min(n - 1, x + d)) for x, d, n in zip(divmod(s, 12), MOVES[a], (4, 12), strict=True))
        if row == 3 and 0 < column < 11:
            return [(1.0, 36, -100.0)]
        return [(1.0, row * 12 + column, -1.0)]

    return from_function(48, 4, step, 1.0, [47])


def windy_grid() -> MDP:
    """Example 6.5: 7 x 10, from state 30 to the end 37, with an upward wind in the middle columns; -1 a step."""
    wind = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        row, column = divmod(s, 10)
        row = max(0, min(6, row + MOVES[a][0] - wind[column]))
        return [(1.0, row * 10 + max(0, min(9, column + MOVES[a][1])), -1.0)]

    return from_function(70, 4, step, 1.0, [37])


def random_walk(states: int = 5, left: float = 0.0, right: float = 1.0, gamma: float = 1.0) -> MDP:
    """Example 6.2: states 1 ... n in a line between the ends 0 and n + 1, which pay `left` and `right`; one action."""
    last = states + 1

    def step(s: int, _: int) -> list[tuple[float, int, float]]:
        return [(0.5, t, left if t == 0 else right if t == last else 0.0) for t in (s - 1, s + 1)]

    return from_function(states + 2, 1, step, gamma, [0, last])


def gambler(heads: float = 0.4, goal: int = 100) -> MDP:
    """Example 4.3: state = capital; action a stakes a + 1 on heads; 1 is paid for reaching the goal; no discount."""

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        stake = a + 1
        return [(heads, s + stake, float(s + stake == goal)), (1 - heads, s - stake, 0.0)]

    return from_function(goal + 1, lambda s: range(min(s, goal - s)), step, 1.0, [0, goal])


def treasure_walk(states: int = 6, gamma: float = 0.9) -> MDP:
    """The lectures' walk to a treasure: states in a row, actions left (0) and right (1), 1 for the step onto the last.

    Going left in state 0 meets a wall and stays. The lectures leave length and discount open; 6 and 0.9 are those of
    the tutorial program that they print. What a state is worth is what is left of 1 after the steps that are to go:

    >>> from operant.algorithms.planning import policy_iteration
    >>> found = policy_iteration.solve(treasure_walk())
    >>> [round(float(v), 4) for v in found.value]
    [0.6561, 0.729, 0.81, 0.9, 1.0, 0.0]
    >>> found.policy.tolist()  # always right; -1: the end
    [1, 1, 1, 1, 1, -1]
    """
    last = states - 1

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        t = s + 1 if a == 1 else max(0, s - 1)
        return [(1.0, t, float(t == last))]

    return from_function(states, 2, step, gamma, [last])


def long_random_walk(states: int = 1000, reach: int = 100) -> MDP:
    """Example 9.1: states 1 ... n between the ends 0 and n + 1, which pay -1 and 1; one action.

    A step leads to any of the `reach` neighbours on either side alike; those that are not there count for the end.
    """

    def step(s: int, _: int) -> list[tuple[float, int, float]]:
        near = [min(max(s + k, 0), states + 1) for k in range(-reach, reach + 1) if k]
        return [(0.5 / reach, t, float((t == states + 1) - (t == 0))) for t in near]

    return from_function(states + 2, 1, step, 1.0, [0, states + 1])


def dyna_maze() -> MDP:
    """Example 8.1: 6 x 9 with walls, from state 18 to the end 8, which pays 1; γ = 0.95.

    A move into a wall or off the grid stays. Cells of wall keep their numbers: they are ends that nothing leads to.
    """
    walls = {(1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7)}

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        row, column = (max(0, min(n - 1, x + d)) for x, d, n in zip(divmod(s, 9), MOVES[a], (6, 9), strict=True))
        t = s if (row, column) in walls else row * 9 + column
        return [(1.0, t, float(t == 8))]

    return from_function(54, 4, step, 0.95, [8, *(row * 9 + column for row, column in walls)])


def baird(gamma: float = 0.99) -> MDP:
    """Section 11.2, Baird's counterexample: no rewards; action 0 leads to one of the states 0 to 5, action 1 to 6.

    Every value is 0, and yet semi-gradient TD on `baird_features` diverges under the policies of `baird_policies`.
    """

    def step(_: int, a: int) -> list[tuple[float, int, float]]:
        return [(1.0, 6, 0.0)] if a == 1 else [(1 / 6, t, 0.0) for t in range(6)]

    return from_function(7, 2, step, gamma)


def baird_features() -> NDArray[np.float64]:
    """[7, 8]: 2 w_s + w_7 for the states 0 to 5, w_6 + 2 w_7 for state 6 (figure 11.1, counted from 0)."""
    features = np.zeros((7, 8))
    features[range(6), range(6)] = 2.0
    features[:6, 7] = 1.0
    features[6, 6:] = 1.0, 2.0
    return features


def baird_policies() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(behaviour, target), each [7, 2]: the one visits all states alike, the other always goes to state 6."""
    return np.tile([6 / 7, 1 / 7], (7, 1)), np.tile([0.0, 1.0], (7, 1))


def recycling_robot(
    search: float = 0.9, keep: float = 0.6, searching: float = 2.0, waiting: float = 1.0, gamma: float = 0.9
) -> MDP:
    """Example 3.3: state 0 = battery high, 1 = low; actions search, wait and (where low) recharge.

    Searching keeps the battery high with probability `search` and low with `keep`; being rescued pays -3.
    """
    table = [
        (0, 0, 0, search, searching), (0, 0, 1, 1 - search, searching), (0, 1, 0, 1.0, waiting),
        (1, 0, 1, keep, searching), (1, 0, 0, 1 - keep, -3.0), (1, 1, 1, 1.0, waiting), (1, 2, 0, 1.0, 0.0),
    ]  # fmt: skip
    return from_transitions(*zip(*table, strict=True), gamma)  # pyright: ignore


def car_rental(most: int = 20, most_moved: int = 5, gamma: float = 0.9) -> MDP:
    """Example 4.2, Jack's car rental: state = cars here * (most + 1) + cars there; action a moves a - 5 cars overnight.

    Each car rented pays 10, each moved costs 2; requests are Poisson with means 3 and 4, returns with 3 and 2. Cars
    above `most` at a place go back to the company.
    """
    size = most + 1
    here, there = (_rental(most, *means) for means in ((3.0, 3.0), (4.0, 2.0)))

    def allowed(s: int) -> list[int]:
        x, y = divmod(s, size)
        moved = range(-min(y, most_moved), min(x, most_moved) + 1)
        return [m + most_moved for m in moved]

    states, actions, after, p, r = ([] for _ in range(5))
    for s in range(size * size):
        x, y = divmod(s, size)
        for a in allowed(s):
            m = a - most_moved
            morning = min(x - m, most), min(y + m, most)
            joint = np.outer(here[0][morning[0]], there[0][morning[1]]).ravel()
            paid = 10 * (here[1][morning[0]] + there[1][morning[1]]) - 2 * abs(m)
            kept = np.flatnonzero(joint)
            states.append(np.full(len(kept), s))
            actions.append(np.full(len(kept), a))
            after.append(kept)
            p.append(joint[kept] / joint[kept].sum())
            r.append(np.full(len(kept), paid))
    columns = (np.concatenate(x) for x in (states, actions, after, p, r))
    return from_transitions(*columns, gamma=gamma, states=size * size)


def _rental(most: int, requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
    """(p[cars in the morning, cars in the evening], expected cars rented) of one place."""
    from scipy.stats import poisson  # half a second that other problems need not wait

    p, rented = np.zeros((most + 1, most + 1)), np.zeros(most + 1)
    for cars in range(most + 1):
        for n in range(cars + 1):
            chance = poisson.pmf(n, requests) if n < cars else poisson.sf(cars - 1, requests)
            rented[cars] += chance * n
            left = cars - n
            room = most - left
            back = poisson.pmf(np.arange(room + 1), returns)
            back[-1] = poisson.sf(room - 1, returns)
            p[cars, left : left + room + 1] += chance * back
    return p, rented


CARDS = tuple((card, (1 if card < 10 else 4) / 13) for card in range(1, 11))
"""(value, probability) of the next card of an endless deck; an ace is 1 here."""


def blackjack() -> MDP:
    """Example 5.1, against a dealer who sticks on 17: state = (usable ace * 10 + dealer's card - 1) * 10 + sum - 12.

    Sums go from 12 to 21: below, a card is always taken. Actions are stick (0) and hit (1); the ends 200, 201 and 202
    are a loss, a draw and a win, and pay -1, 0 and 1.
    """

    def taken(total: int, ace: int, card: int) -> tuple[int, int]:
        """(sum, whether an ace counts 11) after another card."""
        if card == 1 and total <= 10:
            return total + 11, 1
        return (total + card - 10, 0) if ace and total + card > 21 else (total + card, ace)

    @functools.cache
    def dealt(total: int, ace: int) -> NDArray[np.float64]:
        """[23]: the dealer's last sum; 22 stands for all above 21."""
        if total >= 17:
            return np.eye(23)[min(total, 22)]
        return sum((p * dealt(*taken(total, ace, card)) for card, p in CARDS), np.zeros(23))

    def step(s: int, a: int) -> list[tuple[float, int, float]]:
        ace, card, total = s // 100, s // 10 % 10 + 1, s % 10 + 12
        if a == 0:
            last = dealt(*taken(0, 0, card))
            lost, drawn = float(last[total + 1 : 22].sum()), float(last[total])
            return [(lost, 200, -1.0), (drawn, 201, 0.0), (1 - lost - drawn, 202, 1.0)]
        found = [(p, *taken(total, ace, drawn)) for drawn, p in CARDS]
        return [
            (p, 200, -1.0) if sum_ > 21 else (p, (usable * 10 + card - 1) * 10 + sum_ - 12, 0.0)
            for p, sum_, usable in found
        ]

    return from_function(203, 2, step, 1.0, [200, 201, 202])


@dataclasses.dataclass(frozen=True)
class Problem:
    """A classic problem, and how to draw it."""

    make: Callable[[], MDP]
    words: str
    """What it is, in a line."""
    grid: tuple[int, int] | None = None
    """(height, width) where the states are the cells of a grid, row by row."""
    actions: Callable[[int], str] = str
    """What an action is called."""
    begin: int | None = None
    """The state in which episodes begin; None: any that is no end."""


def arrow(action: int) -> str:
    """The actions of the grids here."""
    return "↑→↓←"[action]


PROBLEMS = {
    "jumping_grid": Problem(jumping_grid, "example 3.5: two cells of a 5 x 5 grid pay 10 and 5", (5, 5), arrow),
    "corner_grid": Problem(corner_grid, "example 4.1: the shorter way to one of two corners", (4, 4), arrow),
    "cliff": Problem(cliff, "example 6.6: along a cliff", (4, 12), arrow, begin=36),
    "windy_grid": Problem(windy_grid, "example 6.5: across an upward wind", (7, 10), arrow, begin=30),
    "dyna_maze": Problem(dyna_maze, "example 8.1: a maze with one reward at its end", (6, 9), arrow, begin=18),
    "treasure_walk": Problem(treasure_walk, "the lectures' walk to a treasure", (1, 6), lambda a: "←→"[a], begin=0),
    "random_walk": Problem(
        random_walk, "example 6.2: five states between two ends, no choice", (1, 7), lambda _: "↔", begin=3
    ),
    "long_random_walk": Problem(
        long_random_walk, "example 9.1: 1,000 states, steps of up to 100, no choice", begin=500
    ),
    "gambler": Problem(gambler, "example 4.3: how much to stake on heads", None, lambda a: f"stake {a + 1}"),
    "car_rental": Problem(
        car_rental,
        "example 4.2, Jack's: cars here (rows) and there (columns)",
        (21, 21),
        lambda a: f"{a - 5:+d}" if a != 5 else "0",
    ),
    "recycling_robot": Problem(
        recycling_robot, "example 3.3: search, wait or recharge", None, ("search", "wait", "recharge").__getitem__
    ),
    "baird": Problem(
        baird, "section 11.2: no rewards, and a trap for approximations", None, ("any", "seventh").__getitem__
    ),
}
"""The classic problems by name."""
