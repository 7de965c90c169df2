"""From text to token ids: one BOS, one EOS, and masks that say who decided."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operant.core.errors import InputError
from operant.text.context import rows
from operant.text.data import Chat, Demonstration, Message, Ranking, Thumb
from operant.text.tokenizer import (
    END,
    PAD,
    check_vocabulary,
    decode_response,
    encode,
    encode_prompt,
    encode_response,
    load_tokenizer,
    stop_ids,
    tokenize,
    train_tokenizer,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
FORGETFUL = CHATML.replace("m['content']", "(m['content'] if loop.last or m['role'] == 'user' else '')")
"""As templates do that show the thoughts of the last answer only."""


@pytest.fixture(scope="module")
def bpe() -> Any:
    return train_tokenizer(["the cat sat on the mat, the dog sat on the cat. "] * 20, 300)


@pytest.fixture
def chat(bpe: Any, tmp_path: Any) -> Any:
    """A tokenizer with ChatML's tokens; every test has its own."""
    bpe.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


class TestTraining:
    @settings(max_examples=30)
    @given(st.text())
    def test_every_text_comes_back(self, text):
        found = encode(BYTES, text)
        if END not in text and PAD not in text:
            assert decode_response(BYTES, found) == text

    def test_one_token_begins_and_ends_and_another_pads(self, bpe):
        assert bpe.bos_token_id == bpe.eos_token_id == bpe.convert_tokens_to_ids(END)
        assert bpe.pad_token_id == bpe.convert_tokens_to_ids(PAD) != bpe.eos_token_id
        assert len(bpe) <= 300

    def test_frequent_pairs_are_merged(self, bpe):
        assert len(encode(bpe, "the cat sat on the mat")) < 12

    def test_a_saved_one_loads_as_it_was(self, bpe, tmp_path):
        bpe.save_pretrained(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert loaded.get_vocab() == bpe.get_vocab()
        assert encode_response(loaded, "the cat?") == encode_response(bpe, "the cat?")
        assert (loaded.bos_token, loaded.pad_token) == (END, PAD)

    def test_fewer_entries_than_bytes_are_refused(self):
        with pytest.raises(InputError, match="257 entries is too small"):
            train_tokenizer(["a"], 257)


BYTES = train_tokenizer(["a"], 258)


class TestLoading:
    def test_a_folder_without_a_tokenizer(self, tmp_path):
        with pytest.raises(InputError, match="no tokenizer in"):
            load_tokenizer(tmp_path)

    def test_one_without_eos_could_never_stop(self, make_words, tmp_path):
        make_words(["a", "b"]).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="no EOS"):
            load_tokenizer(tmp_path)

    def test_a_vocabulary_that_the_model_does_not_know(self, bpe, make):
        check_vocabulary(bpe, make("llama", vocabulary=len(bpe)), "here")
        check_vocabulary(bpe, make("llama", vocabulary=len(bpe) + 5), "here")
        with pytest.raises(InputError, match=f"{len(bpe)} entries, the model in here embeds {len(bpe) - 1}"):
            check_vocabulary(bpe, make("llama", vocabulary=len(bpe) - 1), "here")


class TestPrompt:
    @pytest.mark.parametrize("text", ["the cat", END + "the cat", END * 2 + "the cat"])
    def test_has_exactly_one_bos(self, bpe, text):
        assert encode_prompt(bpe, text) == [bpe.bos_token_id, *encode(bpe, "the cat")]

    def test_a_tokenizer_that_adds_its_own_bos_adds_no_second_one(self, bpe, tmp_path):
        from tokenizers.processors import TemplateProcessing

        bpe.save_pretrained(tmp_path)
        adding = load_tokenizer(tmp_path)
        adding.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{END} $A {END}", special_tokens=[(END, adding.bos_token_id)]
        )
        assert adding("the cat")["input_ids"].count(adding.bos_token_id) == 2
        assert encode_prompt(adding, "the cat") == [adding.bos_token_id, *encode(bpe, "the cat")]
        assert encode_response(adding, "the cat") == [*encode(bpe, "the cat"), adding.eos_token_id]

    def test_without_a_bos_there_is_none(self, make_words):
        tokenizer = make_words(["<eos>", "a", "b"], eos_token="<eos>")
        assert encode_prompt(tokenizer, "a b") == [1, 2]
        with pytest.raises(InputError, match="empty prompt"):
            encode_prompt(tokenizer, "")

    def test_an_empty_one_is_bos_alone(self, bpe):
        assert encode_prompt(bpe, "") == [bpe.bos_token_id]


