"""The KV cache with room: the same numbers as `transformers`' own, without moving what it holds."""

import itertools

import pytest
import torch
from transformers import DynamicCache

from operant.text.cache import roomy_cache


def grow(cache, widths, then=lambda cache, step: None):
    """What a layer returns for tokens that come `widths` at a time; `then` may change the cache in between."""
    generator, found, rows = torch.Generator().manual_seed(0), [], 3
    for step, width in enumerate(widths):
        key, value = (torch.randn(rows, 2, width, 4, generator=generator) for _ in range(2))
        found.append(tuple(x.clone() for x in cache.update(key, value, 0)))
        then(cache, step)
        rows = cache.layers[0].keys.shape[0]
    return found


def fork(cache, step):
    if step == 2:
        cache.batch_repeat_interleave(6)
    if step % 5 == 4:
        cache.batch_select_indices(torch.arange(len(cache.layers[0].keys) - 1))


@pytest.mark.parametrize("widths", [[1] * 20, [300, *[1] * 50], [5, 1, 40, 1, 200, 1, 1]])
@pytest.mark.parametrize("then", [lambda cache, step: None, fork])
def test_it_returns_what_the_copying_cache_returns(widths, then):
    theirs, ours = grow(DynamicCache(), widths, then), grow(roomy_cache(), widths, then)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_what_it_holds_is_moved_rarely():
    places = []
    grow(roomy_cache(), [100, *[1] * 200], lambda cache, step: places.append(cache.layers[0].keys.data_ptr()))
    assert sum(a != b for a, b in itertools.pairwise(places)) <= 6
