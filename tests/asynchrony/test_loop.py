"""The loop with samplers that go on while a step is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.sync import SYNC
from tests.asynchrony.parts import apart, go
from tests.core.busy import plain
from tests.core.test_invariants import small


def weights(folder: Path) -> Any:
    return plain(torch.load(folder / "checkpoints" / "latest" / "training.pt", weights_only=True)["weights"])


@pytest.mark.parametrize("sync", SYNC)
@pytest.mark.parametrize("replicas", [1, 2])
def test_without_staleness_it_is_the_plain_loop_to_the_bit(
    toy_model: str, tmp_path: Path, sync: str, replicas: int
) -> None:
    go(small(toy_model, steps=4), tmp_path / "plain")
    run, ages = apart(toy_model, replicas, sync=SYNC[sync])
    go(run, tmp_path / "apart")
    assert weights(tmp_path / "apart") == weights(tmp_path / "plain")
    assert [max(g) for g in ages.gaps] == [0, 0, 0, 0]


@pytest.mark.parametrize("sync", SYNC)
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_no_row_is_older_than_that(toy_model: str, sync: str, ahead: int) -> None:
    """With one replica ten times as slow as the other, and a straggler in every group."""

    def pause(replica: int, ids: Any, params: SamplingParams) -> float:
        return (0.02 if params.seed % 3 == 0 else 0.002) * (1 + 4 * replica)

    run, ages = apart(toy_model, 2, pause, sync=SYNC[sync], ahead=ahead, steps=8)
    go(run)
    gaps = [g for gap in ages.gaps for g in gap]
    assert min(gaps) >= 0 and max(gaps) <= ahead and len(ages.gaps) == 8
    assert max(gaps) >= 1  # it did go on meanwhile
