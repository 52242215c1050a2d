"""GRPO with a tool: products that the model cannot compute in its head, a calculator, or (the control) none."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

from temper.backends.base import AdamW, SamplingParams
from temper.envs.tools import ToolUse
from temper.evaluate import Evaluation
from temper.methods.objectives.grpo import grpo
from temper.objective import Update, token_mean
from temper.parts.curricula import Shuffled
from temper.parts.rewards import Rewards
from temper.parts.schedules import WarmUp
from temper.policy import Policy
from temper.rewards.load import reward_from
from temper.run import Run
from temper.tasks.skills.tools import CALCULATOR
from temper.tasks.suites import is_held_out
from temper.tasks.task import Task
from temper.tools.base import Result, Toolbox


def tool_arithmetic(
    model: str = "temper-tiny",
    tool: Literal["calculator", "none"] = "calculator",
    turns: int = 3,
    steps: int = 30,
    groups: int = 12,
    attempts: int = 8,
    lr: float = 3e-4,
    max_tokens: int = 64,
    temperature: float = 1.0,
    eval_tasks: int = 100,
    eval_attempts: int = 4,
    eval_every: int = 0,
    save_every: int = 50,
    device: str = "auto",
    seed: int = 0,
) -> Run:
    """Products of two-digit numbers: call the tool, read its response, answer.

    tool        what may be called; none: the arm without a tool, for comparison
    turns       most turns that the model takes
    groups      tasks in a step
    attempts    answers to each task, compared with one another
    lr          peak learning rate
    max_tokens  longest turn, in tokens
    eval_every  steps between evaluations (0: only before and after)
    save_every  steps between checkpoints (0: only at the end)
    """
    train, held_out = products()
    policy = Policy(model=model, optimizer=AdamW(lr=WarmUp(lr, 5)), device=device)
    method = grpo(policy, beta=0.0, per=token_mean)
    run = Run(
        name="tool-arithmetic",
        env=ToolUse(toolbox(tool), turns=turns),
        curriculum=Shuffled(train, attempts, seed),
        roles={"solver": policy},
        on_group=[Rewards([reward_from("exact_match")]), *method.on_group],
        on_batch=method.on_batch,
        updates=[Update(policy, method.terms)],
        probes=[Evaluation(held_out[:eval_tasks], eval_attempts, eval_every, trained=("product",))],
        steps=steps,
        groups=groups,
        signal=method.signal,
        keep_silent=method.keep_silent,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature),
        seed=seed,
        save_every=save_every,
    )
    run.threads = 1  # the model is too small for more
    return run


def products() -> tuple[list[Task], list[Task]]:
    """(for training, held out): every product of two two-digit numbers, a fifth of them never trained on."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    Random(0).shuffle(pairs)
    tasks = [Task(f"product/{a}x{b}", f"What is {a} * {b}?", str(a * b), source="product") for a, b in pairs]
    held_out = [is_held_out(str(t.prompt)) for t in tasks]
    return [t for t, out in zip(tasks, held_out) if not out], [t for t, out in zip(tasks, held_out) if out]


def toolbox(tool: str) -> Toolbox:
    """The tool, described as temper-tiny has seen it described."""
    if tool == "none":
        return Toolbox([])
    from temper.tools.calculator import Calculator

    return Toolbox([Described(Calculator(), CALCULATOR)])


class Described:
    """A tool under another description: `schema` in the "function" form."""

    def __init__(self, tool: Any, schema: dict[str, Any]):
        self._tool = tool
        self.name, self.description = schema["function"]["name"], schema["function"]["description"]
        self.parameters = schema["function"]["parameters"]
        self.cacheable = getattr(tool, "cacheable", True)
        self.own_deadline = getattr(tool, "own_deadline", False)

    async def __call__(self, **arguments: Any) -> Result:
        result: Result = await self._tool(**arguments)
        return result

    def close(self) -> Any:
        return self._tool.close() if hasattr(self._tool, "close") else None
