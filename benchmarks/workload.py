"""The workload that both sides of `language_models.py` read, and the meter that both sides use.

One folder holds everything, made once by `make`:

    pairs.json   {"eos": id, "pad": id, "pairs": [{"prompt_ids", "chosen_ids", "rejected_ids"}, ...]}
    policy/      Llama of `SHAPE`, briefly fine-tuned on the chosen responses, float32 safetensors, with its tokenizer
    reward/      the same trunk with a scalar head (`LlamaForSequenceClassification`, num_labels 1)

Prompts carry no EOS; both responses end with it. The texts are human comparisons with their natural, ragged lengths.
This file imports neither side, and torch and transformers only inside `make`.
"""

import argparse
import json
import os
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}  # 8.9 M parameters: 2.1 M embedding, 8 layers of 0.85 M
CONTEXT = 512
"""Pairs whose prompt and longer response exceed this many tokens are dropped, for both sides."""

LEARNING_RATE = {"sft": 1e-4, "reward": 1e-4, "dpo": 1e-5, "ppo": 1e-5}
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
MAX_GRAD_NORM = 1.0
DPO_BETA = 0.1
PPO = {
    "response_length": 53,
    "temperature": 1.0,
    "epochs": 4,
    "minibatches": 1,
    "kl_coefficient": 0.05,
    "clip": 0.2,
    "value_clip": 0.2,
    "value_coefficient": 0.1,
    "gamma": 1.0,
    "lambda": 0.95,
}
WARM_START_STEPS, WARM_START_LENGTH = 80, 128

Pair = dict[str, list[int]]


@dataclass(frozen=True)
class Workload:
    """What a side trains on: `policy` and `reward` are folders for `from_pretrained`."""

    pairs: list[Pair]
    eos: int
    pad: int
    policy: Path
    reward: Path

    def prompts(self) -> list[list[int]]:
        """The distinct prompts in the order of the pairs; PPO rolls these out."""
        return [list(ids) for ids in dict.fromkeys(tuple(pair["prompt_ids"]) for pair in self.pairs)]

    def stored_rollouts(self, count: int) -> list[tuple[list[int], list[int]]]:
        """The first `count` (prompt, response) whose chosen response fills the response length, cut there.

        Sampling differs between libraries; on these fixed responses the PPO losses must agree.
        """
        length = PPO["response_length"]
        full = [(p["prompt_ids"], p["chosen_ids"][:length]) for p in self.pairs if len(p["chosen_ids"]) > length]
        return full[:count]


def load(folder: Path) -> Workload:
    """Reads a folder written by `make`."""
    stored = json.loads((folder / "pairs.json").read_text())
    return Workload(stored["pairs"], stored["eos"], stored["pad"], folder / "policy", folder / "reward")


def make(folder: Path, data: Path, seed: int = 0) -> None:
    """Writes the workload: tokenizer and weights are trained on the texts themselves; nothing is downloaded."""
    import torch

    texts = _comparisons(data)
    random.Random(seed).shuffle(texts)
    tokenizer = _train_tokenizer([text for row in texts for text in row])
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    pairs = []
    for prompt, chosen, rejected in texts:
        pair = {
            "prompt_ids": tokenizer.encode(prompt + "\n\n"),
            "chosen_ids": [*tokenizer.encode(chosen), eos],
            "rejected_ids": [*tokenizer.encode(rejected), eos],
        }
        if len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= CONTEXT:
            pairs.append(pair)

    torch.manual_seed(seed)
    policy = _warm_start(pairs, eos, pad)
    reward = _reward_model(policy)
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in (("policy", policy), ("reward", reward)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "pairs.json").write_text(json.dumps({"eos": eos, "pad": pad, "pairs": pairs}))


