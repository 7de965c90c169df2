"""The replay buffer against transitions made by hand, in every autoreset mode, and against its own checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor

from operant.core.errors import InputError
from operant.envs.replay import Replay
from operant.envs.runner import Runner
from operant.experiment.structure import Tensors, encode, place
from tests.envs.test_runner import MODES, TERMINATES, TRUNCATES, Count, in_mode

LENGTHS = (TERMINATES, TRUNCATES, (1, False), (1, True), (6, True))
Row = tuple[int, int, int, float, float, int]


def scripted(observation: NDArray[Any], step: int = 0) -> NDArray[Any]:
    return observation[:, 1].astype(np.int64) % 5


def rows(replay: Replay) -> list[Row]:
    """(environment, step, action, reward, discount, step reached) of everything that is kept, sorted."""
    c = {name: x[: len(replay)] for name, x in replay.columns.items()}
    assert (c["observation"][:, 0] == c["next_observation"][:, 0]).all()
    columns = (*c["observation"].T, c["action"], c["reward"], c["discount"], c["next_observation"][:, 1])
    return sorted(zip(*(x.astype(float).round(4).tolist() for x in columns), strict=True))


def by_hand(number: int, length: int, cut: bool, steps: int, n: int, gamma: float) -> list[Row]:
    """The transitions of one `Count` of which `steps` steps were taken, that are complete by then."""
    env, rewards, due, done = Count(number, length, cut), [], [], False
    env.reset()
    for i in range(steps):
        _, reward, terminated, truncated, _ = env.step(len(rewards) % 5)
        rewards.append(reward)
        done = terminated or truncated
        if done or i == steps - 1:
            t = len(rewards)
            for start in range(t):
                stop = min(start + n, t)
                if stop - start < n and not done:
                    continue
                total = sum(gamma**k * r for k, r in enumerate(rewards[start:stop]))
                discount = 0.0 if terminated and stop == t else gamma ** (stop - start)
                due.append((number, start, start % 5, round(total, 4), round(discount, 4), stop))
            rewards = []
            env.reset()
    return due


def filled(mode: Any, n: int, steps: int, capacity: int = 500, **settings: Any) -> tuple[Runner, Replay]:
    runner = in_mode(mode, *LENGTHS)
    replay = Replay(capacity, (2,), envs=len(LENGTHS), gamma=0.5, n=n, **settings)
    runner.collect(scripted, replay, steps)
    return runner, replay


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_transitions_are_those_of_each_episode_alone(mode, n):
    """Terminated, truncated, shorter and longer than n; what is still growing is not kept yet."""
    runner, replay = filled(mode, n, 20)
    del runner
    taken = in_mode(mode, *LENGTHS).rollout(_Policy(), 20).mask.sum(1).tolist()
    due = [row for b, (length, cut) in enumerate(LENGTHS) for row in by_hand(b, length, cut, taken[b], n, gamma=0.5)]
    assert rows(replay) == sorted(due)


class _Policy:
    memory = False

    def act(self, observation: Tensor, state: None = None, greedy: bool = False) -> tuple[Tensor, Tensor, Tensor, None]:
        nothing = torch.zeros(len(observation))
        return torch.from_numpy(scripted(observation.numpy())), nothing, nothing, None

    def evaluate(self, observation: Tensor, action: Tensor) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("n", [1, 3])
def test_an_n_step_target_is_the_return_to_be_had_from_there(n):
    """With the true value of the state reached, the target is the true value of the state left, at both ends."""
    replay = filled(MODES[0], n, 40)[1]
    gamma = 0.5

    def value(number: int, step: int) -> float:
        """Of following the script; a truncated episode is worth what it would have been worth if it had gone on."""
        length, cut = LENGTHS[int(number)]
        last = 60 if cut else length
        return sum(gamma ** (k - step) * (k % 5 + 10 * (k + 1)) for k in range(int(step), last))

    c = replay.columns
    for i in range(len(replay)):
        target = c["reward"][i] + c["discount"][i] * value(*c["next_observation"][i])
        assert target == pytest.approx(value(*c["observation"][i]), rel=1e-5)


def test_only_termination_makes_the_discount_0():
    replay = filled(MODES[1], 1, 30)[1]
    number = replay.columns["observation"][: len(replay), 0]
    ended = set(number[replay.columns["discount"][: len(replay)] == 0].tolist())
    assert ended == {b for b, (_, cut) in enumerate(LENGTHS) if not cut}


@pytest.mark.parametrize(("n", "due"), [(1, [0.5, 0.5, 0]), (2, [0.25, 0, 0])])
def test_what_ends_in_both_ways_at_once_is_terminated(n, due):
    replay = Replay(3, (1,), gamma=0.5, n=n)
    x, over = np.zeros((3, 1), np.float32), np.array([[False], [False], [True]])
    replay.add(x[..., None], x.astype(int), x, over, over, x[..., None], np.ones_like(over))
    assert replay.columns["discount"].tolist() == due


@pytest.mark.parametrize("n", [1, 3])
def test_the_latest_transitions_are_kept(n):
    few, all_ = filled(MODES[1], n, 50, capacity=37)[1], filled(MODES[1], n, 50)[1]
    assert len(few) == 37
    ordered = {name: np.roll(x, -few.position, 0) for name, x in few.columns.items()}
    for name, x in ordered.items():
        np.testing.assert_array_equal(x, all_.columns[name][len(all_) - 37 : len(all_)])


def test_more_at_once_than_the_capacity_keeps_the_last():
    replay = Replay(2, (1,), envs=5)
    x, no = np.arange(5, dtype=np.float32), np.zeros(5, dtype=bool)
    replay.add(*(a[None] for a in (x[:, None], np.arange(5), x, no, no, x[:, None] + 1, ~no)))
    assert len(replay) == 2
    assert sorted(replay.columns["reward"].tolist()) == [3, 4]


class TestSample:
    def test_draws_every_filled_place_as_often_and_no_other(self):
        replay = filled(MODES[0], 1, 4, capacity=100)[1]
        replay.columns["reward"][:] = np.arange(100)
        count = torch.bincount(replay.sample(10_000).reward.long(), minlength=100).numpy()
        assert not count[len(replay) :].any()
        assert chisquare(count[: len(replay)]).pvalue > 1e-3

    def test_is_rows_of_the_columns(self):
        replay = filled(MODES[0], 2, 30)[1]
        batch = replay.sample(64)
        assert batch.observation.shape == batch.next_observation.shape == (64, 2)
        kept = set(rows(replay))
        columns = (*batch.observation.T, batch.action, batch.reward, batch.discount, batch.next_observation[:, 1])
        found = zip(*(x.double().numpy().round(4).tolist() for x in columns), strict=True)
        assert set(found) <= kept

    def test_an_empty_buffer_is_refused(self):
        with pytest.raises(InputError, match="empty"):
            Replay(10, (2,)).sample(1)


class TestMapped:
    def test_holds_the_same_as_memory_and_leaves_no_file(self, tmp_path: Path):
        memory = filled(MODES[2], 3, 40, capacity=60)[1]
        mapped = filled(MODES[2], 3, 40, capacity=60, memory_limit=100, folder=tmp_path)[1]
        assert (memory.mapped, mapped.mapped) == (False, True)
        assert isinstance(mapped.columns["observation"], np.memmap)
        for name, x in memory.columns.items():
            np.testing.assert_array_equal(mapped.columns[name], x)
        assert not list(tmp_path.iterdir())

    def test_the_limit_is_on_all_columns_together(self):
        size = 10 * (2 * 2 * 4 + 8 + 4 + 4)
        assert not Replay(10, (2,), memory_limit=size).mapped
        assert Replay(10, (2,), memory_limit=size - 1).mapped


class TestResume:
    @pytest.mark.parametrize("memory_limit", [2**31, 0])
    @pytest.mark.parametrize("steps", [4, 30])
    def test_goes_on_as_if_it_had_not_stopped(self, steps, memory_limit):
        """In mid-transition, before and after it is full, from memory or from a file."""
        settings = {"capacity": 50, "memory_limit": memory_limit}
        (runner, whole), (again, _) = (filled(MODES[1], 3, steps, **settings) for _ in range(2))
        resumed = filled(MODES[1], 3, 7, **settings)[1]
        tensors = Tensors()
        node = encode(whole, "replay", tensors)
        place(node, resumed, {name: x.clone() for name, x in tensors.named.items()})
        assert encode(resumed, "replay", Tensors()) == node
        runner.collect(scripted, whole, 20)
        again.collect(scripted, resumed, 20)
        for name, x in whole.columns.items():
            np.testing.assert_array_equal(resumed.columns[name][: len(resumed)], x[: len(whole)])
        torch.manual_seed(1)
        due = whole.sample(32)
        torch.manual_seed(1)
        assert torch.equal(resumed.sample(32).reward, due.reward)

    def test_another_size_is_refused(self):
        state = Replay(10, (2,), n=2).state_dict()
        with pytest.raises(InputError, match=r"\(10, 2, 1\), and this run has \(10, 3, 1\)"):
            Replay(10, (2,), n=3).load_state_dict(state)

    def test_a_cut_drops_what_is_growing(self):
        runner, replay = filled(MODES[1], 3, 2)
        replay.cut()
        runner.collect(scripted, replay, 2)
        # The second environment runs for 4 steps: those before the cut are gone.
        assert [row[1] for row in rows(replay) if row[0] == 1] == [2, 3]


@pytest.mark.parametrize(("settings", "message"), [({"capacity": 0}, "capacity 0"), ({"n": 0}, "n 0")])
def test_counts_below_1_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Replay(**{"capacity": 5, "observation_shape": (1,)} | settings)


def test_a_discount_above_1_is_refused():
    with pytest.raises(InputError, match=r"gamma 1\.5"):
        Replay(5, (1,), gamma=1.5)


class TestPictures:
    """Stacks of pictures against plain arrays of the same."""

    SHAPE = (4, 6, 5)

    def both(self, n: int = 1, capacity: int = 37) -> tuple[Replay, Replay, np.random.Generator]:
        settings: dict[str, Any] = {"envs": 3, "n": n, "gamma": 0.9}
        shared = Replay(capacity, self.SHAPE, observation_dtype=np.uint8, **settings)
        plain = Replay(capacity, self.SHAPE, observation_dtype=np.int16, **settings)
        assert shared.pictures is not None
        assert plain.pictures is None
        return shared, plain, np.random.default_rng(0)

    def play(self, rng: np.random.Generator, replays: list[Replay], steps: int, kinds: int = 200) -> None:
        """Stacks that move on by a picture, and begin anew now and then."""
        stack = rng.integers(0, 256, (3, *self.SHAPE), dtype=np.uint8)
        book = rng.integers(0, 256, (kinds, *self.SHAPE[1:]), dtype=np.uint8)
        for _ in range(steps):
            reached = np.concatenate([stack[:, 1:], book[rng.integers(kinds, size=(3, 1))]], 1)
            ends = rng.random(3) < 0.1
            action, reward, kept = rng.integers(5, size=3), rng.random(3), rng.random(3) < 0.9
            for replay in replays:
                step = (stack, action, reward, ends, np.zeros(3, bool), reached, kept)
                replay.add(*(x[None].astype(replay.observation.dtype) if x.ndim > 1 else x[None] for x in step))
            stack = np.where(ends[:, None, None, None], book[rng.integers(kinds, size=(3, 4))], reached)

    def same(self, a: Replay, b: Replay) -> bool:
        return all(np.array_equal(x[: len(a)], b.columns[name][: len(b)]) for name, x in a.columns.items())

    def in_use(self, replay: Replay) -> int:
        return len({x.tobytes() for name in ("observation", "next_observation")
                    for stack in replay.columns[name][: len(replay)] for x in stack})  # fmt: skip

    @pytest.mark.parametrize("kinds", [3, 10_000])
    @pytest.mark.parametrize("n", [1, 3])
    def test_they_are_those_that_were_seen_and_each_is_kept_once(self, n, kinds):
        shared, plain, rng = self.both(n)
        for _ in range(8):
            self.play(rng, [shared, plain], 9, kinds)
            assert len(shared) == len(plain)
            assert self.same(shared, plain)
            assert (shared.pictures.uses > 0).sum() == self.in_use(shared)
        assert shared.pictures.begun <= 3 * 37

    def test_those_that_look_alike_to_the_table_are_told_apart(self, monkeypatch):
        monkeypatch.setattr("builtins.hash", lambda _: 7)
        shared, plain, rng = self.both()
        self.play(rng, [shared, plain], 60)
        assert self.same(shared, plain)

    def test_a_saved_buffer_goes_on_as_if_it_had_not_been(self):
        shared, plain, rng = self.both()
        self.play(rng, [shared, plain], 40)
        again, _, _ = self.both()
        self.play(np.random.default_rng(1), [again], 40)  # what is loaded must replace all of it
        tensors = Tensors()
        node = encode(shared.state_dict(), "replay", tensors)
        again.load_state_dict(place(node, None, tensors.named))
        assert self.same(again, shared)
        assert (again.pictures.uses == shared.pictures.uses).all()
        self.play(rng, [shared, again, plain], 40)
        assert self.same(again, plain)
        assert (again.pictures.uses > 0).sum() == self.in_use(again)

    def test_pictures_with_colours_behind_are_no_stacks(self):
        assert Replay(10, (96, 96, 3), observation_dtype=np.uint8).pictures is None
