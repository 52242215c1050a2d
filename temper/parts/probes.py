"""Measurements beside training that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from temper.carrier import Batch
from temper.columns import ENTROPY, LOGP
from temper.errors import UserError
from temper.request import Request
from temper.tasks.task import Task

if TYPE_CHECKING:
    from temper.run import Run


@dataclass
class HeldOutLoss:
    """The objective's terms on tasks that are not trained on, at the start, at the end and every `every` steps.

    For environments that sample nothing. Terms whose own parameters are trained, or that read hidden states, are
    left out.
    """

    tasks: Sequence[Task]
    every: int = 0
    name: str = "eval"

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UserError(f"eval_every must not be negative, got {self.every}")
        self.results: dict[str, dict[str, float]] = {}

    def due(self, step: int, steps: int) -> bool:
        return step in (0, steps) or bool(self.every and step % self.every == 0)

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        if not self.due(step, run.steps):
            return {}
        with run.timed("evaluation"):
            batch = await self._batch(run)
            found = {} if batch is None else self._losses(run, batch)
        for when in [w for w, s in (("before", 0), ("after", run.steps)) if s == step]:
            self.results[when] = found
        return found

    async def _batch(self, run: Run) -> Batch | None:
        from temper.evaluate import unmoved
        from temper.loop import play, together

        requests = [Request(t, 1, id=f"{i}:{t.id}", split=self.name) for i, t in enumerate(self.tasks)]
        with unmoved([*run.on_group, *run.on_batch]):
            counts, run.counts = run.counts, {}
            groups = [g for g in await together(play(run, r) for r in requests) if g is not None]
            run.counts = counts
            if not groups:
                return None
            batch = Batch.concat(groups)
            for stage in run.on_batch:
                batch = await stage(batch)
        return batch

    def _losses(self, run: Run, batch: Batch) -> dict[str, float]:
        found: dict[str, float] = {}
        for update in run.updates:
            live = update.policy.learner.read(batch, {LOGP: LOGP, ENTROPY: ENTROPY})
            for term in update.terms:
                if term.live_reads - {LOGP.name, ENTROPY.name}:
                    continue
                weights = term.weights(live)
                values, metrics = term.values(live)
                found[f"{self.name}/loss/{term.name}"] = float((weights * values.nan_to_num(nan=0.0)).sum())
                share = weights / weights.sum().clamp(min=1e-12)
                found |= {f"{self.name}/{n}": float((share * v.nan_to_num(nan=0.0)).sum()) for n, v in metrics.items()}
        return found

    def comparison(self) -> dict[str, Any]:
        """What summary.json says."""
        return {"held_out": self.results}

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.results = saved["results"]
