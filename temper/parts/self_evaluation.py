"""The policy asked whether its own answer is right: examples of the verdict, and how sure it is of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import (
    ALLOWED,
    CORE,
    HIDDEN,
    INFO,
    REWARD,
    SUPPORT,
    TEMPERATURE,
    TOKEN,
    TRAJECTORY,
    TURN,
    VERSION,
    Column,
    floating,
)
from temper.envs.chat import shown
from temper.episode import Episode, Trajectory, Turn
from temper.errors import UserError
from temper.models.render import renderer_of
from temper.parts.calibration import calibration, weighted_majority
from temper.parts.demonstrations import with_columns_of
from temper.rewards.checkers import final_part

CONFIDENCE = Column("confidence", TOKEN, floating, "p(yes)/(p(yes) + p(no)) where a verdict stands, else NaN")
ASK = "Is this answer correct? Say yes or no."
YES, NO = ("yes", "Yes", "YES", " yes", " Yes"), ("no", "No", "NO", " no", " No")


def follow_up(tokenizer: Any, ask: str) -> tuple[int, ...]:
    """The ids of a user's message behind an answer, and of the opening of the next one."""
    render, said = renderer_of(tokenizer), [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    text = render.text([*said, {"role": "user", "content": ask}])
    past = shown(text, render.text(said[:1]), "a")
    if past is None:
        raise UserError("the chat template shows an earlier answer in another way: nothing can be asked behind it")
    return render.ids(text[past:])


def first_ids(tokenizer: Any, these: Sequence[str], others: Sequence[str]) -> tuple[int, ...]:
    """The first ids of `these` spellings that begin none of the `others`, in order. UserError where none is left."""
    begins = [[tokenizer.encode(x, add_special_tokens=False)[0] for x in words] for words in (these, others)]
    ids = tuple(dict.fromkeys(i for i in begins[0] if i not in begins[1]))
    if not ids:
        raise UserError(f"the tokenizer cannot tell {these[0]!r} from {others[0]!r} by the first token")
    return ids


@dataclass
class SelfEvaluation:
    """Behind every judged attempt: `ask`, and the verdict's first token as an example, in a trajectory of its own.

    Its context is the attempt; its only TOKEN row is the verdict, version −1, without log-probs: the answer is not a
    target of it. INFO has "verdict" (whether the reward is at least `right`) and "answer". It comes right after the
    rewards: columns that other stages wrote before it are not kept.
    """

    policy: Any
    ask: str = ASK
    right: float = 1.0
    reads = (REWARD,)
    writes = ()
    uses = (*CORE, BEHAVIOUR)

    async def __call__(self, b: Batch) -> Batch:
        if bool(b[REWARD].isnan().all()):
            return b
        return with_columns_of(b, Batch.of([self._asked(e) for e in to_episodes(b)]))

    def _asked(self, episode: Episode) -> Episode:
        turns, paths = list(episode.turns), list(episode.trajectories)
        for t in episode.trajectories:
            if t.reward is None or math.isnan(t.reward):
                continue
            last, right = episode.turns[t.turns[-1]], t.reward >= self.right
            ids = self.question[last.ids[-1:] == self.question[:1] :]
            turns.append(Turn(ids, t.turns[-1], text=self.ask))
            turns.append(Turn(self.verdicts[right][:1], len(turns) - 1, t.role, "yes" if right else "no"))
            noted = {"verdict": right, "answer": final_part(last.text.replace(self.end, ""))}
            paths.append(Trajectory((len(turns) - 2, len(turns) - 1), t.role, info=noted))
        return replace(episode, turns=tuple(turns), trajectories=tuple(paths))

    @cached_property
    def question(self) -> tuple[int, ...]:
        return follow_up(self.policy.tokenizer, self.ask)

    @cached_property
    def end(self) -> str:
        return str(self.policy.tokenizer.decode(list(self.question[:1])))

    @cached_property
    def verdicts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(no, yes): the ids that mean it."""
        tokenizer = self.policy.tokenizer
        return first_ids(tokenizer, NO, YES), first_ids(tokenizer, YES, NO)


@dataclass(frozen=True)
class _Yes:
    """p(yes)/(p(yes) + p(no)) where a turn of nobody's weights has a token, else NaN: a source of the learner's."""

    no: tuple[int, ...]
    yes: tuple[int, ...]
    takes_head = True

    def __call__(self, b: Batch, head: Any) -> Tensor:
        mine = b.spread(b[VERSION], TURN, TOKEN) == -1
        hidden = b[HIDDEN]
        x = hidden[mine.to(hidden.device)]
        logp = (x if head is None else head(x)).float().log_softmax(-1).cpu()
        yes, no = (logp[:, list(ids)].logsumexp(-1) for ids in (self.yes, self.no))
        return torch.full((len(mine),), torch.nan).masked_scatter(mine, torch.sigmoid(yes - no))


def yes_probability(no: Sequence[int], yes: Sequence[int]) -> Any:
    """A source of the learner's: p(yes)/(p(yes) + p(no)) where a turn of nobody's weights has a token, else NaN."""
    return _Yes(tuple(no), tuple(yes))


@dataclass
class Confidence:
    """CONFIDENCE by one forward pass; metrics say how true it is, and how good votes are, of this batch's answers.

    calibration/{accuracy, brier, ece, auroc}; votes/{majority, weighted}: share of tasks whose answer with the most
    attempts, or with the largest sum of confidences, is right. auroc is left out where all are right, or none.
    """

    asked: SelfEvaluation
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    kind = "features"
    reads = (INFO, VERSION)
    uses = (TEMPERATURE, SUPPORT, ALLOWED)
    writes = (CONFIDENCE,)

    async def __call__(self, b: Batch) -> Batch:
        no, yes = self.asked.verdicts
        b = self.asked.policy.learner.read(b, {CONFIDENCE: _Yes(no, yes)})
        said = [n for n, info in enumerate(b[INFO]) if "verdict" in (info or {})]
        q = b.mean(b[CONFIDENCE], TOKEN, TRAJECTORY)[said].tolist()
        right = [float(b[INFO][n]["verdict"]) for n in said]
        found = calibration(right, q) if said else {}
        self.metrics = {f"calibration/{k}": v for k, v in found.items() if v == v} | self._votes(b, said, q)
        return b

    def _votes(self, b: Batch, said: list[int], q: list[float]) -> dict[str, float]:
        groups: dict[int, list[tuple[str, float, bool]]] = {}
        for n, x in zip(said, q):
            info = b[INFO][n]
            groups.setdefault(int(b.structure.group[n]), []).append((info["answer"], x, info["verdict"]))
        won: list[list[bool]] = []
        for rows in groups.values():
            answers, right = [a for a, _, _ in rows], {a for a, _, ok in rows if ok}
            ways = ([1.0] * len(rows), [x for _, x, _ in rows])
            won.append([weighted_majority(answers, weights) in right for weights in ways])
        names = ("votes/majority", "votes/weighted")
        return {name: sum(w[k] for w in won) / len(won) for k, name in enumerate(names)} if won else {}
