"""A reward model that says yes or no behind an attempt, trained on the policy's own samples between its updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import CORE, INFO, LOGP, REWARD, TOKEN, TRAJECTORY, Column, floating
from temper.episode import ENV, Episode, Trajectory, Turn
from temper.errors import UserError
from temper.objective import Term
from temper.parts.calibration import calibration
from temper.parts.self_evaluation import NO, YES, first_ids, follow_up, yes_probability

MODEL, MIXED = REWARD.of("model"), REWARD.of("mixed")
SCORE = Column("score", TOKEN, floating, "probability of yes where a verdict of the reward model stands")
TARGET = Column("verdict_weight", TOKEN, floating, "the label at the word yes, 1 − label at no; NaN: not known")
Labels = Literal["trace-back", "binary"]


def trace_back(rates: Sequence[float | None], gamma: float = 0.9) -> list[float]:
    """For each attempt of a chain of revisions max over j ≥ k of γ^(j−k)·rate_j; NaN where none of these is known."""
    out, best = list[float](), float("nan")
    for rate in reversed(rates):
        known = [x for x in (gamma * best, float("nan") if rate is None else rate) if x == x]
        best = max(known, default=float("nan"))
        out.append(best)
    return out[::-1]


def binary(rates: Sequence[float | None]) -> list[float]:
    """1 for an attempt that passes every test, else 0; NaN where that is not known."""
    return [float("nan") if rate is None else float(rate >= 1) for rate in rates]


@dataclass(frozen=True)
class SoftVerdict:
    """−label·log π(yes) − (1 − label)·log π(no), a row for each of the two words."""

    reads = (LOGP, TARGET)

    def __call__(self, b: Batch) -> Tensor:
        return -b[TARGET] * b[LOGP]


@dataclass
class RewardModel:
    """Writes MODEL, the model's p(yes) behind the last attempt, and MIXED = (1 − mix)·REWARD + mix·MODEL; then trains.

    The score is that before training on the same batch. What is not judged stays so in MIXED: a test that did not end
    is no failure. INFO must have "rates" (`temper.envs.revisions`). Metrics: reward_model/auroc of telling attempts
    that are right or will be from those that will not.

    model  a trainable policy of its own, with the tokenizer of the one that is judged
    """

    model: Any
    labels: Labels = "trace-back"
    gamma: float = 0.9
    mix: float = 0.5
    ask: str = "Does it pass its tests? Say yes or no."
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    reads = (REWARD,)
    uses = (*CORE, BEHAVIOUR)
    writes = (MODEL, MIXED)

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise UserError(f"mix is a share from 0 to 1, got {self.mix:g}")

    async def __call__(self, b: Batch) -> Batch:
        self.metrics = {}
        q = self.questions(b)
        if q is None:
            none = torch.full_like(b[REWARD], torch.nan)
            return b.put(MODEL, none).put(MIXED, b[REWARD] + 0 * none)
        score, nodes = self.scores(q), q[INFO]
        last = torch.full(b[REWARD].shape, torch.nan, dtype=b[REWARD].dtype)
        for info, p in zip(nodes, score.tolist()):
            if info["yes"] and info["last"]:
                last[info["of"]] = p
        known = [
            (info["solved"], p) for info, p in zip(nodes, score.tolist()) if info["yes"] and info["solved"] is not None
        ]
        if known:
            found = calibration([solved for solved, _ in known], [p for _, p in known])
            self.metrics = {f"reward_model/{k}": v for k, v in found.items() if k in ("auroc", "brier") and v == v}
        said = self.model.learner.update(q, [Term("verdict", SoftVerdict())])
        self.metrics |= {"reward_model/loss": said["loss/verdict"]} if "loss/verdict" in said else {}
        return b.put(MODEL, last).put(MIXED, (1 - self.mix) * b[REWARD] + self.mix * last)

    def scores(self, q: Batch) -> Tensor:
        """[trajectories of q] p(yes)."""
        out = self.model.learner.read(q, {SCORE: yes_probability(*self._words())})
        return q.mean(out[SCORE], TOKEN, TRAJECTORY)

    def _words(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        tokenizer = self.model.tokenizer
        return first_ids(tokenizer, NO, YES), first_ids(tokenizer, YES, NO)

    def questions(self, b: Batch) -> Batch | None:
        """Behind every attempt of the batch the question, with either answer; None where there is no attempt."""
        plays, made, n = to_episodes(b), list[Episode](), 0
        order = self._order(b)
        for play in plays:
            asked = self._asked(play, order[n : n + len(play.trajectories)])
            n += len(play.trajectories)
            made += [asked] if asked.trajectories else []
        if not made:
            return None
        q = Batch.of(made)
        weight = [info["label"] if info["yes"] else 1 - info["label"] for info in q[INFO]]
        return q.put(TARGET, q.spread(torch.tensor(weight), TRAJECTORY, TOKEN))

    def _order(self, b: Batch) -> list[int]:
        """The rows of the batch's trajectories in the order of `to_episodes`."""
        marked = b.put(MODEL, torch.arange(b.size(TRAJECTORY), dtype=torch.float32))
        return [int(t.rewards["model"]) for e in to_episodes(marked) for t in e.trajectories]

    def _asked(self, play: Episode, rows: Sequence[int]) -> Episode:
        turns = [replace(t, author=ENV, logp=None, finish=None, support=None, versions=None) for t in play.turns]
        paths, question = list[Trajectory](), follow_up(self.model.tokenizer, self.ask)
        for row, t in zip(rows, play.trajectories):
            rates = list(t.info.get("rates", ()))
            labels = trace_back(rates, self.gamma) if self.labels == "trace-back" else binary(rates)
            solved = [None if x != x else float(x >= 1) for x in trace_back(rates, 1.0)]
            mine = [u for u in t.turns if play.turns[u].author == t.role]
            for k, (u, label) in enumerate(zip(mine, labels)):
                said = play.turns[u].ids
                turns.append(Turn(question[said[-1:] == question[:1] :], u, text=self.ask))
                ask, noted = (
                    len(turns) - 1,
                    {"of": row, "last": k == len(mine) - 1, "solved": solved[k], "label": label},
                )
                for yes, ids in zip((False, True), self._words()):
                    turns.append(Turn(ids[:1], ask, t.role, "yes" if yes else "no"))
                    paths.append(Trajectory((ask, len(turns) - 1), t.role, info={**noted, "yes": yes}))
        return replace(play, turns=tuple(turns), trajectories=tuple(paths))
