"""Checkers of the tasks that are not Reasoning Gym's: what a task's info["check"] asks for, applied to a completion."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from temper.tasks import reasoning_gym
from temper.tasks.reasoning_gym import extract_answer

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def exact(text: str, accept: list[str]) -> bool:
    """The final text is one of the accepted answers."""
    return extract_answer(text) in accept


def verbatim(text: str, accept: list[str]) -> bool:
    """The whole text after the thinking is one of the accepted ones: the format is part of the task."""
    return text.rpartition("</think>")[2].strip() in accept


def as_json(text: str, key: str, value: Any) -> bool:
    """The final text is a JSON object that holds exactly this."""
    try:
        return bool(json.loads(text.rpartition("</think>")[2]) == {key: value})
    except (ValueError, RecursionError):
        return False


def tool_call(text: str, name: str, arguments: dict[str, Any]) -> bool:
    """The completion calls this tool, once, with these arguments."""
    found = _CALL.findall(text)
    try:
        return len(found) == 1 and json.loads(found[0]) == {"name": name, "arguments": arguments}
    except (ValueError, RecursionError):
        return False


def expression(text: str, numbers: list[int], target: int) -> bool:
    """The final text is an expression of +, - and * that uses each number once and makes the target."""
    answer = extract_answer(text)
    if len(answer) > 60 or not re.fullmatch(r"[0-9+\-* ()]+", answer):
        return False
    try:
        tree = ast.parse(answer, mode="eval")
    except (SyntaxError, ValueError):
        return False
    used = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, int)]
    return sorted(used) == sorted(numbers) and _value(tree.body) == target


def _value(node: ast.expr) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if left is None or right is None:
            return None
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
    return None


KINDS: dict[str, Callable[..., bool]] = {f.__name__: f for f in (exact, verbatim, as_json, tool_call, expression)}


def reward(
    completion: str, check: Mapping[str, Any] | None = None, rg: Mapping[str, Any] | None = None, **_row: Any
) -> float:
    """1.0 where the completion passes its task's own check, else 0.0. A reward function for every skill's tasks.

    `check` is {"kind": one of KINDS, **its arguments}; Reasoning Gym tasks carry `rg` instead.
    """
    if rg is not None:
        return reasoning_gym.passed(completion, rg)
    if check is None:
        raise ValueError("the task has neither info['check'] nor info['rg']: nothing says how to judge its answer")
    arguments = {key: value for key, value in check.items() if key != "kind"}
    return float(KINDS[check["kind"]](completion, **arguments))
