"""What the files of this folder share: a row of the table, and how a drawing is kept.

Every other file here stands for one part of Sutton and Barto, "Reinforcement Learning", 2nd edition, and has

    rows() -> list[Row]           its figures in numbers, computed with Operant's algorithms
    draw(folder: Path) -> None    its figures as drawings, published values beside ours where they are known
"""

from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure


class Row(NamedTuple):
    """A value of the book beside ours."""

    figure: str
    """Number of the figure, example or table: "2.2"."""
    what: str
    """What is measured, with the settings."""
    published: float
    """The book's value or, where it prints a curve only, that of another program with its settings."""
    ours: float
    spread: float
    """Standard error of ours; 0 where nothing is random."""
    tolerance: float
    """How far ours may be from what is published."""

    @property
    def ok(self) -> bool:
        return abs(self.ours - self.published) <= self.tolerance


def save(figure: Figure, file: Path) -> None:
    """Write a drawing as SVG, the same bytes for the same curves."""
    with rc_context({"svg.hashsalt": "operant", "svg.fonttype": "none", "path.simplify_threshold": 0.3}):
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight")
