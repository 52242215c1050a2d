"""A grid world in words, with an expert: the smallest place where an actor can go wrong and be helped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MOVES = {"u": (0, 1), "d": (0, -1), "l": (-1, 0), "r": (1, 0)}
Place = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """From a place to a goal on `size` × `size` fields in `horizon` moves; a wall stops.

    mirrored  left and right are exchanged, which nothing but the task's name tells
    """

    name: str = "reach"
    size: int = 4
    horizon: int = 12
    mirrored: bool = False

    def prompt(self, at: Place, goal: Place) -> list[dict[str, Any]]:
        text = f"{self.name}: at {at[0]} {at[1]}, goal {goal[0]} {goal[1]}. Move u, d, l or r."
        return [{"role": "user", "content": text}]

    def after(self, at: Place, move: str) -> Place:
        x, y = MOVES.get(move, (0, 0))
        x = -x if self.mirrored else x
        return min(max(at[0] + x, 0), self.size - 1), min(max(at[1] + y, 0), self.size - 1)

    def expert(self, at: Place, goal: Place) -> str:
        """The first of l, r, u, d that comes nearer."""
        return next(m for m in "lrud" if distance(self.after(at, m), goal) < distance(at, goal))

    def starts(self) -> list[tuple[Place, Place]]:
        """Every pair of different places."""
        places = [(x, y) for x in range(self.size) for y in range(self.size)]
        return [(a, b) for a in places for b in places if a != b]


def distance(a: Place, b: Place) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])
