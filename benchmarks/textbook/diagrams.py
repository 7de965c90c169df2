"""Backup diagrams: which values an update reads, all in one style. Open circles are states, filled ones are actions.

A diagram is a tree of `Node`s. What stands at the top is updated from what stands below it; an arc says that the best
of the branches is taken, a square that the episode is over. `DIAGRAMS` has one for each update of the textbook pages.
"""

import dataclasses
from html import escape
from pathlib import Path
from typing import Literal

from benchmarks.textbook.common import Row

Kind = Literal["state", "fresh", "action", "end", "gap"]
"""`fresh` is a state whose value was updated in the same sweep already; `gap` stands for steps that are not drawn."""

LEVEL, SPACE = 44.0, 40.0
"""Distance of levels and of neighbouring leaves."""
STYLE = (
    "text { font: 13px system-ui, sans-serif; fill: #1b1f27 } .line { stroke: #1b1f27; stroke-width: 1.5; fill: none }"
    " .open { fill: #fff } .full { fill: #1b1f27 } .fresh { fill: #8cc0ee } .note { fill: #5c6472 }"
    " @media (prefers-color-scheme: dark) { text { fill: #e7e9ee } .line { stroke: #e7e9ee } .open { fill: #101318 }"
    " .full { fill: #e7e9ee } .fresh { fill: #2f6ea6 } .note { fill: #98a1b0 } }"
)


@dataclasses.dataclass(frozen=True)
class Node:
    """A state or an action, and what its value is computed from."""

    kind: Kind
    below: tuple["Node", ...] = ()
    label: str = ""
    best: bool = False
    """Whether the best of the branches counts, and not their mean."""


@dataclasses.dataclass(frozen=True)
class Diagram:
    """Trees side by side, each with a line of words under it, and what stands between them."""

    trees: tuple[Node, ...]
    words: tuple[str, ...] = ()
    between: str = ""


def chain(*kinds: Kind) -> Node:
    """One after another: a sampled path."""
    return Node(kinds[0], (chain(*kinds[1:]),) if len(kinds) > 1 else ())


def full(best: bool, first: Kind = "state") -> Node:
    """All actions of a state and all states that may follow."""
    action = Node("action", (Node(first), Node("state")))
    return Node("state", (action, action), "s", best)


def width(node: Node) -> float:
    """Leaves, in units of `SPACE`."""
    return sum(map(width, node.below)) or 1.0


def depth(node: Node) -> int:
    return 1 + max(map(depth, node.below), default=0)


def mark(node: Node, x: float, y: float) -> str:
    """The node itself, over the lines that lead to it."""
    shape = {
        "state": f'<circle class="line open" cx="{x:.1f}" cy="{y:.1f}" r="9"/>',
        "fresh": f'<circle class="line fresh" cx="{x:.1f}" cy="{y:.1f}" r="9"/>',
        "action": f'<circle class="line full" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
        "end": f'<rect class="line open" x="{x - 8:.1f}" y="{y - 8:.1f}" width="16" height="16"/>',
        "gap": "".join(f'<circle class="full" cx="{x:.1f}" cy="{y + d:.1f}" r="1.6"/>' for d in (-7, 0, 7)),
    }[node.kind]
    return shape + (f'<text x="{x + 15:.1f}" y="{y + 4:.1f}">{escape(node.label)}</text>' if node.label else "")


def grow(node: Node, left: float, y: float) -> tuple[float, str]:
    """(x of the node, its markup with all below it)."""
    places, lines, nodes = [], "", ""
    at = left
    for child in node.below:
        x, markup = grow(child, at, y + LEVEL)
        places.append(x)
        nodes += markup
        at += width(child) * SPACE
    x = sum(places) / len(places) if places else left + SPACE / 2
    for place, child in zip(places, node.below, strict=True):
        end = y + LEVEL - (12 if child.kind == "gap" else 0)
        begin = y + (12 if node.kind == "gap" else 0)
        lines += f'<line class="line" x1="{x:.1f}" y1="{begin:.1f}" x2="{place:.1f}" y2="{end:.1f}"/>'
    if node.best and len(places) > 1:
        ends = [x + (place - x) * 0.5 for place in (places[0], places[-1])]
        lines += (
            f'<path class="line" d="M {ends[0]:.1f} {y + LEVEL * 0.5:.1f} Q {x:.1f} {y + LEVEL * 0.86:.1f} '
            f'{ends[1]:.1f} {y + LEVEL * 0.5:.1f}"/>'
        )
    return x, lines + nodes + mark(node, x, y)


