"""The kernels are compiled before anything is timed."""

import numpy as np
import pytest

from operant.mdp.model import from_transitions


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    from_transitions(np.zeros(1), np.zeros(1), np.ones(1), np.ones(1), np.zeros(1), 0.5, ends=[1])
