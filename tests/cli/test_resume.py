"""Real processes, killed at random moments: what is resumed ends like what was never interrupted, to the bit."""

import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from operant.cli import common
from operant.cli.main import main
from operant.experiment.run import Run

MACHINE = ["--threads", "1", "--dtype", "float32"]
PPO = ["--max-new-tokens", 6, "--rollout", 4, "--minibatch", 4, "--epochs", 1, "--decoding-dtype", "float32", *MACHINE]


def serve(policy: str, reward: str) -> None:
    """Imports once; then forks a process of its own group for every command on stdin, and says how it ended."""
    for name in ("align", "dpo", "pretrain", "reward", "rlhf", "sft"):
        importlib.import_module(f"operant.cli.{name}")
    for late in ("torch.utils.tensorboard", "matplotlib.pyplot", "operant.experiment.report", "peft"):
        importlib.import_module(late)
    common.begin(common.Machine(threads=1))
    common.load_causal(policy)
    common.load_reward(reward)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            code: Any = 1
            try:
                main(order["start"])
                code = 0
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        with contextlib.suppress(OSError):  # the child may have done it
            os.setpgid(pid, pid)
        print(pid, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
    sys.exit()


class Processes:
    """Commands as processes that can be killed."""

    def __init__(self, folder: Path, policy: Path, reward: Path) -> None:
        self.log = folder / "log"
        source = str(Path(common.__file__).parents[2])
        self.server = subprocess.Popen(
            [sys.executable, __file__, str(policy), str(reward)],
            env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, order: dict[str, Any]) -> int:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, *arguments: object) -> int:
        return self._ask({"start": [str(a) for a in arguments], "log": str(self.log)})

    def wait(self, pid: int) -> int:
        return self._ask({"wait": pid})

    def whole(self, *arguments: object) -> None:
        """A command that nobody interrupts."""
        assert self.wait(self.start(*arguments)) == 0, self.log.read_text()

    def until(self, ready: Callable[[], bool], seconds: float = 100) -> None:
        patience = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < patience, f"waited too long: {self.log.read_text()}"
            time.sleep(0.001)

    def killed_when(self, ready: Callable[[], bool], *arguments: object) -> None:
        """A command whose whole group is killed when `ready`."""
        pid = self.start(*arguments)
        self.until(ready)
        os.killpg(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL, "it was over before it could be killed"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, tuned: Path, judge: Path) -> Iterator[Processes]:
    found = Processes(tmp_path_factory.mktemp("processes"), tuned, judge)
    yield found
    found.server.stdin.close()
    assert found.server.wait() == 0


def steps(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith("time/")} for line in lines]


def models(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("model.safetensors")}
    assert found
    return found


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert metrics(ours) == metrics(theirs)
    assert (ours / "summary.json").read_bytes() == (theirs / "summary.json").read_bytes()
    assert models(ours) == models(theirs)


@pytest.fixture
def command(request, world, tuned, judge) -> list[object]:
    """A command of 20 to 60 steps, by its name."""
    learning = ["--epochs", 12, "--batch", 16, *MACHINE]
    shape = ["--width", "16", "--layers", "1", "--heads", "2", "--context", "48", "--vocabulary", "300"]
    prompts = ["--prompts", world / "prompts.jsonl", "--reward", judge, "--iterations", 20]
    text = ["--ptx-data", world / "text.jsonl", "--ptx-coefficient", 0.5]
    return {
        "pretrain": ["pretrain", "--data", world / "text.jsonl", *learning, *shape],
        "sft": ["sft", "--model", tuned, "--data", world / "demonstrations.jsonl", *learning],
        "sft with LoRA": ["sft", "--model", tuned, "--data", world / "demonstrations.jsonl", "--lora", 2, *learning],
        "reward": ["reward", "--model", tuned, "--data", world / "rankings.jsonl", *learning],
        "dpo": ["dpo", "--model", tuned, "--data", world / "rankings.jsonl", *learning],
        "rlhf": ["rlhf", "--model", tuned, *prompts, "--reference-rule", "ziegler", *text, *PPO],
        "rlhf shared": ["rlhf", "--model", tuned, *prompts, "--value", "shared", "--objective", "kl", *PPO],
        "grpo": ["grpo", "--model", tuned, *prompts, "--completions", 2, *PPO],
    }[request.param]


