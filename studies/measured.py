"""What studies of tool use look at in a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from temper.carrier import Batch
from temper.columns import GROUP_KEY, INFO, REWARD
from temper.run import Run


@dataclass
class Share:
    """Of the calls of some episodes of a batch, the share that is counted; a stage that only measures.

    counts  the outcome of a call → is it counted?; of: the reward of an episode → does it belong?
    """

    name: str
    counts: Callable[[str], bool]
    of: Callable[[float], bool] = lambda reward: True
    metrics: dict[str, float] = field(default_factory=dict, init=False)
    reads = (INFO, REWARD, GROUP_KEY)
    writes = ()

    async def __call__(self, b: Batch) -> Batch:
        aside = [b[GROUP_KEY][g] != "" for g in b.structure.group.tolist()]
        rows = zip(b[INFO], b[REWARD].tolist(), aside, strict=True)
        calls = [c["outcome"] for info, r, side in rows if not side and self.of(r) for c in info.get("calls", ())]
        self.metrics = {self.name: sum(map(self.counts, calls)) / len(calls)} if calls else {}
        return b

    def watch(self, run: Run) -> None:
        """Measure every batch of a run."""
        run.on_batch = [self, *run.on_batch]
