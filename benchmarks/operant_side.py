"""Operant on the shared workload: SFT, reward model, DPO, PPO. Prints one JSON line; see `language_models.py`.

    python operant_side.py --task sft --dtype float32 --threads 2 --workload DIR --steps 10 --batch 16

Options, each given as `--option name=value`:

    micro     tokens per forward, padding included (default: 1024, the library's; 0 is the whole batch)
    decoding  PPO: dtype of the weights while sampling (default: the faster one, as the library measures it)
    compile   1 to compile the layers (default: 0)
    reference DPO: precomputed (default) or online, as the peer does it
    source    PPO: sampled (default) or stored: `Workload.stored_rollouts` in place of sampling, to compare losses
"""

import json
import os
import platform
import time
from importlib.metadata import version
from typing import Any

import workload as w


def main() -> None:
    args = w.parse_arguments(["sft", "reward", "dpo", "ppo"])
    settings = {"micro": "1024", "decoding": "auto", "source": "sampled", "reference": "precomputed", "compile": "0"}
    settings |= args.options
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    meter = w.Meter(args.warmup)
    task = {"sft": sft_task, "reward": reward_task, "dpo": dpo_task, "ppo": ppo_task}[args.task]
    extra = task(args, settings, meter)
    result = {
        "task": args.task,
        "peer": "operant",
        "version": version("operant"),
        "versions": {"torch": version("torch"), "transformers": version("transformers")},
        "dtype": args.dtype,
        "threads": args.threads,
        "batch": args.batch,
        "python": platform.python_version(),
        "settings": settings,
        **meter.result(),
        **extra,
    }
    print(json.dumps(result))


def causal(work: w.Workload, dtype: str, settings: dict[str, str]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from operant.text.language_model import LanguageModel, compile_layers

    model = AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32)
    if settings["compile"] == "1":
        compile_layers(model)
    return LanguageModel(model, dtype=dtype)


def scalar(work: w.Workload, dtype: str, settings: dict[str, str]) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    from operant.text.language_model import RewardModel, compile_layers

    model = AutoModelForSequenceClassification.from_pretrained(work.reward, dtype=torch.float32)
    if settings["compile"] == "1":
        compile_layers(model)
    return RewardModel(model, dtype=dtype)


def adam(model: Any, task: str) -> Any:
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=w.LEARNING_RATE[task], fused=True, **w.ADAM)


def sft_task(args: Any, settings: dict[str, str], meter: w.Meter) -> dict[str, Any]:
    from operant.algorithms.preference import sft
    from operant.text.tokenizer import Example

    work = w.load(args.workload)
    policy = causal(work, args.dtype, settings)
    meter.models_loaded()
    examples = [Example(p["prompt_ids"], p["chosen_ids"]) for p in work.pairs]
    config = sft.Config(
        epochs=1000, batch=args.batch, micro_batch=int(settings["micro"]), learning_rate=w.LEARNING_RATE["sft"],
        schedule="constant", max_gradient_norm=w.MAX_GRAD_NORM,
    )  # fmt: skip
    state = sft.init(policy, examples, config)
    state.optimizer = adam(policy, "sft")
    for batch in steps(w.batches(examples, args.batch), args):
        metrics = sft.update(state, batch, config)
        tokens = sum(len(e.prompt) + len(e.response) for e in batch)
        meter.step(metrics["loss/language_model"], tokens, tokens)
        state.step += 1
    return {}


def comparisons(work: w.Workload) -> list[Any]:
    from operant.text.tokenizer import Comparison

    return [Comparison(p["prompt_ids"], [p["chosen_ids"], p["rejected_ids"]], [1, 2]) for p in work.pairs]


def pair_tokens(batch: list[Any]) -> int:
    """Real tokens as the peer is fed them: each prompt stands before both of its responses."""
    return sum(2 * len(c.prompt) + sum(map(len, c.responses)) for c in batch)


def reward_task(args: Any, settings: dict[str, str], meter: w.Meter) -> dict[str, Any]:
    from operant.algorithms.preference import reward_model

    work = w.load(args.workload)
    model = scalar(work, args.dtype, settings)
    meter.models_loaded()
    pairs = comparisons(work)
    config = reward_model.Config(
        epochs=1000, batch=args.batch, micro_batch=int(settings["micro"]), learning_rate=w.LEARNING_RATE["reward"],
        schedule="constant", max_gradient_norm=w.MAX_GRAD_NORM,
    )  # fmt: skip
    state = reward_model.init(model, pairs, config)
    state.optimizer = adam(model, "reward")
    for batch in steps(w.batches(pairs, args.batch), args):
        metrics = reward_model.update(state, batch, config)
        meter.step(metrics["loss/reward_model"], pair_tokens(batch), pair_tokens(batch))
        state.step += 1
    return {}