class TestResponse:
    @pytest.mark.parametrize("text", ["the cat", "the cat" + END, "the cat" + END * 3, f"the cat{END}the dog"])
    def test_ends_with_its_only_eos(self, bpe, text):
        assert encode_response(bpe, text) == [*encode(bpe, "the cat"), bpe.eos_token_id]

    def test_an_empty_one_is_eos_alone(self, bpe):
        assert encode_response(bpe, "") == [bpe.eos_token_id]

    def test_is_read_back_without_its_stop_token(self, bpe):
        assert decode_response(bpe, encode_response(bpe, " the cat, é!")) == " the cat, é!"


class TestStop:
    @pytest.mark.parametrize(
        ("listed", "due"),
        [(None, {0}), (0, {0}), (3, {0, 3}), ([0, 3], {0, 3}), ([0, 1], {0}), (1, {0}), ([1, 3], {0, 3})],
    )
    def test_is_eos_and_what_the_model_lists_but_never_pad(self, make_words, listed, due):
        tokenizer = make_words(["<eos>", "<pad>", "a", "b"], eos_token="<eos>", pad_token="<pad>")
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=listed))
        assert stop_ids(tokenizer, model) == due

    @pytest.mark.parametrize("pad", [{"pad_token": "<eos>"}, {}])
    def test_is_eos_where_eos_doubles_as_pad_or_nothing_pads(self, make_words, pad):
        tokenizer = make_words(["<eos>", "<pad>", "a", "b"], eos_token="<eos>", **pad)
        assert stop_ids(tokenizer) == {0}
        assert stop_ids(tokenizer, SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[0, 3]))) == {0, 3}

    def test_a_model_is_asked_for_its_generation_settings(self, bpe, make):
        model = make("llama")
        model.generation_config.eos_token_id = [5, 6]
        assert stop_ids(bpe, model) == {bpe.eos_token_id, 5, 6}


class TestRecords:
    def test_prompt_and_response_are_tokenised_apart_and_eos_is_trained(self, bpe):
        prompt, response, decided = tokenize(bpe, Demonstration("the c", "at sat"))
        assert prompt == [bpe.bos_token_id, *encode(bpe, "the c")]
        assert response == [*encode(bpe, "at sat"), bpe.eos_token_id]
        assert decided is None
        assert [*prompt[1:], *response[:-1]] != encode(bpe, "the cat sat")
        _, action, mask = rows([prompt], [response], [decided])
        assert mask.all()
        assert action[0, -1] == bpe.eos_token_id

    def test_of_comparisons_every_response_ends(self, bpe):
        found = tokenize(bpe, Ranking("the", (" cat", " dog", " mat"), (2, 1, 2), margin=0.5))
        assert found.prompt == encode_prompt(bpe, "the")
        assert found.responses == [encode_response(bpe, r) for r in (" cat", " dog", " mat")]
        assert (found.ranks, found.margin) == ([2, 1, 2], 0.5)

    def test_of_thumbs(self, bpe):
        found = tokenize(bpe, Thumb("the", " cat", False))
        assert found == (encode_prompt(bpe, "the"), encode_response(bpe, " cat"), False)


def talk(*turns: str) -> Chat:
    """Turns in the order system, user, assistant, user, ..., without the system where the first turn is empty."""
    roles = ["system", *["user", "assistant"] * len(turns)]
    return Chat(tuple(Message(role, turn) for role, turn in zip(roles, turns, strict=False) if turn))