@pytest.mark.parametrize(
    ("command", "every"),
    [
        ("pretrain", 3),
        ("sft", 0),
        ("sft with LoRA", 4),
        ("reward", 3),
        ("dpo", 3),
        ("rlhf", 2),
        ("rlhf shared", 1),
        ("grpo", 3),
    ],
    indirect=["command"],
)
def test_killed_and_resumed_equals_uninterrupted(processes, command, every, tmp_path):
    """`every` 0 is the default, by time: nothing is saved yet when the kill comes, and all begins anew."""
    command = [*command, "--checkpoint-every", every]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    processes.whole(*command, "--out", whole)
    total = steps(whole)
    first = random.randint(2, total // 2)
    processes.killed_when(lambda: steps(killed) >= first, *command, "--out", killed)
    assert not (killed / "summary.json").exists()
    resume = [command[0], "--out", killed, "--resume"]
    if every:
        second = random.randint(first + every, max(total * 3 // 4, first + every))
        processes.killed_when(lambda: steps(killed) >= second, *resume)
        assert any((killed / "checkpoints").glob("*/state.json"))
    processes.whole(*resume)
    assert_same_run(killed, whole)


@pytest.mark.parametrize("command", ["sft"], indirect=True)
def test_asked_to_stop_and_resumed_equals_uninterrupted(processes, command, tmp_path):
    """SIGTERM: a checkpoint, and exit code 130."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    processes.whole(*command, "--out", whole)
    pid = processes.start(*command, "--out", stopped)
    processes.until(lambda: steps(stopped) >= 5)
    os.kill(pid, signal.SIGTERM)
    assert processes.wait(pid) == 130
    assert "--resume continues" in processes.log.read_text().splitlines()[-1]
    assert [p.name for p in (stopped / "checkpoints").iterdir()] == [f"step_{steps(stopped):06d}"]
    processes.whole("sft", "--out", stopped, "--resume")
    assert_same_run(stopped, whole)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("command", ["reward", "rlhf", "dpo"], indirect=True)
@pytest.mark.parametrize("moment", ["before the model is there", "after the model", "while summary.json is written"])
def test_killed_after_the_last_step_and_resumed_equals_uninterrupted(command, moment, tmp_path, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise Killed

    arguments = [str(a) for a in command]
    for flag, few in (("--epochs", "1"), ("--iterations", "2")):
        if flag in arguments:
            arguments[arguments.index(flag) + 1] = few
    whole, out = tmp_path / "whole", tmp_path / "out"
    main([*arguments, "--out", str(whole)])
    with monkeypatch.context() as patch:
        if moment == "before the model is there":
            patch.setattr(Path, "rename", killed)
        elif moment == "after the model":
            patch.setattr(Run, "finish", killed)
        else:
            patch.setattr("operant.experiment.run.atomic_write", summary_only(killed))
        with pytest.raises(Killed):
            main([*arguments, "--out", str(out)])
    assert (out / "model").exists() == (moment != "before the model is there")
    assert not (out / "summary.json").exists()
    main([arguments[0], "--out", str(out), "--resume"])
    assert_same_run(out, whole)


def summary_only(killed: Callable[[], None]) -> Callable[[Path, str], None]:
    from operant.experiment.files import atomic_write

    def write(path: Path, text: str) -> None:
        if path.name == "summary.json":
            path.with_name(".summary.json.partial").write_text(text[:10])
            killed()
        atomic_write(path, text)

    return write


# The pipeline


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def assert_same_pipeline(ours: Path, theirs: Path) -> None:
    assert models(ours).keys() >= {f"{s}/model/model.safetensors" for s in ("pretrain", "sft", "reward", "dpo", "ppo")}
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (ours, theirs))
    assert a.pop("seconds").keys() == b.pop("seconds").keys()
    assert a == b
    assert (ours / "samples.jsonl").read_bytes() == (theirs / "samples.jsonl").read_bytes()
    for stage in ("pretrain", "sft", "reward", "dpo", "ppo", "ppo_ptx"):
        assert_same_run(ours / stage, theirs / stage)


def test_the_pipeline_killed_three_times_and_resumed_equals_uninterrupted(processes, pipeline, aligned, tmp_path):
    out = tmp_path / "killed"
    resume = ["align", "--out", out, "--resume"]
    early = random.choice(["pretrain", "sft"])
    first = random.randint(1, 8)
    processes.killed_when(lambda: steps(out / early) >= first, "align", "--config", pipeline, "--out", out)
    # Side by side: the reward model and DPO at first, then PPO and PPO-ptx.
    second = random.randint(1, 5)
    processes.killed_when(lambda: steps(out / "reward") + steps(out / "dpo") >= second, *resume)
    assert not (out / "ppo").exists()
    third = random.randint(1, 3)
    processes.killed_when(lambda: steps(out / "ppo") + steps(out / "ppo_ptx") >= third, *resume)
    assert not (out / "summary.json").exists()
    out = out.rename(tmp_path / "moved")  # where it stands makes no difference
    resume = ["align", "--out", out, "--resume"]
    processes.whole(*resume)
    assert_same_pipeline(out, aligned)
    assert (out / "report.html").is_file()
    before = (out / "report.html").stat().st_mtime_ns
    processes.whole(*resume)
    assert (out / "report.html").stat().st_mtime_ns == before


def test_stages_end_with_the_pipeline_and_write_no_more(processes, aligned, tmp_path):
    """Only the parent is killed: its children, which have hours to go, see that and leave."""
    out = Path(shutil.copytree(aligned, tmp_path / "orphans"))
    for name in ("dpo", "ppo"):
        shutil.rmtree(out / name)
    (out / "summary.json").unlink()
    config = (out / "config.toml").read_text()
    config = re.sub(r"(\[ppo\]\n(?:.*\n)*?iterations = )\d+", r"\g<1>300000", config)
    config = re.sub(r"(\[dpo\]\n(?:.*\n)*?epochs = )\d+", r"\g<1>90000", config)
    (out / "config.toml").write_text(config)
    pid = processes.start("align", "--out", out, "--resume")
    processes.until(lambda: bool(steps(out / "dpo") and steps(out / "ppo")))
    stages = children(pid)
    os.kill(pid, signal.SIGKILL)
    assert processes.wait(pid) == -signal.SIGKILL
    assert len(stages) == 2
    processes.until(lambda: not any(map(alive, stages)), seconds=20)
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    time.sleep(0.3)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == files
    assert not (out / "dpo" / "summary.json").exists()
    assert not (out / "ppo" / "summary.json").exists()


def test_a_stage_that_fails_is_named_with_its_reason(processes, aligned, tmp_path):
    out = Path(shutil.copytree(aligned, tmp_path / "broken"))
    shutil.rmtree(out / "dpo")
    (out / "summary.json").unlink()
    comparisons = (out / "data" / "comparisons.jsonl").read_text()
    (out / "data" / "comparisons.jsonl").write_text('{"prompt"\n')
    pid = processes.start("align", "--out", out, "--resume")
    assert processes.wait(pid) == 2
    said = processes.log.read_text().splitlines()[-1]
    assert said.startswith("operant: stage dpo failed: ")
    assert f"{out / 'data' / 'comparisons.jsonl'}:1: broken JSON" in said
    assert said.endswith(f"(all of it: {out / 'dpo.log'}); --resume goes on from there")
    (out / "data" / "comparisons.jsonl").write_text(comparisons)
    processes.whole("align", "--out", out, "--resume", "--only", "dpo")
    assert_same_run(out / "dpo", aligned / "dpo")
    assert not (out / "summary.json").exists()
