"""A tree of continuations behind one prompt. A node is a span of sampled ids; the path to a leaf is one answer.

    tree = Tree(seat, prompt)
    one, two = await tree.extend([tree.root, tree.root], most=16)  # two first segments
    inside = tree.cut(two, 5)                                       # fork inside a segment, by ids
    (three,) = await tree.extend([inside], most=16)
    turns = tree.record(record, [one, two, three])                  # of each leaf; what they share is recorded once

A fork inside a segment splits it into head and tail: ids, log-probs, support and version go with their tokens, and
every answer that went through the segment goes through both. Nothing is sampled, encoded or computed twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from temper.episode import Completion, Recorder
from temper.policy import Seat


@dataclass(eq=False)
class Node:
    """A span of one answer. `said` is what was sampled (of the root: nothing), `parent` what came before it."""

    said: Completion
    parent: Node | None = None

    @property
    def path(self) -> list[Node]:
        """The spans of the answer so far, without the root."""
        return [] if self.parent is None else [*self.parent.path, self]

    @property
    def ids(self) -> tuple[int, ...]:
        """What was sampled on the way, this span included."""
        return tuple(i for node in self.path for i in node.said.ids)

    @property
    def logp(self) -> tuple[float, ...]:
        """Behaviour log-probs of `ids`."""
        return tuple(v for node in self.path for v in node.said.logp)


class Tree:
    """Answers of `seat` to `prompt` that share beginnings.

    root   the node of the empty answer; calls: how many spans were sampled; tokens: in all of them
    """

    def __init__(self, seat: Seat, prompt: Sequence[int]):
        self.seat, self.prompt = seat, tuple(prompt)
        self.root = Node(Completion((), ()))
        self.calls = self.tokens = 0

    async def extend(self, nodes: Sequence[Node], most: int | Sequence[int]) -> list[Node]:
        """A new span of at most `most` tokens behind each node; a node that is named twice gets two."""
        limits = [most] * len(nodes) if isinstance(most, int) else most
        self.calls += len(nodes)
        said = await asyncio.gather(
            *(
                self.seat.sample((*self.prompt, *n.ids), max_tokens=k, continued=True)
                for n, k in zip(nodes, limits, strict=True)
            )
        )
        self.tokens += sum(len(s.ids) for s in said)
        return [Node(s, n) for s, n in zip(said, nodes)]

    def cut(self, leaf: Node, at: int) -> Node:
        """The node after the first `at` sampled tokens of `leaf`'s answer; a span that goes on behind it is split.

        The span's node stays what it was to its children, as the tail; the head is a new node before it.
        ValueError where the answer has fewer tokens.
        """
        if not 0 <= at <= len(leaf.ids):
            raise ValueError(f"an answer of {len(leaf.ids)} tokens cannot be cut after {at}")
        before, node = 0, self.root
        for following in leaf.path:
            if before == at:
                break
            if before + len(following.said.ids) > at:
                head, tail = split(following.said, at - before, self.seat.tokenizer)
                node = Node(head, following.parent)
                following.said, following.parent = tail, node
                break
            before, node = before + len(following.said.ids), following
        return node

    def text(self, leaf: Node) -> str:
        """The whole answer, without the token that ended it."""
        return whole_text([n.said for n in leaf.path], self.seat.tokenizer)

    def record(self, record: Recorder, leaves: Sequence[Node], finish: Sequence[str]) -> list[list[int]]:
        """The turns of each leaf's answer, the prompt's first. `finish` is how each answer ended.

        The last turn's text is the whole answer, which is what is judged; a turn that is gone on from has no finish.
        """
        number = {self.root: record.add(self.prompt, text=str(record.task.messages[-1].get("content") or ""))}
        turns = []
        for leaf, how in zip(leaves, finish, strict=True):
            path = [self.root, *leaf.path]
            for node in path[1:]:
                if node not in number:
                    assert node.parent is not None
                    number[node] = record.sampled(node.said, number[node.parent], author=self.seat.role)
                    unfinished(record, number[node])
            last = number[leaf]
            record.turns[last] = replace(record.turns[last], finish=how, text=self.text(leaf))
            turns.append([number[node] for node in path])
        return turns


def split(said: Completion, at: int, tokenizer: Any) -> tuple[Completion, Completion]:
    """`said` as two: its first `at` tokens, and the rest; ids are divided, never encoded again."""
    ended = _has_end(said, tokenizer)
    parts = []
    for part in (slice(0, at), slice(at, None)):
        ids = said.ids[part]
        support = None if said.support is None else said.support[part]
        shown = ids[:-1] if ended and part.start else ids
        parts.append(replace(said, ids=ids, logp=said.logp[part], support=support, text=tokenizer.decode(shown)))
    return replace(parts[0], finish="length"), parts[1]


def whole_text(parts: Sequence[Completion], tokenizer: Any) -> str:
    """The text of continuations of each other, without the token that ended the last."""
    ids = [i for said in parts for i in said.ids]
    text: str = tokenizer.decode(ids[:-1] if parts and _has_end(parts[-1], tokenizer) else ids)
    return text


def unfinished(record: Recorder, turn: int) -> None:
    """Note that the answer goes on behind this turn."""
    record.turns[turn] = replace(record.turns[turn], finish=None)


def _has_end(said: Completion, tokenizer: Any) -> bool:
    """Whether its last id is an end token, which its text leaves out."""
    return said.finish == "stop" and bool(tokenizer.decode(said.ids) != said.text)
