"""Models and tokenizers small enough to check by hand."""

from typing import Any

import pytest
import torch

VOCABULARY = 23


def small(kind: str, vocabulary: int = VOCABULARY, seed: int = 0, **settings: Any) -> Any:
    """A causal model with weights large enough that every token it attends to shows in its logits."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(seed)
    if kind == "gpt2":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **(shape | ends | settings)))
    else:
        shape = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 64,
        }
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **(shape | ends | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.4)
    return model.eval()


@pytest.fixture(scope="session")
def make():
    return small


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    """One of each of the two families: rotary positions and learned ones."""
    return small(request.param)


def words(vocabulary: list[str], **special: str) -> Any:
    """A tokenizer of whole words, separated by spaces; ids are the places in `vocabulary`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=vocabulary[-1]))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@pytest.fixture(scope="session")
def make_words():
    return words


@pytest.fixture
def merging() -> Any:
    """A tokenizer for which encode(decode(ids)) is not ids: "a" and "b" in a row come back as "ab"."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "<pad>": 1, "a": 2, "b": 3, "ab": 4}
    inner = Tokenizer(BPE(vocabulary, [("a", "b")]))
    inner.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
