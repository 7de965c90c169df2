"""Tokenizers: a byte-level BPE of one's own, or any from Hugging Face; and how text becomes token ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

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
    """A byte-level BPE with at most `vocabulary` entries; one token begins and ends texts, another one pads.

    It has fewer entries where the texts have no more pairs to merge. Raises `InputError` below 258: all bytes and two.
    """
    if vocabulary < 258:
        raise InputError(f"a vocabulary of {vocabulary} entries is too small: 256 bytes and 2 special tokens need 258")
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
        raise InputError(
            f"no tokenizer in {folder}: {str(error).splitlines()[0]}. Give a model folder or a hub name"
        ) from error
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
    ids, bos = encode(tokenizer, prompt), tokenizer.bos_token_id
    if bos is not None:
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        ids = [bos, *ids[start:]]
    if not ids:
        raise InputError("an empty prompt, and the tokenizer has no BOS to start from. Give the prompt some text")
    return ids


def encode_response(tokenizer: Any, response: str) -> list[int]:
    """The response up to its first EOS, if it has one, and one EOS: a decision like any other."""
    ids, eos = encode(tokenizer, response), tokenizer.eos_token_id
    return [*ids[: ids.index(eos)], eos] if eos in ids else [*ids, eos]


def decode_response(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of a sampled response, without its stop token."""
    return tokenizer.decode(ids, skip_special_tokens=True)


def stop_ids(tokenizer: Any, model: Any = None) -> set[int]:
    """Tokens that end a response: the tokenizer's EOS and those of the model's generation settings.

    PAD is none of them, though a model's settings may list it; but where EOS doubles as PAD, it is EOS.
    """
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stop = set(listed if isinstance(listed, list) else [] if listed is None else [listed])
    return (stop - {tokenizer.pad_token_id}) | {tokenizer.eos_token_id}


@overload
def tokenize(tokenizer: Any, record: Demonstration | Chat) -> Example: ...
@overload
def tokenize(tokenizer: Any, record: Ranking) -> Comparison: ...
@overload
def tokenize(tokenizer: Any, record: Thumb) -> Judgement: ...
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

    A turn is what the template adds after its own generation prompt, so the mask needs no template support. It ends
    with its last special token, the stop token; a line break after that is the template's, not the assistant's. What
    an assistant says first of all answers nothing and is context.
    """
    if tokenizer.chat_template is None:
        raise InputError("the records are chats and the tokenizer has no chat template: give prompts and responses")
    messages = [{"role": m.role, "content": m.content} for m in chat.messages]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {tokenizer.eos_token_id}
    ids: list[int] = []
    decided: list[bool] = []

    def render(upto: int, cue: bool) -> list[int]:
        try:
            text = tokenizer.apply_chat_template(messages[:upto], tokenize=False, add_generation_prompt=cue)
        except Exception as error:
            raise InputError(f"the chat template refuses turns 1 to {upto}: {error}. Leave this chat out") from error
        return encode(tokenizer, text)

    for i, message in enumerate(messages):
        if message["role"] != "assistant" or i == 0:
            continue
        before, cued, after = ids, render(i, cue=True), render(i + 1, cue=False)
        if cued[: len(before)] != before or after[: len(cued)] != cued:
            raise InputError(
                f"turn {i + 1}: the chat template rewrites what went before, or does not begin the assistant's turn "
                "with its own generation prompt; which tokens the assistant decides cannot be told. Give prompts and "
                "responses instead"
            )
        said = after[len(cued) :]
        end = max((n for n, token in enumerate(said, 1) if token in special), default=0)
        if end == 0:
            raise InputError(
                f"turn {i + 1}: the chat template ends the assistant's turn without a special token; a model would "
                "never learn to stop. Give prompts and responses instead"
            )
        decided += [False] * (len(cued) - len(before)) + [True] * end + [False] * (len(said) - end)
        ids = after
    if not any(decided):
        raise InputError("a chat in which no assistant answers teaches nothing; leave it out")
    start, end = decided.index(True), len(decided) - decided[::-1].index(True)
    return Example(ids[:start], ids[start:end], decided[start:end])
