"""Calling tools until there is an answer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.models.render import Renderer
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import Call, Result, Toolbox
from temper.tools.calls import Reader, find, parse

STOPS = {"hermes": ("</tool_call>",)}  # text at which sampling can stop: formats whose calls end with a tag
INSTRUCTIONS = """# Tools

{tools}

To call one, write <tool_call>
{{"name": …, "arguments": {{…}}}}
</tool_call>"""


@dataclass
class ToolUse:
    """The policy talks and calls tools; a turn without a call is its answer. Judged by a rewards stage.

    turns    most turns that the policy takes; tokens: most that it samples in all; longest: context (0: no limit)
    system   a system message before the task's own messages (None: none)
    format   of calls: a name or a reader of `temper.tools.calls`
    single   a turn ends with its first call, and what the policy says behind it is cut off; else a turn's calls run
             together
    """

    toolbox: Toolbox = field(default_factory=lambda: Toolbox([]))
    turns: int = 4
    tokens: int = 0
    longest: int = 0
    system: str | None = None
    format: str | Reader = "hermes"
    single: bool = True
    role: str = "solver"
    tools: tuple[str, ...] = field(init=False)  # names, for the record of the run

    def __post_init__(self) -> None:
        self.tools = tuple(self.toolbox.tools)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        chat = Chat(roles[self.role], Recorder(task), turns=self.turns, tokens=self.tokens, longest=self.longest)
        outcomes: Counter[str] = Counter()
        log: list[dict[str, Any]] = []
        async with self.toolbox.episode() as box:
            chat.start(*self._opening(chat.render, task, box.schemas))
            while (said := await chat.say(self._end, **self._stop())) is not None:
                calls = parse(said.text, self.format)
                if not calls or not chat.may_go_on():
                    break
                results = await concurrently([box.run(c) for c in calls])
                outcomes.update(r.outcome for r in results)
                log += [noted(chat.said - 1, c, r) for c, r in zip(calls, results)]
                if any(r.outcome == "fault" for r in results):
                    raise Drop("tool fault")
                if not chat.observe(self._observation(chat.render, calls, results)):
                    break
        chat.judge(info={"calls": log, "outcomes": dict(outcomes)})
        return chat.record.episode()

    async def aclose(self) -> None:
        """End what the tools hold."""
        await self.toolbox.close()

    def _opening(
        self, render: Renderer, task: Task, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
        """(messages, tools): where the template has no place for tools, the first message describes them."""
        messages = ([{"role": "system", "content": self.system}] if self.system else []) + task.messages
        if not tools or render.shows_tools(tools):
            return messages, tools
        about = INSTRUCTIONS.format(tools="\n".join(json.dumps(t, ensure_ascii=False) for t in tools))
        first = messages[0]
        return [{**first, "content": f"{about}\n\n{first['content']}"}, *messages[1:]], ()

    def _stop(self) -> dict[str, tuple[str, ...]]:
        stops = STOPS.get(self.format) if self.single and isinstance(self.format, str) else None
        return {"stop": stops} if stops else {}

    def _end(self, text: str) -> int | None:
        """Where the first call ends; tokens behind it are dropped."""
        found = find(text, self.format) if self.single else []
        return found[0].end if found else None

    def _observation(
        self, render: Renderer, calls: Sequence[Call | Result], results: Sequence[Result]
    ) -> list[dict[str, Any]]:
        """Tool messages; one user message where the template knows none."""
        if not render.knows("tool"):
            return [{"role": "user", "content": "\n\n".join(r.text for r in results)}]
        names = [c.name if isinstance(c, Call) else "" for c in calls]
        return [{"role": "tool", "name": n, "content": r.text} for n, r in zip(names, results)]


def noted(turn: int, call: Call | Result, result: Result) -> dict[str, Any]:
    """A call for a trajectory's info. turn: which of the policy's turns made it, from 0; name "" could not be read."""
    asked = (call.name, dict(call.arguments)) if isinstance(call, Call) else ("", {})
    return {"turn": turn, "name": asked[0], "arguments": asked[1], "outcome": result.outcome, "text": result.text}


async def concurrently(runs: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in order; when one raises or the episode is cancelled, none goes on running."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(r) for r in runs]
    return [t.result() for t in tasks]
