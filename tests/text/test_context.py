"""Token rows and their packing: checked against the rows themselves, without a network."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from operant.core.record import micro_batches
from operant.text.context import Context, blocks, last_places, pack, rows

ids = st.lists(st.integers(0, 9), max_size=5)
prompts = st.lists(st.integers(0, 9), min_size=1, max_size=5)
groups = st.lists(st.tuples(prompts, st.lists(ids, min_size=1, max_size=3)), min_size=1, max_size=4)


def flat(groups: list[tuple[list[int], list[list[int]]]]) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses, row by row."""
    return [p for p, group in groups for _ in group], [r for _, group in groups for r in group]


def seen(
    context: Context, share: bool = True, multiple: int = 1, single: bool = False
) -> list[list[tuple[list[int], list[int]]]]:
    """For every decision of every row, the (tokens, positions) that its place can attend to, in order of position."""
    packed = pack(context, share, multiple, single)
    height, width = packed.token.shape
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    attention = causal.expand(height, 1, -1, -1) if packed.attention is None else packed.attention
    if packed.spans is not None:
        assert height == 1
        attention = torch.zeros(1, 1, width, width, dtype=torch.bool)
        for a, b, c, d in packed.spans.tolist():
            attention[0, 0, c:d, a:b] = True
            attention[0, 0, c:d, c:d] = causal[c:d, c:d]
    position = torch.arange(width).expand(height, -1) if packed.position is None else packed.position
    found = []
    for places, mask in zip(packed.place, context.mask, strict=True):
        found.append([])
        for place in places[mask].tolist():
            row, column = divmod(place, width)
            keys = attention[row, 0, column].nonzero().squeeze(-1)
            order = keys[position[row, keys].argsort(stable=True)]
            found[-1].append((packed.token[row, order].tolist(), position[row, order].tolist()))
    return found


def due(context: Context) -> list[list[tuple[list[int], list[int]]]]:
    """The same from the definition: all tokens of the row up to the place."""
    return [
        [(token[: p + 1].tolist(), list(range(p + 1))) for p in places[places >= 0].tolist()]
        for token, places in zip(context.token, context.place, strict=True)
    ]


class TestRows:
    @given(groups)
    def test_each_decision_is_the_token_after_its_place(self, groups):
        p, r = flat(groups)
        context, action, mask = rows(p, r)
        assert [a[m].tolist() for a, m in zip(action, mask, strict=True)] == r
        for b in range(len(p)):
            assert context.token[b, context.place[b][mask[b]] + 1].tolist() == r[b]
            assert context.token[b, : context.shared[b]].tolist() == p[b]
        assert torch.equal(mask, context.mask)

    def test_only_marked_tokens_are_decisions(self):
        context, action, mask = rows([[5], [6]], [[7, 8, 9], [7, 8, 9]], [[True, False, True], None])
        assert mask.tolist() == [[True, False, True], [True, True, True]]
        assert context.place.tolist() == [[0, -1, 2], [0, 1, 2]]
        assert action[mask].tolist() == [7, 9, 7, 8, 9]

    def test_lengths_and_not_ids_say_what_is_padding(self):
        _, _, mask = rows([[0], [0]], [[0, 0, 0], [0]])
        assert mask.tolist() == [[True] * 3, [True, False, False]]

    def test_equal_prompts_share_where_they_follow_one_another(self):
        context, _, _ = rows([[1], [1], [2], [1]], [[3]] * 4)
        assert context.prompt.tolist() == [0, 0, 2, 3]

    def test_an_empty_response_is_a_row_without_a_decision(self):
        context, _, mask = rows([[1, 2], [1, 2]], [[], [3]])
        assert mask.tolist() == [[False], [True]]
        assert seen(context) == due(context) == [[], [([1, 2], [0, 1])]]
        assert context.extent.sum(-1).tolist() == [0, 2]

    @pytest.mark.parametrize("prompts", [[[1], [2]], [[1, 2], [1, 2]]])
    def test_nothing_but_empty_responses(self, prompts):
        context, action, mask = rows(prompts, [[], []])
        assert action.shape == mask.shape == (2, 1)
        assert not mask.any()
        assert seen(context) == [[], []]
        assert len(list(micro_batches(context.extent, 1))) == 2

    def test_prompts_and_responses_must_be_as_many(self):
        with pytest.raises(ValueError, match="shorter"):
            rows([[1], [2]], [[3]])


