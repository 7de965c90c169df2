"""`operant mdp`: a model looked at, and written in other forms."""

import numpy as np
import pytest

from operant.cli.mdp import ends_reached, inspect
from operant.mdp import problems
from operant.mdp.files import read_model
from operant.mdp.model import MDP, from_transitions


def facts(said: str) -> dict[str, str]:
    pairs = [line.split("   ", 1) for line in said.splitlines() if "   " in line]
    return {name: words.strip() for name, words in pairs}


def test_without_a_model_it_lists_them(operant):
    for arguments in ([], ["inspect"]):
        code, said, _ = operant("mdp", *arguments)
        assert code == 0
        assert "usage: operant mdp inspect" in said
        assert "operant mdp convert cliff cliff.csv" in said


def test_inspect(operant):
    code, said, complained = operant("mdp", "inspect", "FrozenLake-v1", "--gamma", "0.95")
    assert (code, complained) == (0, "")
    assert said.startswith("FrozenLake-v1: an environment of Gymnasium\n")
    assert facts(said) == {
        "states": "17",
        "ends": "1 (16)",
        "actions": "4 (4 in a state)",
        "pairs of state and action": "64",
        "transitions": "146 (1 to 3 in a pair)",
        "density": "0.134 of the next states are possible",
        "chance": "in 0.688 of the pairs",
        "rewards": "0 to 1, which depend on the next state",
        "discount": "0.95",
        "an end can be reached from": "every state",
        "communicating classes": "7, the largest of 11 states; 0 of them no end and never left",
        "memory": facts(said)["memory"],
    }


def test_a_csv_without_a_discount_can_be_looked_at_and_not_converted(operant, tmp_path):
    assert operant("mdp", "convert", "cliff", tmp_path / "c.csv")[0] == 0
    assert facts(operant("mdp", "inspect", tmp_path / "c.csv")[1])["discount"] == "not in the file"
    code, _, complained = operant("mdp", "convert", tmp_path / "c.csv", tmp_path / "c.npz")
    assert code == 2
    assert "a .csv holds no discount: give gamma" in complained


def test_what_is_said_of_a_csv_is_what_it_holds_and_its_folder_is_made(operant, tmp_path):
    code, said, _ = operant("mdp", "convert", "FrozenLake-v1", tmp_path / "new" / "folder" / "f.csv")
    assert code == 0
    assert "146 transitions; a .csv holds no discount, so give --gamma with it" in said
    assert "0.99" not in said
    assert read_model(tmp_path / "new" / "folder" / "f.csv", 0.5).states == 17
    (tmp_path / "file").write_text("")
    code, _, complained = operant("mdp", "convert", "cliff", tmp_path / "file" / "f.csv")
    assert (code, complained) == (2, f"operant: the folder {tmp_path / 'file'} cannot be made: File exists\n")


@pytest.mark.parametrize("form", ["operant", "quantecon", "pymdptoolbox"])
def test_convert(operant, tmp_path, form):
    code, said, _ = operant("mdp", "convert", "dyna_maze", tmp_path / "m.npz", "--form", form)
    assert code == 0
    assert "54 states, 8 of them ends" in said
    found, due = read_model(tmp_path / "m.npz"), problems.dyna_maze()
    assert (found.gamma, found.end.tolist()) == (due.gamma, due.end.tolist())
    np.testing.assert_array_equal(found.matrix().toarray(), due.matrix().toarray())


def random_model(seed: int) -> MDP:
    """Sparse enough that some states reach no end."""
    generator = np.random.default_rng(seed)
    states = int(generator.integers(2, 8))
    ends = np.flatnonzero(generator.random(states) < 0.2).tolist()
    table = [
        (s, a, int(generator.integers(states)), 1.0, 0.0)
        for s in range(states)
        if s not in ends
        for a in range(generator.integers(1, 3))
    ]
    return from_transitions(*zip(*table, strict=True), 0.9, states, ends) if table else random_model(seed + 1000)


def test_from_where_an_end_can_be_reached_is_what_walking_finds():
    seen = set()
    for seed in range(60):
        mdp = random_model(seed)
        reach = mdp.end.copy()
        for _ in range(mdp.states):
            for row, s in enumerate(mdp.row_states()):
                reach[s] |= reach[mdp.next_state[mdp.start[row] : mdp.start[row + 1]]].any()
        assert ends_reached(mdp).tolist() == reach.tolist()
        seen.add((reach.any(), reach.all()))
        due = "every" if reach.all() else f"{(reach & ~mdp.end).sum()} of" if mdp.end.any() else "no state"
        assert inspect(mdp)["an end can be reached from"].startswith(due)
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "clif"], "did you mean cliff?"),
        (["inspect", "cliff", "c.csv"], "operant mdp inspect writes no file: leave c.csv out, or say convert"),
        (["convert", "cliff"], "say which file to write: operant mdp convert cliff model.npz"),
        (["convert", "cliff", "c.txt"], "c.txt: give the name of a .csv or an .npz file"),
        (["convert", "cliff", "c.csv", "--form", "quantecon"], "c.csv: give the name of an .npz file of quantecon"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(operant, arguments, said):
    code, _, complained = operant("mdp", *arguments)
    assert code == 2
    assert said in complained
    assert complained.count("\n") == 1


def test_a_verb_that_is_none(operant):
    code, _, complained = operant("mdp", "cliff")
    assert code == 2
    assert "inspect" in complained
