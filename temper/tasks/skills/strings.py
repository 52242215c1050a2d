"""Strings and lists: spelling backward, counting letters, changing case, sorting, comparing."""

from __future__ import annotations

import re
from random import Random
from string import ascii_lowercase

from temper.tasks.skills.arithmetic import numbers_in
from temper.tasks.skills.base import Skill, from_reasoning_gym, slip_number, slip_text, worked
from temper.tasks.task import Task


def _word_in(task: Task) -> str:
    return str(task.prompt).rpartition(": ")[2]


def _backward_thoughts(task: Task, answer: str, long: bool) -> str:
    """Long: the letters numbered, "c1a2t3"; short: spelled out, "c a t"."""
    word = _word_in(task)
    return "".join(f"{c}{i}" for i, c in enumerate(word, 1)) if long else " ".join(word)


def _counting_thoughts(task: Task, answer: str, long: bool) -> str:
    """Long: the text copied with a running count behind each hit, "fre1e2 the3"; short: the count after each word."""
    letter, text = re.findall(r'"(.*?)"', str(task.prompt), re.DOTALL)
    if not long:
        counts = [str(text[: m.end()].count(letter)) for m in re.finditer(r"\S+", text)]
        return " ".join([*counts[:-1], answer])
    total, last, out = 0, text.count(letter), []
    for c in text:
        total += c == letter
        out.append(c + (answer if total == last else str(total)) if c == letter else c)
    return "".join(out) + ("" if last else f" {answer}")


def _case_question(rng: Random, index: int) -> Task:
    word = "".join(rng.choice(ascii_lowercase) for _ in range(rng.randrange(3, 9)))
    kind = rng.choice(("upper", "first", "last", "double"))
    wording = {
        "upper": "Write this word in capital letters: ",
        "first": "Write the first letter of this word: ",
        "last": "Write the last letter of this word: ",
        "double": "Write this word twice: ",
    }[kind]
    answer = {"upper": word.upper(), "first": word[0], "last": word[-1], "double": word + word}[kind]
    return Task(f"case/{index}", wording + word, answer, "case", {"check": {"kind": "exact", "accept": [answer]}})


def _spell_thoughts(task: Task, answer: str, long: bool) -> str:
    return " ".join(_word_in(task)) if long else " ".join(answer)


def _sorting_thoughts(task: Task, answer: str, long: bool) -> str:
    """The numbers by size of the answer, without quotes; short: how many there are."""
    ordered = [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", answer)]
    return " ".join(f"{x:g}" for x in ordered) if long else str(len(ordered))


def _slip_sorting(answer: str, rng: Random) -> str:
    """Two neighbours exchanged."""
    items = re.findall(r"'[^']*'", answer)
    i = rng.randrange(len(items) - 1)
    items[i], items[i + 1] = items[i + 1], items[i]
    return "[" + ", ".join(items) + "]"


def _compare_question(rng: Random, index: int) -> Task:
    numbers = [rng.randrange(1, 100) for _ in range(rng.randrange(2, 5))]
    largest = rng.random() < 0.5
    answer = str(max(numbers) if largest else min(numbers))
    listed = ", ".join(map(str, numbers))
    wording = (
        f"Which number is the {'largest' if largest else 'smallest'}: {listed}?",
        f"Give the {'largest' if largest else 'smallest'} of these numbers: {listed}",
    )[index % 2]
    info = {"check": {"kind": "exact", "accept": [answer]}, "largest": largest}
    return Task(f"compare/{index}", wording, answer, "compare", info)


def _compare_thoughts(task: Task, answer: str, long: bool) -> str:
    """The best so far, "41>7 41<63" (short: the best so far alone)."""
    better = max if task.info["largest"] else min
    numbers = numbers_in(str(task.prompt))
    best, steps = numbers[0], []
    for number in numbers[1:]:
        sign = ">" if best > number else "<" if best < number else "="
        steps.append(f"{best}{sign}{number}" if long else str(better(best, number)))
        best = better(best, number)
    return " ".join(steps)


STRINGS = [
    Skill(
        "spell_backward",
        "a word's letters in reverse",
        from_reasoning_gym(
            "spell_backward", {"min_word_len": 3, "max_word_len": 5}, {"min_word_len": 3, "max_word_len": 8}
        ),
        worked(_backward_thoughts, slip_text),
    ),
    Skill(
        "letter_counting",
        "how often a letter occurs in a short text",
        from_reasoning_gym("letter_counting", {"min_words": 2, "max_words": 4}, {"min_words": 3, "max_words": 6}),
        worked(_counting_thoughts, slip_number),
    ),
    Skill("case", "capitals, first and last letters, repetition", _case_question, worked(_spell_thoughts, slip_text)),
    Skill(
        "number_sorting",
        "a list of whole numbers in ascending or descending order, as a list of strings",
        from_reasoning_gym(
            "number_sorting",
            {"min_numbers": 3, "max_numbers": 3, "max_decimals": 0, "min_value": 0.0, "max_value": 50.0},
            {"min_numbers": 3, "max_numbers": 4, "max_decimals": 0, "min_value": 0.0, "max_value": 99.0},
        ),
        worked(_sorting_thoughts, _slip_sorting),
    ),
    Skill(
        "compare",
        "the largest or smallest of some numbers",
        _compare_question,
        worked(_compare_thoughts, slip_number),
    ),
]