def test_in_blocks_every_token_but_the_first_is_a_decision():
    token = torch.arange(12).view(3, 4)
    context, action = blocks(token)
    assert action.tolist() == token[:, 1:].tolist()
    assert seen(context) == due(context)
    assert [len(decisions) for decisions in seen(context)] == [3, 3, 3]


class TestLastPlaces:
    @given(groups)
    def test_is_the_last_token_of_every_row(self, groups):
        p, r = flat(groups)
        whole = [p + r for p, r in zip(p, r, strict=True)]
        assert [tokens for ((tokens, _),) in seen(last_places(p, r))] == whole

    def test_everything_up_to_it_is_read(self):
        assert last_places([[1, 2], [3]], [[4, 5], []]).extent.sum(-1).tolist() == [4, 1]


class TestPack:
    @given(groups, st.booleans(), st.booleans())
    def test_a_decision_sees_its_own_row_up_to_its_place_and_nothing_else(self, groups, share, single):
        context, _, _ = rows(*flat(groups))
        assert seen(context, share, single=single) == due(context)

    @given(groups, st.randoms(use_true_random=False))
    def test_rows_of_one_prompt_need_not_be_neighbours(self, groups, random):
        p, r = flat(groups)
        order = list(range(len(p)))
        random.shuffle(order)
        context = rows(p, r)[0][torch.tensor(order)]
        assert seen(context) == due(context)
        assert seen(context, single=True) == due(context)

    @given(groups, st.randoms(use_true_random=False))
    def test_any_part_of_a_row_can_be_read(self, groups, random):
        """Decisions in the prompt too, and rows that end before their prompt does."""
        context, _, _ = rows(*flat(groups))
        length = context.shared + context.mask.sum(-1)
        place = torch.tensor([[random.randrange(-1, int(n)) for _ in range(3)] for n in length])
        context = dataclasses.replace(context, place=place)
        assert seen(context) == due(context)
        assert seen(context, single=True) == due(context)

    @given(groups)
    def test_a_prompt_is_stored_once(self, groups):
        p, r = flat(groups)
        context = last_places(p, r)
        owner = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(g) for _, g in groups]))
        context = dataclasses.replace(context, prompt=owner)
        packed = pack(context)
        lengths = [len(prompt) + sum(map(len, group)) for prompt, group in groups]
        assert packed.token.shape == (len(groups), max(lengths))
        assert pack(context, flat=True).token.shape == (1, sum(lengths))

    @given(groups)
    def test_no_place_attends_to_nothing(self, groups):
        """The softmax over an empty set would be NaN, also in padding, and spread through the gradient."""
        attention = pack(rows(*flat(groups))[0]).attention
        assert attention is None or attention.any(-1).all()

    @given(groups, st.sampled_from([-100, 7, 10**9]), st.integers(1, 3))
    def test_what_stands_in_the_padding_is_never_read(self, groups, garbage, more):
        p, r = flat(groups)
        context, _, _ = rows(p, r)
        length = torch.tensor([len(p) + len(r) for p, r in zip(p, r, strict=True)])
        padded = torch.cat([context.token, torch.zeros(len(p), more, dtype=torch.long)], 1)
        token = padded.where(torch.arange(padded.shape[1]) < length.unsqueeze(-1), garbage)
        dirty, clean = pack(dataclasses.replace(context, token=token)), pack(context)
        assert torch.equal(dirty.token, clean.token)
        assert torch.equal(dirty.place, clean.place)

    @given(groups, st.booleans(), st.integers(2, 16), st.booleans())
    def test_a_wider_row_sees_the_same(self, groups, share, multiple, single):
        context, _, _ = rows(*flat(groups))
        packed = pack(context, share, multiple, single)
        assert packed.token.shape[1] % multiple == 0
        assert packed.attention is None or packed.attention.any(-1).all()
        assert seen(context, share, multiple, single) == seen(context, share)

    @given(groups, st.booleans())
    def test_no_token_of_a_single_row_is_in_two_spans(self, groups, share):
        packed = pack(rows(*flat(groups))[0], share, flat=True)
        covered = [i for _, _, c, d in packed.spans.tolist() for i in range(c, d)]
        assert sorted(covered) == list(range(packed.token.shape[1]))

    @given(groups)
    def test_micro_batches_see_what_the_whole_sees(self, groups):
        context, _, _ = rows(*flat(groups))
        whole = due(context)
        for index in micro_batches(context.extent, 8):
            assert seen(context[index]) == [whole[i] for i in index.tolist()]
