"""Random legal moves of TextArena games, as demonstrations of the format: not of good play.

legal_moves("… pile 0: 2\\n  pile 1: 0")        # ["[0 1]", "[0 2]"]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from temper import streams
from temper.envs.games import NIM, Table, everything
from temper.errors import UserError
from temper.tasks.task import Task

LISTED = re.compile(r"(?:available moves|available actions are): (.*)", re.IGNORECASE)
PILE = re.compile(r"pile (\d+): (\d+)")
LONGEST = 40  # moves of a random game


def legal_moves(seen: str) -> list[str]:
    """What a player may do, read from what a game shows: listed moves (TicTacToe, KuhnPoker), else piles (Nim)."""
    if listed := LISTED.findall(seen):
        return re.findall(r"'(\[[^']*\])'", listed[-1])
    piles = {int(i): int(n) for i, n in PILE.findall(seen)}  # the last board that is shown counts
    return [f"[{i} {take}]" for i, n in piles.items() for take in range(1, n + 1)]


def nim_deals(n: int, highest: Sequence[int], seed: int = 0) -> list[Task]:
    """`n` games of Nim from piles drawn evenly from 0 up to `highest`, never all empty: every position comes up, not
    only those that two players who are alike reach."""
    rng, kept = streams.generator(seed, "nim deals"), list[Task]()
    while len(kept) < n:
        piles = [int(rng.integers(top + 1)) for top in highest]
        if any(piles):
            info = {"game": NIM, "options": {"piles": piles}}
            kept.append(Task(f"nim/{seed}/{len(kept)}", f"Play {NIM}.", source=NIM, info=info))
    return kept


def shown_move(
    game: str, k: int, seed: int = 0, see: Callable[[str], str] = everything, options: Mapping[str, Any] | None = None
) -> Task:
    """The k-th demonstration: what a player sees somewhere in a random game, and one of its moves, drawn evenly.

    UserError where the legal moves cannot be read from what the game shows.
    """
    rng = streams.generator(seed, "random moves", game, k)
    seen: list[str] = []
    table = Table(game, 2, f"random/{seed}/{k}", options or {}, True)
    while not table.over and len(seen) < LONGEST:
        player, text = table.look()
        moves = legal_moves(text)
        if not moves:
            raise UserError(f"the legal moves of {game!r} cannot be read from what it shows: begin with another model")
        seen.append(text)
        table.move(player, moves[int(rng.integers(len(moves)))])
    text = seen[int(rng.integers(len(seen)))]
    moves = legal_moves(text)
    return Task(f"moves/{game}/{k}", see(text), moves[int(rng.integers(len(moves)))], source=f"moves of {game}")
