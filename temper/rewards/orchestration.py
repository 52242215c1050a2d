"""How well calls follow a reference of several dependent calls: each by itself, and together.

The parts of arXiv 2603.24709 as its code has them (horizon-rl/ToolOrchestrationReward, `complex_tool.py`). A call is
{"turn", "name", "arguments", "outcome", "text"} as a trajectory's info has it, name "" where it could not be read; a
reference step {"name", "arguments", "after"}, and "success": false where the reference's own call failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.rewards.calls import match
from temper.tasks.orchestration_cache import failed
from temper.tools.base import Call
from temper.tools.calls import parse

Calls = Sequence[Mapping[str, Any]]
NAME, STRUCTURE, VALUES = 0.33, 0.33, 0.34
_LIGHT = re.compile(r"[ ,./\-_*^]")  # characters of texts that do not count


@dataclass(frozen=True)
class Orchestrated:
    """1 when every reference call was made, with its arguments and behind those it needs, else 0; and the two parts.

    unread  count calls that cannot be read among the model's calls (the paper's code leaves them out)
    format  of calls, to find those of a last turn that were never run
    """

    unread: bool = False
    format: str = "hermes"

    def __call__(self, completion: str, oracle: Calls, calls: Calls = (), turns: int = 0) -> dict[str, float]:
        made = [*calls, *self._never_run(completion, calls, turns)]
        counted = [c for c in made if c["name"] or self.unread]
        readable = [c for c in made if c["name"]]
        return {
            "score": float(None not in match(oracle, made)),
            "atomic": atomic(counted, oracle),
            "orchestration": orchestration(readable, oracle),
            "calls": float(len(counted)),
        }

    def _never_run(self, completion: str, calls: Calls, turns: int) -> list[dict[str, Any]]:
        """Calls of the last turn when the budget ended the episode behind it."""
        if any(c["turn"] == turns - 1 for c in calls):
            return []
        asked = [c if isinstance(c, Call) else Call("") for c in parse(completion, self.format)]
        return [{"turn": turns - 1, "name": c.name, "arguments": c.arguments, "outcome": "", "text": ""} for c in asked]


def atomic(calls: Calls, oracle: Calls) -> float:
    """Mean over the model's calls of (syntax + execution) / 2; 0 without calls. A call is compared with the first
    reference step of its name; one that has none is worth 0."""
    return sum(_one(c, oracle) for c in calls) / len(calls) if calls else 0.0


def _one(call: Mapping[str, Any], oracle: Calls) -> float:
    step = next((s for s in oracle if s["name"] == call["name"]), None)
    if step is None or not step.get("success", True):
        return 0.0
    return (syntax(call["arguments"], step["arguments"]) + executed(call)) / 2


def syntax(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    """0.33 for the name, 0.33 · |P∩P*|/|P*| · (share of P∩P* of the right type), 0.34 when `strict`.

    Without parameters the second part is 0.33 if and only if none is given. int, float and bool are of one type here.
    """
    both = given.keys() & wanted.keys()
    if not wanted:
        structure = float(not given)
    else:
        fits = sum(_alike(given[p], wanted[p]) for p in both)
        structure = len(both) / len(wanted) * (fits / len(both) if both else 0.0)
    return NAME + STRUCTURE * structure + VALUES * strict(given, wanted)


def _alike(a: Any, b: Any) -> bool:
    return (isinstance(a, (int, float)) and isinstance(b, (int, float))) or type(a) is type(b)


def strict(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """BFCL's check of one call: the same parameters, types and values.

    An int passes for a float but not the other way round; case, spaces and ,./-_*^ of texts do not count. Within
    objects it goes to any depth, where BFCL's own goes wrong.
    """
    return given.keys() == wanted.keys() and all(_equal(given[p], wanted[p]) for p in wanted)


def _equal(a: Any, b: Any) -> bool:
    if type(a) is int and type(b) is float:
        return bool(a == b)
    if type(a) is not type(b):
        return False
    if isinstance(b, str):
        return _plain(a) == _plain(b)
    if isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return strict(a, b) if isinstance(b, Mapping) else bool(a == b)


def _plain(text: str) -> str:
    return _LIGHT.sub("", text).lower().replace("'", '"')


def executed(call: Mapping[str, Any]) -> float:
    """1 when there is a response without an error flag."""
    if call["outcome"] != "ok":
        return 0.0
    try:
        response = json.loads(call["text"])
    except (ValueError, RecursionError):
        response = call["text"]
    return float(not failed(response))


def orchestration(calls: Calls, oracle: Calls) -> float:
    """The share of reference steps for which some call has the name, behind the calls found for all that it needs.

    Steps in their order, each with the first call that fits; arguments do not count, and one call may serve several
    steps of a name, as in the paper's code.
    """
    places: list[int | None] = []
    for step in oracle:
        needed = [places[k] for k in step.get("after") or ()]
        soonest = max((p for p in needed if p is not None), default=-1)
        fits = (p for p, c in enumerate(calls) if c["name"] == step["name"] and p > soonest)
        found = None if None in needed or not step.get("success", True) else next(fits, None)
        places.append(found)
    return sum(p is not None for p in places) / len(places) if places else 0.0
