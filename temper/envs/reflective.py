"""Planner, coder and reflector write a program; an executor runs it on tests, and they try again."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Sequence

from temper.envs.workflow import Allocator, Desk, Workflow
from temper.errors import UserError
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.base import Call as ToolCall
from temper.tools.base import Toolbox
from temper.tools.python import Python

ASKS = {
    "planner": "You plan a program.\n{state}\nWrite its pseudocode as <pseudocode>…</pseudocode> and nothing else.",
    "coder": "You write a program.\n{state}\nWrite it as <code>…</code> and nothing else.",
    "reflector": "You review a program.\n{state}\nSay what to change as <reflection>…</reflection> and nothing else.",
}
TAGS = {"planner": "pseudocode", "coder": "code", "reflector": "reflection"}


class Executor:
    """Runs a program on tests in the Python sandbox, each test in a new interpreter, and compares outside of it.

    A test is (expression, expected): the program prints the value of the expression, and its last line must be equal to
    `expected`, as Python literals or else as text. The program never sees what is expected.

    seconds  of one test
    """

    def __init__(self, seconds: float = 5.0):
        self.seconds = seconds
        self._box: Toolbox | None = None

    async def pass_rate(self, code: str, tests: Sequence[Sequence[str]]) -> tuple[float, str]:
        """(share of the tests that pass, what went wrong first). Raises Drop where the sandbox itself fails."""
        if not tests:
            raise UserError("a program is judged by tests: the task's info lacks them ([[expression, expected], …])")
        self._box = self._box or Toolbox([Python(seconds=self.seconds, echo=False)])
        runs = [ToolCall("python", {"code": f"{code}\nprint()\nprint(repr({asked}))"}) for asked, _ in tests]
        results = await asyncio.gather(*(self._box.run(run) for run in runs))
        if any(r.outcome == "fault" for r in results):
            raise Drop("executor fault")
        passed, first = 0, ""
        for result, (asked, expected) in zip(results, tests):
            shown = result.text.rstrip().rpartition("\n")[2]
            good = result.outcome == "ok" and equal(shown, expected)
            passed += good
            first = first or ("" if good else f"{asked}: {result.text.strip()[-200:] or result.outcome}")
        return passed / len(tests), first

    def close(self) -> None:
        """End its processes."""
        if self._box is not None:
            for tool in self._box.tools.values():
                getattr(tool, "close", lambda: None)()


def equal(shown: str, expected: str) -> bool:
    """Equal as Python literals of one type, or else the same text."""
    try:
        a, b = ast.literal_eval(shown), ast.literal_eval(expected)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return shown.strip() == expected.strip()
    return type(a) is type(b) and bool(a == b)


class ReflectiveCode(Workflow):
    """The workflow; a task's info["tests"] are [[expression, expected], …].

    allocate       pass rates → rewards (`temper.methods.environments.unitymas_o.reflective_code`)
    most           turns; the work ends when all tests pass
    format_weight  w of the format term: an answer is its tag, and nothing beside it
    """

    def __init__(self, executor: Executor, allocate: Allocator, most: int = 3, format_weight: float = 1.0):
        super().__init__(self._work, allocate, tuple(ASKS), format_weight)
        if most < 1:
            raise UserError(f"a workflow needs at least one turn, got {most}")
        self.executor, self.most = executor, most

    async def _work(self, task: Task, desk: Desk) -> None:
        state = [f"Task: {task.prompt}"]
        for desk.turn in range(self.most):
            plan = await self._ask("planner", desk, state)
            state.append(f"Plan {desk.turn + 1}: {plan}")
            code = await self._ask("coder", desk, state)
            rate, wrong = await self.executor.pass_rate(code, task.info.get("tests", ()))
            desk.calls[-1].score = rate
            state.append(f"Program {desk.turn + 1}:\n{code}\nPassed: {rate:.2f}\n{wrong}")
            if rate == 1.0 or desk.turn + 1 == self.most:
                return
            state.append(f"Review {desk.turn + 1}: {await self._ask('reflector', desk, state)}")

    async def _ask(self, role: str, desk: Desk, state: Sequence[str]) -> str:
        """What stands in the role's tags, or all that it said where there are none."""
        tag = TAGS[role]
        prompt = ASKS[role].format(state="\n".join(state))
        said = await desk.ask(role, prompt, lambda text: re.fullmatch(_inside(tag), text, re.DOTALL) is not None)
        found = re.search(_inside(tag), said.text, re.DOTALL)
        return (found[1] if found else said.text).strip()

    def close(self) -> None:
        """End the executor's processes."""
        self.executor.close()


def _inside(tag: str) -> str:
    return rf"<{tag}>((?:(?!</?{tag}>).)*\S(?:(?!</?{tag}>).)*)</{tag}>"
