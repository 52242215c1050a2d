"""SPIRAL

Paper: Liu et al., "SPIRAL: Self-Play on Zero-Sum Games Incentivizes Reasoning via Multi-Agent Multi-Turn
Reinforcement Learning", 2025, arXiv 2506.24119; mechanics as in the released code (spiral-rl/spiral, on Oat).
Hook: env (one policy in both seats; an illegal move ends the game, −1.5 for who made it and +0.5 for the other; a
game that a limit stops is a draw, 0), advantage (role-conditioned baseline), loss (PPO clip, each move a sample).
Claim: Kuhn poker alone lifts Qwen3-4B-Base by 8.6 points on mathematics; without the role-conditioned baseline
thoughts shrink and collapse.
Left out: a baseline for each actor process (one process, one baseline); drawing a fixed number of moves at random from
the games of a step (all are used). What is legal is the game's own judgement, not a parser's of the observation. A
player whom an illegal first move kept from moving has no trajectory, so its baseline stays; in the release it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import TOKEN, TURN
from temper.envs.games import NIM, TextArena, boxed, everything
from temper.method import Method
from temper.objective import Term
from temper.parts.baselines import RoleBaseline
from temper.parts.gates import NOT_TRUNCATED, NotTruncated
from temper.parts.losses import Clip

SLUG = "spiral-rae"
TITLE = "SPIRAL"
PAPER = "arXiv 2506.24119"
FAMILY = "environments"
HOOKS = ("rollout", "reward", "advantage", "gate", "loss")
RECIPE = "spiral-rae"
ILLEGAL = (-1.5, 0.5)


@dataclass(frozen=True)
class PerMove:
    """Weights 1/(M·length): tokens summed in each of the M live moves, over a constant (Oat's masked sum)."""

    length: float

    def __call__(self, b: Batch, live: Tensor) -> Tensor:
        moves = (b.sum(live, TOKEN, TURN) > 0).sum().clamp(min=1)
        return live / (moves * self.length)


def spiral_rae(
    policy: Any,
    *,
    game: str = NIM,
    options: Mapping[str, Any] | None = None,
    see: Callable[[str], str] = everything,
    move: Callable[[str], str] = boxed,
    turns: int = 50,
    baseline: RoleBaseline | None = None,
    clip: float = 0.2,
    max_tokens: int = 4096,
    epochs: int = 2,
    minibatches: int = 1,
    cut_off: bool = True,
) -> Method:
    """game, options, see, move, turns: see `TextArena`; baseline: None is the paper's, decay 0.95 and γ = 1;
    max_tokens: of a move; cut_off: False leaves games with a move that ran into it out of the loss."""
    return Method(
        env=TextArena(
            game,
            options=options or {},
            turns=turns,
            fresh=True,
            see=see,
            move=move,
            illegal=ILLEGAL,
            unfinished=0.0,
        ),
        on_batch=[baseline or RoleBaseline(), *([] if cut_off else [NotTruncated()])],
        terms=[
            Term("policy", Clip(clip, clip), per=PerMove(max_tokens), where=None if cut_off else NOT_TRUNCATED),
        ],
        epochs=epochs,
        minibatches=minibatches,
    )
