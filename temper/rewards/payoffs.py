"""Answers that weigh a small game before they speak: four sections, of which one is a table of payoffs in JSON.

The user asks clearly or vaguely (DQ, VQ); the assistant answers, asks back, or does both (DA, CQ, AQ). Each of the six
cells has a payoff of the user and one of the assistant (GTAlign, arXiv 2510.08872).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

SECTIONS = ("thinking", "payoff", "analyze", "response")
ACTIONS = ("DA", "CQ", "AQ")
CELLS = tuple(f"{question}_{action}" for question in ("DQ", "VQ") for action in ACTIONS)
Payoffs = dict[str, tuple[float, float]]  # cell → (of the user, of the assistant)
Prices = Mapping[str, tuple[float, float]]  # action → what is added to (user, assistant) in its cells

_WHOLE = re.compile(r"\s*".join(rf"<{s}>.*?</{s}>" for s in SECTIONS) + r"\s*(?:<\|[^|]*\|>)?\s*", re.DOTALL)


def section(completion: str, name: str) -> str | None:
    """The inside of the first <name>…</name>; None where there is none."""
    found = re.search(rf"<{name}>(.*?)</{name}>", completion, re.DOTALL)
    return found.group(1).strip() if found else None


def well_sectioned(completion: str) -> bool:
    """Whether it is the four sections in order, nothing else, with a table that can be read."""
    return bool(_WHOLE.fullmatch(completion)) and payoffs(completion) is not None


def payoffs(completion: str) -> Payoffs | None:
    """The table: all six cells, each with numbers "user" and "LLM" within ±1e9; None where it is anything else.

    A Python literal will do where it is not JSON.
    """
    table = _read(section(completion, "payoff") or "")
    if not isinstance(table, dict) or set(table) != set(CELLS):
        return None
    cells = [table[c] for c in CELLS]
    if not all(isinstance(c, dict) and set(c) == {"user", "LLM"} and all(map(_number, c.values())) for c in cells):
        return None
    return {name: (float(c["user"]), float(c["LLM"])) for name, c in zip(CELLS, cells)}


def _read(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return None


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e9


def told_apart(table: Payoffs) -> float:
    """Mean over the cells of ½·[u ≠ v] + ½·[|u − v| > 0.1·max(|u|, |v|)], in [0, 1]."""
    gaps = [(abs(u - v), 0.1 * max(abs(u), abs(v), 1e-8)) for u, v in table.values()]
    return sum((gap > 0) + (gap > bound) for gap, bound in gaps) / (2 * len(gaps))


# prices ---------------------------------------------------------------------------------------------------------------


def priced(table: Payoffs, prices: Prices) -> Payoffs:
    """The table after `prices`."""
    added = {cell: prices.get(cell.partition("_")[2], (0.0, 0.0)) for cell in table}
    return {cell: (u + added[cell][0], v + added[cell][1]) for cell, (u, v) in table.items()}


def tokens_priced(assistant: float) -> Prices:
    """The published transform where tokens have a price: `assistant` on every cell, more for a user who is asked."""
    return {"DA": (0.0, assistant), "CQ": (0.5, assistant), "AQ": (1.0, assistant)}


def time_priced(user: float) -> Prices:
    """The published transform where the user's time has a price: `user` on every cell, more for a short exchange."""
    return {"DA": (user, 1.0), "CQ": (user, 0.0), "AQ": (user, 0.5)}


def best_cell(table: Payoffs) -> str:
    """The cell with the largest product of payoffs; then of their sum, then of the user's.

    A negative payoff counts as 0 in the product: the published code multiplies two losses to a gain.
    """
    return max(table, key=lambda c: (max(table[c][0], 0.0) * max(table[c][1], 0.0), sum(table[c]), table[c][0]))
