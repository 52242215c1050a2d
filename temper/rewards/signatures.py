"""Whose signature a reward function has, and how it is called.

temper  def reward(completion, answer, …): one trajectory; parameters are filled by name with `completion` (the text
        of the last sampled turn), `prompt`, `answer`, `task`, `messages` (the whole dialogue), and anything else
        that the data row or the environment noted. Returns a number, a bool, None, or {"score": …, extras}
trl     def reward(prompts, completions, completion_ids, trainer_state, **columns): the trajectories of a group
        as lists; returns a list
verl    def compute_score(data_source, solution_str, ground_truth, extra_info=None): one trajectory
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from temper.errors import UserError
from temper.rewards.reference import name_of
from temper.rewards.verdict import Notes
from temper.tasks.task import Task

STYLES = ("temper", "trl", "verl")
_OWN = ("completion", "prompt", "answer", "task", "messages")
_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")


@dataclass
class Row:
    """One trajectory as reward functions see it.

    completion      the text of its last sampled turn
    completion_ids  every id after the prompt
    said            (from a policy, text) of every turn after the prompt
    noted           what the environment noted about the trajectory
    version         of the weights that sampled it
    """

    task: Task
    completion: str
    completion_ids: list[int]
    said: list[tuple[bool, str]]
    noted: Mapping[str, Any]
    version: int = 0

    @property
    def reply(self) -> list[dict[str, str]]:
        """The messages after the prompt: the policy's as assistant, the environment's as user."""
        return [{"role": "assistant" if sampled else "user", "content": text} for sampled, text in self.said]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [*self.task.messages, *self.reply]

    @property
    def columns(self) -> dict[str, Any]:
        """What the data row and the environment hold besides prompt and completion, by name."""
        answer = {} if self.task.answer is None else {"answer": self.task.answer}
        found = {**answer, **self.task.info, **self.noted}
        return {k: v for k, v in found.items() if k not in ("prompt", "completion", "completion_ids")}


@dataclass(frozen=True)
class Signature:
    """The parameters of a function: the names it takes, those it must get, and whether it takes any other (**)."""

    style: str
    name: str
    takes: tuple[str, ...]
    required: tuple[str, ...]
    anything: bool

    @staticmethod
    def of(function: Callable[..., Any], style: str | None = None, name: str | None = None) -> Signature:
        """UserError for positional-only parameters and unknown styles; `style` overrides what the names suggest."""
        name = name or name_of(function)
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            raise UserError(f"reward {name!r} has no readable signature: wrap it in a Python function")
        if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
            raise UserError(f"reward {name!r} has positional-only parameters, and they are filled by name")
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        takes = tuple(p.name for p in named)
        style = style or detect(takes)
        if style not in STYLES:
            raise UserError(f"unknown reward style {style!r}; there are: {', '.join(STYLES)}")
        required = tuple(p.name for p in named if p.default is p.empty)
        return Signature(style, name, takes, required, any(p.kind is p.VAR_KEYWORD for p in parameters))

    @property
    def many(self) -> bool:
        """Whether one call judges the trajectories of a whole group."""
        return self.style == "trl"

    def wants(self, name: str) -> bool:
        return name in self.takes or self.anything

    def arguments(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Keyword arguments for one call. UserError names a required one that is missing, and what there is."""
        found = {"temper": self._own, "trl": self._trl, "verl": self._verl}[self.style](rows)
        self._check(found, rows)
        return found

    def check(self, tasks: Iterable[Task]) -> None:
        """Whether these tasks have what the function requires; UserError as of `arguments`."""
        for task in tasks:
            self.arguments([Row(task, "", [], [], {})])

    def _check(self, found: Mapping[str, Any], rows: Sequence[Row]) -> None:
        for name in self.required:
            if name not in found:
                there = {"temper": _OWN, "trl": _TRL, "verl": _VERL}[self.style]
                columns = dict.fromkeys([*there, *(c for row in rows for c in row.columns)])
                raise UserError(
                    f"reward {self.name!r} needs {name!r}, which task {rows[0].task.id!r} does not have; "
                    f"there are: {', '.join(columns)}"
                )

    def _own(self, rows: Sequence[Row]) -> dict[str, Any]:
        (row,) = rows
        columns = row.columns
        columns.setdefault("answer", None)
        found = columns if self.anything else {n: columns[n] for n in self.takes if n in columns}
        found["completion"] = row.completion
        found["prompt"] = row.task.prompt
        if "task" in self.takes:
            found["task"] = row.task
        if "messages" in self.takes:
            found["messages"] = row.messages
        return {k: v for k, v in found.items() if self.wants(k)}

    def _trl(self, rows: Sequence[Row]) -> dict[str, Any]:
        columns = [row.columns for row in rows]
        names = dict.fromkeys(n for c in columns for n in c if self.wants(n))
        found: dict[str, Any] = {n: [c.get(n) for c in columns] for n in names}
        found["prompts"] = [row.task.prompt for row in rows]
        found["completions"] = [row.completion if isinstance(row.task.prompt, str) else row.reply for row in rows]
        if self.wants("completion_ids"):
            found["completion_ids"] = [row.completion_ids for row in rows]
        if self.wants("trainer_state"):
            found["trainer_state"] = SimpleNamespace(global_step=max(row.version for row in rows))
        notes = Notes()
        found |= {"log_extra": notes.extra, "log_metric": notes.metric}
        return {k: v for k, v in found.items() if self.wants(k)}

    def _verl(self, rows: Sequence[Row]) -> dict[str, Any]:
        (row,) = rows
        columns = row.columns
        model = columns.get("reward_model")
        truth = model.get("ground_truth") if isinstance(model, Mapping) else None
        extra = columns.get("extra_info")
        found = {
            "data_source": columns.get("data_source", row.task.source),
            "solution_str": row.completion,
            "ground_truth": columns.get("answer") if truth is None else truth,
            "extra_info": extra if isinstance(extra, Mapping) else dict(row.task.info),
        }
        found |= {n: columns[n] for n in self.required if n not in found and n in columns}
        return {k: v for k, v in found.items() if self.wants(k)}


def detect(takes: Sequence[str]) -> str:
    """The style that the parameter names suggest."""
    if {"completions", "prompts", "completion_ids"} & set(takes):
        return "trl"
    return "verl" if "solution_str" in takes else "temper"
