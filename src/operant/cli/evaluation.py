"""The figures of `operant align`: what every stage answers on held-out prompts, and what that is worth."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from operant.cli import common
from operant.core.divergences import kl_estimate
from operant.core.errors import InputError
from operant.core.statistics import bootstrap_mean, pair_accuracy
from operant.experiment.files import atomic_write
from operant.text import almanac, data
from operant.text.language_model import LanguageModel, context_limit
from operant.text.metrics import distinct
from operant.text.rewards import Reward, function_reward, model_reward, score
from operant.text.sampling import Samples, sample
from operant.text.tokenizer import Example, decode_response, encode_prompt, encode_response, stop_ids
from operant.text.world import evaluate as log_probs

STAGES = {
    "pretrained": "pretrain",
    "prompted": "pretrain",
    "sft": "sft",
    "ppo": "ppo",
    "ppo_ptx": "ppo_ptx",
    "dpo": "dpo",
}
"""The models that are compared, and the stage that made each."""


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> None:
    atomic_write(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def write_almanac(options: Any, folder: Path) -> None:
    """The Almanac as the files that any data set would be."""
    world = almanac.make_almanac(dataclasses.replace(options.almanac, seed=options.seed))
    write_jsonl(folder / "text.jsonl", [{"text": t} for t in world.corpus()])
    write_jsonl(folder / "tokenizer.jsonl", [{"text": t} for t in world.tokenizer_texts()])
    write_jsonl(folder / "demonstrations.jsonl", [{"prompt": p, "response": r} for p, r in world.demonstrations()])
    for name, questions in (("prompts", world.questions("ppo")), ("evaluation", world.questions("evaluation"))):
        write_jsonl(folder / f"{name}.jsonl", [{"prompt": q.prompt} for q in questions])


def the_world(options: Any) -> almanac.Almanac:
    return almanac.make_almanac(dataclasses.replace(options.almanac, seed=options.seed))


def by_prompt(options: Any) -> dict[str, almanac.Question]:
    """Every question of the Almanac by its prompt, with and without the request for truth."""
    world = the_world(options)
    questions = [q for split in world.facts.values() for q in split]
    return {q.prompt: q for q in questions} | {almanac.truthful_prompt(q): q for q in questions}


def measures(options: Any) -> dict[str, Callable[[Any], Reward]]:
    """The Almanac's true reward, logged while PPO maximises the learned one."""
    if options.prepare != "almanac":
        return {}
    known = by_prompt(options)

    def true_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [almanac.true_reward(known[p], r) for p, r in zip(prompts, responses, strict=True)]

    return {"objective/true_reward": lambda bpe: function_reward(true_reward, bpe)}


def sample_comparisons(options: Any) -> None:
    """Answers of the SFT model, ranked by simulated labellers; with ready-made judgements, only pairs for DPO.

    Labelled twice, by independent labellers: their agreement is what the literature reports of people.
    """
    files = options.out / "data"
    if options.prepare != "almanac":
        if not (files / "comparisons.jsonl").is_file():
            kept = (files / "judgements.jsonl").read_text(encoding="utf-8")
            atomic_write(files / "comparisons.jsonl", kept)
        atomic_write(files / "sampled.json", "{}\n")
        return
    common.begin(common.Machine(options.seed, options.threads or 1))
    model, bpe = common.load_causal(str(options.out / "sft"))
    world = the_world(options)
    questions = world.questions("reward")
    prompts = [encode_prompt(bpe, q.prompt) for q in questions]
    s, k = options.sampling, options.sampling.responses
    found = sample(LanguageModel(model), prompts, stop_ids(bpe, model), s.max_new_tokens, k)
    texts = [decode_response(bpe, r) for r in found.responses]
    labeller, colleague = (np.random.default_rng([options.seed, number]) for number in (1, 2))
    records, again, truth = [], [], []
    for i, q in enumerate(questions):
        answers = texts[i * k : (i + 1) * k]
        ranks = almanac.rank(q, answers, labeller, world.config.label_temperature)
        again.append(almanac.rank(q, answers, colleague, world.config.label_temperature))
        truth.append(almanac.rank(q, answers, labeller, 0.0))
        records.append({"prompt": q.prompt, "responses": answers, "ranks": ranks})
    ranks = [r["ranks"] for r in records]
    pairs = len(records) * k * (k - 1) // 2
    tied = sum(r[a] == r[b] for r in ranks for a in range(k) for b in range(a))
    usable = [r for r in records if all(answer.strip() for answer in r["responses"])]
    if not usable:
        raise InputError("the SFT model gives empty answers to every question: pretrain or fine-tune longer")
    write_jsonl(files / "judgements.jsonl", usable)
    write_jsonl(files / "comparisons.jsonl", usable)
    figures = {
        "labeller_agreement": almanac.agreement(ranks, again),
        "labels_right": almanac.agreement(ranks, truth),
        "ties": tied / pairs,
    }
    atomic_write(files / "sampled.json", json.dumps(figures) + "\n")
    print(", ".join(f"{name} {x:.3f}" for name, x in figures.items()))


