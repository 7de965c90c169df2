"""`operant generate`: sample responses."""

import dataclasses
import json
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from operant.algorithms.preference.best_of_n import best_of_n
from operant.cli import common
from operant.core.errors import InputError
from operant.experiment.files import atomic_write
from operant.text.language_model import LanguageModel, context_limit
from operant.text.rewards import model_reward
from operant.text.sampling import sample
from operant.text.tokenizer import decode_response, encode_prompt, stop_ids


@dataclasses.dataclass(frozen=True)
class Options:
    """Sample responses to prompts, on the screen or into a JSONL file."""

    model: str
    """Model folder, run or hub name."""
    prompt: tuple[str, ...] = ()
    """Prompts, given here."""
    data: str | None = None
    """Prompts from a file, a folder or a hub name."""
    completions: int = 1
    """Responses to each prompt."""
    best_of: int = 1
    """Sample so many for each response and keep the one that --reward likes best."""
    reward: str | None = None
    """Reward model for --best-of."""
    max_new_tokens: int = 64
    """Longest response."""
    temperature: float = 1.0
    """Sampling temperature."""
    greedy: bool = False
    """Take the likeliest token every time."""
    seed: int = 0
    """Seed of the sampling."""
    out: Path | None = None
    """A JSONL file to write {prompt, response} to; without it, the screen."""
    reading: OmitArgPrefixes[common.Reading] = dataclasses.field(default_factory=common.Reading)


def run(options: Options, resume: bool) -> None:
    if options.temperature <= 0:
        raise InputError(
            f"the temperature is {options.temperature}: it must be above 0; --greedy takes the likeliest token"
        )
    common.begin(common.Machine(options.seed))
    causal, bpe = common.load_causal(options.model)
    longest = context_limit(causal)
    prompts = [encode_prompt(bpe, p) for p in options.prompt]
    if options.data is not None:
        prompts += common.read_prompts(options.data, options.reading, bpe, longest, options.max_new_tokens)
    if not prompts:
        raise InputError("no prompts: give --prompt TEXT or --data FILE")
    if (too_long := max(map(len, prompts)) + options.max_new_tokens) > longest:
        raise InputError(
            f"a prompt and {options.max_new_tokens} new tokens take {too_long} tokens, the context is {longest}: "
            "lower --max-new-tokens or shorten the prompt"
        )
    if options.out is not None:
        common.make_room(options.out)
    policy = LanguageModel(causal, temperature=options.temperature)
    stop = stop_ids(bpe, causal)
    repeated = [p for p in prompts for _ in range(options.completions)]
    if options.best_of > 1:
        if options.reward is None:
            raise InputError("--best-of needs a reward model to choose by: give --reward")
        judge, own = common.load_reward(options.reward)
        common.check_same_tokenizer(bpe, own, options.reward)
        responses, _ = best_of_n(policy, model_reward(judge), repeated, stop, options.max_new_tokens, options.best_of)
    else:
        responses = sample(policy, repeated, stop, options.max_new_tokens, greedy=options.greedy).responses
    found = [
        {"prompt": decode_response(bpe, p), "response": decode_response(bpe, r)}
        for p, r in zip(repeated, responses, strict=True)
    ]
    if options.out is not None:
        atomic_write(options.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found))
        print(f"{len(found)} responses in {options.out}")
        return
    for line in found:
        print(
            f"{line['prompt']}\033[1m{line['response']}\033[0m\n"
            if _colours()
            else f"{line['prompt']}{line['response']}\n"
        )


def _colours() -> bool:
    import sys

    return sys.stdout.isatty()
