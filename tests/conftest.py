"""Shared fixtures: one thread, and models built on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import temper.testing
from tests.seams.toys import save_toy_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a random model of 20 k parameters and the bundled tokenizer."""
    return save_toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def exact_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that computes in float64 when it is told to."""
    return temper.testing.toy_model(tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The data set beside the checkout, where it is there."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
    if not folder.is_dir():
        pytest.skip("the gsm8k files are not beside this checkout")
    return folder