def rank_by_reward(options: Any) -> None:
    """Answers of the SFT model to the prompts, ranked by the learned reward: comparisons for DPO on its own answers."""
    common.begin(common.Machine(options.seed, options.threads or 1))
    model, bpe = common.load_causal(str(options.out / "sft"))
    reward = model_reward(common.load_reward(str(options.out / "reward"))[0])
    s, k = options.sampling, options.sampling.responses
    longest = context_limit(model)
    prompts = common.read_prompts(
        str(options.out / "data" / "prompts.jsonl"), common.Reading(), bpe, longest, s.max_new_tokens
    )
    found = sample(LanguageModel(model), prompts, stop_ids(bpe, model), s.max_new_tokens, k)
    scores = reward(found)
    if s.missing_stop_score is not None:
        scores = torch.where(found.ended, scores, torch.full_like(scores, s.missing_stop_score))
    texts = [decode_response(bpe, r) for r in found.responses]
    records = []
    for i, prompt in enumerate(prompts):
        rows = slice(i * k, (i + 1) * k)
        answers = dict(zip(texts[rows], scores[rows].tolist(), strict=True))
        if len(answers) > 1 and all(a.strip() for a in answers):
            order = sorted(set(answers.values()), reverse=True)
            ranks = [order.index(x) + 1 for x in answers.values()]
            records.append({"prompt": decode_response(bpe, prompt), "responses": list(answers), "ranks": ranks})
    write_jsonl(options.out / "data" / "ranked.jsonl", records)
    print(f"{len(records)} prompts with {k} answers each, ranked by the reward model")


@dataclasses.dataclass
class Answers:
    """What one model said to the held-out prompts."""

    samples: Samples
    text: list[str]
    kl: np.ndarray


class Judge:
    """What an answer is worth, by figures that all answers have."""

    def __init__(self, options: Any, bpe: Any) -> None:
        self.options, self.bpe = options, bpe
        self.questions = by_prompt(options) if options.prepare == "almanac" else {}
        learned, _ = common.load_reward(str(options.out / "reward"))
        self.learned = model_reward(learned)
        judge = options.out / "judge" / "model"
        self.judge = model_reward(common.load_reward(str(judge))[0]) if judge.is_dir() else None

    def figures(self, answers: Answers) -> dict[str, np.ndarray]:
        """Name -> one number an answer; "worth" is what a win is decided by."""
        s = answers.samples
        learned = self.learned(s).cpu().numpy()
        found = {"kl": answers.kl, "learned_reward": learned, "ended": s.ended.float().cpu().numpy()}
        found["length"] = s.mask.sum(-1).float().cpu().numpy()
        if self.questions:
            prompts = [decode_response(self.bpe, p) for p in s.prompts]
            kinds = [almanac.grade(self.questions[p], r) for p, r in zip(prompts, answers.text, strict=True)]
            worth = np.array([almanac.TRUE_REWARD[k] for k in kinds])
            shares = {str(k): np.array([kind == k for kind in kinds], dtype=float) for k in almanac.Kind}
            return {"true_reward": worth} | shares | found | {"worth": worth}
        if self.judge is not None:
            logit = self.judge(s).cpu().numpy()
            return {"positive": (logit > 0).astype(float), "judge_score": logit} | found | {"worth": logit}
        return found | {"worth": learned}


