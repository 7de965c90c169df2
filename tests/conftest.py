"""What every test shares: shapes are checked, nothing reaches the network, one thread, one seed."""

import ast
import os
import random
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}

import hypothesis
import jaxtyping
import jaxtyping._import_hook as import_hook
import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[2] / "shared" / "data"

# An int is a float, as for every static checker. beartype knows Self only where it decorates the class itself.
CHECKER = (
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, "
    "hint_overrides=beartype.FrozenDict({__import__('typing').Self: object})))"
)
_marked_unchecked = import_hook._is_no_type_check


def _unchecked(decorator: ast.AST) -> bool:
    """numba compiles the bare function, so its kernels stay as they are."""
    return _marked_unchecked(decorator) or any(
        word in ast.unparse(decorator) for word in ("njit", "jitable", "overload")
    )


import_hook._is_no_type_check = _unchecked
jaxtyping.install_import_hook("operant", CHECKER)

torch.set_num_threads(1)
hypothesis.settings.register_profile("operant", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("operant")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.accelerator.is_available():
        pytest.skip("needs an accelerator")
    if item.get_closest_marker("data") and not DATA.is_dir():
        pytest.skip(f"needs the development data sets in {DATA}")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random numbers, alone or among others."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    return 0


@pytest.fixture
def data() -> Path:
    """The folder of development data sets; for tests marked `data`."""
    return DATA


@pytest.fixture
def unchecked_types():
    """As users run it: annotations are not enforced, so the functions' own messages can be seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
