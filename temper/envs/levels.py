"""Answers as a tree with a fixed number of branches at each level (SPO-tree, arXiv 2505.23564)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from temper.envs.chat import NO_LIMIT
from temper.envs.tree import Node, Tree
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task


@dataclass
class Levels:
    """One play is up to Π widths answers: every live leaf is continued `width` times, level by level.

    A segment has at most `segment` tokens; those of the last level run to the end of the answer (the seat's
    max_tokens). An answer that ends earlier is a leaf of its level. All leaves are one comparison group: ask for one
    attempt. Judged by a rewards stage.
    """

    widths: tuple[int, ...] = (6, 6, 6)
    segment: int = 30
    role: str = "solver"

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.segment < 1:
            raise UserError(f"a tree needs widths and segments of at least 1, got {self.widths} and {self.segment}")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat = roles[self.role]
        tree = Tree(seat, seat.chat(task.messages))
        limit = min(seat.params.max_tokens, getattr(seat.policy.sampler, "context", NO_LIMIT) - len(tree.prompt))
        if limit < 1:
            raise Drop("prompt too long")
        live, leaves = [tree.root], list[Node]()
        for level, width in enumerate(self.widths, 1):
            last = level == len(self.widths)
            nodes = [n for n in live for _ in range(width)]
            room = [limit - len(n.ids) for n in nodes]
            grown = await tree.extend(nodes, room if last else [min(self.segment, k) for k in room])
            live = [n for n in grown if not (last or n.said.finish == "stop" or len(n.ids) >= limit)]
            leaves += [n for n in grown if n not in live]
            if not live:
                break
        record = Recorder(task)
        ended = ["stop" if n.said.finish == "stop" else "length" for n in leaves]
        for turns in tree.record(record, leaves, ended):
            record.judge(
                turns, role=self.role, info={"leaves": len(leaves), "tokens_per_leaf": tree.tokens / len(leaves)}
            )
        return record.episode()
