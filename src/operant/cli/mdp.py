"""`operant mdp`: look at a model before it is solved, or write it in another form."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from scipy import sparse
from scipy.sparse import csgraph
from tyro.conf import Positional

from operant.cli.models import find, listing
from operant.cli.solve import size
from operant.core.errors import InputError
from operant.mdp.files import SUFFIXES, Form, write_model
from operant.mdp.model import MDP

CONVERT = """usage: operant mdp convert PROBLEM FILE

writes it as a .csv or .npz file: operant mdp convert cliff cliff.csv
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Look at a known model, or write it as a file: operant mdp inspect cliff, operant mdp convert cliff cliff.csv."""

    verb: Positional[Literal["inspect", "convert"]] = "inspect"
    """What to do."""
    model: Annotated[Positional[str], tyro.conf.arg(metavar="[MODEL]")] = ""
    """A classic problem, a Gymnasium environment, or a .csv or .npz file; without it, a list."""
    out: Annotated[Positional[Path | None], tyro.conf.arg(metavar="[FILE]")] = None
    """The .csv or .npz file that convert writes."""
    form: Form = "operant"
    """Whose arrays an .npz holds that is written."""
    gamma: float | None = None
    """The discount of a step; none = what the model has."""
    env_args: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE ...")] = dataclasses.field(
        default_factory=dict
    )
    """Settings of a Gymnasium environment, such as is_slippery False."""


def run(options: Options, resume: bool) -> None:
    if not options.model:
        print(f"{listing('mdp inspect')}\n{CONVERT}")
        return
    if options.verb == "convert":
        convert(options)
        return
    if options.out is not None:
        raise InputError(f"operant mdp inspect writes no file: leave {options.out} out, or say convert")
    undiscounted = options.gamma is None and options.model.endswith(".csv")  # it can be looked at all the same
    known = find(options.model, 1.0 if undiscounted else options.gamma, options.env_args)
    facts = inspect(known.mdp) | ({"discount": "not in the file"} if undiscounted else {})
    print(f"{known.name}: {known.words}\n")
    for name, words in facts.items():
        print(f"{name:<{max(map(len, facts))}}   {words}")


def convert(options: Options) -> None:
    """Write a model as a file."""
    if options.out is None:
        raise InputError(f"say which file to write: operant mdp convert {options.model} model.npz")
    known = find(options.model, options.gamma, options.env_args)
    if options.out.suffix in SUFFIXES:
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {options.out.parent} cannot be made: {error.strerror}") from None
    write_model(known.mdp, options.out, options.form)
    held = size(known.mdp)
    if options.out.suffix == ".csv":  # which holds no discount
        held = f"{held.rpartition(';')[0]}; a .csv holds no discount, so give --gamma with it"
    print(f"{known.name} is in {options.out}: {held}")


def inspect(mdp: MDP) -> dict[str, str]:
    """What can be said of a model before it is solved, in words."""
    rows, transitions = len(mdp.action), len(mdp.next_state)
    each, choices = np.diff(mdp.start), np.diff(mdp.first)[~mdp.end]
    reach = ends_reached(mdp)
    held = [getattr(mdp, f.name) for f in dataclasses.fields(mdp)]
    memory = sum(x.nbytes for x in held if isinstance(x, np.ndarray))
    paid = mdp.reward if mdp.transition_reward is None else mdp.transition_reward
    return {
        "states": f"{mdp.states:,}",
        "ends": _few(np.flatnonzero(mdp.end)),
        "actions": f"{mdp.actions} ({_range(choices)} in a state)",
        "pairs of state and action": f"{rows:,}",
        "transitions": f"{transitions:,} ({_range(each)} in a pair)",
        "density": f"{transitions / max(rows * mdp.states, 1):.3g} of the next states are possible",
        "chance": f"in {(each > 1).mean():.3g} of the pairs"
        if (each > 1).any()
        else "none: an action leads to one state",
        "rewards": _range(paid) + (", which depend on the next state" if mdp.transition_reward is not None else ""),
        "discount": f"{mdp.gamma:.10g}" + (" (none: values are plain sums of rewards)" if mdp.gamma == 1 else ""),
        "an end can be reached from": _share(reach, ~mdp.end) if mdp.end.any() else "no state: there is no end",
        "communicating classes": communicating(mdp),
        "memory": f"{memory / 1e6:.3g} MB",
    }


def ends_reached(mdp: MDP) -> np.ndarray:
    """[S]: from which states an end can be reached, whatever it takes."""
    graph = _graph(mdp)
    # From one more node to all ends, against the direction of time.
    out = sparse.csr_array(mdp.end[None].astype(np.float64))
    corner = sparse.csr_array((1, 1))
    backward = sparse.csr_array(sparse.block_array([[graph.T, None], [out, corner]]))
    order = csgraph.breadth_first_order(backward, mdp.states, return_predecessors=False)
    found = np.zeros(mdp.states + 1, dtype=bool)
    found[order] = True
    return found[:-1]


def communicating(mdp: MDP) -> str:
    """How the states hang together: those of a class lead to one another under some policy."""
    graph = _graph(mdp)
    count, label = csgraph.connected_components(graph, connection="strong")
    edges = sparse.coo_array(graph)
    closed = np.ones(count, dtype=bool)
    closed[label[edges.coords[0]][label[edges.coords[0]] != label[edges.coords[1]]]] = False
    traps = int(closed.sum()) - int(mdp.end.sum())
    largest = np.bincount(label).max()
    return f"{count:,}, the largest of {largest:,} states; {traps:,} of them no end and never left"


def _graph(mdp: MDP) -> sparse.csr_array:
    """[S, S]: where some action may lead."""
    first = sparse.csr_array((np.ones(len(mdp.action)), np.arange(len(mdp.action)), mdp.first))
    graph = sparse.csr_array(first @ mdp.matrix())
    graph.eliminate_zeros()
    return graph


def _range(x: np.ndarray) -> str:
    if not len(x):
        return "none"
    return f"{x.min():.6g}" if x.min() == x.max() else f"{x.min():.6g} to {x.max():.6g}"


def _few(states: np.ndarray) -> str:
    more = ", ..." if len(states) > 8 else ""
    return f"{len(states):,} ({', '.join(map(str, states[:8].tolist()))}{more})" if len(states) else "none"


def _share(which: np.ndarray, among: np.ndarray) -> str:
    count, total = int((which & among).sum()), int(among.sum())
    if count == total:
        return "every state"
    return f"{count:,} of {total:,} states; not from {_few(np.flatnonzero(among & ~which))}"
