"""QwenLong-L1.5: scales by source, the gate's hysteresis, exact shares of sources."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY
from temper.methods.objectives.qwenlong_l15 import TRUSTED, EntropyGate, SourceStd, qwenlong_l15
from temper.parts.advantages import Advantage, BatchStd
from temper.parts.domains import balanced
from temper.parts.logprobs import OLD_ENTROPY
from temper.tasks.task import Task
from tests.core.hand import chain
from tests.methods.groups import of


def of_sources(rows: list[tuple[str, str, float | None]]) -> Batch:
    return Batch.of([chain(Task(request, "?", source=source), request, 1, r) for source, request, r in rows])


TWO = [("qa", "1", 1.0), ("qa", "1", 0.0), ("code", "2", 0.1), ("code", "2", 0.0)]


def advantages(b: Batch, scale: object) -> list[float]:
    out = asyncio.run(Advantage(scale=scale)(b))  # type: ignore[arg-type]
    return out.mean(out[ADVANTAGE], TOKEN, TRAJECTORY).tolist()


def test_sources_with_scales_of_their_own_count_the_same() -> None:
    b = of_sources(TWO)
    a = advantages(b, SourceStd())
    assert a == pytest.approx([2**-0.5, -(2**-0.5)] * 2, rel=1e-3)
    whole = advantages(b, BatchStd())
    assert abs(whole[0]) > 9 * abs(whole[2])  # with the batch's σ they do not


def test_a_source_without_deviation_keeps_its_scale() -> None:
    b = of_sources([("qa", "1", 1.0), ("qa", "1", 1.0), ("code", "2", 0.5), ("code", "2", None)])
    assert SourceStd()(b, b[REWARD]).tolist() == [1.0] * 4
    assert advantages(b, SourceStd())[:3] == [0.0, 0.0, 0.0] and math.isnan(advantages(b, SourceStd())[3])


def test_the_mode_does_not_chatter_between_the_thresholds() -> None:
    gate, trace = EntropyGate(0.2, 0.6), []
    for h in (0.1, 0.4, 0.59, 0.61, 0.59, 0.4, 0.21, 0.19, 0.4, 0.59, 0.7):
        b = of([(1, 1.0), (1, 0.0), (1, None)])
        b = b.put(ADVANTAGE, torch.tensor([1.0, -1.0, math.nan])).put(OLD_ENTROPY, torch.full((3,), h))
        kept = asyncio.run(gate(b))[TRUSTED].tolist()
        assert kept[0] and kept[2] and b[ADVANTAGE][1] == -1.0
        trace.append(kept[1])
    assert trace == [True, True, True, False, False, False, False, True, True, True, False]
    other = EntropyGate(0.2, 0.6)
    other.load_state_dict(gate.state_dict())
    assert other.positive_only


def test_advantages_are_taken_before_anything_is_left_out() -> None:
    names = [type(s).__name__ for s in qwenlong_l15(None).on_batch]
    assert names == ["Advantage", "Read", "EntropyGate"]
    term = qwenlong_l15(None).terms[0]
    b = of([(1, 1.0), (2, 0.0)]).put(ADVANTAGE, torch.tensor([1.0, -1.0, -1.0]))
    b = b.put(TRUSTED, torch.tensor([True, False, False]))
    assert term.weights(b).tolist() == [1.0, 0.0, 0.0]  # the denominator is what is left


@pytest.mark.parametrize("n", [5, 6, 7])
def test_shares_of_sources_are_exact(n: int) -> None:
    tasks = [Task(f"{s}/{k}", "?", source=s) for s, size in (("a", 2), ("b", 7), ("c", 3)) for k in range(size)]
    curriculum = balanced(tasks, 4, 0)
    counts: Counter[str] = Counter()
    for step in range(1, 5):
        counts.update(r.task.source for r in curriculum.next(n))
        assert max(counts.values()) - min(counts.values()) <= 1, step
    assert {r.attempts for r in curriculum.next(3)} == {4}