def parts(tokenizer: Any, chat: Chat) -> tuple[str, list[str]]:
    """The prompt's text, and the text of every stretch of decisions."""
    prompt, response, decided = tokenize(tokenizer, chat)
    assert decided is not None
    stretches: list[list[int]] = []
    for n, (token, chosen) in enumerate(zip(response, decided, strict=True)):
        if chosen and (n == 0 or not decided[n - 1]):
            stretches.append([])
        if chosen:
            stretches[-1].append(token)
    return tokenizer.decode(prompt), [tokenizer.decode(ids) for ids in stretches]


class TestChat:
    def test_what_the_assistant_says_and_its_stop_token_are_decisions(self, chat):
        prompt, said = parts(chat, talk("be kind", "the cat?", "the dog sat.", "on the mat?", "on the cat."))
        assert prompt.endswith("the cat?<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.startswith("<|im_start|>system\nbe kind")
        assert said == ["the dog sat.<|im_end|>", "on the cat.<|im_end|>"]

    def test_the_rows_are_the_templates_own_tokens(self, chat):
        turns = talk("", "the cat?", "the dog.", "the mat?", "the cat.")
        prompt, response, _ = tokenize(chat, turns)
        whole = chat.apply_chat_template([vars(m) for m in turns.messages], tokenize=False)
        assert chat.decode([*prompt, *response]) + "\n" == whole

    def test_the_mask_is_neither_all_nor_nothing_and_decisions_follow_their_places(self, chat):
        prompt, response, decided = tokenize(chat, talk("", "the cat?", "the dog.", "the mat?", "the cat."))
        context, action, mask = rows([prompt], [response], [decided])
        assert mask.any()
        assert not mask.all()
        assert context.token[0, context.place[0][mask[0]] + 1].tolist() == action[mask].tolist()
        assert mask[0, -1]
        assert action[0, -1] == chat.convert_tokens_to_ids("<|im_end|>")

    def test_what_comes_after_the_last_answer_is_left_out(self, chat):
        short = talk("", "the cat?", "the dog.")
        assert tokenize(chat, Chat((*short.messages, Message("user", "thanks")))) == tokenize(chat, short)

    def test_the_templates_bos_is_the_only_one(self, chat):
        """The template writes BOS itself, and ends every answer with EOS."""
        chat.add_special_tokens({"bos_token": "<s>"})
        chat.chat_template = LLAMA
        prompt, response, _ = tokenize(chat, talk("", "the cat?", "the dog.", "the mat?", "the cat."))
        assert [*prompt, *response].count(chat.bos_token_id) == 1
        assert prompt[0] == chat.bos_token_id
        _, said = parts(chat, talk("", "the cat?", "the dog.", "the mat?", "the cat."))
        assert said == [" the dog." + END, " the cat." + END]

    def test_an_assistant_who_speaks_first_is_context(self, chat):
        turns = Chat((Message("assistant", "hello"), Message("user", "the cat?"), Message("assistant", "the dog.")))
        prompt, said = parts(chat, turns)
        assert "hello<|im_end|>" in prompt
        assert said == ["the dog.<|im_end|>"]

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            (None, "no chat template"),
            (CHATML.replace("<|im_end|>", ""), "without a special token"),
            (CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>bot\n'"), "turn 2: the chat template rewrites"),
            (FORGETFUL, "turn 4: the chat template rewrites"),
            ("{{ raise_exception('only users here') }}", "only users here"),
        ],
        ids=["none", "no stop", "other cue", "rewrites", "refuses"],
    )
    def test_templates_that_cannot_be_learned_from_are_refused(self, chat, template, message):
        chat.chat_template = template
        with pytest.raises(InputError, match=message):
            tokenize(chat, talk("", "the cat?", "the dog.", "the mat?", "the cat."))

    def test_a_chat_without_an_answer_is_refused(self, chat):
        with pytest.raises(InputError, match="no assistant answers"):
            tokenize(chat, talk("", "the cat?"))
