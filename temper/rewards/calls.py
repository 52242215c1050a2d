"""Calls of tools against reference calls {"name", "arguments", "after"}: `after` are the places of those it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical(value: Any) -> Any:
    """A JSON value in which 2.0 is 2, white space in texts counts once, and keys are in order."""
    if isinstance(value, Mapping):
        return {k: canonical(value[k]) for k in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return " ".join(value.split()) if isinstance(value, str) else value


def same(call: Mapping[str, Any], step: Mapping[str, Any]) -> bool:
    """Whether a call has the name and the arguments of an oracle's; true is not 1."""
    mine, its = (json.dumps(canonical(c["arguments"]), sort_keys=True) for c in (call, step))
    return bool(call["name"] == step["name"]) and mine == its


def match(oracle: Sequence[Mapping[str, Any]], calls: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """For each oracle call the place of the earliest successful call that makes it, None when there is none.

    A call counts for one oracle call. Order is free, but a call comes in a later turn than those it needs (`after`).
    """
    places: list[int | None] = []
    for step in oracle:
        needed = [places[k] for k in step.get("after") or ()]
        found = None
        if None not in needed:
            soonest = max((calls[p]["turn"] + 1 for p in needed if p is not None), default=0)
            fits = (p for p, c in enumerate(calls) if p not in places and c["outcome"] == "ok" and same(c, step))
            found = next((p for p in fits if calls[p]["turn"] >= soonest), None)
        places.append(found)
    return places