def dpo_task(args: Any, settings: dict[str, str], meter: w.Meter) -> dict[str, Any]:
    from operant.algorithms.preference import dpo

    work = w.load(args.workload)
    policy, reference = causal(work, args.dtype, settings), causal(work, args.dtype, settings)
    meter.models_loaded()
    pairs = comparisons(work)[: (args.warmup + args.steps) * args.batch]
    config = dpo.Config(
        epochs=1000, batch=args.batch, micro_batch=int(settings["micro"]), learning_rate=w.LEARNING_RATE["dpo"],
        schedule="constant", warmup=0.0, max_gradient_norm=w.MAX_GRAD_NORM, reference_beta=w.DPO_BETA,
    )  # fmt: skip
    started = time.perf_counter()
    state = dpo.init(policy, reference, pairs, config)
    seconds = time.perf_counter() - started
    state.optimizer = adam(policy, "dpo")
    meter._last, meter._last_cpu = time.perf_counter(), time.process_time()
    for batch in steps(w.batches(list(range(len(pairs))), args.batch), args):
        if settings["reference"] == "online":
            scored = dpo.init(policy, reference, [pairs[i] for i in batch], config).reference
            for i, log_prob in zip(batch, scored, strict=True):
                state.reference[i] = log_prob
        metrics = dpo.update(state, batch, config)
        tokens = pair_tokens([pairs[i] for i in batch])
        meter.step(metrics["loss/dpo"], tokens, tokens)
        state.step += 1
    return {"reference_seconds": round(seconds, 4), "reference_tokens": pair_tokens(pairs)}


class InOrder:
    """Prompts as they are stored, in place of `Shuffle`."""

    def __init__(self, n: int) -> None:
        self.n, self.taken = n, 0

    def take(self, count: int) -> list[int]:
        found = [(self.taken + i) % self.n for i in range(count)]
        self.taken += count
        return found


def ppo_task(args: Any, settings: dict[str, str], meter: w.Meter) -> dict[str, Any]:
    import torch

    from operant.algorithms.policy_gradient import ppo
    from operant.algorithms.preference import rlhf
    from operant.text import world as worlds
    from operant.text.context import rows
    from operant.text.language_model import frozen
    from operant.text.rewards import model_reward
    from operant.text.sampling import Samples, fastest_decoding_dtype

    work = w.load(args.workload)
    policy, reference = causal(work, args.dtype, settings), frozen(causal(work, args.dtype, settings))
    policy.value, reward = scalar(work, args.dtype, settings), frozen(scalar(work, args.dtype, settings))
    policy.temperature = reference.temperature = w.PPO["temperature"]
    meter.models_loaded()
    decoding = fastest_decoding_dtype(policy.model) if settings["decoding"] == "auto" else settings["decoding"]
    stored = work.stored_rollouts(args.batch)
    world = worlds.PromptWorld(
        [p for p, _ in stored] if settings["source"] == "stored" else work.prompts(), model_reward(reward),
        {work.eos}, w.PPO["response_length"], missing_stop_score=None, decoding_dtype=getattr(torch, decoding),
    )  # fmt: skip
    world.order = InOrder(len(world.prompts))  # pyright: ignore
    phases = {"rollout": 0.0, "scoring": 0.0}
    sampler = worlds.sample

    def timed_sample(actor: Any, prompts: Any, *rest: Any) -> Samples:
        start = time.perf_counter()
        if settings["source"] == "stored":
            context, action, mask = rows(prompts, [r for _, r in stored])
            nothing = torch.zeros(mask.shape)
            ended = torch.zeros(len(stored), dtype=torch.bool)
            again = worlds.evaluate(actor, context, action)
            found = Samples(prompts, [r for _, r in stored], context, action, again.log_prob, nothing, mask, ended)
        else:
            found = sampler(actor, prompts, *rest)
        phases["rollout"] = time.perf_counter() - start
        return found

    worlds.sample = timed_sample
    config = rlhf.Config(
        iterations=args.warmup + args.steps, rollout=args.batch, epochs=w.PPO["epochs"],
        minibatch=args.batch // w.PPO["minibatches"], micro_batch=int(settings["micro"]),
        learning_rate=w.LEARNING_RATE["ppo"], schedule="constant", gamma=w.PPO["gamma"], lambda_=w.PPO["lambda"],
        clip=w.PPO["clip"], value_clip=w.PPO["value_clip"], value_coefficient=w.PPO["value_coefficient"],
        reference_beta=w.PPO["kl_coefficient"], max_gradient_norm=float("inf"),
    )  # fmt: skip
    state = rlhf.init(policy, reference, world, config)
    state.ppo.optimizer = adam(policy, "ppo")
    losses: list[float] = []
    minibatch = ppo.loss

    def recorded(*arguments: Any) -> Any:
        total, shown = minibatch(*arguments)
        parts.append(total.item())
        return total, shown

    parts: list[float] = []
    step = ppo.descend

    def stepped(*arguments: Any) -> Any:
        norm = step(*arguments)
        losses.append(sum(parts))
        parts.clear()
        return norm

    ppo.loss, ppo.descend = recorded, stepped
    updater = ppo.update

    def timed_update(*arguments: Any) -> Any:
        phases["scoring"] = time.perf_counter() - start - phases["rollout"]
        return updater(*arguments)

    ppo.update = timed_update
    ended, count, start = 0, 0, time.perf_counter()
    for _ in rlhf.train(state, config):
        samples = world.last
        assert samples is not None
        tokens = sum(map(len, samples.prompts)) + sum(map(len, samples.responses))
        update = time.perf_counter() - start - phases["rollout"] - phases["scoring"]
        meter.step(losses[-1], tokens, tokens, **phases, update=update)
        ended, count, start = ended + int(samples.ended.sum()), count + len(samples.ended), time.perf_counter()
    return {"first_losses": losses[:3], "ended_fraction": round(ended / count, 4), "decoding": decoding}


def steps(batches: Any, args: Any) -> Any:
    """As many batches as are warmed up on and timed."""
    return (next(batches) for _ in range(args.warmup + args.steps))


if __name__ == "__main__":
    main()
