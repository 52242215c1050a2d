"""Evaluation: attempts at held-out tasks, with intervals. It has its own random streams and no curriculum sees it."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from temper import streams
from temper.carrier import Batch
from temper.columns import FINISH, GROUP_KEY, OUTCOME, REWARD, ROLE, TASK, TOKEN, TRAJECTORY, TURN_TEXT, Column
from temper.errors import UserError
from temper.request import Env, Request
from temper.stage import Stage
from temper.tasks.task import Task

if TYPE_CHECKING:
    from temper.run import Run

RESAMPLES = 10_000


@dataclass
class Answers:
    """All attempts at one task: one entry an attempt in each list.

    reward  by which an attempt passes: of several reward functions the first that applies. NaN: not judged
    """

    task: Task
    reward: list[float]
    length: list[float]
    finished: list[bool]
    text: list[str]

    def passed(self, threshold: float) -> list[bool]:
        return [r >= threshold for r in self.reward]  # NaN is no pass


@dataclass
class Evaluation:
    """Plays every task `attempts` times with the run's environment and judges, at the start, the end and every N steps.

    trained    the sources that training may draw from; every other is reported as held out
    threshold  a reward at least this high is a pass (of several reward functions: the first that applies)
    every      steps between evaluations in the loop (0: only start and end)
    seed       of its random streams, the same at every evaluation: attempts are paired over time
    role       whose trajectories count (None: every role's); those of side groups (`Trajectory.group`) never do
    env        how the tasks are played (None: as in training). Answers of one tree are no independent attempts, and end
               early more or less often than single ones: evaluate one answer an attempt
    """

    tasks: Sequence[Task]
    attempts: int = 4
    every: int = 0
    threshold: float = 0.99
    trained: tuple[str, ...] = ()
    name: str = "eval"
    seed: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    role: str | None = None
    env: Env | None = None

    def __post_init__(self) -> None:
        if not len(self.tasks):
            raise UserError("there are no tasks to evaluate on: the data is empty")
        if self.attempts < 1:
            raise UserError(f"an evaluation needs at least 1 attempt at each task, got {self.attempts}")
        if self.every < 0:
            raise UserError(f"eval_every must not be negative, got {self.every}")
        self.results: dict[str, dict[str, Any]] = {}
        self.passes: dict[str, list[list[bool]]] = {}
        self.examples: dict[str, list[tuple[str, float]]] = {}
        self.dropped: dict[str, int] = {}  # of the last evaluation: reason -> attempts
        self.failed: dict[str, int] = {}  # the same of attempts that could not be judged

    def due(self, step: int, steps: int) -> bool:
        return step in (0, steps) or bool(self.every and step % self.every == 0)

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        """Metrics of this step (empty when no evaluation is due)."""
        if not self.due(step, run.steps):
            return {}
        answers = await self.play(run)
        scores = {**summarise(answers, self.threshold, self.trained), "failures": self.failed}
        for when in [w for w, s in (("before", 0), ("after", run.steps)) if s == step]:
            self.results[when] = scores
            self.passes[when] = [a.passed(self.threshold) for a in answers]
            self.examples[when] = [(a.text[0], a.reward[0]) for a in answers]
        flat = {f"{self.name}/pass@1": scores["pass@1"], f"{self.name}/mean_length": scores["mean_length"]}
        for source, s in scores["tasks"].items():
            flat |= {f"{self.name}/{source}/pass@1": s["pass@1"], f"{self.name}/{source}/mean_length": s["mean_length"]}
        return flat

    async def play(self, run: Run) -> list[Answers]:
        from temper.loop import together

        requests = [
            Request(t, self.attempts, self.sampling, id=f"{i}:{t.id}", split=self.name)
            for i, t in enumerate(self.tasks)
        ]
        stages = judges(run.on_group)
        with run.timed("evaluation"), unmoved(stages):
            counts, run.counts = run.counts, {}
            env, run.env = run.env, self.env or run.env
            groups = await together(judged(run, r, self.seed, stages) for r in requests)
            self.dropped = {
                k.removeprefix("dropped/"): int(n) for k, n in run.counts.items() if k.startswith("dropped/")
            }
            run.counts, run.env = counts, env
        self.failed = failures(groups)
        parts = next((s.decided_by for s in stages if hasattr(s, "decided_by")), ())
        return [answers_of(_of_role(g, self.role), t, self.attempts, parts) for g, t in zip(groups, self.tasks)]

    def comparison(self) -> dict[str, Any]:
        """What summary.json says: before, after, and their paired difference."""
        out: dict[str, Any] = dict(self.results)
        if {"before", "after"} <= set(self.results):
            sources = [t.source for t in self.tasks]
            out["difference"] = paired_difference(self.passes["before"], self.passes["after"], sources)
            out["examples"] = self._examples()
        if self.passes:
            counts = {when: [sum(p) for p in passes] for when, passes in self.passes.items()}
            tasks = [[t.source, t.id] for t in self.tasks]
            out["passes"] = {"tasks": tasks, "attempts": self.attempts, **counts}
        return out

    def _examples(self) -> list[dict[str, Any]]:
        """Two tasks of different sources: first those that failed before and pass now."""
        before, after = self.examples["before"], self.examples["after"]
        gain = [b[1] - a[1] if a[1] == a[1] and b[1] == b[1] else 0.0 for a, b in zip(before, after)]
        chosen: dict[str, int] = {}
        for i in sorted(range(len(gain)), key=lambda i: (-gain[i], i)):
            chosen.setdefault(self.tasks[i].source, i)
        rows = list(chosen.values())[:2]
        return [{"task": _task(self.tasks[i]), "before": _sample(before[i]), "after": _sample(after[i])} for i in rows]

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results, "passes": self.passes, "examples": self.examples}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.results, self.passes, self.examples = saved["results"], saved["passes"], saved["examples"]


async def judged(run: Run, request: Request, seed: int, stages: Sequence[Stage]) -> Batch | None:
    """All attempts at a request, with their rewards."""
    from temper.loop import attempts

    group = await attempts(run, request, seed)
    if group is not None:
        for stage in stages:
            group = await run.apply(stage, group)
    return group


def judges(stages: Sequence[Stage]) -> list[Stage]:
    """The stages that write REWARD, and what these need; not those that reshape a reward for training."""
    needed, kept = {REWARD}, list[Stage]()
    for stage in reversed(stages):
        if needed & set(stage.writes) and REWARD not in stage.reads:
            needed |= set(stage.reads)
            kept.insert(0, stage)
    return kept


@contextlib.contextmanager
def unmoved(stages: Sequence[Any]) -> Iterator[None]:
    """Evaluation leaves no trace in what the stages remember or report for training."""
    saved = [(s, copy.deepcopy(s.state_dict())) for s in stages if hasattr(s, "state_dict")]
    yield
    for stage, memory in saved:
        stage.load_state_dict(memory)
    for stage in stages:
        getattr(stage, "metrics", None)  # reading them starts the next step's afresh


def failures(groups: Sequence[Batch | None]) -> dict[str, int]:
    """{why an attempt has no reward: how many}, the most frequent first, at most five."""
    why = Counter(o for g in groups if g is not None and OUTCOME in g for o in g[OUTCOME] if o != "ok")
    return dict(why.most_common(5))


def _of_role(b: Batch | None, role: str | None) -> Batch | None:
    if b is None:
        return None
    main = [key == "" for key in b[GROUP_KEY]]
    kept = [main[g] and role in (None, r) for g, r in zip(b.structure.group.tolist(), b[ROLE])]
    return b if all(kept) else b.select(torch.tensor(kept))


def deciding(b: Batch, parts: Sequence[Column]) -> Tensor:
    """[trajectories] the first of several `parts` of the reward that applies, else the reward; NaN: not judged.

    A sum would pass what is wrong, where a form is rewarded beside what is asked for.
    """
    found = b[REWARD]
    for part in reversed(parts if len(parts) > 1 else ()):
        found = torch.where(b[part].isnan(), found, b[part])
    return torch.where(b[REWARD].isnan(), b[REWARD], found)


def answers_of(group: Batch | None, task: Task, attempts: int, parts: Sequence[Column] = ()) -> Answers:
    """The attempts of a played request; attempts that were dropped count as not judged. parts: of their reward."""
    if group is None:
        return Answers(task, [float("nan")] * attempts, [0.0] * attempts, [False] * attempts, [""] * attempts)
    n = group.size(TRAJECTORY)
    reward = deciding(group, parts).tolist() if REWARD in group else [float("nan")] * n
    length = group.count(TOKEN, TRAJECTORY).tolist()
    last = [[u for u in group.turns_of(j) if group.structure.sampled[u]] for j in range(n)]
    text = [group[TURN_TEXT][us[-1]] if us else "" for us in last]
    finished = [bool(us) and group[FINISH][us[-1]] == "stop" for us in last]
    lost = attempts - n
    return Answers(
        group[TASK][0] if n else task,
        reward + [float("nan")] * lost, length + [0.0] * lost, finished + [False] * lost, text + [""] * lost,
    )  # fmt: skip


def summarise(answers: Sequence[Answers], threshold: float, trained: Sequence[str] = ()) -> dict[str, Any]:
    """pass@1 (mean over sources) with interval, and per source pass@k, majority@k, length and format failures."""
    sources = list(dict.fromkeys(a.task.source for a in answers))
    tasks = {}
    for source in sources:
        mine = [a for a in answers if a.task.source == source]
        passes = [a.passed(threshold) for a in mine]
        tasks[source] = {
            "pass@1": float(np.mean([np.mean(p) for p in passes])),
            "interval": bootstrap_mean([float(np.mean(p)) for p in passes], [source] * len(passes)),
            "pass@k": {
                str(k): float(np.mean([pass_at_k(p, k) for p in passes])) for k in powers(min(map(len, passes)))
            },
            "maj@k": float(np.mean([majority(a, threshold) for a in mine])),
            "reward": float(np.nanmean([np.nan, *[r for a in mine for r in a.reward]])) if _any(mine) else None,
            "not_judged": float(np.mean([r != r for a in mine for r in a.reward])),
            "mean_length": float(np.mean([n for a in mine for n in a.length])),
            "format_failures": float(np.mean([not f for a in mine for f in a.finished])),
            "tasks": len(mine),
            "attempts": len(passes[0]),
            "trained": source in trained,
        }
    means, names = [float(np.mean(a.passed(threshold))) for a in answers], [a.task.source for a in answers]
    return {
        "pass@1": float(np.mean([t["pass@1"] for t in tasks.values()])),
        "interval": bootstrap_mean(means, names),
        "not_judged": float(np.mean([t["not_judged"] for t in tasks.values()])),
        "mean_length": float(np.mean([t["mean_length"] for t in tasks.values()])),
        "tasks": tasks,
    }


def pass_at_k(passed: Sequence[bool], k: int) -> float:
    """Unbiased probability that k of the attempts drawn without replacement hold a pass (Chen et al. 2021, eq. 1)."""
    n, c = len(passed), sum(passed)
    return 1.0 - comb(n - c, k) / comb(n, k)


def majority(a: Answers, threshold: float) -> bool:
    """Whether the most frequent final answer passes (ties: the one that came first)."""
    final = [answer_text(t) for t in a.text]
    best = Counter(final).most_common(1)[0][0]
    return a.passed(threshold)[final.index(best)]


def answer_text(text: str) -> str:
    """What counts as the answer of a text: after the reasoning, inside answer tags when there are any."""
    text = text.rsplit("</think>", 1)[-1]
    if "<answer>" in text:
        text = text.split("<answer>", 1)[1].split("</answer>", 1)[0]
    return " ".join(text.split())


def powers(n: int) -> list[int]:
    """1, 2, 4, … up to n."""
    return [2**i for i in range(n.bit_length()) if 2**i <= n]


def bootstrap_mean(values: Sequence[float], sources: Sequence[str], level: float = 0.95) -> list[float]:
    """Interval of the mean over sources of the means over tasks, tasks resampled within each source."""
    rng = streams.generator(0, "bootstrap", len(values))
    parts = []
    for source in dict.fromkeys(sources):
        x = np.array([v for v, s in zip(values, sources) if s == source])
        parts.append(x[rng.integers(0, len(x), (RESAMPLES, len(x)))].mean(1))
    low, high = np.quantile(np.mean(parts, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def paired_difference(
    before: Sequence[Sequence[bool]], after: Sequence[Sequence[bool]], sources: Sequence[str]
) -> dict[str, Any]:
    """Rise of pass@1 on the same tasks, with a paired bootstrap over tasks."""
    rise = [float(np.mean(b) - np.mean(a)) for a, b in zip(before, after)]
    each = {}
    for source in dict.fromkeys(sources):
        mine = [r for r, s in zip(rise, sources) if s == source]
        each[source] = {"pass@1": float(np.mean(mine)), "interval": bootstrap_mean(mine, [source] * len(mine))}
    mean = float(np.mean([t["pass@1"] for t in each.values()]))
    method = f"paired bootstrap over tasks, {RESAMPLES} resamples, 95 %"
    return {"pass@1": mean, "interval": bootstrap_mean(rise, sources), "method": method, "tasks": each}


def _any(answers: Sequence[Answers]) -> bool:
    return any(r == r for a in answers for r in a.reward)


def _task(t: Task) -> dict[str, Any]:
    return {"id": t.id, "source": t.source, "prompt": t.prompt, "answer": t.answer}


def _sample(x: tuple[str, float]) -> dict[str, Any]:
    return {"text": x[0], "reward": x[1] if x[1] == x[1] else None}
