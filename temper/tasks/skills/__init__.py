"""Synthetic skills of the bundled base model: demonstrations to pre-train on, and held-out tasks to measure with."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from temper.tasks.skills.arithmetic import ARITHMETIC
from temper.tasks.skills.base import STYLES, Demo, Skill, pick_style, stream
from temper.tasks.skills.check import reward
from temper.tasks.skills.formats import FORMATS
from temper.tasks.skills.games import GAMES
from temper.tasks.skills.search import SEARCH
from temper.tasks.skills.strings import STRINGS
from temper.tasks.skills.tools import TOOLS
from temper.tasks.task import Task

SKILLS: dict[str, Skill] = {s.name: s for s in (*ARITHMETIC, *STRINGS, *SEARCH, *FORMATS, *TOOLS, *GAMES)}

_SYSTEM = ("You are a helpful assistant.", "Think first, then answer.", "Answer briefly.")

__all__ = ["SKILLS", "STYLES", "Demo", "Skill", "baselines", "demo", "demo_turns", "demos", "held_out", "reward"]


def _skill(name: str) -> Skill:
    if name not in SKILLS:
        raise ValueError(f"unknown skill {name!r}; there are: {', '.join(SKILLS)}")
    return SKILLS[name]


def demo(skill: str, seed: int, index: int) -> Demo:
    """Demonstration number `index` of a skill."""
    rng = stream(seed, f"demo/{skill}", index)
    found = _skill(skill)
    task = found.question(rng, index)
    style = pick_style(rng)
    system = [{"role": "system", "content": rng.choice(_SYSTEM)}] if rng.random() < 0.05 else []
    messages = [*system, *task.messages, *found.demonstrate(task, rng, style)]
    return Demo(messages, skill, task, style, task.info.get("tools"))


def demos(mixture: dict[str, float], seed: int, start: int = 0) -> Iterator[Demo]:
    """Demonstrations without end, from number `start`; skills are drawn in proportion to `mixture`."""
    skills, weights = list(mixture), list(mixture.values())
    index = start
    while True:
        yield demo(stream(seed, "mixture", index).choices(skills, weights)[0], seed, index)
        index += 1


def held_out(skill: str, n: int, seed: int = 0) -> list[Task]:
    """`n` tasks of a skill drawn from other random streams than any demonstration's; `reward` checks them."""
    found = _skill(skill)
    return [found.question(stream(seed, f"held-out/{skill}", i), i) for i in range(n)]


def baselines(skill: str, n: int = 200, seed: int = 0) -> dict[str, float]:
    """Pass rates without a model: `chance` gives another task's answer, `copy` a random piece of the prompt."""
    tasks = held_out(skill, n, seed)
    rng = stream(seed, f"baseline/{skill}", 0)
    chance = [reward(str(rng.choice(tasks).answer), **task.info) for task in tasks]
    copied = [reward(_piece(task, rng), **task.info) for task in tasks]
    return {"chance": sum(chance) / n, "copy": sum(copied) / n}


def _piece(task: Task, rng: Random) -> str:
    """A random word of the prompt, without punctuation around it."""
    words = " ".join(str(m["content"]) for m in task.messages).split()
    return rng.choice(words).strip(".,:;?!\"'()")


def demo_turns(found: Demo, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """A demonstration as turns (author, token ids): "solver" wrote the assistant's words, "env" everything else.

    The concatenation is the chat template's own rendering; an assistant turn ends with its end-of-turn token.
    """
    turns: list[tuple[str, list[int]]] = []
    before = ""
    for i in range(_first_answer(found), len(found.messages)):
        if found.messages[i]["role"] != "assistant":
            continue
        prompt: str = tokenizer.apply_chat_template(
            found.messages[:i], tools=found.tools, tokenize=False, add_generation_prompt=True
        )
        answer = found.messages[i]["content"] + tokenizer.eos_token
        turns.append(("env", _encode(tokenizer, prompt.removeprefix(before))))
        turns.append(("solver", _encode(tokenizer, answer)))
        before = prompt + answer
    return turns


def _first_answer(found: Demo) -> int:
    """Where the demonstration begins: behind the system message and the task's own messages."""
    return int(found.messages[0]["role"] == "system") + len(found.task.messages)


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a piece of rendered text (through the backend, which is ten times faster on short texts)."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids
