"""Learning-rate and coefficient schedules: plain functions of the fraction of a run that is done."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def scheduled(schedule: Schedule, done: float, warmup: float = 0.0, floor: float = 0.0) -> float:
    """The factor on a peak value when the fraction `done` in [0, 1] of a run is over.

    A linear rise over the first `warmup` (a fraction), then 1 ("constant"), a line ("linear") or half a cosine
    ("cosine", Loshchilov and Hutter 2017) down to `floor`.
    """
    if schedule not in ("constant", "linear", "cosine"):
        raise ValueError(f"schedule is one of constant, linear, cosine; got {schedule!r}")
    if done < warmup:
        return done / warmup
    rest = min((done - warmup) / max(1 - warmup, 1e-12), 1.0)
    if schedule == "constant":
        return 1.0
    shape = 1 - rest if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * rest))
    return floor + (1 - floor) * shape
