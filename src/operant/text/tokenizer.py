"""Tokenizers: a byte-level BPE of one's own, or any from Hugging Face; and how text becomes token ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from operant.core.errors import InputError
from operant.text.data import Chat, Demonstration, Ranking, Thumb

END, PAD = "<|endoftext|>", "<|pad|>"


class Example(NamedTuple):
    """A prompt and what follows it; `decided` marks the tokens that are the policy's (None: all of the response)."""

    prompt: list[int]
    response: list[int]
    decided: list[bool] | None = None


class Comparison(NamedTuple):
    """K responses to one prompt with ranks: 1 is best, equal ranks are a tie."""

    prompt: list[int]
    responses: list[list[int]]
    ranks: list[int]
    margin: float = 0.0


class Judgement(NamedTuple):
    """One response and whether a person liked it."""

    prompt: list[int]
    response: list[int]
    good: bool


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE with `vocabulary` entries; one token begins and ends texts, another one pads."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=vocabulary, min_frequency=2, special_tokens=[END, PAD], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=END, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def load_tokenizer(folder: str | Path) -> Any:
    """A tokenizer from a folder or a hub name."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer in {folder}: {str(error).splitlines()[0]}. Give a model folder or a hub name") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {folder} has no EOS token: a model could never learn to stop. Give it one")
    return tokenizer


def check_vocabulary(tokenizer: Any, model: Any, where: str) -> None:
    """Raise unless every id of the tokenizer is a row of the model's embedding."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} entries, the model in {where} embeds {rows}: they do not belong "
            "together. Use the tokenizer that the model was trained with"
        )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` alone, without any special token."""
    return tokenizer.encode(text, add_special_tokens=False)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Exactly one BOS (where the tokenizer has one), then the prompt."""
    ids = encode(tokenizer, prompt)
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    if not ids:
        raise InputError("an empty prompt, and the tokenizer has no BOS to start from. Give the prompt some text")
    return ids


def encode_response(tokenizer: Any, response: str) -> list[int]:
    """The response and one EOS, which is a decision like any other."""
    ids = encode(tokenizer, response)
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return [*ids, tokenizer.eos_token_id]


def decode_response(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of a sampled response, without its stop token."""
    return tokenizer.decode(ids, skip_special_tokens=True)


def stop_ids(tokenizer: Any, model: Any = None) -> set[int]:
    """Tokens that end a response: the tokenizer's EOS and those of the model's generation settings. Never PAD."""
    stop = {tokenizer.eos_token_id}
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stop |= set(listed if isinstance(listed, list) else [] if listed is None else [listed])
    return stop - ({tokenizer.pad_token_id} - {tokenizer.eos_token_id})


def tokenize(tokenizer: Any, record: Demonstration | Chat | Ranking | Thumb) -> Example | Comparison | Judgement:
    """A record of text as the token ids that algorithms learn from."""
    if isinstance(record, Chat):
        return _tokenize_chat(tokenizer, record)
    prompt = encode_prompt(tokenizer, record.prompt)
    if isinstance(record, Demonstration):
        return Example(prompt, encode_response(tokenizer, record.response))
    if isinstance(record, Thumb):
        return Judgement(prompt, encode_response(tokenizer, record.response), record.good)
    responses = [encode_response(tokenizer, response) for response in record.responses]
    return Comparison(prompt, responses, list(record.ranks), record.margin)


def _tokenize_chat(tokenizer: Any, chat: Chat) -> Example:
    """The model's chat template, turn by turn; what the assistant says and its stop token are decisions.

    Each turn's tokens are what the template adds when the turn is appended, so the mask needs no template support.
    """
    if tokenizer.chat_template is None:
        raise InputError("the records are chats and the tokenizer has no chat template: give prompts and responses")
    messages = [{"role": m.role, "content": m.content} for m in chat.messages]
    ids: list[int] = []
    decided: list[bool] = []

    def render(upto: int, cue: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages[:upto], tokenize=False, add_generation_prompt=cue)
        return encode(tokenizer, text)

    for i, message in enumerate(messages):
        after = render(i + 1, cue=False)
        if message["role"] == "assistant":
            cued = render(i, cue=True)
            if after[: len(cued)] != cued:
                raise InputError(
                    f"the chat template does not begin an assistant's turn with its own generation prompt (turn {i + 1}): "
                    "which tokens the assistant decides cannot be told. Give prompts and responses instead"
                )
            decided += [False] * (len(cued) - len(ids)) + [True] * (len(after) - len(cued))
        else:
            decided += [False] * (len(after) - len(ids))
        ids = after
    if not any(decided):
        raise InputError("a chat without an assistant's turn teaches nothing; leave it out")
    start = decided.index(True)
    return Example(ids[:start], ids[start:], decided[start:])
