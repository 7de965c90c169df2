"""What runs fastest here: threads and dtype, measured on the model itself and not assumed."""

import time

import torch

from operant.text.context import blocks
from operant.text.language_model import LanguageModel


def probe(model: LanguageModel, rows: int = 16, length: int = 64) -> tuple[int, str]:
    """(threads, dtype) of the fastest training step: one thread or all, float32 or bfloat16 mixed precision.

    On an accelerator: the threads as they are, and bfloat16. Something else must be at least a tenth faster than one
    thread, and a fifth faster than float32, to be chosen.
    """
    threads = torch.get_num_threads()
    if model.model.device.type != "cpu":
        return threads, "bfloat16"
    vocabulary = model.model.config.vocab_size
    length = min(length, getattr(model.model.config, "max_position_embeddings", length))
    context, action = blocks(torch.randint(vocabulary, (rows, length)))
    before = model.dtype

    def seconds(count: int, dtype: str) -> float:
        torch.set_num_threads(count)
        model.dtype = dtype
        times = []
        for _ in range(4):
            start = time.perf_counter()
            model.evaluate(context, action).log_prob.sum().backward()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    try:
        one = seconds(1, "float32")
        best = threads if threads > 1 and seconds(threads, "float32") < 0.9 * one else 1
        mixed = seconds(best, "bfloat16") < 0.8 * seconds(best, "float32")
    finally:
        model.dtype = before
        model.zero_grad(set_to_none=True)
        torch.set_num_threads(threads)
    return best, "bfloat16" if mixed else "float32"
