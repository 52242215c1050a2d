"""Rounds of drafts: each is written from the question and a short workspace that is made of the round before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from temper import streams
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.rewards.checkers import final_part
from temper.tasks.task import Task

Distil = Literal["all", "top", "own top", "random", "summary"]
DRAFTS = "drafts"  # side group of drafts that are trained


def likelihood(drafts: Sequence[Completion]) -> list[float]:
    """Mean log-prob of a draft's tokens."""
    return [sum(d.logp) / max(1, len(d.logp)) for d in drafts]


def agreement(drafts: Sequence[Completion]) -> list[float]:
    """How many drafts have the same final part."""
    final = [final_part(d.text) for d in drafts]
    return [float(final.count(f)) for f in final]


@dataclass
class Refine:
    """Parallel drafts, distilled and refined (PDR, arXiv 2510.01123). rounds=(1,) with "all" is sequential refinement.

    The workspace is made anew from each round's drafts and never longer than `room` tokens: drafts that do not fit are
    left out whole, and counted. Only the last answer, one refinement, is judged (by a rewards stage).

    rounds        drafts of every round before the last
    distil        "all" drafts; the "top" k; each refinement's "own top" k, by scores with Gumbel noise; k at "random";
                  or a "summary" that the policy writes
    keep          k; room: κ, most tokens of a workspace
    rank          scores of drafts, higher is better; shown: what the workspace shows of a draft's text
    shape         the user's message with {workspace} and {question}; ask: the message that asks for a summary
    train_drafts  drafts are trajectories of a side group
    noted in info: b_seq, tokens on the longest path of calls (latency), and b_total, of all calls; left_out
    """

    rounds: tuple[int, ...] = (4,)
    distil: Distil = "all"
    keep: int = 2
    room: int = 512
    rank: Callable[[Sequence[Completion]], list[float]] = likelihood
    shown: Callable[[str], str] = final_part
    shape: str = "{question}\n\nDrafts: {workspace}"
    ask: str = "{question}\n\nDrafts: {workspace}\n\nSummarise what they agree on, and where they differ."
    train_drafts: bool = False
    role: str = "solver"

    def __post_init__(self) -> None:
        if not self.rounds or min(self.rounds) < 1:
            raise UserError(f"rounds must be numbers of drafts, each at least 1, got {self.rounds}")
        if self.keep < 1 or self.room < 1:
            raise UserError(f"keep and room must be at least 1, got {self.keep} and {self.room}")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles[self.role], Recorder(task)
        spent = {"b_seq": 0, "b_total": 0, "left_out": 0}
        spaces = [""] * self.rounds[0]
        for following in (*self.rounds[1:], 1, 0):
            drafts, turns = await self._call(seat, record, [self._messages(task, w) for w in spaces], spent)
            if following:
                for mine in turns if self.train_drafts else ():
                    record.judge(mine, role=self.role, group=DRAFTS)
                spaces = await self._distilled(seat, record, drafts, following, spent)
        record.judge(turns[0], role=self.role, info=spent)
        return record.episode()

    async def _call(
        self, seat: Seat, record: Recorder, asked: Sequence[Any], spent: dict[str, int], **options: Any
    ) -> tuple[list[Completion], list[list[int]]]:
        """An answer to each list of messages, in contexts of their own."""
        contexts = [seat.chat(messages) for messages in asked]
        said = await asyncio.gather(*(seat.sample(ids, **options) for ids in contexts))
        turns = []
        for ids, s, messages in zip(contexts, said, asked):
            opened = record.add(ids, text=str(messages[-1]["content"]))
            turns.append([opened, record.sampled(s, opened, author=self.role)])
        spent["b_seq"] += max(len(s.ids) for s in said)
        spent["b_total"] += sum(len(s.ids) for s in said)
        return said, turns

    async def _distilled(
        self, seat: Seat, record: Recorder, drafts: list[Completion], n: int, spent: dict[str, int]
    ) -> list[str]:
        """The workspaces of the n calls of the next round."""
        if self.distil == "summary":
            shown = self._joined(seat, drafts, range(len(drafts)), spent)
            asked = self._messages(record.task, shown, self.ask)
            said, _ = await self._call(seat, record, [asked], spent, max_tokens=min(self.room, seat.params.max_tokens))
            return [self.shown(said[0].text)] * n
        rng = streams.generator(0, "refine", record.task.id, *drafts[0].ids)
        if self.distil == "own top":
            return [self._joined(seat, drafts, self._chosen(drafts, rng), spent) for _ in range(n)]
        return [self._joined(seat, drafts, self._chosen(drafts, rng), spent)] * n

    def _chosen(self, drafts: list[Completion], rng: np.random.Generator) -> list[int]:
        """Which drafts, the best first ("all": in their order)."""
        if self.distil == "all":
            return list(range(len(drafts)))
        if self.distil == "random":
            return [int(i) for i in rng.permutation(len(drafts))[: self.keep]]
        score = np.array(self.rank(drafts))
        if self.distil == "own top":
            score = score + rng.gumbel(size=len(drafts))
        return [int(i) for i in np.argsort(-score, kind="stable")[: self.keep]]

    def _joined(self, seat: Seat, drafts: list[Completion], chosen: Sequence[int], spent: dict[str, int]) -> str:
        """What the chosen drafts say, as many of them as have room."""
        texts = [self.shown(drafts[i].text) for i in chosen]
        kept = list[str]()
        for text in texts:
            if len(seat.tokenizer.encode("; ".join([*kept, text]), add_special_tokens=False)) <= self.room:
                kept.append(text)
        spent["left_out"] += len(texts) - len(kept)
        return "; ".join(kept)

    def _messages(self, task: Task, workspace: str, shape: str = "") -> list[dict[str, Any]]:
        if not workspace:
            return task.messages
        *before, last = task.messages
        return [
            *before,
            {**last, "content": (shape or self.shape).format(workspace=workspace, question=last["content"])},
        ]
