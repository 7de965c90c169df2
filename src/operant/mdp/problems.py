"""Classic problems as models, with the numbering of states and actions that each function names.

Sources are pages and examples of Sutton and Barto, "Reinforcement Learning", 2nd edition, unless said otherwise.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import poisson

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
