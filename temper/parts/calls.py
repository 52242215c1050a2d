"""Rewards of single tool calls: on the tokens that wrote the call, and on no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, AUTHOR, INFO, TOKEN, TRAJECTORY, TURN_TEXT, Column, floating
from temper.envs.backoff import before
from temper.episode import ENV
from temper.tools.calls import Reader, find

CALL_REWARD = Column("call_reward", TOKEN, floating, "of the tool call that the token is part of; NaN = of none")
Judge = Callable[[Mapping[str, Any]], float | None]


def ran(call: Mapping[str, Any]) -> float:
    """1 where the call did what it was to do."""
    return float(call["outcome"] == "ok")


@dataclass
class CallCredit:
    """Writes CALL_REWARD, and adds to ADVANTAGE on the tokens of each call: weight · (r − mean r of the group's calls).

    The calls are those that a tool environment (`ToolUse`) notes in its info. Tokens of no call, and of calls that
    `judge` leaves alone, keep their advantage. Two calls of one turn have a reward each.

    policy  whose tokenizer says which tokens a call is
    judge   a call ("name", "arguments", "outcome", "text", "turn") → its reward; None: not judged
    format  of the calls, as the environment reads them
    """

    policy: Any
    judge: Judge = ran
    weight: float = 1.0
    format: str | Reader = "hermes"
    reads = (ADVANTAGE, INFO, AUTHOR, TURN_TEXT)
    writes = (CALL_REWARD, ADVANTAGE)

    async def __call__(self, b: Batch) -> Batch:
        rewards = torch.full((b.size(TOKEN),), torch.nan)
        credit = torch.zeros(b.size(TOKEN))
        for group in range(b.structure.groups):
            mine = [j for j in range(b.size(TRAJECTORY)) if b.structure.group[j] == group]
            judged = dict(call for j in mine for call in self._calls(b, j))  # a turn that several share counts once
            mean = sum(judged.values()) / max(1, len(judged))
            for (first, last), reward in judged.items():
                rewards[first:last] = reward
                credit[first:last] = self.weight * (reward - mean)
        return b.put(CALL_REWARD, rewards).put(ADVANTAGE, b[ADVANTAGE] + credit)

    def _calls(self, b: Batch, trajectory: int) -> Iterator[tuple[tuple[int, int], float]]:
        """((first TOKEN row, the row behind the last), reward) of each judged call of a trajectory."""
        turns = [u for u in b.turns_of(trajectory) if b[AUTHOR][u] != ENV]
        noted = (b[INFO][trajectory] or {}).get("calls")
        calls: dict[int, list[Mapping[str, Any]]] = {}
        for call in noted if isinstance(noted, list) else ():
            calls.setdefault(call["turn"], []).append(call)
        for turn, of_turn in calls.items():
            for call, found in zip(of_turn, find(b[TURN_TEXT][turns[turn]], self.format)):
                if (reward := self.judge(call)) is not None:
                    yield self._rows(b, turns[turn], found.start, found.end), float(reward)

    def _rows(self, b: Batch, turn: int, start: int, end: int) -> tuple[int, int]:
        """The TOKEN rows that hold the characters [start, end) of a turn's text."""
        row = int(torch.searchsorted(b.structure.token_turn, turn))
        ids, tokenizer = b.turn_ids(turn), self.policy.tokenizer
        return row + before(ids, start, 0, tokenizer), row + min(len(ids), before(ids, end - 1, 0, tokenizer) + 1)
