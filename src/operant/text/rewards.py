"""Rewards for whole responses: a reward model, or any Python function of prompts and responses."""

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from operant.core.errors import InputError
from operant.core.record import micro_batches
from operant.text.context import Context, last_places
from operant.text.language_model import RewardModel
from operant.text.sampling import Samples
from operant.text.tokenizer import decode_response

Reward = Callable[[Samples], Float[Tensor, " B"]]
TextReward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


@torch.no_grad()
def score(model: RewardModel, context: Context, budget: int = 2048) -> Float[Tensor, "B T"]:
    """The reward model's scalar at every place of `context`, some `budget` tokens at a time."""
    scores = torch.zeros(context.place.shape, device=context.place.device)
    for index in micro_batches(context.extent, budget):
        scores[index] = model(context[index])
    return scores


def model_reward(model: RewardModel) -> Reward:
    """The score at the last token of each response, computed on the sampled ids themselves."""

    def reward(samples: Samples) -> Float[Tensor, " B"]:
        context = last_places(samples.prompts, samples.responses).to(model.model.device)
        return score(model, context).squeeze(-1)

    return reward


def function_reward(function: TextReward, tokenizer: Any) -> Reward:
    """A Python function f(prompts, responses) -> scores. `InputError` if it fails or returns no finite number."""
    name = getattr(function, "__name__", "the reward function")

    def reward(samples: Samples) -> Float[Tensor, " B"]:
        prompts = [decode_response(tokenizer, p) for p in samples.prompts]
        responses = [decode_response(tokenizer, r) for r in samples.responses]
        try:
            scores = [float(x) for x in function(prompts, responses)]
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(
                f"the reward function {name} raised {type(error).__name__}: {error} ({place.filename}:{place.lineno}), "
                f"called with {len(prompts)} prompts from {prompts[0]!r} on"
            ) from error
        if len(scores) != len(responses):
            raise InputError(f"the reward function {name} returned {len(scores)} scores for {len(responses)} responses")
        for prompt, response, x in zip(prompts, responses, scores, strict=True):
            if not math.isfinite(x):
                raise InputError(f"the reward function {name} returned {x} for {response!r} after {prompt!r}")
        return torch.tensor(scores, device=samples.action.device)

    return reward


def load_function(name: str, what: str = "the reward function") -> Callable[..., Any]:
    """The function that "module:function" or "path/to/file.py:function" names; modules are also looked for here."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise InputError(f"{what} is named as file.py:function or module:function; got {name!r}")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None or not Path(place).is_file():
                raise InputError(
                    f"the file of {what}, {place}, does not exist; the name is looked up from {Path.cwd()}"
                )
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            if str(Path.cwd()) not in sys.path:
                sys.path.append(str(Path.cwd()))
            module = importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} {name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, attribute, None)):
        raise InputError(f"{place} has no function {attribute}: check the name of {what}")
    return getattr(module, attribute)
