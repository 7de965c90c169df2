"""Models in files and in QuantEcon's arrays: there and back, and what is refused with file and line."""

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from operant.algorithms.planning import policy_iteration
from operant.core.errors import InputError
from operant.mdp import problems
from operant.mdp.files import read_model, write_model
from operant.mdp.model import MDP, from_transitions
from operant.mdp.quantecon import from_quantecon, to_quantecon

HEADER = "state,action,next_state,probability,reward"


def random_model(seed: int, by_transition: bool = False) -> MDP:
    """A few states, some of them ends, one of which nothing leads to; actions with gaps in their numbers."""
    generator = np.random.default_rng(seed)
    states = int(generator.integers(2, 6))
    ends = [states - 1, states]
    table = []
    for s in range(states - 1):
        for a in np.flatnonzero(generator.random(4) < 0.6).tolist() or [2]:
            after = np.flatnonzero(generator.random(states) < 0.5).tolist() or [0]
            p = generator.dirichlet(np.ones(len(after)))
            paid = generator.normal(size=len(after)) if by_transition else np.full(len(after), generator.normal())
            table += [(s, a, t, x, r) for t, x, r in zip(after, p, paid, strict=True)]
    return from_transitions(*zip(*table, strict=True), 0.9, states + 1, ends)


def same(found: MDP, due: MDP) -> None:
    for field in dataclasses.fields(MDP):
        x, y = getattr(found, field.name), getattr(due, field.name)
        assert (x is None) == (y is None), field.name
        if x is not None:
            np.testing.assert_allclose(x, y, atol=1e-15, rtol=1e-15, err_msg=field.name)


@pytest.mark.parametrize("by_transition", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_there_and_back(tmp_path, suffix, by_transition):
    for seed in range(20):
        mdp = random_model(seed, by_transition)
        write_model(mdp, tmp_path / f"m{suffix}")
        same(read_model(tmp_path / f"m{suffix}", 0.9), mdp)


@pytest.mark.parametrize("form", ["quantecon", "pymdptoolbox"])
def test_there_and_back_through_the_arrays_of_others(tmp_path, form):
    for seed in range(20):
        mdp = random_model(seed)
        write_model(mdp, tmp_path / "m.npz", form)
        same(read_model(tmp_path / "m.npz"), mdp)
        assert read_model(tmp_path / "m.npz", 0.5).gamma == 0.5


@given(st.integers(0, 10**6))
def test_there_and_back_through_quantecon(seed):
    mdp = random_model(seed)
    ends = np.flatnonzero(mdp.end).tolist()
    same(from_quantecon(*to_quantecon(mdp), ends=ends), mdp)
    reward, q, beta, s, a = to_quantecon(mdp)
    assert q.shape == (len(reward), mdp.states)
    assert (np.diff(s * 10 + a) > 0).all()
    shuffled = np.random.default_rng(seed).permutation(len(s))
    same(
        from_quantecon(reward[shuffled], q[shuffled].toarray(), beta, s[shuffled], a[shuffled], ends),
        mdp,
    )


def test_an_end_as_quantecon_has_it_is_worth_nothing():
    mdp = problems.treasure_walk()
    looping = from_quantecon(*to_quantecon(mdp))
    assert not looping.end.any()
    np.testing.assert_allclose(policy_iteration.solve(looping).value, policy_iteration.solve(mdp).value, atol=1e-9)


def test_the_product_form_is_that_of_pairs(tmp_path):
    reward = np.array([[5.0, 10.0], [-1.0, -np.inf]])
    q = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.5, 0.5]]])
    found = from_quantecon(reward, q, 0.95)
    pairs = from_quantecon([5.0, 10.0, -1.0], sparse.csr_array(q[[0, 0, 1], [0, 1, 0]]), 0.95, [0, 0, 1], [0, 1, 0])
    same(found, pairs)
    np.savez(tmp_path / "d.npz", R=reward, Q=q, beta=0.95)
    same(read_model(tmp_path / "d.npz"), found)
    # The example of QuantEcon's documentation: v* = (-8.57142857, -20).
    np.testing.assert_allclose(policy_iteration.solve(found).value, [-60 / 7, -20], atol=1e-6)


def test_pymdptoolbox_arrays_as_they_come(tmp_path):
    """Its example of a forest: wait or cut, three ages, a fire with probability 0.1."""
    p = np.array([[[0.1, 0.9, 0], [0.1, 0, 0.9], [0.1, 0, 0.9]], [[1, 0, 0], [1, 0, 0], [1, 0, 0.0]]])
    reward = np.array([[0, 0], [0, 1], [4, 2.0]])
    np.savez(tmp_path / "forest.npz", transition=p, reward=reward)
    found = policy_iteration.solve(read_model(tmp_path / "forest.npz", 0.96))
    assert found.policy.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.value, np.linalg.solve(np.eye(3) - 0.96 * p[0], reward[:, 0]), atol=1e-6)


