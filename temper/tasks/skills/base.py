"""What a skill is: questions with checkers, and demonstrations of answering them, in several formats and with errors.

A base model that always answers right in one format leaves reinforcement learning nothing to do, and one that never
does leaves it nothing to reward. So a share of the demonstrations slips in the last step, guesses without thinking, or
words the answer in a way that the verifier refuses (`STYLES`), and the thinking comes long, short or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from temper.tasks.reasoning_gym import ReasoningGym
from temper.tasks.task import Task

Message = dict[str, Any]

# How a demonstration answers, and how often. "slip": the last step of the thinking, and so the answer, is wrong;
# "guess": a near miss without thinking; "wordy": the right answer, worded so that an exact-match verifier refuses it.
STYLES: dict[str, float] = {
    "long": 0.30,
    "short": 0.15,
    "plain": 0.05,
    "slip": 0.24,
    "guess": 0.08,
    "wordy": 0.18,
}
_WORDINGS = ("The answer is {}.", "Answer: {}", "{}.", "= {}", "I think {}", "**{}**")
_FIRST_SEED, _SPAN = 1000, 10**7  # Reasoning Gym seeds from here on, and items per seed, belong to the skills


@dataclass(frozen=True)
class Demo:
    """One demonstration: a whole conversation (the last message is the assistant's), its skill and its task.

    style  which of STYLES it follows; tools  the JSON schemas offered to the model, None where there are none
    """

    messages: list[Message]
    skill: str
    task: Task
    style: str = "long"
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Skill:
    """A skill: `question(rng, index)` draws a task, `demonstrate(task, rng, style)` the assistant's turns for it."""

    name: str
    doc: str
    question: Callable[[Random, int], Task]
    demonstrate: Callable[[Task, Random, str], list[Message]]
    held_out: bool = True  # whether tasks of it can be checked


def stream(seed: int, skill: str, index: int) -> Random:
    """The random numbers of one demonstration or task: a function of (seed, skill, index)."""
    return Random(f"{seed}/{skill}/{index}")


def pick_style(rng: Random) -> str:
    """One of STYLES, with its frequency."""
    return rng.choices(list(STYLES), list(STYLES.values()))[0]


def worked(
    thoughts: Callable[[Task, str, bool], str], slip: Callable[[str, Random], str]
) -> Callable[[Task, Random, str], list[Message]]:
    """Turns for a question with one short answer.

    thoughts  (task, answer, long) → the scratchpad that ends in `answer`, right or wrong
    slip      (answer, rng) → a near miss
    """

    def demonstrate(task: Task, rng: Random, style: str) -> list[Message]:
        answer = str(task.answer)
        if style == "slip":
            answer = slip(answer, rng)
        if style == "guess":
            return say(slip(answer, rng))
        if style == "plain":
            return say(answer)
        if style == "wordy":
            text = rng.choice(_WORDINGS).format(answer)
            return say(text if rng.random() < 0.3 else think(thoughts(task, answer, rng.random() < 0.6), text))
        long = style == "long" or (style == "slip" and rng.random() < 0.7)
        return say(think(thoughts(task, answer, long), answer))

    return demonstrate


def think(thought: str, answer: str) -> str:
    """An assistant turn with a scratchpad."""
    return f"<think>{thought}</think>{answer}"


def say(text: str) -> list[Message]:
    """One assistant turn."""
    return [{"role": "assistant", "content": text}]


def slip_number(answer: str, rng: Random) -> str:
    """Off by one, by ten or by one digit."""
    value = int(answer)
    options = [value + 1, value - 1, value + 2, value - 2] + ([value + 10, value - 10] if abs(value) > 9 else [])
    return str(rng.choice([x for x in options if x >= 0 or value < 0] or [value + 1]))


def slip_text(answer: str, rng: Random) -> str:
    """Two neighbouring letters swapped, one dropped or one doubled; never the answer itself."""
    i = rng.randrange(max(1, len(answer) - 1))
    swapped = answer[:i] + answer[i + 1 : i + 2] + answer[i : i + 1] + answer[i + 2 :]
    wrong = rng.choice([swapped, answer[:i] + answer[i + 1 :], answer[: i + 1] + answer[i:]])
    return wrong if wrong != answer and wrong else answer + answer[-1:]


def slip_choice(*choices: str) -> Callable[[str, Random], str]:
    """Another one of the choices."""
    return lambda answer, rng: rng.choice([c for c in choices if c != answer])


def from_reasoning_gym(name: str, *configs: dict[str, Any]) -> Callable[[Random, int], Task]:
    """Questions of a Reasoning Gym data set, cycling through difficulty settings; the seed is drawn from the stream."""
    sources: dict[tuple[int, int], ReasoningGym] = {}

    def question(rng: Random, index: int) -> Task:
        key = (index % len(configs), _FIRST_SEED + rng.randrange(4))
        if key not in sources:
            sources[key] = ReasoningGym(name, _SPAN, key[1], **configs[key[0]])
        task: Task = sources[key][rng.randrange(_SPAN)]
        return task

    return question
