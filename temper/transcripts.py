"""Transcripts: groups of a batch as JSON lines, token by token, for the report and for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from temper.carrier import Batch
from temper.columns import (
    ADVANTAGE,
    AUTHOR,
    ENTROPY,
    EPISODE,
    FINISH,
    GROUP_KEY,
    INFO,
    LOGP,
    OUTCOME,
    REQUEST,
    REWARD,
    ROLE,
    SPLIT,
    TASK,
    TOKEN,
    TRAJECTORY,
    TURN_REWARD,
    VERSION,
)

GROUPS = 8  # requests written per transcript
TEXT, NOTES = 2_000, 40_000  # characters of one text in a trajectory's info, and of all of it
LEVELS, BITS = 100, 4_096  # lists and mappings within one another; of an integer
BROKEN, WINDOW = "\ufffd", 8  # what half a character decodes to; most ids that are tried together
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
    credit = b.mean(b[ADVANTAGE], TOKEN, TRAJECTORY).tolist() if ADVANTAGE in b else [None] * b.size(TRAJECTORY)
    return {
        "step": step,
        "split": b[SPLIT][0],
        "task": {"id": task.id, "source": task.source, "prompt": task.prompt, "answer": task.answer},
        "turns": _turns(b, tokenizer),
        "trajectories": [_trajectory(b, j, advantage) for j, advantage in enumerate(credit)],
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
            "tokens": pieces(tokenizer, ids),
            "ids": ids,
            "sampled": sampled,
            "finish": b[FINISH][u],
            "reward": _number(b[TURN_REWARD][u]) if TURN_REWARD in b else None,
        }
        row |= {k: _numbers(values[k][rows]) if sampled and k in values else None for k in columns}
        out.append(row)
    return out


def _trajectory(b: Batch, j: int, advantage: float | None) -> dict[str, Any]:
    parts = {c.name[7:]: _number(b[c][j]) for c in b.columns if c.name.startswith("reward@")}
    return {
        "turns": b.turns_of(j),
        "role": b[ROLE][j],
        "episode": int(b[EPISODE][j]) if EPISODE in b else None,
        "group": b[GROUP_KEY][b.structure.group[j]] if GROUP_KEY in b else "",
        "reward": _number(b[REWARD][j]) if REWARD in b else None,
        "rewards": parts,
        "outcome": b[OUTCOME][j],
        "advantage": None if advantage is None else _number(advantage),
        "info": plain(b[INFO][j]),
    }


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each id, which together are the text of all.

    A character that takes several ids is the text of its last one, the others have none. What is no text within
    `WINDOW` ids is decoded id by id.
    """
    out = [tokenizer.decode([i]) for i in ids]
    k = 0
    while k < len(ids):
        if BROKEN in out[k]:
            for end in range(k + 2, min(k + WINDOW, len(ids)) + 1):
                text = tokenizer.decode(ids[k:end])
                if BROKEN not in text:
                    out[k:end] = [""] * (end - k - 1) + [text]
                    k = end - 1
                    break
        k += 1
    return out


def plain(info: Any) -> Any:
    """`info` as JSON-ready data of about `NOTES` characters at most: see `_Plain`."""
    return _Plain(NOTES).of(info)


@dataclass
class _Plain:
    """Numbers, texts, lists and mappings; anything else is its text, NaN and infinity are null.

    A text is cut at `TEXT`. When `left` characters are spent the rest is left out: "cut" says so in each mapping and
    list that lost something, and in place of what lies deeper than `LEVELS`. Nothing in an info makes it raise.
    """

    left: int

    def of(self, value: Any, level: int = 0) -> Any:
        if value is None or isinstance(value, bool | float) or (isinstance(value, int) and _short(value)):
            self.left -= 8
            return None if isinstance(value, float) and not math.isfinite(value) else value
        if isinstance(value, Mapping | list | tuple) and level == LEVELS:
            return "cut"
        if isinstance(value, Mapping):
            return dict(self._kept(value.items(), ("cut", True), level))
        if isinstance(value, list | tuple):
            return [v for _, v in self._kept(((i, v) for i, v in enumerate(value)), (-1, "cut"), level)]
        text = _text(value)
        self.left -= min(len(text), TEXT)
        return text if len(text) <= TEXT else f"{text[:TEXT]}… ({len(text) - TEXT:,} more characters)"

    def _kept(self, items: Iterable[tuple[Any, Any]], cut: tuple[Any, Any], level: int) -> Iterator[tuple[Any, Any]]:
        for key, value in items:
            if self.left <= 0:
                yield cut
                return
            name = _text(key)
            self.left -= len(name)
            yield name[:TEXT], self.of(value, level + 1)


def _short(value: int) -> bool:
    """Python refuses to write longer ones."""
    return value.bit_length() <= BITS


def _text(value: Any) -> str:
    try:
        return (
            f"an integer of {value.bit_length()} bits" if isinstance(value, int) and not _short(value) else str(value)
        )
    except Exception as error:  # whatever its own text is made of
        return f"{type(value).__name__} ({type(error).__name__})"


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
