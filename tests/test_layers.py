"""Imports point downwards. Every import statement of the package is read, also those inside functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "operant"
ROOMS = {
    "core": 0,
    "networks": 1,
    "mdp": 2,
    "bandits": 2,
    "envs": 2,
    "games": 2,
    "text": 2,
    "algorithms": 3,
    "experiment": 4,
    "labels": 4,
    "cli": 5,
}


def imported(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, dotted name) of all that `source`, a module of `package`, imports; relative imports are resolved.

    `operant.text` in an expression counts as well: after a bare `import operant` it reaches as far as an import.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, tuple(name.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for name in node.names:
                yield node.lineno, (*base, name.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "operant":
            yield node.lineno, ("operant", node.attr)


def allowed(importer: tuple[str, ...], target: tuple[str, ...]) -> bool:
    """Whether a module may import another, both given by their dotted names, ("operant", room, ...)."""
    if target[0] != "operant" or len(importer) < 2 or target[1:] in ((), ("__version__",)):
        return True
    room, other = importer[1], target[1]
    if other != room:
        return other in ROOMS and ROOMS[other] < ROOMS[room]
    if room != "algorithms" or len(importer) < 3:
        return True
    family, other_family = importer[2], target[2] if len(target) > 2 else ""
    return other_family in (family, "policy_gradient")


def offences(source: str, path: str) -> list[str]:
    """What the module at `path`, relative to the package, may not import."""
    module = ("operant", *Path(path).with_suffix("").parts)
    importer = module[:-1] if module[-1] == "__init__" else module
    return [
        f"{path}:{line} imports {'.'.join(target)}"
        for line, target in imported(source, package=module[:-1])
        if not allowed(importer, target)
    ]


def test_imports_point_downwards():
    files = sorted(SOURCE.rglob("*.py"))
    assert files
    found = [line for f in files for line in offences(f.read_text("utf-8"), f.relative_to(SOURCE).as_posix())]
    assert not found, "\n".join(found)


def test_every_folder_is_a_room_with_a_number():
    folders = {f.name for f in SOURCE.iterdir() if f.is_dir() and any(f.rglob("*.py"))}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/returns.py", "import operant.networks.mlp"),
        ("core/returns.py", "import torch, operant.cli as cli"),
        ("core/__init__.py", "from operant.envs import runner"),
        ("core/__init__.py", "from ..envs import runner"),
        ("networks/mlp.py", "from operant import text"),
        ("networks/mlp.py", "from .. import text"),
        ("networks/mlp.py", "from operant import *"),
        ("networks/mlp.py", "import operant\nf = operant.text.rows"),
        ("envs/runner.py", "from operant.text.sampling import sample"),  # the same number
        ("envs/runner.py", "def f():\n    from operant.experiment import plots"),
        (
            "text/data.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from operant.algorithms import bandit",
        ),
        ("labels/store.py", "from operant.experiment.report import write"),
        ("mdp/chain.py", "from operant.nowhere import f"),
        ("algorithms/policy_gradient/ppo.py", "from operant.algorithms.preference.dpo import train"),
        ("algorithms/policy_gradient/ppo.py", "from operant.algorithms import preference"),
        ("algorithms/policy_gradient/ppo.py", "from ..preference import dpo"),
        ("algorithms/preference/dpo.py", "from operant.algorithms.search import mcts"),
        ("algorithms/preference/__init__.py", "from ..search import mcts"),
        ("algorithms/preference/dpo.py", "import operant.algorithms"),
    ],
)
def test_an_offender_is_found(path, source):
    assert len(offences(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from operant.cli import main"),
        ("core/returns.py", "import torch\nfrom operant.core.record import Record\nfrom .losses import masked_mean"),
        ("experiment/report.py", "from operant import __version__"),
        ("experiment/report.py", "import operant\nversion = operant.__version__"),
        ("envs/runner.py", "from operant.networks import mlp\nfrom ..core import returns"),
        ("algorithms/preference/dpo.py", "from operant.algorithms.policy_gradient.ppo import update"),
        ("algorithms/preference/dpo.py", "from ..policy_gradient import ppo\nfrom . import reward_model"),
        ("algorithms/preference/dpo.py", "from operant.algorithms.preference import reward_model"),
        ("algorithms/policy_gradient/ppo.py", "from operant.text import sampling"),
        (
            "cli/main.py",
            "def run():\n    from operant.labels import app\n    from operant.algorithms.bandit import ucb",
        ),
    ],
)
def test_what_the_plan_allows_is_no_offence(path, source):
    assert offences(source, path) == []
