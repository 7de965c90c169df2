"""TRL 1.16.0 on the shared workload: SFT, reward model, DPO. Prints one JSON line; see `language_models.py`.

    python peers/trl_1_16.py --task sft --dtype float32 --threads 2 --workload DIR --steps 10 --batch 16

Options, each given as `--option name=value`:

    batching   ordered (default: the pairs as stored), grouped (`group_by_length`), and for SFT padding_free and packed
    micro      examples per forward; the rest of the batch is gradient accumulation (default: the whole batch;
               packed: rows of 512 tokens per forward)
    reference  DPO only: online (default) or precomputed
    compile    0 (default) or 1: `torch_compile`
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import workload as w


def main() -> None:
    args = w.parse_arguments(["sft", "reward", "dpo"])
    settings = {"batching": "ordered", "micro": "all", "reference": "online", "compile": "0"} | args.options
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    import torch

    torch.set_num_threads(args.threads)
    meter = w.Meter(args.warmup)
    # TRL prints its progress; standard output is for the one JSON line.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        trainer, extra = build(args, settings, folder, meter)
        trainer.train()
    from importlib.metadata import version

    used = settings if args.task == "dpo" else {k: v for k, v in settings.items() if k != "reference"}
    result = {
        "task": args.task,
        "peer": "trl",
        "version": version("trl"),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "dtype": args.dtype,
        "threads": args.threads,
        "batch": args.batch,
        "settings": used,
        **meter.result(),
        **extra,
    }
    print(json.dumps(result))


def build(args: argparse.Namespace, settings: dict[str, str], folder: str, meter: w.Meter) -> tuple[Any, dict]:
    """The trainer of a task, ready to train, and what its construction cost beyond loading models."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    work = w.load(args.workload)
    tokenizer = AutoTokenizer.from_pretrained(work.policy)
    batching, packed = settings["batching"], settings["batching"] == "packed"
    if packed:
        # Rows of CONTEXT tokens instead of sequences, about as many tokens per update.
        mean = sum(len(p["prompt_ids"]) + len(p["chosen_ids"]) for p in work.pairs) / len(work.pairs)
        batch = round(args.batch * mean / w.CONTEXT)
    else:
        batch = args.batch
    micro = batch if settings["micro"] == "all" else int(settings["micro"])
    if batch % micro:
        raise SystemExit(f"micro={micro} must divide the batch of {batch}")
    common: dict[str, Any] = {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": args.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "max_steps": args.warmup + args.steps,
        "learning_rate": w.LEARNING_RATE[args.task],
        "lr_scheduler_type": "constant",
        "adam_beta1": w.ADAM["betas"][0],
        "adam_beta2": w.ADAM["betas"][1],
        "adam_epsilon": w.ADAM["eps"],
        "weight_decay": w.ADAM["weight_decay"],
        "max_grad_norm": w.MAX_GRAD_NORM,
        "train_sampling_strategy": "group_by_length" if batching == "grouped" else "sequential",
        "dataloader_drop_last": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "torch_compile": settings["compile"] == "1",
    }

    class Metered:
        """Records every batch and its loss; mixed in before a trainer."""

        batch_loss, batch_tokens, batch_positions = 0.0, 0, 0

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            self.batch_positions += inputs["input_ids"].numel()
            real = inputs.get("attention_mask")
            self.batch_tokens += inputs["input_ids"].numel() if real is None else int(real.sum())
            loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
            self.batch_loss += loss.item()
            return loss

    class AtStepEnd(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.step(trainer.batch_loss, trainer.batch_tokens, trainer.batch_positions)
            trainer.batch_loss, trainer.batch_tokens, trainer.batch_positions = 0.0, 0, 0

    class Sft(Metered, SFTTrainer):
        pass

    class Reward(Metered, RewardTrainer):
        pass

    class Dpo(Metered, DPOTrainer):
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset  # tokenised already; TRL's own preparation accepts texts only

    extra: dict[str, Any] = {}
    if args.task == "sft":
        rows = [
            {
                "input_ids": p["prompt_ids"] + p["chosen_ids"],
                "labels": [-100] * len(p["prompt_ids"]) + p["chosen_ids"],
            }
            for p in work.pairs
        ]
        config = SFTConfig(
            **common, max_length=w.CONTEXT if packed else None, packing=packed, padding_free=batching == "padding_free"
        )
        model = AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32)
        meter.models_loaded()
        trainer = Sft(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    elif args.task == "reward":
        rows = [
            {
                "chosen_ids": p["prompt_ids"] + p["chosen_ids"],
                "rejected_ids": p["prompt_ids"] + p["rejected_ids"],
                "length": len(p["prompt_ids"]) + max(len(p["chosen_ids"]), len(p["rejected_ids"])),
            }
            for p in work.pairs
        ]
        model = AutoModelForSequenceClassification.from_pretrained(work.reward, dtype=torch.float32)
        config = RewardConfig(**common, max_length=None, disable_dropout=True)
        meter.models_loaded()
        trainer = Reward(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    else:
        precomputed = settings["reference"] == "precomputed"
        rows = [
            {**p, "length": len(p["prompt_ids"]) + max(len(p["chosen_ids"]), len(p["rejected_ids"]))}
            for p in work.pairs
        ]
        if precomputed and batching == "ordered":
            rows = rows[: (args.warmup + args.steps) * args.batch]  # no need to score what no step reads
        config = DPOConfig(**common, max_length=None, beta=w.DPO_BETA, precompute_ref_log_probs=precomputed)
        model = AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32)
        reference = None if precomputed else AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32)
        meter.models_loaded()
        started = time.perf_counter()
        trainer = Dpo(
            model=model,
            ref_model=reference,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if precomputed:
            extra["reference_seconds"] = round(time.perf_counter() - started, 4)
            extra["reference_tokens"] = sum(
                2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in rows
            )
    trainer.add_callback(AtStepEnd())
    return trainer, extra


if __name__ == "__main__":
    main()
