"""Rewards in one file: plain functions, whose parameters are filled by name.

    temper run grpo --data tasks.jsonl --reward examples/my_reward.py:right --reward examples/my_reward.py:brief \\
        --weights 1,0.2

They run in a process of their own, with a deadline. A crash or a time-out is a counted outcome, never a score of 0.
"""

import re


def right(completion: str, answer: str) -> float:
    """1 for the number that the row's `answer` holds, ½ for having it anywhere in the text."""
    numbers = re.findall(r"-?\d+", completion)
    if numbers and numbers[-1] == answer:
        return 1.0
    return 0.5 if answer in numbers else 0.0


def brief(completion: str, longest: int = 40) -> float | None:
    """1 for nothing, falling to 0 at `longest` characters; `longest` comes from the row of data where it has one.

    None says "does not apply here": another reward decides, and nothing is counted as 0.
    """
    if "explain" in completion:
        return None
    return max(0.0, 1 - len(completion) / longest)


def unlike_the_others(completions: list[str], **columns: object) -> list[float]:
    """Of a whole group (TRL's signature): 1/number of answers with the same last line."""
    last = [c.strip().rsplit("\n", 1)[-1] for c in completions]
    return [1 / last.count(line) for line in last]
