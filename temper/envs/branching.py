"""Answers that grow as a tree, segment by segment, to a fixed number of leaves (TreePO, arXiv 2508.17445)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from temper import streams
from temper.envs.budgets import budget, by_weight, evenly, likelihoods
from temper.envs.chat import NO_LIMIT
from temper.envs.tree import Node, Tree
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

Share = Literal["even", "unlikely", "likely"]
Cut = Literal["random", "unlikely token", "unlikely block", "likely block", "start"]
Order = Literal["ended", "worst", "any", "long"]
BLOCK = 128  # tokens whose mean log-prob weighs a cut by blocks
RANK = {"answer": 7, "eos": 5, "depth": 4, "length": 3, "repetition": 2}  # of a finished answer, the best first


def boxed(text: str) -> bool:
    """Whether the text holds a \\boxed{…} whose braces close."""
    depth = 0
    for character in text.partition("\\boxed{")[2]:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return True
    return False


@dataclass
class Branching:
    """One play is `width` answers. Every step extends all live leaves by at most `segment` tokens and forks them.

    A leaf ends by repetition, a complete answer, an end token, `longest` or `depth`; what it would have branched into
    goes to the leaves that live on: see `budget`. Where none does and there is room, finished answers are cut back and
    continued anew. All leaves are one comparison group: ask for one attempt. Judged by a rewards stage.

    width      leaves; segment: most tokens of one; depth: most segments on a path; branching: forks of a live leaf
    first      first segments are drawn between `branching` and this (0: `branching`)
    longest    most tokens of an answer (0: depth · segment)
    tokens     sampled in all: once they are spent, leaves grow on and end, but nothing is forked (0: no limit)
    share      of the budget: the same for every live leaf, or more for the unlikely or likely ones
    by         their log-prob over the whole path, its mean over tokens, or over the last segment's; tau: temperature
    cut        where a finished answer is cut back; order: which ones first ("ended": only those, in random order)
    answered   whether a text holds a complete answer; answer_ends: it ends there, also without an end token
    repeated   (characters, times): a segment that says so many characters so often is cut off (0 times: never)
    repeated_first  repetition is looked at before the others, else after them
    """

    width: int = 16
    segment: int = 512
    depth: int = 14
    branching: int = 2
    first: int = 0
    longest: int = 0
    tokens: int = 0
    share: Share = "even"
    by: Literal["path", "mean", "segment"] = "path"
    tau: float = 1.0
    cut: Cut = "random"
    order: Order = "ended"
    answered: Callable[[str], bool] = boxed
    answer_ends: bool = False
    repeated: tuple[int, int] = (32, 8)
    repeated_first: bool = True
    role: str = "solver"

    def __post_init__(self) -> None:
        for name in ("width", "segment", "depth", "branching"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a tree must be at least 1, got {getattr(self, name)}")
        if self.first and not self.branching <= self.first <= self.width:
            raise UserError(f"first must be within branching ({self.branching}) and width ({self.width})")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat = roles[self.role]
        tree = Tree(seat, seat.chat(task.messages))
        context = getattr(seat.policy.sampler, "context", NO_LIMIT)
        limit = min(self.longest or self.depth * self.segment, context - len(tree.prompt))
        if limit < 1:
            raise Drop("prompt too long")
        finished: dict[Node, str] = {}
        again = 0
        live = [tree.root] * self._first(task)
        while live:
            grown = await tree.extend(live, [min(self.segment, limit - len(n.ids)) for n in live])
            ends = {n: self._end(tree, n, limit) for n in grown}
            going = [n for n in grown if not ends[n]]
            finished |= {n: why for n, why in ends.items() if why}
            left = (self.tokens - tree.tokens) // self.segment if self.tokens else NO_LIMIT
            live = self._fork(going, len(finished), len(grown) - len(going), left)
            room = min(self.width - len(finished), left)
            if not going and room > 0:
                live = self._back(tree, finished, room, streams.generator(0, "branching", task.id, *grown[0].ids))
                again += len(live)
        record = Recorder(task)
        stopped = ["stop" if why in ("answer", "eos") else "length" for why in finished.values()]
        turns = tree.record(record, list(finished), stopped)
        n = len(finished)
        shared = {"segments": tree.calls, "fallbacks": again, "leaves": n, "tokens_per_leaf": tree.tokens / n}
        for mine, why in zip(turns, finished.values()):
            record.judge(mine, role=self.role, info={**shared, "end": {why: 1}})
        return record.episode()

    def _first(self, task: Task) -> int:
        if not self.first:
            return min(self.branching, self.width)
        return int(streams.generator(0, "branching", task.id).integers(self.branching, self.first + 1))

    def _end(self, tree: Tree, node: Node, limit: int) -> str:
        """Why the answer is over; empty: it goes on."""
        repeats, stopped = repetition(node.said.text, *self.repeated), node.said.finish == "stop"
        if self.repeated_first and repeats:
            return "repetition"
        if (stopped or self.answer_ends) and self.answered(tree.text(node)):
            return "answer"
        if stopped:
            return "eos"
        if len(node.ids) >= limit:
            return "length"
        if math.ceil(len(node.ids) / self.segment) >= self.depth:
            return "depth"
        return "repetition" if repeats else ""

    def _fork(self, going: Sequence[Node], finished: int, ended: int, left: int = NO_LIMIT) -> list[Node]:
        """The leaves that live on, each as often as it is continued; `left`: so many segments may still be sampled."""
        if not going:
            return []
        total = max(len(going), min(left, budget(len(going), finished, ended, self.width, self.branching)))
        if self.share == "even":
            parts = evenly(total, len(going))
        else:
            sign = -1.0 if self.share == "unlikely" else 1.0
            parts = by_weight(likelihoods(sign * np.array([self._logp(n) for n in going]) / self.tau), total)
        return [n for n, k in zip(going, parts) for _ in range(k)]

    def _logp(self, node: Node) -> float:
        logp = node.said.logp if self.by == "segment" else node.logp
        return sum(logp) if self.by == "path" else sum(logp) / len(logp)

    def _back(self, tree: Tree, finished: Mapping[Node, str], room: int, rng: np.random.Generator) -> list[Node]:
        """Where to go on from: finished answers cut back, `branching` children each, until there is no room."""
        live = list[Node]()
        for leaf in self._ordered(finished, rng)[: 1 if self.cut == "start" else room]:
            if len(live) < room:
                live += [tree.cut(leaf, self._at(leaf, rng))] * min(self.branching, room - len(live))
        return live or [tree.root] * min(self.branching, room)

    def _ordered(self, finished: Mapping[Node, str], rng: np.random.Generator) -> list[Node]:
        leaves = list(finished)
        if self.order == "worst":
            return sorted(leaves, key=lambda n: RANK[finished[n]])
        if self.order == "ended":
            leaves = [n for n in leaves if finished[n] in ("answer", "eos")]
        weight = [math.log(max(1, len(n.ids))) if self.order == "long" else 0.0 for n in leaves]
        drawn = np.array(weight) + rng.gumbel(size=len(leaves))
        return [leaves[i] for i in np.argsort(-drawn, kind="stable")]

    def _at(self, leaf: Node, rng: np.random.Generator) -> int:
        """How many tokens of the answer are kept."""
        logp, whole = np.array(leaf.logp), math.ceil(len(leaf.ids) / self.segment)
        if self.cut == "start":
            return 0
        if self.cut == "random":
            return int(whole - rng.integers(1, whole + 1)) * self.segment
        if self.cut == "unlikely token":
            at = int(logp.argmin())
        else:
            means = [logp[i : i + BLOCK].mean() for i in range(0, len(logp), BLOCK)]
            sign = -1.0 if self.cut == "unlikely block" else 1.0
            at = BLOCK * int(rng.choice(len(means), p=likelihoods(sign * np.array(means))))
        return at if math.ceil(at / self.segment) < self.depth else self.segment * (self.depth - 1)


def repetition(text: str, characters: int, times: int) -> bool:
    """Whether some `characters` characters in a row occur at least `times` times (overlaps count; 0 times: never)."""
    seen = Counter(text[i : i + characters] for i in range(len(text) - characters + 1))
    return times > 0 and max(seen.values(), default=0) >= times
