"""Credit turn by turn, from what the environment gave each turn (TURN_REWARD)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from temper.carrier import Batch, Grouping
from temper.columns import ADVANTAGE, REWARD, TOKEN, TRAJECTORY, TURN, TURN_REWARD, Column, floating

TURN_RETURN = Column("turn_return", TURN, floating, "discounted sum of the rewards from the turn on")


@dataclass
class SumOfTurns:
    """Writes REWARD: the sum of a trajectory's turn rewards; NaN where none of its turns has one."""

    reads = (TURN_REWARD,)
    writes = (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(REWARD, b.sum(b[TURN_REWARD], TURN, TRAJECTORY))


@dataclass
class TurnReturns:
    """Writes TURN_RETURN, R_k = Σ_{l ≥ k} γ^{l−k} r_l over a trajectory's sampled turns, and from it ADVANTAGE.

    Every token of turn k gets A = R_k − the mean of R_k over the group's k-th turns, so a turn that no other attempt
    reached gets 0. A turn without a reward counts as 0 where its trajectory has any, else its R_k is NaN. A turn that
    several trajectories share gets the mean over them.

    gamma   γ; centred: False leaves A = R_k
    """

    gamma: float = 1.0
    centred: bool = True
    reads = (TURN_REWARD,)
    writes = (TURN_RETURN, ADVANTAGE)

    async def __call__(self, b: Batch) -> Batch:
        turns, places, returns = self._walk(b)
        peers = Grouping.of(places)
        a = returns - peers.spread(peers.mean(returns)) if self.centred else returns
        b = b.put(TURN_RETURN, _mean(returns, turns, b.size(TURN)))
        return b.put(ADVANTAGE, b.spread(_mean(a, turns, b.size(TURN)), TURN, TOKEN))

    def _walk(self, b: Batch) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
        """Of every (sampled turn, trajectory): the turn, (group, how many sampled turns came before it), and R_k."""
        turns: list[int] = []
        places: list[tuple[int, int]] = []
        returns: list[float] = []
        rewards = b[TURN_REWARD].tolist()
        for j, group in enumerate(b.structure.group.tolist()):
            mine = [u for u in b.turns_of(j) if b.structure.sampled[u]]
            ahead = 0.0 if any(rewards[u] == rewards[u] for u in mine) else float("nan")
            for k, u in reversed(list(enumerate(mine))):
                ahead = (rewards[u] if rewards[u] == rewards[u] else 0.0) + self.gamma * ahead
                turns.append(u)
                places.append((group, k))
                returns.append(ahead)
        return torch.tensor(turns, dtype=torch.int64), places, torch.tensor(returns, dtype=torch.float32)


def _mean(x: Tensor, turns: Tensor, n: int) -> Tensor:
    """[n] mean of x by turn, NaN left out; NaN where there is none."""
    kept = ~x.isnan()
    total = torch.zeros(n).index_add(0, turns, x.nan_to_num(nan=0.0))
    return total / torch.zeros(n).index_add(0, turns, kept.float())