def svg(diagram: Diagram) -> str:
    """The diagram as a file of its own, which follows a light or a dark page."""
    gap = 70.0 if diagram.between else 30.0
    x, body = 10.0, ""
    tall = max(map(depth, diagram.trees)) * LEVEL
    for i, tree in enumerate(diagram.trees):
        room = max(width(tree) * SPACE, 7.2 * max(map(len, diagram.words[i : i + 1] or ("",))))
        body += grow(tree, x + (room - width(tree) * SPACE) / 2, 18.0)[1]
        if diagram.words:
            words = escape(diagram.words[i])
            body += f'<text class="note" text-anchor="middle" x="{x + room / 2:.1f}" y="{tall + 16:.1f}">{words}</text>'
        x += room + gap
        if diagram.between and i + 1 < len(diagram.trees):
            body += (
                f'<text text-anchor="middle" x="{x - gap / 2:.1f}" y="{tall / 2:.1f}">{escape(diagram.between)}</text>'
            )
    wide, high = x - gap + 24, tall + (26 if diagram.words else 4)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high:.0f}" '
        f'viewBox="0 0 {wide:.0f} {high:.0f}"><style>{STYLE}</style>{body}</svg>\n'
    )


def n_step(n: int) -> Node:
    """n sampled steps, then a value."""
    return chain(*("state", "action") * n, "state")


EPISODE: tuple[Kind, ...] = ("state", "action", "state", "action", "gap", "end")
ACTIONS = (Node("action"), Node("action"), Node("action"))
PATHS = (n_step(1), n_step(2), n_step(3), chain(*EPISODE))

DIAGRAMS = {
    "markov_chain": Diagram((Node("state", (Node("state"),) * 3, "s"),)),
    "policy_evaluation": Diagram((full(False),)),
    "value_iteration": Diagram((full(True),)),
    "policy_iteration": Diagram((full(False), full(True)), ("evaluate, to the end", "improve"), "→"),
    "modified_policy_iteration": Diagram((full(False), full(True)), ("evaluate, a few times", "improve"), "→"),
    "gauss_seidel": Diagram((full(True, "fresh"),)),
    "prioritized_sweeping": Diagram(
        (full(True), Node("state", (Node("action", (Node("fresh", (), "s"),)),), "p")),
        ("the largest possible change first", "then those that lead to it"), "→",
    ),
    "td_0": Diagram((n_step(1),)),
    "n_step_td": Diagram(PATHS, ("TD(0)", "2 steps", "3 steps", "Monte Carlo")),
    "monte_carlo": Diagram((chain(*EPISODE),)),
    "td_lambda": Diagram(PATHS, ("1 − λ", "(1 − λ)λ", "(1 − λ)λ²", "λ to the end"), "+"),
    "sarsa": Diagram((chain("action", "state", "action"),)),
    "expected_sarsa": Diagram((Node("action", (Node("state", ACTIONS),)),)),
    "q_learning": Diagram((Node("action", (Node("state", ACTIONS, "", True),)),)),
}  # fmt: skip


def rows() -> list[Row]:
    """Diagrams have no figures."""
    return []


def draw(folder: Path) -> None:
    """Write all diagrams, as backup_NAME.svg."""
    for name, diagram in DIAGRAMS.items():
        (folder / f"backup_{name}.svg").write_text(svg(diagram), encoding="utf-8")
