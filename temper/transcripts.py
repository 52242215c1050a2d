"""Transcripts: groups of a batch as JSON lines, token by token, for the report and for people."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import (
    ADVANTAGE,
    AUTHOR,
    ENTROPY,
    FINISH,
    LOGP,
    OUTCOME,
    REQUEST,
    REWARD,
    ROLE,
    SPLIT,
    TASK,
    TOKEN,
    TRAJECTORY,
    VERSION,
)

GROUPS = 8  # requests written per transcript
BEHAVIOUR, OLD = LOGP.of("behaviour"), LOGP.of("old")


def lines(batch: Batch, step: int, tokenizer: Any, limit: int = GROUPS) -> list[str]:
    """One line for each of the first `limit` requests of the batch."""
    requests = list(dict.fromkeys(batch[REQUEST]))[:limit]
    return [json.dumps(_request(batch, r, step, tokenizer), ensure_ascii=False) for r in requests]


def _request(batch: Batch, request: str, step: int, tokenizer: Any) -> dict[str, Any]:
    groups = [g for g, r in enumerate(batch[REQUEST]) if r == request]
    owner = batch.structure.group
    b = batch.select(sum((owner == g for g in groups[1:]), owner == groups[0]))
    task = b[TASK][0]
    return {
        "step": step,
        "split": b[SPLIT][0],
        "task": {"id": task.id, "source": task.source, "prompt": task.prompt, "answer": task.answer},
        "turns": _turns(b, tokenizer),
        "trajectories": [_trajectory(b, j) for j in range(b.size(TRAJECTORY))],
    }


def _turns(b: Batch, tokenizer: Any) -> list[dict[str, Any]]:
    columns = {"logp": BEHAVIOUR, "advantage": ADVANTAGE, "entropy": ENTROPY.of("old"), "ratio": None}
    values = {k: _tokens(b, c) for k, c in columns.items() if c is not None and c in b}
    if OLD in b and BEHAVIOUR in b:
        values["ratio"] = (b[OLD] - b[BEHAVIOUR]).exp()
    first = _first_rows(b)
    out = []
    for u in range(len(b[AUTHOR])):
        ids = b.turn_ids(u)
        rows = slice(first[u], first[u] + len(ids))
        sampled = bool(b.structure.sampled[u])
        row: dict[str, Any] = {
            "parent": int(b.structure.parent[u]),
            "author": b[AUTHOR][u],
            "version": int(b[VERSION][u]),
            "tokens": [tokenizer.decode([i]) for i in ids],
            "ids": ids,
            "sampled": sampled,
            "finish": b[FINISH][u],
        }
        row |= {k: _numbers(values[k][rows]) if sampled and k in values else None for k in columns}
        out.append(row)
    return out


def _trajectory(b: Batch, j: int) -> dict[str, Any]:
    parts = {c.name[7:]: _number(b[c][j]) for c in b.columns if c.name.startswith("reward@")}
    advantage = b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY)[j] if ADVANTAGE in b else None
    return {
        "turns": b.turns_of(j),
        "role": b[ROLE][j],
        "reward": _number(b[REWARD][j]) if REWARD in b else None,
        "rewards": parts,
        "outcome": b[OUTCOME][j],
        "advantage": None if advantage is None else _number(advantage),
    }


def _tokens(b: Batch, column: Any) -> Tensor:
    values: Tensor = b[column]
    return values


def _first_rows(b: Batch) -> list[int]:
    """Number of TOKEN rows before each turn."""
    s = b.structure
    n = [length if sampled else 0 for length, sampled in zip(s.start.diff().tolist(), s.sampled.tolist())]
    out, total = [], 0
    for k in n:
        out.append(total)
        total += k
    return out


def _numbers(x: Tensor) -> list[float | None]:
    return [_number(v) for v in x.tolist()]


def _number(x: Any) -> float | None:
    x = float(x)
    return round(x, 5) if x == x and abs(x) != float("inf") else None
