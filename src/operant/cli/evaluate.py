"""`operant evaluate`: how good a trained policy or a reward model is, or how often a model's answers beat another's."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from operant.cli import common
from operant.cli.reward import accuracy, size
from operant.cli.rlhf import find_reward
from operant.core.errors import InputError
from operant.core.statistics import win_rate
from operant.experiment.files import atomic_write
from operant.text.language_model import LanguageModel, context_limit
from operant.text.sampling import sample
from operant.text.tokenizer import encode_prompt, stop_ids, tokenize


@dataclasses.dataclass(frozen=True)
class Options:
    """Accuracy of a reward model on judgements, or the win rate of one model over another under a judge.

    The return of a policy that operant train trained: operant evaluate RUN; operant evaluate RUN --help explains that.

    operant evaluate --reward runs/reward --data judgements.jsonl
    operant evaluate --model runs/rlhf --against runs/sft --judge runs/reward --data prompts.jsonl
    """

    data: str
    """Judgements for a reward model, prompts for a win rate: a file, a folder or a hub name."""
    reward: str | None = None
    """The reward model to test."""
    model: str | None = None
    """The model whose answers are judged."""
    against: str | None = None
    """The model whose answers they are compared with."""
    judge: str | None = None
    """Who judges: a reward model, or a Python function as file.py:name or module:name."""
    max_new_tokens: int = 64
    """Longest answer."""
    temperature: float = 1.0
    """Sampling temperature."""
    greedy: bool = False
    """Take the likeliest token every time."""
    seed: int = 0
    """Seed of the sampling."""
    out: Path | None = None
    """A JSON file to write the figures to."""
    reading: OmitArgPrefixes[common.Reading] = dataclasses.field(default_factory=common.Reading)


@dataclasses.dataclass(frozen=True)
class Policy:
    """Mean return and length of a policy's episodes, in environments and with seeds of their own.

    operant evaluate runs/ppo-cartpole-v1 --episodes 100
    """

    run: Positional[Path]
    """The run folder of operant train."""
    episodes: int = 100
    """Episodes to play."""
    stochastic: bool = False
    """Draw actions from the policy instead of taking its best one."""
    seed: int = 0
    """Seed of the environments, and of the actions if they are drawn."""
    out: Path | None = None
    """A JSON file to write the figures to."""


def options(arguments: list[str]) -> tuple[type, None]:
    """Those of a policy where a run folder comes first, else those of language models."""
    return (Policy if arguments and not arguments[0].startswith("-") else Options), None


def run(options: Options | Policy, resume: bool) -> None:
    if options.out is not None:
        common.make_room(options.out)
    found = test_policy(options) if isinstance(options, Policy) else test_model(options)
    if options.out is not None:
        atomic_write(options.out, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def test_policy(options: Policy) -> dict[str, Any]:
    from operant.cli.trained import figures, load

    trained = load(options.run)
    greedy = not options.stochastic
    return figures(trained.policy, trained.observations, trained.options, options.episodes, greedy, options.seed)


def test_model(options: Options) -> dict[str, Any]:
    common.begin(common.Machine(options.seed))
    if options.reward and not (options.model or options.against or options.judge):
        return test_reward_model(options, options.reward)
    if options.model and options.against and options.judge and not options.reward:
        return compare(options, options.model, options.against, options.judge)
    raise InputError("give --reward to test a reward model, or --model, --against and --judge for a win rate")


def test_reward_model(options: Options, name: str) -> dict[str, Any]:
    model, bpe = common.load_reward(name)
    dataset = options.reading.load(options.data, ("ranking", "thumb"))
    print(dataset.describe())
    judgements: list[Any] = [tokenize(bpe, record) for record in dataset.records]
    judgements = common.fitting(judgements, context_limit(model.model), "judgements", [size(j) for j in judgements])
    if not (found := accuracy(model, judgements)):
        raise InputError(f"every judgement in {options.data} is a tie: there is nothing to be right about")
    return found


def compare(options: Options, model: str, against: str, judge: str) -> dict[str, Any]:
    """Both models answer every prompt once; the judge's higher score wins."""
    players = [common.load_causal(name) for name in (model, against)]
    judges = [find_reward(judge, bpe) for _, bpe in players]
    dataset = options.reading.load(options.data, "prompt")
    print(dataset.describe())
    prompts = [[encode_prompt(bpe, record.prompt) for _, bpe in players] for record in dataset.records]
    longest = min(*(context_limit(causal) for causal, _ in players), *(limit for _, _, limit in judges))
    lengths = [max(map(len, both)) for both in prompts]
    prompts = common.fitting(prompts, longest, "prompts", lengths, options.max_new_tokens)
    scores = []
    for (causal, bpe), (reward, _, _), ids in zip(players, judges, zip(*prompts, strict=True), strict=True):
        policy = LanguageModel(causal, temperature=options.temperature)
        stop = stop_ids(bpe, causal)
        scores.append(reward(sample(policy, ids, stop, options.max_new_tokens, greedy=options.greedy)))
    ours, theirs = scores
    wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
    rate = win_rate(wins, losses, len(ours) - wins - losses)
    return {
        "win_rate": rate.to_dict(),
        "wins": wins,
        "losses": losses,
        "ties": len(ours) - wins - losses,
        "mean_score": ours.mean().item(),
        "mean_score_against": theirs.mean().item(),
    }
