"""Along a trajectory: its sampled tokens in the order of its turns, whatever lies between them.

Observations are not rows, so a backward recursion passes over them by itself; a context reset or a shared branch
needs no flag. Where trajectories share a token, it has one row here for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from temper.carrier import Batch, Grouping
from temper.columns import TOKEN, TRAJECTORY, TURN


def by_turn(b: Batch) -> list[Tensor]:
    """The TOKEN rows of every sampled turn that has any, in order."""
    _, count = b.structure.token_turn.unique_consecutive(return_counts=True)
    return list(torch.arange(b.size(TOKEN)).split(count.tolist()))


@dataclass(frozen=True)
class Walk:
    """One row a (trajectory, token) pair, ordered by trajectory, then by the token's place in it (int64 [pairs]).

    token, trajectory  the rows of the pair in their tables
    place, left        how many tokens of the trajectory come before and after it
    """

    token: Tensor
    trajectory: Tensor
    place: Tensor
    left: Tensor
    tokens: int
    trajectories: int

    @staticmethod
    def of(b: Batch) -> Walk:
        turn, owner = b.structure.member
        length = torch.bincount(b.structure.token_turn, minlength=b.size(TURN))
        first = length.cumsum(0) - length  # the first token of each turn
        trajectory = torch.repeat_interleave(owner, length[turn])
        size = torch.bincount(trajectory, minlength=b.size(TRAJECTORY))
        place = _count_up(size)
        token = torch.repeat_interleave(first[turn], length[turn]) + _count_up(length[turn])
        return Walk(token, trajectory, place, size[trajectory] - 1 - place, b.size(TOKEN), b.size(TRAJECTORY))

    def discounted(self, x: Tensor, factor: float) -> Tensor:
        """G_t = x_t + factor · G_{t+1} within each trajectory, G = 0 after its last token; x [pairs]."""
        out, carry = torch.empty_like(x), torch.zeros(self.trajectories, dtype=x.dtype)
        for rows in torch.split(self.left.argsort(stable=True), torch.bincount(self.left).tolist()):
            owner = self.trajectory[rows]
            carry[owner] = x[rows] + factor * carry[owner]
            out[rows] = carry[owner]
        return out

    def following(self, x: Tensor) -> Tensor:
        """x_{t+1} within each trajectory, 0 after its last token; x [pairs]."""
        return torch.where(self.left > 0, x.roll(-1), torch.zeros_like(x))

    def at_end(self, r: Tensor) -> Tensor:
        """r [trajectories] at each trajectory's last token, 0 elsewhere; [pairs]."""
        return torch.where(self.left == 0, r[self.trajectory], torch.zeros_like(r[self.trajectory]))

    def per_token(self, x: Tensor) -> Tensor:
        """[tokens] mean of x [pairs] over the trajectories that share the token, NaN left out."""
        return Grouping(tuple(range(self.tokens)), self.token).mean(x)


def _count_up(lengths: Tensor) -> Tensor:
    """0 … n−1 for each n of `lengths`, one after another."""
    return torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
