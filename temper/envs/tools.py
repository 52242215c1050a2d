"""Calling tools until there is an answer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from temper.envs.backoff import BackOff
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.models.render import TRUSTED, Renderer
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
    final    says whether a text holds the final answer; the policy's or a tool's then ends the episode. A turn with
             neither that nor a readable call is void: it ends the episode too, and `info` says void
    retries  how often in an episode a turn whose call fails is taken back and sampled again, from before the call and
             `back` tokens further (never out of the turn). For inference: in training it would choose what is learned
    """

    toolbox: Toolbox = field(default_factory=lambda: Toolbox([]))
    turns: int = 4
    tokens: int = 0
    longest: int = 0
    system: str | None = None
    format: str | Reader = "hermes"
    single: bool = True
    role: str = "solver"
    final: Callable[[str], bool] | None = None
    retries: int = 0
    back: int = 0
    tools: tuple[str, ...] = field(init=False)  # names, for the record of the run

    def __post_init__(self) -> None:
        self.tools = tuple(self.toolbox.tools)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        outcomes: Counter[str] = Counter()
        log: list[dict[str, Any]] = []
        void = False
        async with self.toolbox.episode() as box:
            tries = BackOff(roles[self.role], partial(self.run, box), self.start, self.retries, self.back)
            chat = Chat(tries, Recorder(task), turns=self.turns, tokens=self.tokens, longest=self.longest)
            chat.start(*self._opening(chat.render, task, box.schemas))
            while (said := await chat.say(self.end, **self.stop())) is not None:
                calls = parse(said.text, self.format)
                void = self._is_void(said.text, calls)
                if not calls or void or self._is_final(said.text) or not chat.may_go_on():
                    break
                results = tries.results or await self.run(box, said.text)
                outcomes.update(r.outcome for r in results)
                log += [noted(chat.said - 1, c, r) for c, r in zip(calls, results)]
                if any(r.outcome == "fault" for r in results):
                    raise Drop("tool fault")
                if any(self._is_final(r.text) for r in results):
                    break
                if not chat.observe(self._observation(chat.render, calls, results)):
                    break
        more = ({} if self.final is None else {"void": void}) | ({"taken_back": tries.used} if self.retries else {})
        chat.judge(info={"calls": log, "outcomes": dict(outcomes), **more})
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
        return told(render, messages, tools), ()

    def stop(self) -> dict[str, tuple[str, ...]]:
        """What a seat's `sample` is asked for beside ids: where to stop."""
        stops = STOPS.get(self.format) if self.single and isinstance(self.format, str) else None
        return {"stop": stops} if stops else {}

    def end(self, text: str) -> int | None:
        """Where the first call ends; tokens behind it are dropped."""
        found = find(text, self.format) if self.single else []
        return found[0].end if found else None

    def start(self, text: str) -> int:
        """Where the first call begins."""
        return next((found.start for found in find(text, self.format)), len(text))

    async def run(self, box: Toolbox, text: str) -> list[Result]:
        """What the calls in a turn's text give; of a single one, the first."""
        calls = parse(text[: self.end(text)], self.format)
        return await concurrently([box.run(c) for c in calls])

    def _is_final(self, text: str) -> bool:
        return self.final is not None and self.final(text)

    def _is_void(self, text: str, calls: Sequence[Call | Result]) -> bool:
        """Neither a call that can be read nor a final answer, where `final` says what that is."""
        return self.final is not None and not self.final(text) and not any(isinstance(c, Call) for c in calls)

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


def told(
    render: Renderer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """`messages`, of which the first says what tools there are and how to call them."""
    first, *others = messages
    about = INSTRUCTIONS.format(tools=listed(render, tools, str(first["role"])))
    return [{**first, "content": f"{about}\n\n{first['content']}"}, *map(dict, others)]


def listed(render: Renderer, tools: Sequence[Mapping[str, Any]], role: str) -> str:
    """The tools for a message of `role`, a line each. What a tool says of itself is a stranger's text in any role."""
    quote = render.quoted if role in TRUSTED else str  # the others' messages are quoted as a whole
    return "\n".join(quote(json.dumps(t, ensure_ascii=False)) for t in tools)


async def concurrently(runs: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in order; when one raises or the episode is cancelled, none goes on running."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(r) for r in runs]
    return [t.result() for t in tasks]
