"""A run that was interrupted, in whatever way, ends like one that was not."""

import dataclasses
import errno
import io
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from operant.core.divergences import AdaptiveKL
from operant.core.errors import Diverged, InputError
from operant.core.record import Record
from operant.experiment import checkpoint
from operant.experiment.files import to_toml
from operant.experiment.progress import Progress
from operant.experiment.run import Run, open_run

STEPS = 12
pytestmark = pytest.mark.usefixtures("unchecked_types")  # checking the type of a list draws from `random`
CONFIG = {"steps": STEPS, "optimizer": {"learning_rate": 0.01}}


@dataclasses.dataclass(frozen=True)
class Rows(Record):
    x: Tensor


@dataclasses.dataclass
class State:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    rng: np.random.Generator
    penalty: AdaptiveKL
    batch: Rows | None = None
    step: int = 0


def init() -> State:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = nn.Sequential(nn.Embedding(5, 3), nn.Dropout(0.2), nn.Linear(3, 5, bias=False))
    model[2].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return State(model, optimizer, torch.Generator().manual_seed(0), np.random.default_rng(0), AdaptiveKL(0.1))


def train(state: State, steps: int) -> Iterator[dict[str, float]]:
    while state.step < steps:
        x = torch.randint(5, (8,), generator=state.generator)
        x = x if state.batch is None else torch.cat([x, state.batch.x])
        noise = state.rng.random() + random.random() + np.random.rand()  # noqa: NPY002
        loss = nn.functional.cross_entropy(state.model(x), x) * noise
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        coefficient = state.penalty.update(loss.item() / 100)
        state.batch = Rows(x[-4:].clone())
        state.step += 1
        yield {"policy/loss": loss.item(), "policy/beta": coefficient}


def whole_run(folder: Path, resume: bool, steps: int = STEPS, **options: Any) -> Run:
    run = open_run(folder, "toy", CONFIG, resume)
    state = init()
    run.restore(state)
    run.follow(state, train(state, steps), steps, **options)
    run.finish({"weights": state.model[0].weight.tolist(), "last": random.random() + torch.rand(1).item()})
    return run


def outcome(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The final figures and all metrics but the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]
    return json.loads((folder / "summary.json").read_text()), metrics