def _comparisons(data: Path) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) of the human comparisons that are no tie; one judgement per pair of responses."""
    source = data / "pref_tulu_human" / "annotations.jsonl"
    if not source.exists():
        raise SystemExit(
            f"benchmark data not found: {source}\nGive the folder that holds pref_tulu_human/annotations.jsonl "
            "with --data DIR."
        )
    rows: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    for line in source.read_text().splitlines():
        row = json.loads(line)
        prompt, a, b = row["prompt"], row["completion_a"], row["completion_b"]
        if row["preference"] == "tie" or not (a.strip() and b.strip()):
            continue
        chosen, rejected = (a, b) if row["preference"].startswith("a-") else (b, a)
        rows.setdefault((prompt, a, b), (prompt, chosen, rejected))
    return list(rows.values())


def _train_tokenizer(texts: list[str]) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=SHAPE["vocab_size"], special_tokens=["<eos>", "<pad>"], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def _warm_start(pairs: list[Pair], eos: int, pad: int) -> Any:
    """A Llama that has learned to end its responses: with random weights every rollout would run to the cap."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=eos, pad_token_id=pad))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batch = 16
    for step in range(WARM_START_STEPS):
        rows = [pairs[(step * batch + i) % len(pairs)] for i in range(batch)]
        # Cut, not dropped, beyond the length: dropping long responses would teach the model to end early.
        sequences = [(row["prompt_ids"] + row["chosen_ids"])[:WARM_START_LENGTH] for row in rows]
        longest = max(len(sequence) for sequence in sequences)
        ids = torch.full((batch, longest), pad)
        labels = torch.full((batch, longest), -100)
        for i, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            ids[i, : len(sequence)] = torch.tensor(sequence)
            labels[i, len(row["prompt_ids"]) : len(sequence)] = ids[i, len(row["prompt_ids"]) : len(sequence)]
        # Right padding under a causal mask: real tokens never see it, so no attention mask is needed.
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model


def _reward_model(policy: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    ids = {name: getattr(policy.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(**SHAPE, **ids)
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.normal_(model.score.weight, std=(config.hidden_size + 1) ** -0.5)
    return model


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Batch k holds items [k * size, (k + 1) * size); the incomplete last batch is dropped, then it starts again."""
    if size > len(items):
        raise SystemExit(f"a batch of {size} needs as many items, the workload has {len(items)}: lower --batch")
    while True:
        for start in range(0, len(items) - size + 1, size):
            yield items[start : start + size]


def parse_arguments(tasks: list[str]) -> argparse.Namespace:
    """The command line of every side; `options` becomes a dict. Call it before torch is imported."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=tasks, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workload", type=Path, required=True, help="folder written by workload.make")
    parser.add_argument("--steps", type=int, default=10, help="timed steps; PPO: timed rollouts with their updates")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--batch", type=int, default=16, help="sequences, pairs or prompts per step")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of that side")
    args = parser.parse_args()
    if wrong := [option for option in args.option if "=" not in option]:
        raise SystemExit(f"--option {wrong[0]}: give NAME=VALUE")
    args.options = dict(option.split("=", 1) for option in args.option)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    return args


@dataclass
class Meter:
    """Time, real tokens and memory of one run; the first `warmup` steps are not timed but count for memory.

    Call `models_loaded` once, when data and every model are in memory and before any optimiser exists, and `step` at
    the end of every optimiser step (PPO: of every rollout and its updates).
    """

    warmup: int
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    positions: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _steps: int = 0
    _last: float = 0.0
    _last_cpu: float = 0.0
    _baseline_mb: float = 0.0

    def models_loaded(self) -> None:
        self._baseline_mb = _reset_peak_memory()
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def step(self, loss: float, tokens: int, positions: int, **phases: float) -> None:
        """`tokens` are real tokens of the batch, `positions` what the model was fed for it, padding included."""
        now, now_cpu = time.perf_counter(), time.process_time()
        self.losses.append(loss)
        self._steps += 1
        if self._steps > self.warmup:
            self.seconds += now - self._last
            self.cpu_seconds += now_cpu - self._last_cpu
            self.tokens += tokens
            self.positions += positions
            for name, seconds in phases.items():
                self.phases[name] = self.phases.get(name, 0.0) + seconds
        self._last, self._last_cpu = now, now_cpu

    def result(self) -> dict[str, Any]:
        return {
            "first_losses": self.losses[:3],
            "steps": self._steps - self.warmup,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 4),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "tokens_per_second": round(self.tokens / self.seconds, 2) if self.seconds else None,
            "padding_fraction": round(1 - self.tokens / self.positions, 4) if self.positions else None,
            "peak_memory_above_models_mb": round(_peak_memory_mb() - self._baseline_mb, 1),
            "peak_memory_mb": round(_peak_memory_mb(), 1),
            **{f"{name}_seconds": round(seconds, 4) for name, seconds in self.phases.items()},
        }


def _reset_peak_memory() -> float:
    """Resident MB now; on Linux the kernel's high-water mark starts again from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_mb("VmRSS")
    except OSError:
        return _peak_memory_mb()


def _peak_memory_mb() -> float:
    try:
        return _status_mb("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if os.uname().sysname == "Darwin" else 2**10)


def _status_mb(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}")
