"""Search and logic: reaching a number with + and -, truth values, orderings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

from temper.tasks.skills.base import Message, Skill, say, slip_choice, think, worked
from temper.tasks.task import Task

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal")


def _countdown_question(rng: Random, index: int) -> Task:
    numbers = [rng.randrange(1, 20) for _ in range(3)]
    signs = [rng.choice("+-") for _ in numbers[1:]]
    target = _value(numbers, signs)
    listed = ", ".join(map(str, numbers))
    wording = (
        f"Make {target} using all of these numbers: {listed}",
        f"Find a way to make {target} from the numbers {listed} with + and -.",
    )[index % 2]
    info = {"check": {"kind": "expression", "numbers": numbers, "target": target}}
    return Task(f"countdown/{index}", wording, _chain(numbers, signs), "countdown", info)


def _chain(numbers: Sequence[int], signs: Sequence[str]) -> str:
    """The expression, "3+4-5"."""
    return "".join([str(numbers[0]), *(s + str(n) for s, n in zip(signs, numbers[1:]))])


def _value(numbers: Sequence[int], signs: Sequence[str]) -> int:
    return numbers[0] + sum(n if s == "+" else -n for s, n in zip(signs, numbers[1:]))


def _countdown_turns(task: Task, rng: Random, style: str) -> list[Message]:
    """Tries sign patterns until one makes the target: "3+4+5=12 3+4-5=2"; a slip gives up one try too early."""
    numbers, target = task.info["check"]["numbers"], task.info["check"]["target"]
    tries: list[tuple[str, int]] = []
    patterns = list(product("+-", repeat=len(numbers) - 1))
    if rng.random() < 0.5:
        rng.shuffle(patterns)
    for signs in patterns:
        tries.append((_chain(numbers, signs), _value(numbers, signs)))
        if tries[-1][1] == target:
            break
    if style == "slip":
        tries = tries[:-1] or [(str(task.answer) + "+1", target)]
    found = tries[-1][0]
    trace = " ".join(f"{text}={value}" for text, value in tries)
    if style == "guess":
        return say(_chain(numbers, rng.choices("+-", k=len(numbers) - 1)))
    if style == "plain":
        return say(found)
    if style == "wordy":
        return say(think(trace, f"{found} = {target}"))
    return say(think(trace, found))


def _truth_question(rng: Random, index: int) -> Task:
    values = [rng.choice(("True", "False")) for _ in range(rng.randrange(2, 5))]
    words = [values[0]]
    for value in values[1:]:
        words += [rng.choice(("and", "or")), value]
    result = _truth_steps(words)[1]
    info = {"check": {"kind": "exact", "accept": [result]}, "words": words}
    return Task(f"truth/{index}", f"Evaluate from left to right: {' '.join(words)}", result, "truth", info)


def _truth_steps(words: list[str]) -> tuple[list[str], str]:
    """The value after each operator, from left to right."""
    value, steps = words[0] == "True", []
    for operator, word in zip(words[1::2], words[2::2]):
        value = (value and word == "True") if operator == "and" else (value or word == "True")
        steps.append(str(value))
    return steps, steps[-1]


def _truth_thoughts(task: Task, answer: str, long: bool) -> str:
    words = task.info["words"]
    steps = [*_truth_steps(words)[0][:-1], answer]
    if not long:
        return " ".join(steps)
    before = [words[0], *steps[:-1]]
    return ", ".join(f"{b} {o} {w}={s}" for b, o, w, s in zip(before, words[1::2], words[2::2], steps))


def _order_question(rng: Random, index: int) -> Task:
    people = rng.sample(NAMES, 3)
    facts = [f"{people[0]} is taller than {people[1]}.", f"{people[1]} is taller than {people[2]}."]
    rng.shuffle(facts)
    most = rng.random() < 0.5
    answer = people[0] if most else people[2]
    info = {"check": {"kind": "exact", "accept": [answer]}, "people": people}
    wording = f"{' '.join(facts)} Who is the {'tallest' if most else 'shortest'}?"
    return Task(f"order/{index}", wording, answer, "order", info)


def _order_thoughts(task: Task, answer: str, long: bool) -> str:
    people = task.info["people"]
    return ">".join(people) if long else answer


def _slip_name(answer: str, rng: Random) -> str:
    return rng.choice([name for name in NAMES if name != answer])


SEARCH = [
    Skill("countdown", "an expression that makes a target, by search", _countdown_question, _countdown_turns),
    Skill(
        "truth",
        "truth values from left to right",
        _truth_question,
        worked(_truth_thoughts, slip_choice("True", "False")),
    ),
    Skill("order", "who is tallest, from two comparisons", _order_question, worked(_order_thoughts, _slip_name)),
]
