"""TRL 1.12.0 PPO (`trl.experimental.ppo`, the last release that has it) on the shared workload; one JSON line.

    python peers/trl_1_12_ppo.py --task ppo --dtype float32 --threads 2 --workload DIR --steps 3 --batch 64

A step is one rollout of `--batch` prompts, its scoring, and `workload.PPO["epochs"]` epochs of updates on it.
Options, each given as `--option name=value`:

    micro     sequences per training forward; the rest of the minibatch is gradient accumulation (default: all)
    rollout   sequences per generation and scoring forward (default: all)
    frozen    dtype of the reference and reward model: float32 (default) or bfloat16
    source    sampled (default) or stored: `Workload.stored_rollouts` in place of sampling, to compare losses

`PPOConfig(bf16=True)` alone changes nothing here: the trainer makes its own Accelerator, which reads the precision
from the environment, as under `accelerate launch --mixed_precision bf16`. `--dtype bfloat16` therefore sets both.
"""

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
    args = w.parse_arguments(["ppo"])
    settings = {"micro": "all", "rollout": "all", "frozen": "float32", "source": "sampled"} | args.options
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "ACCELERATE_MIXED_PRECISION": "bf16" if args.dtype == "bfloat16" else "no",
    }
    import torch

    torch.set_num_threads(args.threads)
    meter = w.Meter(args.warmup)
    # TRL prints its progress; standard output is for the one JSON line.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        extra = train(args, settings, folder, meter)
    from importlib.metadata import version

    result = {
        "task": "ppo",
        "peer": "trl",
        "version": version("trl"),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "dtype": args.dtype,
        "threads": args.threads,
        "batch": args.batch,
        "settings": settings,
        **meter.result(),
        **extra,
    }
    print(json.dumps(result))


def train(args: Any, settings: dict[str, str], folder: str, meter: w.Meter) -> dict[str, Any]:
    """Runs the trainer; returns the losses of the first optimiser steps and the share of ended responses."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    work = w.load(args.workload)
    tokenizer = AutoTokenizer.from_pretrained(work.policy)
    batch = args.batch
    micro = batch if settings["micro"] == "all" else int(settings["micro"])
    if batch % micro:
        raise SystemExit(f"micro={micro} must divide the batch of {batch}")
    stored = work.stored_rollouts(batch)
    prompts = [prompt for prompt, _ in stored] if settings["source"] == "stored" else work.prompts()
    frozen = getattr(torch, settings["frozen"])
    policy = AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32)
    value = AutoModelForSequenceClassification.from_pretrained(work.reward, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(work.policy, dtype=frozen)
    reward = AutoModelForSequenceClassification.from_pretrained(work.reward, dtype=frozen)
    meter.models_loaded()

    config = PPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=False,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        local_rollout_forward_batch_size=batch if settings["rollout"] == "all" else int(settings["rollout"]),
        total_episodes=(args.warmup + args.steps) * batch,
        num_ppo_epochs=w.PPO["epochs"],
        num_mini_batches=w.PPO["minibatches"],
        response_length=w.PPO["response_length"],
        temperature=w.PPO["temperature"],
        stop_token="eos",
        missing_eos_penalty=None,
        kl_coef=w.PPO["kl_coefficient"],
        cliprange=w.PPO["clip"],
        cliprange_value=w.PPO["value_clip"],
        vf_coef=w.PPO["value_coefficient"],
        gamma=w.PPO["gamma"],
        lam=w.PPO["lambda"],
        whiten_rewards=False,
        learning_rate=w.LEARNING_RATE["ppo"],
        lr_scheduler_type="constant",
        adam_beta1=w.ADAM["betas"][0],
        adam_beta2=w.ADAM["betas"][1],
        adam_epsilon=w.ADAM["eps"],
        weight_decay=w.ADAM["weight_decay"],
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rollout = Rollout(work, stored if settings["source"] == "stored" else None, ppo_trainer)
    losses: list[float] = []

    class AtStepEnd(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            meter.step(
                losses[-1],
                rollout.tokens,
                rollout.positions,
                rollout=rollout.ended - rollout.started,
                scoring=rollout.update_started - rollout.ended,
                update=now - rollout.update_started,
            )

    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[AtStepEnd()],
    )
    # The trainer shuffles the prompts and has no option against it.
    trainer.dataloader = torch.utils.data.DataLoader(
        trainer.train_dataset, batch_size=batch, shuffle=False, drop_last=True, collate_fn=trainer.data_collator
    )
    backward = trainer.accelerator.backward

    def recording_backward(loss: torch.Tensor, **kwargs: Any) -> None:
        losses.append(loss.item())
        backward(loss, **kwargs)

    trainer.accelerator.backward = recording_backward
    trainer.train()
    first = [sum(losses[i : i + batch // micro]) * micro / batch for i in range(0, 3 * batch // micro, batch // micro)]
    return {"first_losses": first, "ended_fraction": round(rollout.all_ended / rollout.all_responses, 4)}


class Rollout:
    """Stands in for the trainer module's `batch_generation` and `forward` to time the phases and count tokens."""

    def __init__(self, work: w.Workload, stored: list | None, module: Any) -> None:
        self.work, self.stored = work, stored
        self.generation, self.forward = module.batch_generation, module.forward
        self.started = self.ended = self.update_started = 0.0
        self.tokens = self.positions = self.all_ended = self.all_responses = 0
        module.batch_generation, module.forward = self.timed_generation, self.timed_forward

    def timed_generation(self, model: Any, queries: Any, *rest: Any) -> Any:
        self.started, self.update_started = time.perf_counter(), 0.0
        if self.stored is None:
            query_responses, logits = self.generation(model, queries, *rest)
        else:
            query_responses, logits = self.stored_generation(model, queries)
        self.ended = time.perf_counter()
        responses = query_responses[:, queries.shape[1] :]
        is_end = responses == self.work.eos
        lengths = (is_end.int().cumsum(1) - is_end.int() == 0).sum(1)  # up to and with the first EOS
        self.tokens = int((queries != self.work.pad).sum() + lengths.sum())
        self.positions = query_responses.numel()
        self.all_ended += int(is_end.any(1).sum())
        self.all_responses += len(responses)
        return query_responses, logits

    def stored_generation(self, model: Any, queries: Any) -> Any:
        import torch

        query_responses = torch.cat([queries, torch.tensor([response for _, response in self.stored])], dim=1)
        logits = self.forward(model, query_responses, self.work.pad).logits[:, queries.shape[1] - 1 : -1]
        return query_responses, logits / w.PPO["temperature"]

    def timed_forward(self, *args: Any) -> Any:
        import torch

        # Scoring runs without gradients; the first forward with them opens the update.
        if torch.is_grad_enabled() and not self.update_started:
            self.update_started = time.perf_counter()
        return self.forward(*args)


if __name__ == "__main__":
    main()
