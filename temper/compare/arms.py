"""What is compared: recipes with their options, checked before anything is trained."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.ledger import budget_of

RESERVED = ("seed", "out", "resume", "budget", "threads", "dry_run", "track")


@dataclass(frozen=True)
class Arm:
    """label: unique, and the name of its folder; words: recipe and options as on the command line."""

    label: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.words)

    def argv(self, seed: int, budget: str) -> list[str]:
        return [*self.words, "--seed", str(seed), "--budget", budget]


def arms_of(texts: Sequence[str], common: Sequence[str] = ()) -> list[Arm]:
    """Arms out of quoted command lines, "LABEL: RECIPE --option value" or without a label; common: words for each."""
    found: list[Arm] = []
    for text in texts:
        label, colon, rest = text.partition(": ")
        words = words_of(rest if colon else text)
        label = label if colon else Path(words[0]).stem if len(words) == 1 else " ".join(words)
        found.append(Arm(folder_of(label), (words[0], *common, *words[1:])))
    for arm in found:
        if [a.label for a in found].count(arm.label) > 1:
            raise UserError(f"two arms are called {arm.label!r}: name them, as in 'mine: {arm.text}'")
    if len(found) < 2:
        raise UserError("there is nothing to compare: give at least two arms")
    return found


def words_of(text: str) -> tuple[str, ...]:
    """A quoted command line as words. UserError where it cannot be read, or is empty."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"arm {text!r} cannot be read as a command line ({error})")
    if not words:
        raise UserError("an arm is empty: give a recipe, with its options in one quoted string")
    return words


def check(arms: Sequence[Arm], budget: str) -> list[tuple[str, str]]:
    """(source, id) of the held-out tasks; UserError, naming the arm, for what would fail once it is trained."""
    budget_of(budget)
    first: tuple[Any, ...] | None = None
    for arm in arms:
        try:
            tasks = _held_out(arm, budget)
        except UserError as error:
            raise UserError(f"arm {arm.label!r}: {error}")
        if first is not None and tasks != first:
            raise UserError(
                f"arms {arms[0].label!r} and {arm.label!r} are not judged alike: their held-out tasks or the attempts"
                " at them differ; give both the same --eval-data, --eval-tasks and --eval-attempts"
            )
        first = tasks
    return first[0] if first is not None else []


def _held_out(arm: Arm, budget: str) -> tuple[Any, ...]:
    """What the arm is judged on; builds the run, loads nothing."""
    from temper.cli import run as command
    from temper.evaluate import Evaluation

    for word in arm.words[1:]:
        name = word[2:].partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in RESERVED:
            raise UserError(f"{word.partition('=')[0]} is given to the comparison, for all arms alike")
    asked = command.resolve([*arm.argv(0, budget), "--out", f"runs/{arm.label}"])
    (run,), _ = command.build(asked)
    probes = [p for p in run.probes if isinstance(p, Evaluation)]
    if not probes:
        raise UserError("it has no held-out tasks, so there is nothing to compare it by: see --eval-tasks")
    return [(t.source, t.id) for t in probes[0].tasks], probes[0].attempts, probes[0].threshold


def folder_of(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^\w.+=-]+", "-", label.replace(" --", " ")).strip("-.") or "arm"
