"""Calling a calculator, Python or a search tool (one call), and answering from the tool's response."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from temper.tasks.skills.base import Message, Skill, say, slip_number, slip_text
from temper.tasks.task import Task


def _schema(name: str, description: str, argument: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


CALCULATOR = _schema("calculator", "Evaluate an arithmetic expression.", "expression")
PYTHON = _schema("python", "Run Python code and return what it prints.", "code")
SEARCH = _schema("search", "Look up a fact.", "query")

_THINGS = ("capital", "river", "mayor", "bridge", "founder", "harbour")
_SYLLABLES = ("ka", "lo", "mi", "ren", "tor", "va", "su", "del", "pra", "no")


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call as the model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _invented_name(rng: Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randrange(2, 4))).capitalize()


def _draw(rng: Random) -> tuple[dict[str, Any], str, dict[str, Any], str]:
    """(tool, question, the right call's arguments, the tool's response)."""
    kind = rng.randrange(3)
    if kind == 0:
        a, b, op = rng.randrange(10, 100), rng.randrange(10, 100), rng.choice("+-*")
        expression = f"{a}{op}{b}"
        result = {"+": a + b, "-": a - b, "*": a * b}[op]
        return CALCULATOR, f"What is {a} {op} {b}?", {"expression": expression}, str(result)
    if kind == 1:
        word = _invented_name(rng).lower()
        ask, code, result_text = rng.choice(
            (
                (f"How long is the word {word}?", f"print(len('{word}'))", str(len(word))),
                (f"Print {word} in capitals.", f"print('{word}'.upper())", word.upper()),
            )
        )
        return PYTHON, ask, {"code": code}, result_text
    thing, place = rng.choice(_THINGS), _invented_name(rng)
    return SEARCH, f"What is the {thing} of {place}?", {"query": f"{thing} of {place}"}, _invented_name(rng)


def _question(rng: Random, index: int) -> Task:
    """Even: the task is to make the call; odd: the call was made, and the task is to answer from its response."""
    tool, ask, arguments, response = _draw(rng)
    name = tool["function"]["name"]
    prompt: list[Message] = [{"role": "user", "content": ask}]
    info: dict[str, Any] = {"tools": [tool], "name": name, "arguments": arguments, "response": response}
    if index % 2 == 0:
        check: dict[str, Any] = {"kind": "tool_call", "name": name, "arguments": arguments}
        return Task(f"tool/{index}", prompt, call_text(name, arguments), "tool", {**info, "check": check})
    prompt += [{"role": "assistant", "content": call_text(name, arguments)}, {"role": "tool", "content": response}]
    check = {"kind": "exact", "accept": [response]}
    return Task(f"tool/{index}", prompt, response, "tool", {**info, "check": check})


def _turns(task: Task, rng: Random, style: str) -> list[Message]:
    """The turns that remain: the call, its response and the answer, or the answer alone; errors are in the first."""
    response = task.info["response"]
    wrong = slip_number(response, rng) if response.lstrip("-").isdigit() else slip_text(response, rng)
    if task.info["check"]["kind"] == "exact":
        if style == "wordy":
            return say(f"The answer is {response}.")
        return say(wrong if style in ("slip", "guess") else response)
    if style in ("guess", "wordy"):
        return say(wrong)
    arguments = dict(task.info["arguments"])
    if style == "slip":
        key = next(iter(arguments))
        arguments[key] = slip_text(arguments[key], rng)
        return say(call_text(task.info["name"], arguments))
    call: Message = {"role": "assistant", "content": call_text(task.info["name"], arguments)}
    return [call, {"role": "tool", "content": response}, *say(response)]


TOOLS = [Skill("tool", "calling a calculator, Python or search, and using the response", _question, _turns)]
