"""What a run that is over took, out of its directory: latencies of attempts, and the world that it was in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from temper.errors import UserError
from temper.simulate.plan import Load
from temper.simulate.world import Recorded, World

SECONDS = "perf/attempt_s"  # in metrics.jsonl: a histogram of the attempts' seconds, waiting for a free slot included


@dataclass(frozen=True)
class Measured:
    """groups, attempts: of a step; rows: of metrics.jsonl, without the first step, which warms up."""

    groups: int
    attempts: int
    rows: Sequence[Mapping[str, Any]]

    @staticmethod
    def of(folder: Path) -> Measured:
        """UserError where the folder holds no run of two steps or more that noted what its attempts took."""
        try:
            units = json.loads((folder / "run.json").read_text())["units"]
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            rows = [r for r in lines if r.get(SECONDS) and r["step"] > 1]
            found = Measured(int(units["groups per step"]), int(units["attempts per group"] or 1), rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder} is no run directory ({type(error).__name__}: {error})")
        if not rows:
            raise UserError(
                f"{folder}/metrics.jsonl has no {SECONDS} behind the first step: run two steps of ten attempts"
            )
        return found

    @property
    def latencies(self) -> Recorded:
        """Seconds of attempts, each the middle of its bin."""
        return Recorded([max(x, 1e-9) for row in self.rows for x in _middles(row[SECONDS])])

    @property
    def load(self) -> Load:
        """Prompts count as one token: their time is in the answers'."""
        return Load(self.groups, self.attempts, mean(r["completions/mean_length"] for r in self.rows), 1.0)

    @property
    def seconds(self) -> float:
        """Of a step: the median."""
        return median(r["timing_s/step"] for r in self.rows)

    def world(self) -> World:
        """As if it came again: one sampler that decodes all answers of a step at once, and one learner.

        Holds for other lengths of answers and numbers of groups as far as a token takes as long with other rows beside.
        """
        tokens = [r["ledger/sampled_tokens"] for r in self.rows]
        rest = [
            r["timing_s/step"] - r[SECONDS]["edges"][-1] - r["timing_s/update"] - r["timing_s/sync"] for r in self.rows
        ]
        return World(
            samplers=1, slots=self.groups * self.attempts, token=mean(self.latencies.values) / self.load.tokens,
            tail=self.latencies, train=median(r["timing_s/update"] / n for r, n in zip(self.rows, tokens)),
            step=max(0.0, median(rest)), transfer=median(r["timing_s/sync"] for r in self.rows), streamed=False,
        )  # fmt: skip


def _middles(histogram: Mapping[str, Sequence[float]]) -> list[float]:
    edges, counts = histogram["edges"], histogram["counts"]
    return [(a + b) / 2 for a, b, n in zip(edges, edges[1:], counts, strict=False) for _ in range(int(n))]
