"""What the loop costs beside the model: a step's CPU seconds, less those of what it calls.

Called are: the sampler's admissions and decoding steps (`LocalSampler._admit`, `_step`: passes, draws, rows in and
out), the learner's forward passes with their log-probs (`layout.forward`, `score`), its backward passes, its optimiser
step with the gradient's clipping and release, and rewards. All else is the loop's: tasks and episodes, batches and
credit, micro-batches and their layout, terms and weights, publishing with fingerprints, metrics and records.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch

from temper.backends.local import LocalLearner
from temper.backends.local_sampler import LocalSampler
from temper.bench import ours
from temper.bench.stepper import Stepper
from temper.bench.workloads import Workload
from temper.models import layout

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("sampling", LocalSampler, "_admit"),
    ("sampling", LocalSampler, "_step"),
    ("forward", layout, "forward"),
    ("forward", layout, "score"),
    ("backward", torch.Tensor, "backward"),
    ("optimiser", LocalLearner, "_optimise"),
    ("optimiser", LocalLearner, "_forget_gradients"),
)


def share(workload: Workload, model: str, repeats: int = 5, warm_up: int = 2) -> dict[str, Any]:
    """{"ratio", "low", "high"}: the loop's share of a step's CPU seconds; "parts": median ms of each part of a step."""
    shares, parts = list[float](), list[dict[str, float]]()
    with _metered() as spent:
        stepper = Stepper(ours.loop(workload, model, {}, spent))
        for n in range(warm_up + repeats):
            spent.clear()
            whole = stepper.step().cpu
            if n >= warm_up:
                shares.append(1 - sum(spent.values()) / whole)
                parts.append({**spent, "loop": whole - sum(spent.values())})
        stepper.close()
    return {
        "ratio": statistics.median(shares), "low": min(shares), "high": max(shares),
        "parts": {name: 1e3 * statistics.median(p.get(name, 0.0) for p in parts) for name in parts[0]},
    }  # fmt: skip


@contextlib.contextmanager
def _metered() -> Iterator[dict[str, float]]:
    """CPU seconds by part, of every call while it is open."""
    spent: dict[str, float] = {}
    before = [(owner, name, getattr(owner, name)) for _, owner, name in PARTS]
    for part, owner, name in PARTS:
        setattr(owner, name, _timed(getattr(owner, name), part, spent))
    try:
        yield spent
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


def _timed(call: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    @wraps(call)
    def timed(*args: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return call(*args, **options)
        finally:
            spent[part] = spent.get(part, 0.0) + time.process_time() - began

    return timed
