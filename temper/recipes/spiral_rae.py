"""Self-play at a game of TextArena: one policy in both seats, after a short phase that shows it what moves are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from temper.envs.games import NIM, everything, games, last_message
from temper.method import Method
from temper.methods.environments.spiral_rae import spiral_rae as method
from temper.parts.advantages import Advantage, no_baseline, unscaled
from temper.parts.baselines import RoleBaseline
from temper.parts.duels import Duel
from temper.recipe import extends
from temper.recipes.common import train_on
from temper.recipes.imitation import left_by, of_dialogues
from temper.run import Run
from temper.tasks.moves import nim_deals, shown_move


@extends(train_on, without=("method", "name", "train", "held_out", "judges", "env", "eval_attempts"))
def spiral_rae(
    game: str = "Nim-v0",
    piles: tuple[int, ...] = (2, 3),
    varied: bool = True,
    history: bool = False,
    cold_start: int = 100,
    baseline: Literal["role", "shared", "none"] = "role",
    baseline_decay: float = 0.95,
    gamma: float = 1.0,
    clip: float = 0.2,
    epochs: int = 2,
    minibatches: int = 1,
    turns: int = 50,
    model: str = "temper-tiny",
    steps: int = 50,
    groups: int = 64,
    attempts: int = 1,
    lr: float = 5e-4,
    max_tokens: int = 8,
    eval_tasks: int = 200,
    eval_every: int = 0,
    seed: int = 0,
    out: Path = Path("runs/spiral-rae"),
    **options: Any,
) -> Run | list[Run]:
    """SPIRAL (Liu et al. 2025): self-play with an advantage against the average of the same role.

    game        of TextArena, for two players
    piles       of Nim at the start (none, and for any other game: the game's own)
    varied      train on Nim from any piles up to these, so that no position stays unseen (measured: from the piles)
    history     show rules and the whole game for every move, else the board alone (Nim and TicTacToe need no more)
    cold_start  steps of a first phase that imitates random legal moves (0: the model knows the format already)
    baseline    of the advantage: of the role in the game, one for both roles, or none
    baseline_decay  of its moving average
    gamma       discount for every move that the player made later
    clip        range of the probability ratio
    epochs      passes over each batch
    minibatches optimiser steps in each pass
    turns       most moves of a player
    groups      deals in a step
    attempts    games of each deal
    lr          peak learning rate
    max_tokens  longest move, in tokens
    eval_tasks  games in each seat against the policy as it was before self-play
    eval_every  steps between these (0: only before and after)
    out         directory of the run: the second phase finds there what the first one learned
    """
    start = left_by(out, "legal-moves") if cold_start else model
    see: Callable[[str], str] = everything if history else last_message
    rules: dict[str, Any] = {"piles": list(piles)} if piles and game == NIM else {}
    train = nim_deals(5_000, piles, seed) if rules and varied else games(game, 10_000)
    run = train_on(
        lambda policy: _with(method(
            policy, game=game, options=rules, see=see, turns=turns, clip=clip, max_tokens=max_tokens, epochs=epochs,
            minibatches=minibatches, baseline=RoleBaseline(baseline_decay, gamma, baseline != "shared"),
        ), baseline),
        name="spiral-rae", train=train, model=start, steps=steps, groups=groups, attempts=attempts, lr=lr,
        max_tokens=max_tokens, seed=seed, **options,
    )  # fmt: skip
    run.threads = 1  # the model is too small for more
    former = run.roles["player-0"].reference("former")
    run.others.append(former)
    run.probes.append(Duel(former, games(game, 10_000 + eval_tasks)[10_000:], eval_every))
    return [legal_moves(game, rules, see, model, cold_start, seed), run] if cold_start else run


def _with(m: Method, baseline: str) -> Method:
    """Without any baseline: A = R."""
    if baseline == "none":
        m.on_batch[0] = Advantage(no_baseline, unscaled)
    return m


def legal_moves(game: str, rules: dict[str, Any], see: Callable[[str], str], model: str, steps: int, seed: int) -> Run:
    """Imitate legal moves that are drawn evenly: the format of the game, and nothing about good play."""
    shown = partial(_shown, game, rules, see, seed)
    return of_dialogues("legal-moves", shown, model=model, steps=steps, seed=seed)


def _shown(game: str, rules: dict[str, Any], see: Callable[[str], str], seed: int, k: int) -> Any:
    return shown_move(game, k, seed, see, rules)
