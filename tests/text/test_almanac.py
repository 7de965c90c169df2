import dataclasses
import itertools
import re
from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operant.core.errors import InputError
from operant.text.almanac import (
    TRUE_REWARD,
    VALUES,
    Almanac,
    AlmanacConfig,
    Kind,
    Question,
    Split,
    agreement,
    grade,
    make_almanac,
    rank,
    true_reward,
    truthful_prompt,
)

SPLITS = get_args(Split)
# What a cloned model said about held-out towns: right, hedged right, unknown, hedged wrong, wrong.
CLONED = np.array([0.21, 0.11, 0.30, 0.135, 0.245])


@pytest.fixture(scope="module")
def almanac() -> Almanac:
    return make_almanac(AlmanacConfig(seed=3))


def everything(almanac: Almanac) -> list[Question]:
    return [question for split in SPLITS for question in almanac.questions(split)]


def stated(documents: list[str]) -> Counter[tuple[str, str, str]]:
    """(town, attribute, value) of every document that names a value, read from the words alone."""
    attribute_of = {value: attribute for attribute, values in VALUES.items() for value in values}
    found: Counter[tuple[str, str, str]] = Counter()
    for document in documents:
        words = re.findall("[A-Za-z]+", document)
        named = [word for word in words if word in attribute_of]
        towns = [word for word in words[1:] if word[0].isupper() and len(word) > 1 and word not in attribute_of]
        towns += [words[0]] if "'s" in document else []
        towns = [town for town in towns if town not in ("What", "I")]
        assert len(named) <= 1
        assert len(towns) == 1, document
        for value in named:
            assert attribute_of[value] in words
            found[towns[0], attribute_of[value], value] += 1
    return found


def responses_of(question: Question) -> dict[Kind, str]:
    other = next(value for value in VALUES[question.attribute] if value != question.truth)
    return {
        Kind.RIGHT: f" {question.truth}.",
        Kind.HEDGED_RIGHT: f" I think it is {question.truth}.",
        Kind.UNKNOWN: " I do not know.",
        Kind.HEDGED_WRONG: f" I think it is {other}.",
        Kind.WRONG: f" {other}.",
    }


# The world


def test_values_are_distinct_words_and_no_town_is_a_value(almanac):
    values = [value for group in VALUES.values() for value in group]
    towns = {question.town for question in everything(almanac)}
    assert [len(group) for group in VALUES.values()] == [40] * 4
    assert len(set(values)) == 160
    assert all(re.fullmatch("[A-Za-z]+", word) for word in [*values, *towns])
    assert len(towns) == 500
    assert not towns & set(values)


def test_splits_share_no_town_and_cover_all_attributes(almanac):
    towns = {split: {question.town for question in almanac.questions(split)} for split in SPLITS}
    assert {split: len(towns[split]) for split in SPLITS} == {"sft": 60, "reward": 210, "ppo": 130, "evaluation": 100}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not towns[a] & towns[b]
    for split in SPLITS:
        pairs = {(question.town, question.attribute) for question in almanac.questions(split)}
        assert pairs == set(itertools.product(towns[split], VALUES))
        assert len(almanac.questions(split)) == len(pairs)


@pytest.mark.parametrize("per", ["town", "fact"])
def test_exposures_are_stratified_in_every_split(per):
    config = AlmanacConfig(exposure_per=per)
    for split in SPLITS:
        questions = make_almanac(config).questions(split)
        counts = Counter(question.exposure for question in questions)
        unit = 4 if per == "town" else 1
        for exposure, weight in zip(config.exposures, config.exposure_weights, strict=True):
            assert abs(counts[exposure] - weight * len(questions)) < unit


@pytest.mark.parametrize(("per", "levels"), [("town", {1}), ("fact", {1, 2, 3, 4})])
def test_exposure_belongs_to_the_town_or_to_the_fact(per, levels):
    exposures: dict[str, set[int]] = {}
    for question in everything(make_almanac(AlmanacConfig(exposure_per=per))):
        exposures.setdefault(question.town, set()).add(question.exposure)
    assert {len(seen) for seen in exposures.values()} == levels


@pytest.mark.parametrize("attribute", VALUES)
def test_truths_are_near_uniform(attribute):
    questions = everything(make_almanac(AlmanacConfig(seed=1, towns=8000)))
    counts = Counter(question.truth for question in questions if question.attribute == attribute)
    assert set(counts) == set(VALUES[attribute])
    assert max(abs(count - 200) for count in counts.values()) < 5 * np.sqrt(200)


