"""Tool use where every task brings its own tools, and transforms make them harder without changing the solution.

    env = Scenes(tools, {"": Mix((Noisy(), Failing()), share=0.5)})      # tools(task) → what may be called

A task's oracle is how it is solved: info["oracle"] = [{"name", "arguments", "after"}], where `after` are the places of
the earlier calls whose results a call needs, and the task's answer is what is said in the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from temper import streams
from temper.envs.tools import ToolUse, noted
from temper.episode import Episode
from temper.errors import UserError, unknown
from temper.policy import Seat
from temper.tasks.skills.tools import call_text
from temper.tasks.task import Task
from temper.tools.base import OUTPUT_LIMIT, Call, Tool, Toolbox

KEPT = 256  # scenes, for the other attempts at a task


@dataclass(frozen=True)
class Scene:
    """What a task looks like to the policy.

    turns  that the policy may take; needs: that the oracle takes, one for each call and one for the answer
    """

    task: Task
    tools: tuple[Tool, ...]
    turns: int
    needs: int

    @property
    def oracle(self) -> Sequence[Mapping[str, Any]]:
        return self.task.info.get("oracle") or ()

    @property
    def spare(self) -> int:
        """Turns that a transform may still use up."""
        return self.turns - self.needs


class Transform(Protocol):
    """Another scene with the same oracle and answer."""

    async def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene: ...


@dataclass(frozen=True)
class Mix:
    """Transforms in their order; each is applied to a task with probability `share`."""

    transforms: tuple[Transform, ...] = ()
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"the share of transformed tasks must be within 0 and 1, got {self.share}")


def no_tools(task: Task) -> Sequence[Tool]:
    """Nothing may be called."""
    return ()


@dataclass
class Scenes:
    """`talk` with the tools of each task, as its mix shows them. Judged by a rewards stage.

    tools  task → what may be called
    mixes  transforms by name; a task's info["mix"] says which (default "")
    talk   turns, format and budgets (its own toolbox is not used)
    seed   of what transforms draw: a function of (seed, task, place of the transform), the same in every attempt
    timeout  seconds of one call; limit: characters of a result that the policy gets to see

    The episode's task is the transformed one; its info["transforms"] names what was applied.
    """

    tools: Callable[[Task], Sequence[Tool]] = no_tools
    mixes: Mapping[str, Mix] = field(default_factory=lambda: {"": Mix()})
    talk: ToolUse = field(default_factory=ToolUse)
    seed: int = 0
    timeout: float = 10.0
    limit: int = OUTPUT_LIMIT

    @property
    def roles(self) -> tuple[str, ...]:
        return self.talk.roles

    def __post_init__(self) -> None:
        self._scenes: OrderedDict[str, tuple[Task, Scene]] = OrderedDict()

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        scene = await self.scene(task)
        box = Toolbox(scene.tools, self.timeout, limit=self.limit)
        return await replace(self.talk, toolbox=box).play(scene.task, roles)

    async def aclose(self) -> None:
        """End what `tools` holds: a tool's state of an episode ends with the episode."""
        if hasattr(self.tools, "aclose"):
            await self.tools.aclose()

    async def scene(self, task: Task) -> Scene:
        """The task as it is played; kept for its further attempts. UserError for a mix that there is not."""
        made = self._scenes.get(task.id)
        if made is None or made[0] is not task:
            made = self._scenes[task.id] = task, await self._made(task)
            if len(self._scenes) > KEPT:
                self._scenes.popitem(last=False)
        return made[1]

    async def _made(self, task: Task) -> Scene:
        name = str(task.info.get("mix", ""))
        if name not in self.mixes:
            raise unknown("mix", name, self.mixes)
        scene, applied = base(task, self.tools(task), self.talk.turns), []
        for n, transform in enumerate(self.mixes[name].transforms):
            kind = type(transform).__name__
            rng = streams.generator(self.seed, "scene", task.id, n, kind)
            if rng.random() < self.mixes[name].share:
                scene = await transform(scene, rng)
                applied.append(kind)
        info = {**scene.task.info, "transforms": applied}
        return replace(scene, task=replace(scene.task, info=info))


def base(task: Task, tools: Sequence[Tool], turns: int) -> Scene:
    """The task as it is. UserError when its oracle does not fit into the turns."""
    needs = len(task.info.get("oracle") or ()) + 1
    if needs > turns > 0:
        raise UserError(f"task {task.id!r} takes {needs} turns and there are {turns}: allow more turns")
    return Scene(task, tuple(tools), turns, needs)


@dataclass(frozen=True)
class Replay:
    """The oracle's play. messages: from the prompt to the answer; calls: as a trajectory's info has them; answer: what
    is said last, None when the turns are spent before."""

    messages: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    answer: str | None


def says(task: Task, context: str) -> str:
    """What the oracle says next, for `temper.envs.shown.Shown`: a call a turn, again after "error…", and the answer."""
    made, oracle = context.count("<tool_response>\n") - context.count("<tool_response>\nerror"), task.info["oracle"]
    return call_text(oracle[made]["name"], oracle[made]["arguments"]) if made < len(oracle) else _last(task)


def _last(task: Task) -> str:
    """What is said when all calls are made."""
    return "Done." if task.answer is None else task.answer


async def replay(scene: Scene) -> Replay:
    """Make the oracle's calls in their order, one a turn, each until it succeeds, and say the answer."""
    messages, calls = list(scene.task.messages), list[dict[str, Any]]()
    async with Toolbox(scene.tools).episode() as box:
        for step in scene.oracle:
            done = False
            while not done and (scene.turns == 0 or len(calls) < scene.turns - 1):
                call = Call(step["name"], step["arguments"])
                result = await box.run(call)
                calls.append(noted(len(calls), call, result))
                messages += [
                    {"role": "assistant", "content": call_text(call.name, dict(call.arguments))},
                    {"role": "tool", "name": call.name, "content": result.text},
                ]
                done = result.outcome == "ok"
            if not done:
                return Replay(messages, calls, None)
    answer = _last(scene.task)
    return Replay([*messages, {"role": "assistant", "content": answer}], calls, answer)
