"""The reward model's loss over rankings, ties, margins and thumbs; and its scale."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from operant.algorithms.preference import reward_model
from operant.core.errors import InputError
from operant.text.context import last_places
from operant.text.language_model import LanguageModel, RewardModel, reward_model_from, small_model
from operant.text.rewards import score
from operant.text.tokenizer import Comparison, Example, Judgement

PAIR = Comparison([1, 2], [[3, 0], [4, 5, 6, 0]], [2, 1])
TRIPLE = Comparison([7], [[5, 5, 0], [2, 0], [9, 8, 7, 6, 0]], [2, 1, 3])
TIED = Comparison([3, 3, 4, 1], [[0], [1, 1, 1, 1, 1, 1, 0], [2, 3, 0], [8, 0]], [2, 1, 2, 3])
TIE = Comparison([2], [[4, 4, 0], [6, 0]], [1, 1])
GOOD, BAD = Judgement([1, 5], [9, 0], True), Judgement([8], [3, 3, 3, 0], False)
JUDGEMENTS = [PAIR, TRIPLE, TIED, GOOD, BAD]
CONFIG = reward_model.Config(epochs=1, batch=10, max_gradient_norm=math.inf)


def model(seed: int = 0) -> RewardModel:
    torch.manual_seed(seed)
    return reward_model_from(small_model(11, 16, 1, 2, 32))


def score_alone(model: RewardModel, prompt: list[int], response: list[int]) -> Tensor:
    """The score of one response by itself, from the classifier of `transformers`."""
    hidden = model.model.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0, -1]
    return model.model.score(hidden).squeeze() - model.offset


def scores_alone(model: RewardModel, c: Comparison) -> list[Tensor]:
    return [score_alone(model, c.prompt, r) for r in c.responses]


def step(judgements: list[Any], config: reward_model.Config = CONFIG) -> tuple[dict[str, float], list[Tensor]]:
    """Metrics and gradient of the first update on `judgements`."""
    fresh = model()
    metrics = reward_model.update(reward_model.init(fresh, judgements, config), judgements, config)
    return metrics, [p.grad for p in fresh.parameters()]


def loss(judgements: list[Any], config: reward_model.Config = CONFIG) -> float:
    return step(judgements, config)[0]["loss/reward_model"]


def test_the_loss_of_a_ranking_is_the_mean_over_its_pairs():
    """-1/C(K, 2) Σ log σ(r_w - r_l) (Ouyang et al. 2022, eq. 1), each response scored alone."""
    r = scores_alone(model(), TRIPLE)
    expected = -(F.logsigmoid(r[1] - r[0]) + F.logsigmoid(r[1] - r[2]) + F.logsigmoid(r[0] - r[2])) / 3
    assert loss([TRIPLE]) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("ranking", [TRIPLE, TIED])
def test_a_ranking_is_the_mean_of_its_pairs_as_comparisons_of_their_own(ranking):
    pairs = [
        Comparison(ranking.prompt, [ranking.responses[a], ranking.responses[b]], [1, 2])
        for a, b in itertools.permutations(range(len(ranking.ranks)), 2)
        if ranking.ranks[a] < ranking.ranks[b]
    ]
    whole, separate = step([ranking]), step(pairs)
    assert whole[0]["loss/reward_model"] == pytest.approx(separate[0]["loss/reward_model"], rel=1e-5)
    torch.testing.assert_close(whole[1], separate[1])


def test_responses_that_share_a_prompt_score_as_if_alone():
    fresh = model()
    context, spans = reward_model.endings(JUDGEMENTS)
    scores = fresh(context).squeeze(-1)
    for judgement, span in zip(JUDGEMENTS, spans, strict=True):
        responses = judgement.responses if isinstance(judgement, Comparison) else [judgement.response]
        alone = [score_alone(fresh, judgement.prompt, r) for r in responses]
        torch.testing.assert_close(scores[span], torch.stack(alone))


def test_thumbs_are_judged_against_a_score_of_0():
    good, bad = (score_alone(model(), j.prompt, j.response) for j in (GOOD, BAD))
    expected = -(F.logsigmoid(good) + F.logsigmoid(-bad)) / 2
    metrics, _ = step([GOOD, BAD])
    assert metrics["loss/reward_model"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["rewards/margins"] == pytest.approx((good - bad).item() / 2, rel=1e-4)
    assert metrics["rewards/accuracies"] == ((good > 0).float() + (bad < 0).float()).item() / 2


def test_a_margin_asks_for_more_distance():
    worse, better = scores_alone(model(), PAIR)
    expected = -F.logsigmoid(better - worse - 0.7).item()
    assert loss([PAIR._replace(margin=0.7)]) == pytest.approx(expected, rel=1e-5)


def test_ties_are_dropped_and_do_not_dilute_the_rest():
    assert loss([PAIR, TIE, TRIPLE]) == pytest.approx(loss([PAIR, TRIPLE]), rel=1e-6)
    torch.testing.assert_close(step([PAIR, TIE, TRIPLE])[1], step([PAIR, TRIPLE])[1])


def test_a_batch_of_nothing_but_ties_changes_nothing():
    state = reward_model.init(model(), [PAIR, TIE], CONFIG)
    before = [p.clone() for p in state.model.parameters()]
    assert reward_model.update(state, [TIE], CONFIG)["loss/reward_model"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))


def test_ties_as_even_odds_are_learned_too():
    half = dataclasses.replace(CONFIG, ties="half")
    a, b = scores_alone(model(), TIE)
    tie = -0.5 * (F.logsigmoid(a - b) + F.logsigmoid(b - a)).item()
    assert loss([TIE], half) == pytest.approx(tie, rel=1e-5)
    assert loss([PAIR, TIE], half) == pytest.approx((loss([PAIR]) + tie) / 2, rel=1e-5)
    pairs = 5 * loss([TIED])
    a, _, b, _ = scores_alone(model(), TIED)
    tie = -0.5 * (F.logsigmoid(a - b) + F.logsigmoid(b - a)).item()
    assert loss([TIED], half) == pytest.approx((pairs + tie) / 6, rel=1e-5)


def test_every_judgement_weighs_the_same_however_many_responses_it_has():
    assert loss(JUDGEMENTS) == pytest.approx(sum(loss([j]) for j in JUDGEMENTS) / len(JUDGEMENTS), rel=1e-5)


@pytest.mark.parametrize("budget", [0, 1, 20, 40])
@pytest.mark.parametrize("ties", ["drop", "half"])
def test_micro_batches_of_unequal_length_add_up_to_the_batch(budget, ties):
    config = dataclasses.replace(CONFIG, ties=ties)
    whole = step([*JUDGEMENTS, TIE], config)
    pieces = step([*JUDGEMENTS, TIE], dataclasses.replace(config, micro_batch=budget))
    assert pieces[0] == pytest.approx(whole[0], rel=1e-4, abs=1e-6)
    torch.testing.assert_close(pieces[1], whole[1], atol=1e-6, rtol=1e-4)


def test_no_judgement_is_dropped_when_the_batch_does_not_divide_them(monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=3, batch=2)
    seen: list[list[Any]] = []
    update = reward_model.update

    def watched(state: reward_model.State, judgements: list[Any], config: reward_model.Config) -> Any:
        seen.append(judgements)
        return update(state, judgements, config)

    monkeypatch.setattr(reward_model, "update", watched)
    state = reward_model.init(model(), JUDGEMENTS, config)
    assert len(list(reward_model.train(state, config))) == reward_model.steps(state, config) == 9
    assert [len(x) for x in seen] == [2, 2, 1] * 3
    for epoch in range(3):
        taken = [j for batch in seen[3 * epoch : 3 * epoch + 3] for j in batch]
        assert all(taken.count(j) == 1 for j in JUDGEMENTS)


def test_a_taste_is_learned_and_carries_over():
    """Liked is what has more 3s; scored on pairs that were not seen."""
    g = torch.Generator().manual_seed(0)

    def comparison() -> Comparison:
        responses = [torch.randint(1, 11, (6,), generator=g).tolist() for _ in range(4)]
        ranks = [1 + sum(other.count(3) > r.count(3) for other in responses) for r in responses]
        return Comparison([1], [[*r, 0] for r in responses], ranks)

    judgements = [c for c in (comparison() for _ in range(300)) if len(set(c.ranks)) > 1]
    train, test = judgements[:-50], judgements[-50:]
    config = reward_model.Config(epochs=4, batch=16, learning_rate=5e-3)
    state = reward_model.init(model(), train, config)

    def accuracy() -> float:
        context, spans = reward_model.endings(test)
        scores = reward_model.table(score(state.model, context).squeeze(-1), spans)
        margins = reward_model.margins_of(scores, test)
        return sum(m > 0 for m in margins) / len(margins)

    assert accuracy() < 0.75
    for _ in reward_model.train(state, config):
        pass
    assert accuracy() > 0.95


EXAMPLES = [Example(list(p), list(r)) for p in ([1], [2, 3]) for r in ([4, 0], [5, 6, 0], [7, 8, 9, 0], [0])]


def scores(model: RewardModel) -> Tensor:
    context = last_places([e.prompt for e in EXAMPLES], [e.response for e in EXAMPLES])
    return score(model, context).squeeze(-1)


def test_normalised_scores_have_mean_0_and_deviation_1_and_keep_their_order():
    fresh = model()
    before = scores(fresh)
    gain, offset = reward_model.normalise(fresh, EXAMPLES)
    after = scores(fresh)
    assert after.mean().item() == pytest.approx(0, abs=1e-5)
    assert after.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(after, gain * before - offset)
    assert gain > 0
    again = reward_model.normalise(fresh, EXAMPLES)
    assert again == pytest.approx((1, offset), abs=1e-4)
    torch.testing.assert_close(scores(fresh), after)


def test_the_scale_survives_saving_and_loading(tmp_path):
    from transformers import AutoModelForSequenceClassification

    fresh = model()
    reward_model.normalise(fresh, EXAMPLES)
    fresh.model.save_pretrained(tmp_path)
    loaded = RewardModel(AutoModelForSequenceClassification.from_pretrained(tmp_path))
    assert loaded.offset == fresh.offset != 0
    assert torch.equal(scores(loaded), scores(fresh))


@pytest.mark.parametrize("examples", [EXAMPLES[:1], EXAMPLES[:1] * 5])
def test_a_scale_that_cannot_be_measured_is_an_error_and_changes_nothing(examples):
    fresh = model()
    before = scores(fresh)
    with pytest.raises(InputError, match=f"scores of {len(examples)} examples do not differ"):
        reward_model.normalise(fresh, examples)
    assert torch.equal(scores(fresh), before)


@pytest.mark.parametrize(
    ("judgements", "message"),
    [
        ([TIE, TIE], "none of 2 judgements"),
        ([], "none of 0 judgements"),
        ([PAIR, TRIPLE._replace(margin=0.5)], r"judgement 1 has the margin 0.5 and the ranks \[2, 1, 3\]"),
        ([PAIR, TIE._replace(margin=0.5)], r"judgement 1 has the margin 0.5 and the ranks \[1, 1\]"),
    ],
)
def test_judgements_that_teach_nothing_or_contradict_themselves_are_refused(judgements, message):
    with pytest.raises(InputError, match=message):
        reward_model.init(model(), judgements, CONFIG)


def test_a_language_model_is_no_reward_model(unchecked_types):
    policy: Any = LanguageModel(small_model(11, 16, 1, 2, 32))
    with pytest.raises(InputError, match="the model is a LanguageModel; give a RewardModel"):
        reward_model.init(policy, JUDGEMENTS, CONFIG)
