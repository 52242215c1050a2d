"""What a reward function's return value means. Runs in the worker, so it imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

NAN = math.nan


@dataclass(frozen=True)
class Verdict:
    """One judgement of one trajectory.

    value    NaN = not applicable, or not judged; `outcome` tells which
    outcome  "ok", or the reason why there is no value ("timeout: …", "crash: …", "error: …", "invalid: …")
    extras   further numbers that the function returned beside its score
    """

    value: float = NAN
    outcome: str = "ok"
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Notes:
    """What a TRL function logs while it is called: `extra(column, values)` a value a row, `metric(name, value)` one."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def extra(self, column: str, values: Sequence[Any]) -> None:
        self.columns[column] = list(values)

    def metric(self, name: str, value: Any) -> None:
        self.numbers[name] = value

    def added_to(self, verdicts: list[Verdict]) -> list[Verdict]:
        """The verdicts with the numbers among the notes as their extras."""
        noted = []
        for i, v in enumerate(verdicts):
            mine = {**self.numbers, **{k: c[i] for k, c in self.columns.items() if i < len(c)}}
            noted.append(replace(v, extras={**v.extras, **_numbers(mine)}))
        return noted


def read_one(returned: Any) -> Verdict:
    """A number, None (not applicable), or a mapping with "score" and extras."""
    if returned is None:
        return Verdict()
    if isinstance(returned, Mapping):
        return _read_mapping(returned)
    number = as_number(returned)
    if number is None:
        return Verdict(outcome=f"invalid: returned {brief(returned)}, not a number")
    if not math.isfinite(number):
        return Verdict(outcome=f"invalid: returned {number}")
    return Verdict(number)


def read_many(returned: Any, n: int) -> list[Verdict]:
    """A list of `n` values, one a completion."""
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return [Verdict(outcome=f"invalid: returned {brief(returned)}, not a list of {n} numbers")] * n
    if len(values) != n:
        return [Verdict(outcome=f"invalid: returned {len(values)} values for {n} completions")] * n
    return [read_one(v) for v in values]


def failure(error: BaseException) -> Verdict:
    """An exception as an outcome of one line."""
    text = " ".join(str(error).split())
    return Verdict(outcome=f"error: {type(error).__name__}{': ' + text if text else ''}"[:300])


def as_number(value: Any) -> float | None:
    """float(value) of numbers, numpy's and torch's included; None of anything else (a text that looks like one too)."""
    if isinstance(value, str | bytes | bytearray | complex) or not hasattr(value, "__float__"):
        return value.__index__() if hasattr(value, "__index__") else None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several values
        return None


def brief(value: Any) -> str:
    """The type and the beginning of the text of a value, on one line."""
    try:
        text = " ".join(repr(value)[:200].split())
    except Exception:
        text = "…"
    return f"a {type(value).__name__} ({text[:40]}{'…' if len(text) > 40 else ''})"


def _read_mapping(returned: Mapping[Any, Any]) -> Verdict:
    if "score" not in returned:
        return Verdict(outcome=f'invalid: returned a mapping without "score" (it has: {", ".join(map(str, returned))})')
    if isinstance(returned["score"], Mapping):
        return Verdict(outcome='invalid: returned a mapping whose "score" is a mapping')
    score = read_one(returned["score"])
    return Verdict(score.value, score.outcome, _numbers({k: v for k, v in returned.items() if k != "score"}))


def _numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    found = {str(k): as_number(v) for k, v in values.items()}
    return {k: v for k, v in found.items() if v is not None}