def test_columns_stand_in_any_order_and_an_end_may_lead_to_itself(tmp_path):
    plain = f"{HEADER},end\n0,0,1,0.25,2,1\n0,0,0,0.75,0,0\n"
    (tmp_path / "a.csv").write_text(plain)
    (tmp_path / "b.csv").write_text(
        "\ufeffend, reward,probability,next_state,action,state\r\n1,2,.25,1,0,0\r\n\r\n"
        "0,0,0.75,0,0,0\r\n1,0,1,1,3,1\r\n"
    )
    same(read_model(tmp_path / "a.csv", 0.5), read_model(tmp_path / "b.csv", 0.5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state,action,next_state,probabilty,reward", ":1: there is a column 'probabilty'; did you mean probability?"),
        ("state,action,next_state,reward\n", ":1: there is no column 'probability'; the columns are state,action"),
        (f"{HEADER},colour\n", ":1: there is a column 'colour'; the columns are state,action"),
        (f"{HEADER},state\n", ":1: there is a column 'state' twice"),
        ("", ":1: there is no heading; the first line is state,action"),
        (HEADER.replace(",", ";"), ":1: ';' stands between the columns; put commas there"),
        (f"{HEADER}\n0,0,{'9' * 23},1,1\n", f":2: next_state is {'9' * 23}, which is too large"),
        (f"{HEADER}\n0,99999999999,0,1,1\n", ":2: action is 99999999999, which is too large"),
        (f"{HEADER},end\n0,0,0,1,1,0\n0,1,1,1,1,2\n", ":3: end is 2; give 1 where the next state is one, else 0"),
        (f"{HEADER},end\n0,0,1,1,1,1\n\n0,1,1,1,1,0\n", ":4: end is 0, and another line says that state 1 is one"),
        (f"{HEADER}\n0,0,0,1,1\n0,1,zero,1,1\n", ":3: next_state is 'zero'; give a number"),
        (f"{HEADER}\n0,0,0,1,1\n\n0,1,0,1\n", ":4: 4 cells, and the header names 5 columns"),
        (f"{HEADER}\n0,0,0,1,nan\n", ":2: reward is nan; give a finite number"),
        (f"{HEADER}\n0,0,0,1,inf\n", ":2: reward is inf; give a finite number"),
        (f"{HEADER}\n0,0.5,0,1,1\n", ":2: action is 0.5; give a whole number, counting from 0"),
        (f"{HEADER}\n-1,0,0,1,1\n", ":2: state is -1; give a whole number, counting from 0"),
        (f"{HEADER}\n0,0,0,0.999,1\n", ": state 0, action 0: the probabilities sum to 0.999, which is -0.001 from 1"),
        (f"{HEADER}\n0,0,0,1.5,1\n0,0,1,-0.5,1\n1,0,0,1,1\n", ": state 0, action 0: a probability is -0.5"),
        (f"{HEADER}\n0,0,1,1,1\n", ": state 1 has no action and is no end"),
        (f"{HEADER}\n0,0,999999999999,1,1\n", ": state 1 has no action and is no end"),
        (f"{HEADER},end\n0,0,1,1,1,1\n1,0,0,1,1,0\n", ": state 1 is an end and has actions"),
        (f"{HEADER}\n", ": the model has no states"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_model(tmp_path, text, said):
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_model(path, 0.9)
    assert str(error.value).startswith(f"{path}{said}")


def test_files_that_cannot_be_read(tmp_path):
    for name, content, said in (
        ("m.csv", b"\xff\xfe\x00", "this is no .csv, which is text in UTF-8: its byte 0 is not"),
        ("m.npz", b"not a zip", "this is no .npz file"),
        ("m.npz", _zipped()[:-8], "this is no .npz file"),
        ("m.txt", b"", "a model is a .csv or an .npz file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_model(tmp_path / name, 0.9)
    for name in ("nowhere.csv", "nowhere.npz"):
        with pytest.raises(InputError, match=f"{name}: No such file or directory"):
            read_model(tmp_path / name, 0.9)


def _zipped(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays or {"x": np.zeros(3)}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"s_indices": [0, 0, 0], "a_indices": [0, 1, 1]}, "state 0, action 1 is there twice, at places 1 and 2"),
        ({"s_indices": [0, 0, 2]}, "s_indices holds 2; with 2 columns in Q, states go from 0 to 1"),
        ({"s_indices": [0, 0, -1]}, "s_indices holds -1"),
        ({"a_indices": [0.0, 1.0, 0.0]}, "a_indices holds 0.0"),
        ({"s_indices": [0, 0]}, r"R has the shape \(3,\), Q \(3, 2\), s_indices \(2,\)"),
        ({"R": [1.0, 2.0]}, r"R has the shape \(2,\)"),
        ({"R": [1.0, np.nan, 2.0]}, "state 0, action 1: the reward is nan"),
        ({"Q": [[1.0, 0.0], [0.5, 0.4], [0.0, 1.0]]}, "state 0, action 1: the probabilities sum to 0.9"),
        ({"beta": 1.5}, "the discount gamma is 1.5"),
        ({"beta": [0.5, 0.5]}, r"the discount has the shape \(2,\)"),
        ({"beta": "x"}, "beta holds text: give real numbers"),
        ({"R": [1.0, 2.0j, 0.0]}, "R holds complex numbers: give real numbers"),
        ({"R": ["1", "2", "0"]}, "R holds text: give real numbers"),
        ({"ends": [7]}, "ends holds 7; states go from 0 to 1"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_model(tmp_path, changes, said):
    arrays = {"R": [1.0, 2.0, 0.0], "Q": [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], "beta": 0.9}
    arrays |= {"s_indices": [0, 0, 1], "a_indices": [0, 1, 0]}
    (tmp_path / "m.npz").write_bytes(_zipped(**(arrays | changes)))
    with pytest.raises(InputError, match=said) as error:
        read_model(tmp_path / "m.npz")
    assert str(error.value).startswith(str(tmp_path / "m.npz"))


def test_an_archive_must_hold_a_model_and_only_arrays(tmp_path):
    path = tmp_path / "m.npz"
    for arrays, said in (
        ({"x": [1], "beta": 0.5}, "the arrays are x, beta; a model has first, action"),
        ({"transition": np.ones((1, 1, 1)), "reward": [1.0]}, "the file holds no discount: give gamma"),
        (
            {"transition": np.eye(2), "reward": [1.0, 0.0], "gamma": 0.5},
            r"transition has the shape \(2, 2\): give A of",
        ),
        ({"x": [1]}, "the arrays are x; a model has first, action"),
        ({"transition": np.ones((1, 1, 2)), "reward": [1.0], "gamma": 0.5}, "give A of"),
        ({"transition": np.ones((1, 1, 1)), "reward": [1.0, 2.0], "gamma": 0.5}, r"reward has the shape \(2,\)"),
        ({"R": [1.0], "beta": 0.5, "s_indices": [0], "Q_data": [1.0]}, "there is no Q_indices"),
        ({"R": np.array([object()]), "Q": [1.0], "beta": 0.5}, "allow_pickle=False"),
    ):
        path.write_bytes(_zipped(**arrays))
        with pytest.raises(InputError, match=said):
            read_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("R.npy", b"\x93NUMPY rubbish")
    with pytest.raises(InputError, match="this is no model"):
        read_model(path)


def test_arrays_that_no_memory_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("R.npy", header.getvalue())
    with pytest.raises(
        InputError, match=r"m\.npz: this is more than the memory of this machine holds: Unable to alloc"
    ):
        read_model(tmp_path / "m.npz")


def test_a_table_without_a_discount_is_read_first(tmp_path):
    (tmp_path / "m.csv").write_text(f"{HEADER}\n0,0,zero,1,1\n")
    with pytest.raises(InputError, match="next_state is 'zero'"):
        read_model(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text(f"{HEADER}\n0,0,0,1,1\n")
    with pytest.raises(InputError, match=r"a \.csv holds no discount: give gamma"):
        read_model(tmp_path / "m.csv")


def test_a_sparse_matrix_that_is_none_reaches_no_kernel(tmp_path):
    good = {"R": [1.0], "beta": 0.5, "s_indices": [0], "a_indices": [0]}
    for broken in (
        {"Q_data": [1.0], "Q_indices": [-5], "Q_indptr": [0, 1]},
        {"Q_data": [1.0], "Q_indices": [0], "Q_indptr": [0, 9]},
        {"Q_data": [1.0, 0.0], "Q_indices": [0, 0], "Q_indptr": [1, 0, 2]},
    ):
        (tmp_path / "m.npz").write_bytes(_zipped(**good, **broken))
        with pytest.raises(InputError, match=r"m\.npz"):
            read_model(tmp_path / "m.npz")
    arrays = {f.name: getattr(problems.treasure_walk(), f.name) for f in dataclasses.fields(MDP)}
    del arrays["transition_reward"]
    for name, value in (("next_state", -1), ("next_state", 2**40), ("start", -1), ("action", 0.5)):
        broken = np.array(arrays[name], dtype=np.float64 if name == "action" else np.int64)
        broken[1] = value
        (tmp_path / "m.npz").write_bytes(_zipped(**(arrays | {name: broken})))
        with pytest.raises(InputError, match=r"m\.npz"):
            read_model(tmp_path / "m.npz")


def test_where_a_model_cannot_be_written(tmp_path):
    mdp = problems.treasure_walk()
    with pytest.raises(InputError, match=r"give the name of a \.csv or an \.npz file"):
        write_model(mdp, tmp_path / "m.txt")
    with pytest.raises(InputError, match=r"give the name of an \.npz file of quantecon's arrays"):
        write_model(mdp, tmp_path / "m.csv", "quantecon")
    with pytest.raises(InputError, match="No such file or directory"):
        write_model(mdp, Path(tmp_path) / "nowhere" / "m.npz")
