"""A task: one problem with what is needed to check an answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """One problem.

    id      unique within its source, stable across processes ("chain_sum/train/17")
    prompt  the user's text, or a list of chat messages ({"role": …, "content": …})
    answer  the reference answer (text), None where a checker needs none
    source  what rewards and per-task evaluation group by ("chain_sum")
    info    everything else of the data row; reaches reward functions by name
    """

    id: str
    prompt: str | list[dict[str, Any]]
    answer: str | None = None
    source: str = "task"
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The prompt as chat messages (a bare text is one user message)."""
        if isinstance(self.prompt, str):
            return [{"role": "user", "content": self.prompt}]
        return list(self.prompt)