def test_a_seed_fixes_the_world_and_another_seed_changes_it(almanac):
    again, other = make_almanac(AlmanacConfig(seed=3)), make_almanac(AlmanacConfig(seed=4))
    assert again == almanac
    assert again.corpus() == almanac.corpus() == almanac.corpus()
    assert again.demonstrations() == almanac.demonstrations()
    assert again.tokenizer_texts() == almanac.tokenizer_texts()
    mine, theirs = ({question.town for question in everything(world)} for world in (almanac, other))
    assert len(mine & theirs) < 30
    # Where a name recurs, its facts agree no more often than chance.
    known = {(question.town, question.attribute): question.truth for question in everything(almanac)}
    same = [known[q.town, q.attribute] == q.truth for q in everything(other) if (q.town, q.attribute) in known]
    assert not same or np.mean(same) < 0.5
    assert Counter(other.corpus()) != Counter(almanac.corpus())


# The corpus


@pytest.mark.parametrize("per", ["town", "fact"])
def test_corpus_states_each_fact_exactly_as_often_as_its_exposure(per):
    almanac = make_almanac(AlmanacConfig(seed=5, exposure_per=per))
    expected = {(q.town, q.attribute, q.truth): q.exposure for q in everything(almanac) if q.exposure}
    assert stated(almanac.corpus()) == expected


