"""What diagnosis needs of a step beyond the usual record: a few numbers of its batch, and what was seen so far."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from temper.carrier import Batch
from temper.columns import AUTHOR, GROUP, REWARD, TASK, TOKEN, TRAJECTORY, VERSION

FEW = 10  # attempts: of fewer, no share of a rollout is called its tail
PASSED = 0.99  # a reward at least this high solves a task, as in an evaluation


def answers(b: Batch) -> dict[str, float]:
    """How alike the answers are.

    frac_duplicates   share of attempts that repeat, id for id, an earlier one at the same task
    answers/top_share share of the most frequent answer, over all tasks; answers/expected_share: the same of the answers
                      that the tasks have (of their prompts, where they have none)
    """
    s = b.structure
    start, sampled, ids = s.start.tolist(), s.sampled.tolist(), s.ids.numpy()
    said = [b"".join(ids[start[u] : start[u + 1]].tobytes() for u in path if sampled[u]) for path in s.paths]
    groups: list[set[bytes]] = [set() for _ in range(s.groups)]
    for answer, g in zip(said, s.group.tolist()):
        groups[g].add(answer)
    again = len(said) - sum(map(len, groups))
    chances = len(said) - sum(1 for g in groups if g)
    out = {"frac_duplicates": again / chances} if chances else {}
    if said:
        tasks = Counter(str(t.prompt if t.answer is None else t.answer) for t in b[TASK])
        out["answers/top_share"] = Counter(said).most_common(1)[0][1] / len(said)
        out["answers/expected_share"] = tasks.most_common(1)[0][1] / s.groups
    return out


def rewards(b: Batch, r: Tensor, spread: Tensor, std: Tensor) -> dict[str, float]:
    """Of rewards `r` [trajectories]: range, share that passed, what groups without spread scored, ties to length.

    spread [trajectories] is r less its group's mean, std [groups] (both NaN where nothing was judged).
    length_reward_corr is the correlation inside groups, pooled over those whose rewards differ.
    """
    judged = r[~r.isnan()]
    if not len(judged):
        return {}
    out = {"reward_min": float(judged.min()), "reward_max": float(judged.max())}
    out["frac_passed"] = float((r >= PASSED).float().mean())
    level = b.mean(r, TRAJECTORY, GROUP)[std == 0]
    if len(level):
        out["zero_std_reward"] = float(level.mean())
    length = b.count(TOKEN, TRAJECTORY)
    kept = ~spread.isnan() & (std > 0)[b.structure.group]
    centre = b.mean(torch.where(kept, length, torch.full_like(length, torch.nan)), TRAJECTORY, GROUP)
    x, y = (length - b.spread(centre, GROUP, TRAJECTORY))[kept], spread[kept]
    scale = float((x * x).sum() * (y * y).sum())
    if scale > 0:
        out["length_reward_corr"] = float((x * y).sum()) / math.sqrt(scale)
    return out


def staleness(b: Batch, current: Mapping[str, int]) -> dict[str, float]:
    """How many updates old the weights were that sampled the turns; `current` is the version of each trained role."""
    authors, versions = b[AUTHOR], b[VERSION].tolist()
    turns = b.structure.sampled.nonzero().flatten().tolist()
    old = [current[authors[u]] - versions[u] for u in turns if authors[u] in current and versions[u] >= 0]
    return {"staleness/mean": sum(old) / len(old), "staleness/max": float(max(old))} if old else {}


class Seen:
    """Which tasks were in a batch so far, and which had an attempt that passed (reward at least PASSED)."""

    def __init__(self) -> None:
        self.tasks: dict[int, bool] = {}

    def add(self, b: Batch) -> dict[str, float]:
        """Metrics after this batch: distinct tasks seen and solved so far, and the share of groups that were new."""
        best = _best(b)
        keys = [_key(t) for t in b[TASK]]
        new = sum(k not in self.tasks for k in dict.fromkeys(keys))
        for k, passed in zip(keys, best):
            self.tasks[k] = self.tasks.get(k, False) or passed
        out = {"tasks/seen": float(len(self.tasks)), "tasks/new": new / max(1, len(keys))}
        return out | ({"tasks/solved": float(sum(self.tasks.values()))} if REWARD in b else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "keys": torch.tensor(list(self.tasks), dtype=torch.int64),
            "solved": torch.tensor(list(self.tasks.values()), dtype=torch.bool),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.tasks = dict(zip(saved["keys"].tolist(), saved["solved"].tolist()))


class Attempts:
    """When attempts began and ended, for the tail of a rollout, and what each took."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.took: list[float] = []
        self.began = math.inf

    @contextmanager
    def one(self) -> Iterator[None]:
        """The block is an attempt."""
        began = time.perf_counter()
        self.began = min(self.began, began)
        try:
            yield
        finally:
            self.ended.append(time.perf_counter())
            self.took.append(self.ended[-1] - began)

    def take(self) -> dict[str, Any]:
        """perf/tail_share: of the time from the first beginning to the last end, what passed after 9 of 10 had ended;
        perf/attempt_s: a histogram of the seconds of each.

        Absent for fewer than FEW attempts; forgets them.
        """
        ended, took, began = sorted(self.ended), self.took, self.began
        self.ended, self.took, self.began = [], [], math.inf
        if len(ended) < FEW or ended[-1] <= began:
            return {}
        share = (ended[-1] - ended[math.ceil(0.9 * len(ended)) - 1]) / (ended[-1] - began)
        return {"perf/tail_share": share, "perf/attempt_s": histogram(took)}


def _best(b: Batch) -> list[bool]:
    """[groups] whether an attempt passed."""
    out = [False] * b.structure.groups
    if REWARD in b:
        for g, r in zip(b.structure.group.tolist(), b[REWARD].tolist()):
            out[g] = out[g] or r >= PASSED
    return out


def _key(task: Any) -> int:
    """63 bits of the task's source and id."""
    digest = hashlib.blake2b(f"{task.source}\0{task.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def histogram(values: list[float], bins: int = 20) -> dict[str, list[float]]:
    """{"edges": [bins + 1], "counts": [bins]}, both empty for no values."""
    import numpy as np

    if not values:
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(values, bins=bins)
    return {"edges": [float(e) for e in edges], "counts": [int(c) for c in counts]}