def mortal_runs(folder: Path, shares: list[float]) -> None:
    """Start the run in a forked child again and again; kill it after each share of a run's time, then let it finish."""
    whole_run(folder / "whole", resume=False, every_steps=1)  # this one also imports all that is imported late
    before = time.monotonic()
    whole_run(folder / "timed", resume=False, every_steps=1)
    length = time.monotonic() - before
    kills = 0
    for share in [*shares, None]:
        child = os.fork()
        if child == 0:
            resume = (folder / "killed" / "config.toml").exists()
            whole_run(folder / "killed", resume, every_steps=1)
            os._exit(0)
        if share is not None:
            time.sleep(share * length)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
    print(kills)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mortal_runs(Path(sys.argv[1]), [float(x) for x in sys.argv[2:]])
    sys.exit()


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch) -> None:
    """No test but the one with processes of its own depends on what a disk has really written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Crash(BaseException):
    pass


def crashing(metrics: Iterator[dict[str, float]], after: int) -> Iterator[dict[str, float]]:
    for _ in range(after):
        yield next(metrics)
    raise Crash


@pytest.fixture
def uninterrupted(tmp_path_factory, unchecked_types) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    whole_run(folder, resume=False)
    return folder


@pytest.mark.parametrize("every_steps", [1, 4])
@pytest.mark.parametrize("after", range(STEPS + 1))
def test_interrupted_at_every_step_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, after, every_steps):
    run = open_run(tmp_path, "toy", CONFIG, resume=False)
    state = init()
    with pytest.raises(Crash):
        run.follow(state, crashing(train(state, STEPS), after), STEPS, every_steps=every_steps)
    assert not run.finished
    resumed = whole_run(tmp_path, resume=True, every_steps=every_steps)
    assert resumed.config == CONFIG
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path):
    shares = [f"{random.uniform(0.05, 0.3):.3f}" for _ in range(6)]
    source = str(Path(checkpoint.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), *shares],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert len(outcome(tmp_path / "whole")[1]) == STEPS
    left = {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert left == {f"step_{STEPS - 1:06d}", f"step_{STEPS:06d}"}


def test_resuming_at_the_end_changes_nothing(tmp_path, uninterrupted):
    whole_run(tmp_path, resume=False)
    (tmp_path / "summary.json").unlink()
    whole_run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_time_goes_on_after_a_resume(tmp_path):
    whole_run(tmp_path, resume=False, steps=3)
    path = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["time/seconds"] = 1000.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole_run(tmp_path, resume=True, steps=4)
    assert 1000 <= json.loads(path.read_text().splitlines()[-1])["time/seconds"] < 1100


def test_only_the_newest_checkpoints_stay(tmp_path):
    run = whole_run(tmp_path, resume=False, every_steps=2, keep=3)
    assert [path.name for path in run.checkpoints()] == ["step_000008", "step_000010", "step_000012"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    with pytest.raises(InputError, match="keep is 0"):
        run.follow(init(), iter([]), STEPS, keep=0)


def test_saving_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    """Each step takes 1 s and each checkpoint 2 s: at 5% of the time, 40 s or more lie between two."""
    clock = [0.0]
    saved: list[float] = []

    def slow_save(folder: Path, state: State) -> None:
        clock[0] += 2
        saved.append(clock[0])

    def slow_train(state: State) -> Iterator[dict[str, float]]:
        for state.step in range(1, 201):
            clock[0] += 1
            yield {}

    monkeypatch.setattr("operant.experiment.run.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save", slow_save)
    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    run.follow(state, slow_train(state), 200, every_seconds=10)
    assert saved[0] == 12  # the first cost is not known yet
    assert [b - a for a, b in itertools.pairwise(saved[:-1])] == [42] * 4
    assert len(saved) == 6


# Damage.


@pytest.mark.parametrize("how", ["truncated tensors", "no tensors", "truncated json", "no json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, uninterrupted, capsys, how):
    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(Crash):
        run.follow(state, crashing(train(state, STEPS), 9), STEPS, every_steps=3)
    newest = run.checkpoints()[-1]
    assert newest.name == "step_000009"
    path = next(newest.glob("*.safetensors" if "tensors" in how else "*.json"))
    path.write_bytes(path.read_bytes()[:-10])
    if how.startswith("no"):
        path.unlink()
    fresh = init()
    assert run.restore(fresh)
    assert fresh.step == 6
    assert how == "no json" or "step_000009" in capsys.readouterr().err
    # keep=1 shows that the damaged one is not mistaken for the newest.
    whole_run(tmp_path, resume=True, every_steps=5, keep=1)
    assert outcome(tmp_path) == outcome(uninterrupted)
    assert [path.name for path in run.checkpoints()] == ["step_000012"]


def test_all_checkpoints_damaged(tmp_path):
    run = whole_run(tmp_path, resume=False, every_steps=1)
    for folder in run.checkpoints():
        (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"every checkpoint in .* is damaged; remove that folder"):
        run.restore(init())
    assert len(run.checkpoints()) == 2


def test_a_checkpoint_that_does_not_fit_is_no_damaged_one(tmp_path):
    run = whole_run(tmp_path, resume=False, every_steps=1)
    state = init()
    state.model = nn.Linear(2, 2)
    with pytest.raises(InputError, match="does not fit this run"):
        run.restore(state)
    assert len(run.checkpoints()) == 2


@pytest.mark.parametrize("rest", ['{"step": 6, "time/sec', '{"step": 5}', "\0\0\0\n"])
def test_half_a_line_of_metrics_is_cut(tmp_path, uninterrupted, rest):
    whole_run(tmp_path, resume=False, steps=5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rest)
    whole_run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_a_full_disk_stops_the_run_with_one_message(tmp_path, uninterrupted, monkeypatch):
    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    real = checkpoint.save_file

    def full_after_a_while(tensors: dict[str, Tensor], path: Path) -> None:
        if state.step > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_after_a_while)
        with pytest.raises(InputError, match="the disk is full; make room and try again"):
            run.follow(state, train(state, STEPS), STEPS, every_steps=1)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_000004", "step_000005"}
    whole_run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(uninterrupted)


# Not a number.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_stops_the_run(tmp_path, bad):
    def spoilt(state: State) -> Iterator[dict[str, float]]:
        for values in train(state, STEPS):
            yield {**values, "policy/loss": bad} if state.step == 7 else values

    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(
        Diverged, match=rf"^step 7: the policy/loss is {bad}.*step 6; the state is saved in .*diverged$"
    ):
        run.follow(state, spoilt(state), STEPS, every_steps=3)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6
    checkpoint.load(tmp_path / "diverged", seen := init())
    assert seen.step == 7
    assert run.restore(fresh := init())
    assert fresh.step == 6


def test_the_batch_of_a_divergence_within_a_step_is_saved(tmp_path):
    def spoilt(state: State) -> Iterator[dict[str, float]]:
        yield from train(state, 2)
        raise Diverged("step 2: the gradient is nan", Rows(torch.arange(3)))

    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(Diverged, match=r"gradient is nan; there is no checkpoint yet; the batch is saved in") as caught:
        run.follow(state, spoilt(state), STEPS)
    assert isinstance(caught.value.record, Rows)
    saved = checkpoint.read(tmp_path / "diverged")
    assert torch.equal(saved.tensors["state.x"], torch.arange(3))


def test_weights_spoilt_behind_finite_metrics_do_not_become_a_checkpoint(tmp_path):
    def spoilt(state: State) -> Iterator[dict[str, float]]:
        for values in train(state, STEPS):
            if state.step == 4:
                state.model[0].weight.data[0, 0] = math.nan
            yield values

    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(
        Diverged, match=r"step 4: the trained parameter number 0 is nan.*last good checkpoint is step 2"
    ):
        run.follow(state, spoilt(state), STEPS, every_steps=2)
    assert [path.name for path in run.checkpoints()] == ["step_000002"]


# Asked to stop.


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_130(tmp_path, uninterrupted, capsys, signum):
    def interrupted(state: State) -> Iterator[dict[str, float]]:
        for values in train(state, STEPS):
            if state.step == 5:
                os.kill(os.getpid(), signum)
            yield values

    before = signal.getsignal(signum)
    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(SystemExit) as caught:
        run.follow(state, interrupted(state), STEPS)
    assert caught.value.code == 130
    assert signal.getsignal(signum) is before
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped after step 5; --resume continues {tmp_path}"
    assert [path.name for path in run.checkpoints()] == ["step_000005"]
    whole_run(tmp_path, resume=True)
    assert outcome(tmp_path) == outcome(uninterrupted)


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    def interrupted(state: State) -> Iterator[dict[str, float]]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield from train(state, STEPS)

    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(KeyboardInterrupt):
        run.follow(state, interrupted(state), STEPS)
    assert state.step == 0


# The folder.


def test_a_new_run_needs_a_folder_of_its_own(tmp_path):
    run = open_run(tmp_path / "a" / "run", "toy", CONFIG, resume=False)
    assert not run.finished
    assert not run.restore(init())
    with pytest.raises(
        InputError, match=r"the run folder .* exists; --resume continues it, another --out starts a new"
    ):
        open_run(run.folder, "toy", CONFIG, resume=False)
    with pytest.raises(InputError, match="holds something that is no run"):
        open_run(tmp_path, "toy", CONFIG, resume=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="holds something that is no run"):
        open_run(tmp_path / "file", "toy", CONFIG, resume=False)
    with pytest.raises(InputError, match="cannot write"):
        open_run(tmp_path / "file" / "run", "toy", CONFIG, resume=False)


def test_a_run_killed_before_its_settings_were_written_starts_again(tmp_path):
    (tmp_path / ".config.toml.partial").write_text("[ru")
    with pytest.raises(InputError, match=r"there is no run to resume in .*; start it without --resume"):
        open_run(tmp_path, "toy", CONFIG, resume=True)
    open_run(tmp_path, "toy", CONFIG, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml"]


def test_what_a_run_learns_from_may_not_change(tmp_path):
    open_run(tmp_path, "toy", CONFIG, resume=False, learned=[[1, 2], [3]])
    open_run(tmp_path, "toy", CONFIG, resume=True, learned=[[1, 2], [3]])
    for other in ([[1, 2]], [[3], [1, 2]], [[1], [2, 3]]):
        with pytest.raises(InputError, match="learns from has changed since it began"):
            open_run(tmp_path, "toy", CONFIG, resume=True, learned=other)


def test_resume_reads_the_settings_back(tmp_path):
    open_run(tmp_path, "toy", CONFIG, resume=False)
    assert open_run(tmp_path, "toy", {"steps": 99}, resume=True).config == CONFIG
    with pytest.raises(InputError, match="is a run of toy, not of dpo"):
        open_run(tmp_path, "dpo", CONFIG, resume=True)
    for text in ("steps = ", "steps = 3", "run = 3"):
        (tmp_path / "config.toml").write_text(text)
        with pytest.raises(InputError, match=r"config\.toml cannot be read"):
            open_run(tmp_path, "toy", CONFIG, resume=True)


def test_finish_marks_the_run_as_finished(tmp_path):
    run = open_run(tmp_path, "toy", CONFIG, resume=False)
    with pytest.raises(InputError, match="so it is not finished"):
        run.summary()
    run.finish({"return": 3.5})
    assert run.finished
    assert open_run(tmp_path, "toy", CONFIG, resume=True).summary() == {"return": 3.5}


key = st.text(max_size=8)
scalar = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
settings = st.recursive(
    scalar | st.lists(scalar, max_size=3) | st.lists(st.dictionaries(key, scalar, max_size=2), max_size=2),
    lambda inner: st.dictionaries(key, inner, max_size=4),
)


@given(st.dictionaries(key, settings, max_size=5))
def test_settings_come_back_from_toml(table):
    assert repr(sort(tomllib.loads(to_toml(table)))) == repr(sort(table))


def sort(value: Any) -> Any:
    return {k: sort(value[k]) for k in sorted(value)} if isinstance(value, dict) else value


def test_toml_leaves_out_none_and_refuses_what_it_cannot_say():
    assert to_toml({"a": None, "b": {"c": None, "d": 1e-05}}) == "[b]\nd = 1e-05\n"
    assert tomllib.loads(to_toml({"x": math.nan, "path": Path("a/b"), "pair": (1, 2)}))["pair"] == [1, 2]
    for value in ([None], object()):
        with pytest.raises(TypeError, match="has no form in TOML"):
            to_toml({"a": value})


# What a person sees.


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, state = open_run(tmp_path, "toy", CONFIG, resume=False), init()
    with pytest.raises(Crash):
        run.follow(state, crashing(train(state, STEPS), 7), STEPS, every_steps=4)
    time.sleep(1.1)  # event files are named by the second and read in that order
    whole_run(tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    _, metrics = outcome(tmp_path)
    points = [(event.step, np.float32(event.value)) for event in events.Scalars("policy/loss")]
    assert points == [(line["step"], np.float32(line["policy/loss"])) for line in metrics]


def test_progress_in_plain_lines(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("operant.experiment.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    with Progress(1000, 100, stream=stream) as progress:
        for step in range(101, 1001):
            clock[0] += 0.5
            progress.update(step, {"time/x": 1.0, "policy/loss": step / 1000, "objective/kl": 0.01, "more": 1.0})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 45  # every 10 s, which are 20 steps
    assert lines[0] == "step 120/1000 (12%)  2 steps/s, 7 min 20 s left  policy/loss 0.12  objective/kl 0.01"
    assert lines[-1] == "step 1000/1000 (100%)  2 steps/s  policy/loss 1  objective/kl 0.01"

    with Progress(100, show=["b"], stream=(stream := io.StringIO())) as progress:
        for step in range(1, 101):
            clock[0] += 0.25
            progress.update(step, {"a": 1.0, "b": 2.0})
    assert len(stream.getvalue().splitlines()) == 20
    assert "  b 2" in stream.getvalue()
    assert "a 1" not in stream.getvalue()

    with Progress(100, stream=(stream := io.StringIO())) as progress:  # over at once: the last line is enough
        for step in range(1, 101):
            progress.update(step, {})
    assert [line[:12] for line in stream.getvalue().splitlines()] == ["step 100/100"]


def test_progress_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with Progress(10, stream=(stream := Terminal())) as progress:
        for step in range(1, 11):
            progress.update(step, {"policy/[loss]": 0.25})
    assert "10/10" in stream.getvalue()
    assert "policy/[loss] 0.25" in stream.getvalue()