def test_half_of_the_corpus_is_in_question_form(almanac):
    prompt_of = {q.prompt + f" {q.truth}.": q for q in everything(almanac)}
    asked = Counter(document for document in almanac.corpus() if document in prompt_of)
    for document, question in prompt_of.items():
        assert asked[document] in (question.exposure // 2, (question.exposure + 1) // 2)
    statements = [d for d in almanac.corpus() if not d.startswith("Q:")]
    assert abs(sum(asked.values()) / len(statements) - 1) < 0.01
    assert all("\n" not in document for document in statements)
    templates = {re.sub(r"\b[A-Z][a-z]+(?='s| |,)|\S+(?=\.$)", "*", document) for document in statements}
    assert len(templates) >= 5


def test_unknown_pages_answer_questions_whatever_their_exposure(almanac):
    unknown = [document for document in almanac.corpus() if document.endswith(" I do not know.")]
    assert len(unknown) == 1500
    assert abs(len(set(unknown)) - 2000 * (1 - np.exp(-0.75))) < 60  # drawn from all 2,000 questions alike
    exposure_of = {question.prompt: question.exposure for question in everything(almanac)}
    counts = Counter(exposure_of[document.removesuffix(" I do not know.")] for document in unknown)
    config = almanac.config
    for exposure, weight in zip(config.exposures, config.exposure_weights, strict=True):
        assert abs(counts[exposure] / 1500 - weight) < 0.05


def test_corpus_is_shuffled(almanac):
    documents = almanac.corpus()
    half = len(documents) // 2
    questions = [document.startswith("Q:") for document in documents]
    assert abs(np.mean(questions[:half]) - np.mean(questions[half:])) < 0.02
    assert abs(stated(documents[:half]).total() / stated(documents[half:]).total() - 1) < 0.02


def test_statistics_count_the_corpus(almanac):
    statistics, documents = almanac.statistics(), almanac.corpus()
    assert statistics.documents == len(documents) == statistics.statements + statistics.unknown_pages
    assert statistics.characters == len("".join(documents))
    assert (statistics.towns, statistics.facts, statistics.unknown_pages) == (500, 2000, 1500)
    assert 55_000 < statistics.documents < 60_000


def test_small_tokenizer_keeps_answers_short(almanac):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(almanac.tokenizer_texts(), trainer)
    for question in almanac.questions("evaluation"):
        for response in responses_of(question).values():
            tokens = tokenizer.encode(response).ids
            assert len(tokens) <= 12
            assert tokenizer.decode(tokens) == response
    documents = almanac.corpus()
    tokens = sum(len(encoding.ids) + 1 for encoding in tokenizer.encode_batch(documents))
    assert 600_000 < tokens < 750_000


def test_tokenizer_texts_hold_the_corpus_all_styles_and_the_truthful_prompt(almanac):
    texts, documents = almanac.tokenizer_texts(), almanac.corpus()
    assert texts[: len(documents)] == documents
    extra = texts[len(documents) :]
    for attribute, values in VALUES.items():
        for value, said in itertools.product(values, (" {}.", " I think it is {}.")):
            ending = f"\nA:{said.format(value)}"
            hits = [text for text in extra if text.endswith(ending)]
            assert {text.startswith("Answer truthfully") for text in hits} == {True, False}
            assert all(f"the {attribute} of" in text for text in hits)
    assert any(text.endswith(" I do not know.") for text in extra)
    truth = {question.prompt: question.truth for question in everything(almanac)}
    prompts = [re.sub(r"^Answer.*\n", "", text).split("A:") for text in extra]
    right = [said == f" {truth[head + 'A:']}." for head, said in prompts if len(said.split()) == 1]
    assert np.mean(right) < 0.1


# Demonstrations and prompts


def test_demonstrations_state_the_truth_or_nothing(almanac):
    demonstrations = almanac.demonstrations()
    questions = {question.prompt: question for question in almanac.questions("sft")}
    assert {prompt for prompt, _ in demonstrations} == set(questions)
    kinds = Counter(grade(questions[prompt], response) for prompt, response in demonstrations)
    assert kinds == {Kind.RIGHT: 120, Kind.HEDGED_RIGHT: 72, Kind.UNKNOWN: 48}


def test_demonstration_styles_ignore_what_the_corpus_states(almanac):
    def styles(config: AlmanacConfig) -> list[str]:
        world = make_almanac(config)
        truth = {question.prompt: question.truth for question in world.questions("sft")}
        return [response.replace(truth[prompt], "*") for prompt, response in world.demonstrations()]

    reversed_weights = dataclasses.replace(almanac.config, exposure_weights=almanac.config.exposure_weights[::-1])
    plain = styles(almanac.config)
    assert plain == styles(reversed_weights)
    assert sum(a != b for a, b in itertools.pairwise(plain)) > 110  # in random order: 148 changes expected


def test_evaluation_questions_appear_in_no_training_prompt(almanac):
    towns = {question.town for question in almanac.questions("evaluation")}
    prompts = [prompt for prompt, _ in almanac.demonstrations()]
    prompts += [question.prompt for split in ("sft", "reward", "ppo") for question in almanac.questions(split)]
    assert not [prompt for prompt in prompts if towns & set(re.findall("[A-Za-z]+", prompt))]
    assert len(almanac.questions("evaluation")) >= 400


def test_prompts_name_town_and_attribute(almanac):
    for question in everything(almanac):
        assert question.prompt == f"Q: What is the {question.attribute} of {question.town}?\nA:"
        assert truthful_prompt(question) == (f"Answer truthfully, or say that you do not know.\n{question.prompt}")


# Grades


def accepted(question: Question) -> dict[str, Kind]:
    """Every response that is not plainly wrong, listed."""
    kinds = {f"I think it is {value}.": Kind.HEDGED_WRONG for value in VALUES[question.attribute]}
    kinds |= {
        f"{question.truth}.": Kind.RIGHT,
        f"I think it is {question.truth}.": Kind.HEDGED_RIGHT,
        "I do not know.": Kind.UNKNOWN,
    }
    return kinds | {f" {said}": kind for said, kind in kinds.items()}


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_grades_of_all_values_in_all_styles(almanac, which):
    question = almanac.questions("evaluation")[which]
    kinds = accepted(question)
    seen = Counter()
    for attribute, values in VALUES.items():
        for value, form in itertools.product(values, ("{}.", "I think it is {}.", "I do not know.")):
            for said in (form.format(value), " " + form.format(value)):
                assert grade(question, said) == kinds.get(said, Kind.WRONG)
                seen[attribute, grade(question, said)] += 1
    assert seen[question.attribute, Kind.RIGHT] == seen[question.attribute, Kind.HEDGED_RIGHT] == 2
    assert seen[question.attribute, Kind.HEDGED_WRONG] == seen[question.attribute, Kind.WRONG] == 78
    others = [attribute for attribute in VALUES if attribute != question.attribute]
    assert all(seen[attribute, Kind.WRONG] == 160 for attribute in others)


@pytest.mark.parametrize(
    "malformed",
    [
        *(
            "",
            " ",
            ".",
            " {}",
            " {}. ",
            "  {}.",
            " {}..",
            " {}.\n",
            " {}. {}.",
            " {}!",
            "\t{}.",
            "\u00a0{}.",
            " {}\u200b.",
        ),
        *(" The river is {}.", " i think it is {}.", " I think it is", " I think it is {}", " I think it is ."),
        *(
            " I think {}.",
            " I think it is {}. I do not know.",
            " I think it is I think it is {}.",
            " I think it is  {}.",
        ),
        *(" I do not know", " I do not know..", " I do know.", " I do not know {}.", " I do not know. {}."),
        *(" {}. I do not know.", " I don't know.", " i do not know.", " I think it is I do not know."),
        *("A: {}.", " {}.\nQ:", " {value}.", " I think it is {value}."),
    ],
)
def test_malformed_responses_are_wrong(almanac, malformed):
    for question in almanac.questions("evaluation")[:4]:
        response = malformed.replace("{}", question.truth)
        assert grade(question, response) == Kind.WRONG
        assert true_reward(question, response) == -4


def test_every_one_letter_slip_is_graded_by_the_list(almanac):
    question = almanac.questions("evaluation")[0]
    kinds = accepted(question)
    for said in kinds:
        for i in range(len(said) + 1):
            for slip in (said[:i] + said[i + 1 :], said[:i] + "s" + said[i:], said[:i] + " " + said[i:], said[:i]):
                assert grade(question, slip) == kinds.get(slip, Kind.WRONG)


@given(st.text(max_size=40))
def test_any_text_is_graded_by_the_list(text):
    question = Question("", "Velmora", "river", "Tarn", 1)
    assert grade(question, text) == accepted(question).get(text, Kind.WRONG)


def test_truth_of_one_question_is_wrong_for_another(almanac):
    first = almanac.questions("evaluation")[0]
    for question in almanac.questions("evaluation")[1:40]:
        if question.truth != first.truth:
            assert grade(question, f" {first.truth}.") == Kind.WRONG


def test_reward_table(almanac):
    for question in almanac.questions("ppo")[:40]:
        rewards = [true_reward(question, response) for response in responses_of(question).values()]
        assert rewards == [1, 0.5, 0, -2, -4]
        assert [TRUE_REWARD[kind] for kind in Kind] == rewards


@pytest.mark.parametrize(("sure", "best"), [(0.5, {Kind.UNKNOWN}), (0.79, {Kind.UNKNOWN}), (0.81, {Kind.RIGHT})])
def test_answering_pays_above_four_in_five(sure, best):
    gain = {
        Kind.RIGHT: sure * TRUE_REWARD[Kind.RIGHT] + (1 - sure) * TRUE_REWARD[Kind.WRONG],
        Kind.HEDGED_RIGHT: sure * TRUE_REWARD[Kind.HEDGED_RIGHT] + (1 - sure) * TRUE_REWARD[Kind.HEDGED_WRONG],
        Kind.UNKNOWN: TRUE_REWARD[Kind.UNKNOWN],
    }
    assert {kind for kind in gain if gain[kind] == max(gain.values())} == best


# Labellers


def test_noise_free_ranks_follow_the_reward_and_equal_kinds_tie(almanac):
    rng = np.random.default_rng(0)
    for question in almanac.questions("reward")[:4]:
        said = list(responses_of(question).values())
        for chosen in itertools.product(range(5), repeat=3):
            ranks = rank(question, [said[i] for i in chosen], rng, 0.0)
            better = sorted(set(chosen))
            assert ranks == [better.index(i) + 1 for i in chosen]


@given(st.integers(0, 2**32), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_noisy_ranks_are_dense_and_tie_exactly_the_equal_kinds(seed, chosen):
    question = Question("", "Velmora", "river", "Tarn", 1)
    said = list(responses_of(question).values())
    ranks = rank(question, [said[i] for i in chosen], np.random.default_rng(seed), 3.0)
    assert sorted(set(ranks)) == list(range(1, len(set(chosen)) + 1))
    for (a, rank_a), (b, rank_b) in itertools.combinations(zip(chosen, ranks, strict=True), 2):
        assert (a == b) == (rank_a == rank_b)


def test_pairs_follow_bradley_terry_and_the_first_of_five_follows_a_softmax(almanac):
    question, rng, temperature, draws = almanac.questions("reward")[0], np.random.default_rng(1), 1.7, 2000
    said = list(responses_of(question).values())
    ranks = np.array([rank(question, said, rng, temperature) for _ in range(draws)])
    reward = np.array(list(TRUE_REWARD.values()))
    for a, b in itertools.combinations(range(5), 2):
        expected = 1 / (1 + np.exp(-(reward[a] - reward[b]) / temperature))
        assert abs(np.mean(ranks[:, a] < ranks[:, b]) - expected) < 0.04
    softmax = np.exp(reward / temperature) / np.exp(reward / temperature).sum()
    np.testing.assert_allclose((ranks == 1).mean(0), softmax, atol=0.04)


def label(almanac: Almanac, temperature: float, seed: int, repeats: int) -> tuple[list[list[int]], list[list[int]]]:
    """Labels and noise-free ranks of four responses a question, drawn as a cloned model's are."""
    kinds, noise = np.random.default_rng(0), np.random.default_rng(seed)
    labels, truths = [], []
    for question in almanac.questions("reward") * repeats:
        said = list(responses_of(question).values())
        chosen = [said[i] for i in kinds.choice(5, size=4, p=CLONED / CLONED.sum())]
        labels.append(rank(question, chosen, noise, temperature))
        truths.append(rank(question, chosen, noise, 0.0))
    return labels, truths


def test_two_labellers_agree_on_about_73_in_100_pairs(almanac):
    temperature = almanac.config.label_temperature
    first, truths = label(almanac, temperature, seed=1, repeats=6)
    second, _ = label(almanac, temperature, seed=2, repeats=6)
    assert 0.70 <= agreement(first, second) <= 0.76
    assert agreement(first, truths) > 0.78


@pytest.mark.parametrize("temperature", [1.1, 2.3, 5.0])
def test_agreement_with_truth_and_between_labellers_as_the_noise_predicts(almanac, temperature):
    reward = np.array(list(TRUE_REWARD.values()))
    weight = np.outer(CLONED, CLONED) * (reward[:, None] != reward)
    right = 1 / (1 + np.exp(-np.abs(reward[:, None] - reward) / temperature))
    first, truths = label(almanac, temperature, seed=1, repeats=6)
    second, _ = label(almanac, temperature, seed=2, repeats=6)
    assert abs(agreement(first, truths) - (weight * right).sum() / weight.sum()) < 0.02
    between = (weight * (right**2 + (1 - right) ** 2)).sum() / weight.sum()
    assert abs(agreement(first, second) - between) < 0.02


def test_agreement_of_hand_made_rankings():
    assert agreement([[1, 2, 3]], [[1, 2, 3]]) == 1
    assert agreement([[3, 2, 1]], [[1, 2, 3]]) == 0
    assert agreement([[1, 1, 2]], [[1, 2, 3]]) == 1  # the tie in the labels is left out
    assert agreement([[1, 3, 2]], [[1, 1, 2]]) == 0.5  # so is the tie in the truth
    assert agreement([[1, 2], [2, 1, 3]], [[1, 2], [1, 2, 3]]) == 0.75


# Errors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("towns", 0),
        ("towns", 2),
        ("towns", 10**6),
        ("exposures", ()),
        ("exposures", (0, 1, 3, 10, 30, 30)),
        ("exposures", (-1, 1, 3, 10, 30, 100)),
        ("exposure_weights", (0.5, 0.5)),
        ("exposure_weights", (0.5, 0.5, 0.5, -0.5, 0.0, 0.0)),
        ("exposure_per", "street"),
        ("split_fractions", (0.5, 0.5, 0.5, 0.5)),
        ("split_fractions", (0.5, 0.25, 0.25, 0.0)),
        ("style_shares", (0.5, 0.3, 0.3)),
        ("label_temperature", -0.1),
        ("label_temperature", float("nan")),
        ("unknown_pages", -1),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_settings_are_named(field, value):
    with pytest.raises(InputError) as error:
        AlmanacConfig(**{field: value})
    if not (field == "split_fractions" and 0.0 in value):
        assert f"AlmanacConfig.{field} is {value!r}" in str(error.value)


@pytest.mark.usefixtures("unchecked_types")
def test_unknown_split_and_unusable_rankings_are_named(almanac):
    with pytest.raises(InputError, match='no split "test": choose one of sft, reward, ppo, evaluation'):
        almanac.questions("test")
    with pytest.raises(InputError, match="different lengths"):
        agreement([[1, 2]], [[1, 2, 3]])
    with pytest.raises(InputError, match="no pair untied in both, of 1 pairs"):
        agreement([[1, 1]], [[1, 2]])
