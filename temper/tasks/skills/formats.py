"""Following an output format: answer tags, \\boxed{}, JSON, a sentence, the bare answer."""

from __future__ import annotations

import json
from random import Random

from temper.tasks.skills.base import Message, Skill, say, slip_number, think
from temper.tasks.task import Task

INSTRUCTIONS = {
    "tags": "Put the answer between <answer> and </answer>.",
    "boxed": "Put the answer in \\boxed{}.",
    "json": 'Answer as JSON with the key "answer".',
    "plain": "Answer with the number only.",
    "sentence": "Answer in a full sentence.",
}


def formatted(kind: str, answer: str) -> str:
    """An answer in one of the formats."""
    return {
        "tags": f"<answer>{answer}</answer>",
        "boxed": f"\\boxed{{{answer}}}",
        "json": json.dumps({"answer": int(answer)}),
        "plain": answer,
        "sentence": f"The answer is {answer}.",
    }[kind]


def _question(rng: Random, index: int) -> Task:
    a, b = rng.randrange(1, 10), rng.randrange(1, 10)
    kind = rng.choice(list(INSTRUCTIONS))
    ask = rng.choice((f"What is {a}+{b}?", f"{a} + {b} =", f"Add {a} and {b}."))
    wording = f"{ask} {INSTRUCTIONS[kind]}" if rng.random() < 0.7 else f"{INSTRUCTIONS[kind]} {ask}"
    answer = formatted(kind, str(a + b))
    check = (
        {"kind": "as_json", "key": "answer", "value": a + b}
        if kind == "json"
        else {"kind": "verbatim", "accept": [answer]}
    )
    return Task(f"format/{index}", wording, answer, "format", {"check": check, "format": kind, "sum": f"{a}+{b}"})


def _turns(task: Task, rng: Random, style: str) -> list[Message]:
    kind, value = task.info["format"], str(sum(map(int, task.info["sum"].split("+"))))
    if style in ("slip", "guess"):
        value = slip_number(value, rng)
    if style == "wordy":
        kind = rng.choice([other for other in INSTRUCTIONS if other != kind])
    text = formatted(kind, value)
    return say(text if style in ("guess", "plain", "short") else think(f"{task.info['sum']}={value}", text))


FORMATS = [Skill("format", "an answer in the requested format", _question, _turns)]
