"""Pretraining predicts every token of every document once, from its own document alone."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.algorithms.preference import pretrain
from operant.text.language_model import LanguageModel, small_model

END = 0
token = st.integers(1, 10)


@given(st.lists(st.lists(token, max_size=12), max_size=4), st.integers(1, 7))
def test_documents_predict_every_token_once_and_pieces_overlap_in_one(texts, block):
    found = pretrain.documents(texts, END, block)
    assert all(len(e.prompt) == 1 and 1 <= len(e.response) <= block and e.decided is None for e in found)
    assert [t for e in found for t in e.response] == [t for text in texts for t in [*text, END]]
    before = [t for text in texts for t in [END, *text]]
    starts = [sum(len(e.response) for e in found[:i]) for i in range(len(found))]
    assert [e.prompt[0] for e in found] == [before[i] for i in starts]


def test_a_document_sees_nothing_of_the_others():
    policy = LanguageModel(small_model(11, 16, 1, 2, 32))
    config = pretrain.Config()
    documents = pretrain.documents([[1, 2, 3], [4, 5, 6, 7, 8], [9]], END, config.block)
    lengths = [len(e.response) for e in documents]
    alone = [pretrain.loss_of(policy, [e], config) for e in documents]
    together = pretrain.loss_of(policy, documents, config)
    assert together == pytest.approx(sum(n * x for n, x in zip(lengths, alone, strict=True)) / sum(lengths), rel=1e-5)


def test_a_pattern_is_learned():
    policy = LanguageModel(small_model(11, 16, 1, 2, 32))
    texts = [[(start + i) % 10 + 1 for i in range(9)] for start in range(10)]
    config = pretrain.Config(epochs=40, batch=5, block=6, learning_rate=1e-2)
    documents = pretrain.documents(texts, END, config.block)
    before = pretrain.loss_of(policy, documents, config)
    for _ in pretrain.train(pretrain.init(policy, documents, config), config):
        pass
    # What is left to guess is the first token of each document, ln 10 / 10 a token.
    assert 0.2 < pretrain.loss_of(policy, documents, config) < 0.6 < 2 < before


def test_a_longer_run_of_the_same_settings_takes_more_steps():
    config = pretrain.Config(epochs=2, batch=4)
    policy = LanguageModel(small_model(11, 16, 1, 2, 32))
    state = pretrain.init(policy, pretrain.documents([[1, 2]] * 9, END, config.block), config)
    assert pretrain.steps(state, config) == 6
    assert pretrain.steps(state, dataclasses.replace(config, epochs=4)) == 12
