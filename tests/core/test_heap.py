"""The queue gives back what a sorted list would."""

import numpy as np

from operant.core.heap import heap, pop, push


def test_items_come_out_by_priority_and_once():
    rng, queue = np.random.default_rng(0), heap(50)
    kept: dict[int, float] = {}
    for _ in range(3000):
        if rng.random() < 0.6:
            item, priority = int(rng.integers(50)), float(rng.integers(20))
            push(queue, item, priority)
            kept[item] = max(priority, kept.get(item, -1.0))
        else:
            item = pop(queue)
            if not kept:
                assert item == -1
                continue
            assert kept.pop(item) == max([*kept.values(), queue.priority[item]])
        assert queue.count[0] == len(kept)
    rest = [pop(queue) for _ in range(len(kept))]
    assert [kept[i] for i in rest] == sorted(kept.values(), reverse=True)
    assert pop(queue) == -1
    assert (queue.place == -1).all()


def test_a_lower_priority_changes_nothing():
    queue = heap(3)
    push(queue, 0, 5.0)
    push(queue, 1, 4.0)
    push(queue, 0, 1.0)
    assert (pop(queue), pop(queue)) == (0, 1)
