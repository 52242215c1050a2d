"""Worked answers to tasks: what methods take that learn from a demonstration where attempts fail."""

from __future__ import annotations

from temper import streams
from temper.tasks.skills import SKILLS
from temper.tasks.skills.base import stream
from temper.tasks.task import Task

WRITTEN = ("completion", "messages", "solution")  # keys of a data row that hold a whole answer


def solution(task: Task) -> str | None:
    """The text of a worked answer: the data row's own, else the bundled skill's; None where there is none.

    A bare reference answer (`task.answer`) is none: it shows no way to get there.
    """
    for key in WRITTEN:
        text = _text(task.info.get(key))
        if text:
            return text
    skill = SKILLS.get(task.source)
    if skill is None or task.answer is None:
        return None
    turns = skill.demonstrate(task, stream(0, "solution", streams.key(0, task.id)), "long")
    return str(turns[0]["content"]) if len(turns) == 1 else None


def _text(value: object) -> str | None:
    """A text, or the last of some messages where the assistant wrote it."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and value and value[-1].get("role") == "assistant":
        return str(value[-1].get("content") or "") or None
    return None
