"""Simple text games, one move at a time: guessing a number from higher/lower hints, and taking stones (Nim)."""

from __future__ import annotations

from random import Random

from temper.tasks.skills.base import Message, Skill, say, think, worked
from temper.tasks.task import Task

HIGHEST = 20


def guess_dialogue(secret: int, guesses: list[int]) -> list[Message]:
    """The game so far: the rules, then each guess and its hint."""
    messages: list[Message] = [{"role": "user", "content": f"Guess my number from 1 to {HIGHEST}."}]
    for guess in guesses:
        hint = "Higher." if secret > guess else "Lower." if secret < guess else "Correct!"
        messages += [{"role": "assistant", "content": str(guess)}, {"role": "user", "content": hint}]
    return messages


def bounds(secret: int, guesses: list[int]) -> tuple[int, int]:
    """What the hints leave possible, both ends included."""
    return max([1, *(g + 1 for g in guesses if g < secret)]), min([HIGHEST, *(g - 1 for g in guesses if g > secret)])


def _guess_question(rng: Random, index: int) -> Task:
    """After zero to three halving-like guesses, the next move: the middle of what is possible."""
    secret = 1 + rng.randrange(HIGHEST)
    guesses: list[int] = []
    for _ in range(rng.randrange(4)):
        low, high = bounds(secret, guesses)
        guess = min(high, max(low, (low + high) // 2 + rng.randrange(-1, 2)))
        if guess == secret:
            break
        guesses.append(guess)
    low, high = bounds(secret, guesses)
    middle = (low + high) // 2
    accept = [str(x) for x in {middle, (low + high + 1) // 2}]
    info = {"check": {"kind": "exact", "accept": sorted(accept)}, "low": low, "high": high}
    return Task(f"guess/{index}", guess_dialogue(secret, guesses), str(middle), "guess", info)


def _guess_turns(task: Task, rng: Random, style: str) -> list[Message]:
    low, high, move = task.info["low"], task.info["high"], str(task.answer)
    if style in ("slip", "guess"):
        move = str(rng.randrange(1, HIGHEST + 1))
    if style == "wordy":
        move = f"Is it {move}?"
    return say(move if style in ("plain", "guess") else think(f"{low}-{high}", move))


def _stones_question(rng: Random, index: int) -> Task:
    stones = rng.choice([n for n in range(1, 22) if n % 4])
    best = str(stones % 4)
    wording = f"There are {stones} stones. Take 1, 2 or 3; who takes the last wins. How many do you take?"
    info = {"check": {"kind": "exact", "accept": [best]}, "stones": stones}
    return Task(f"stones/{index}", wording, best, "stones", info)


def _stones_thoughts(task: Task, answer: str, long: bool) -> str:
    stones = task.info["stones"]
    return f"{stones}-{answer}={stones - int(answer)}" if long else f"{stones // 4 * 4}"


GAMES = [
    Skill("guess", "finding a number from higher and lower", _guess_question, _guess_turns),
    Skill(
        "stones",
        "the winning move of a stone-taking game",
        _stones_question,
        worked(_stones_thoughts, lambda answer, rng: rng.choice([c for c in "123" if c != answer])),
    ),
]