def evaluate(options: Any) -> None:
    """summary.json, samples.jsonl and report.html of the whole pipeline."""
    from operant.experiment.report import write_report

    common.begin(common.Machine(options.seed, options.threads or 1))
    reference, bpe = common.load_causal(str(options.out / "sft"))
    judge = Judge(options, bpe)
    held_out = data.load(options.out / "data" / "evaluation.jsonl", kind="prompt")
    prompts = [record.prompt for record in held_out.records]
    before = almanac.TRUTHFUL if judge.questions else ""
    lengths = [len(encode_prompt(bpe, before + p)) for p in prompts]
    longest, room = context_limit(reference), options.sampling.max_new_tokens
    prompts = common.fitting(prompts, longest, "prompts for evaluation", lengths, room)
    clusters, exposures = prompts, None
    if judge.questions:
        clusters = [judge.questions[p].town for p in prompts]
        exposures = np.array([judge.questions[p].exposure for p in prompts])
    stages: dict[str, Any] = {}
    worth: dict[str, np.ndarray] = {}
    shown: list[dict[str, Any]] = []
    for name, folder in STAGES.items():
        if name == "prompted" and not judge.questions:
            continue
        model = common.load_causal(str(options.out / folder))[0]
        asked = [almanac.TRUTHFUL + p for p in prompts] if name == "prompted" else prompts
        torch.manual_seed(options.seed)
        sampled = answer(model, reference, bpe, asked, options.sampling, greedy=False)
        greedy = answer(model, reference, bpe, asked, options.sampling, greedy=True)
        repeats = options.sampling.evaluation_samples
        figures, greedy_figures = judge.figures(sampled), judge.figures(greedy)
        worth[name] = figures.pop("worth").reshape(-1, repeats)
        greedy_figures.pop("worth")
        owner = np.repeat(clusters, repeats)
        stages[name] = {key: bootstrap_mean(x, owner).to_dict() for key, x in figures.items()}
        stages[name]["distinct_2"] = distinct(sampled.samples.responses)
        stages[name]["greedy"] = {key: bootstrap_mean(x, clusters).to_dict() for key, x in greedy_figures.items()}
        if exposures is not None:
            level = np.repeat(exposures, repeats)
            stages[name]["by_exposure"] = {
                str(e): {key: float(x[level == e].mean()) for key, x in figures.items()} for e in sorted(set(exposures))
            }
        shown += samples_of(name, prompts, sampled, figures, repeats)
    agreement = json.loads((options.out / "data" / "sampled.json").read_text())
    summary = {
        "title": options.title,
        **agreement,
        "reward_model_accuracy": accuracies(options, judge, bpe),
        **({"judge_accuracy": judged} if (judged := on_held_out(options.out / "judge")) else {}),
        "stages": stages,
        "win_rates": {name: win_rate(worth[name], worth["sft"], clusters) for name in stages if name != "sft"},
        "questions": len(prompts),
        "samples_per_question": options.sampling.evaluation_samples,
        "temperature": 1.0,
        "seed": options.seed,
        "seconds": seconds(options.out),
    }
    write_jsonl(options.out / "samples.jsonl", shown)
    atomic_write(options.out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_report([options.out], options.out / "report.html")


def answer(model: Any, reference: Any, bpe: Any, prompts: Sequence[str], sampling: Any, greedy: bool) -> Answers:
    """Answers at temperature 1 (several to each prompt) or greedy ones, and log π/π_ref of each, its KL estimate."""
    ids = [encode_prompt(bpe, p) for p in prompts]
    policy = LanguageModel(model)
    repeats = 1 if greedy else sampling.evaluation_samples
    samples = sample(policy, ids, stop_ids(bpe, model), sampling.max_new_tokens, repeats, greedy)
    ours = log_probs(policy, samples.context, samples.action).log_prob
    theirs = log_probs(LanguageModel(reference), samples.context, samples.action).log_prob
    kl = torch.where(samples.mask, kl_estimate(ours, theirs, "k1"), 0.0).sum(-1)
    return Answers(samples, [decode_response(bpe, r) for r in samples.responses], kl.cpu().numpy())


def win_rate(ours: np.ndarray, theirs: np.ndarray, clusters: Sequence[str]) -> dict[str, float]:
    """P(ours better) + ½ P(equal) over all pairs of answers to one prompt, with an interval over clusters."""
    a, b = ours[:, :, None], theirs[:, None, :]
    return bootstrap_mean(((a > b) + 0.5 * (a == b)).mean((1, 2)), clusters).to_dict()


def samples_of(
    name: str, prompts: Sequence[str], answers: Answers, figures: dict[str, np.ndarray], repeats: int, count: int = 12
) -> list[dict[str, Any]]:
    """The first answer to `count` prompts spread over all, for the report."""
    chosen = np.linspace(0, len(prompts) - 1, min(count, len(prompts))).astype(int)
    found = []
    for i in chosen:
        row = int(i) * repeats
        kind = next((str(k) for k in almanac.Kind if figures.get(str(k), np.zeros(row + 1))[row] == 1), None)
        line = {
            "stage": name,
            "prompt": prompts[i],
            "response": answers.text[row],
            "score": float(figures["learned_reward"][row]),
        }
        if kind is not None:
            line |= {"kind": kind, "true_reward": float(figures["true_reward"][row])}
        found.append(line)
    return found


def on_held_out(folder: Path) -> dict[str, float] | None:
    """The accuracy of a reward model on the judgements that its run kept aside; None where there is none."""
    summary = folder / "summary.json"
    held_out = json.loads(summary.read_text()).get("held_out") if summary.is_file() else None
    return held_out["accuracy"] if held_out else None


def accuracies(options: Any, judge: Judge, bpe: Any) -> dict[str, Any]:
    """How well the reward model orders answers, on held-out prompts."""
    found: dict[str, Any] = {}
    if held_out := on_held_out(options.out / "reward"):
        found["held_out_labels"] = held_out
    if not judge.questions:
        return found
    model, _ = common.load_reward(str(options.out / "reward"))
    questions = the_world(options).questions("evaluation")
    rng = np.random.default_rng([options.seed, 3])
    styles = get_args(almanac.Style)
    rows: list[tuple[almanac.Question, list[str]]] = []
    for q in questions:
        others = [v for v in almanac.VALUES[q.attribute] if v != q.truth]
        other = others[rng.integers(len(others))]
        rows.append(
            (q, [almanac.respond(v, s) for s in styles[:2] for v in (q.truth, other)] + [almanac.RESPONSE["unknown"]])
        )
    examples = [Example(encode_prompt(bpe, q.prompt), encode_response(bpe, r)) for q, answers in rows for r in answers]
    from operant.text.context import last_places

    context = last_places([e.prompt for e in examples], [e.response for e in examples])
    scores = score(model, context.to(model.model.device)).squeeze(-1).cpu().numpy().reshape(len(rows), -1)
    truth = np.array([[-almanac.true_reward(q, r) for r in answers] for q, answers in rows])
    ranks = np.array([[sorted(set(row)).index(x) + 1 for x in row] for row in truth.tolist()])
    right, pairs = pair_accuracy(scores, ranks)
    within = np.concatenate([scores[:, 0] > scores[:, 1], scores[:, 2] > scores[:, 3]])
    level = np.array([q.exposure for q, _ in rows])
    both = np.concatenate([level, level])
    sampled = sampled_accuracy(options, model, bpe, questions)
    return found | {
        "noise_free": sampled,
        "all_styles": right / pairs,
        "within_style": float(within.mean()),
        "by_exposure": {str(e): float(within[both == e].mean()) for e in sorted(set(level.tolist()))},
    }


def sampled_accuracy(options: Any, model: Any, bpe: Any, questions: Sequence[almanac.Question]) -> float:
    """Accuracy against the noise-free order of what the SFT model itself answers to held-out questions."""
    causal, _ = common.load_causal(str(options.out / "sft"))
    k = options.sampling.responses
    prompts = [encode_prompt(bpe, q.prompt) for q in questions]
    torch.manual_seed(options.seed)
    samples = sample(LanguageModel(causal), prompts, stop_ids(bpe, causal), options.sampling.max_new_tokens, k)
    scores = model_reward(model)(samples).cpu().numpy().reshape(-1, k)
    texts = [decode_response(bpe, r) for r in samples.responses]
    rng = np.random.default_rng(0)
    ranks = [almanac.rank(q, texts[i * k : (i + 1) * k], rng, 0.0) for i, q in enumerate(questions)]
    right, pairs = pair_accuracy(scores, np.array(ranks))
    return right / max(pairs, 1)


def seconds(out: Path) -> dict[str, float]:
    """How long each stage trained, from its metrics."""
    found: dict[str, float] = defaultdict(float)
    for path in sorted(out.glob("*/metrics.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines:
            found[path.parent.name] = json.loads(lines[-1]).get("time/seconds", 0.0)
    return dict(found)


def table(out: Path) -> str:
    """The main figures, for the terminal."""
    summary = json.loads((out / "summary.json").read_text())
    stages = summary["stages"]
    keys = [k for k in next(iter(stages.values())) if isinstance(next(iter(stages.values()))[k], dict)]
    keys = [k for k in keys if k not in ("greedy", "by_exposure", "ended", "length")]
    head = f"{'':<12}" + "".join(f"{k.replace('_', ' '):>15}" for k in keys)
    lines = [f"{name:<12}" + "".join(f"{stages[name][k]['mean']:>15.3f}" for k in keys) for name in stages]
    return "\n".join([head, *lines])
