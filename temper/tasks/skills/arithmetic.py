"""Arithmetic: running sums, expressions, products, gcd, remainders, binary digits, prime factors."""

from __future__ import annotations

import re
from random import Random

from temper.tasks.skills.base import Skill, from_reasoning_gym, slip_number, worked
from temper.tasks.task import Task

_TERM = re.compile(r"([+-]?)\s*(-?\d+)")


def numbers_in(text: str) -> list[int]:
    """The whole numbers of a text, in order."""
    return [int(x) for x in re.findall(r"-?\d+", text)]


def signed_terms(expression: str) -> list[int]:
    """The terms of a chain such as "57 + 8 - 70" → [57, 8, -70]."""
    pairs = _TERM.findall(expression.replace("(", " ").replace(")", " "))
    return [-int(number) if sign == "-" else int(number) for sign, number in pairs]


def running_sum(terms: list[int], answer: str, long: bool) -> str:
    """Long: "57+8=65 65-70=-5"; short: the partial sums alone "57 65 -5"."""
    steps, total = [], terms[0]
    for i, term in enumerate(terms[1:], start=2):
        after = answer if i == len(terms) else str(total + term)
        steps.append(f"{total}{term:+d}={after}" if long else after)
        total += term
    return " ".join(steps if long else [str(terms[0]), *steps])


def _sum_thoughts(task: Task, answer: str, long: bool) -> str:
    expression = str(task.prompt).partition(":")[2].partition("=")[0] or str(task.prompt).removeprefix("Calculate ")
    return running_sum(signed_terms(expression.rstrip(".= ")), answer, long)


def _product_thoughts(task: Task, answer: str, long: bool) -> str:
    a, b = numbers_in(str(task.prompt))
    if a < b:
        a, b = b, a
    if a < 10 or not long:
        return f"{a}*{b}={answer}"
    return f"{a // 10 * 10}*{b}={a // 10 * 10 * b} {a % 10}*{b}={a % 10 * b} {a // 10 * 10 * b}+{a % 10 * b}={answer}"


def _gcd_thoughts(task: Task, answer: str, long: bool) -> str:
    """Euclid: "24%18=6 18%6=0" (short: the remainders alone)."""
    a, b = numbers_in(str(task.prompt).partition(":")[2])[:2]
    a, b = max(a, b), min(a, b)
    steps = []
    while b:
        steps.append(f"{a}%{b}={a % b}" if long else str(b))
        a, b = b, a % b
    return " ".join([*steps, answer])


def _remainder_question(rng: Random, index: int) -> Task:
    a, b = rng.randrange(2, 60), rng.randrange(2, 10)
    wordings = (f"What is {a} mod {b}?", f"Find the remainder of {a} divided by {b}.", f"{a} % {b} =")
    check = {"kind": "exact", "accept": [str(a % b)]}
    return Task(f"modular/{index}", wordings[index % 3], str(a % b), "modular", {"check": check, "a": a, "b": b})


def _remainder_thoughts(task: Task, answer: str, long: bool) -> str:
    a, b = task.info["a"], task.info["b"]
    return f"{a // b}*{b}={a // b * b} {a}-{a // b * b}={answer}" if long else f"{a}-{a // b * b}={answer}"


def _bits_thoughts(task: Task, answer: str, long: bool) -> str:
    """Halving, "13:1 6:0 3:1 1:1" (short: the binary digits "1101", most significant first)."""
    n = numbers_in(str(task.prompt).rpartition("number")[2])[0]
    if not long:
        return f"{n:b}={answer}"
    steps = []
    while n:
        steps.append(f"{n}:{n % 2}")
        n //= 2
    return " ".join(steps) + "=" + answer


def _factor_thoughts(task: Task, answer: str, long: bool) -> str:
    """Trial division, "60/2=30 30/2=15 15/3=5"; the answer's own factors, so that a slip is consistent."""
    n = numbers_in(str(task.prompt))[0]
    steps = []
    for factor in (int(x) for x in answer.split(" × ")[:-1]):
        steps.append(f"{n}/{factor}={n // max(factor, 1)}" if long else str(factor))
        n //= max(factor, 1)
    return " ".join(steps) or answer


def _slip_factors(answer: str, rng: Random) -> str:
    factors = answer.split(" × ")
    i = rng.randrange(len(factors))
    return " × ".join([*factors[:i], str(int(factors[i]) + rng.choice((1, 2))), *factors[i + 1 :]])


ARITHMETIC = [
    Skill(
        "chain_sum",
        "sums and differences of several numbers, by running totals",
        from_reasoning_gym(
            "chain_sum",
            {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
            {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
            {"min_terms": 4, "max_terms": 5, "min_digits": 1, "max_digits": 1},
            {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
        ),
        worked(_sum_thoughts, slip_number),
    ),
    Skill(
        "basic_arithmetic",
        "expressions of + and - with negative numbers",
        from_reasoning_gym(
            "basic_arithmetic",
            {
                "min_terms": 2,
                "max_terms": 4,
                "min_digits": 1,
                "max_digits": 1,
                "operators": ("+", "-"),
                "allow_parentheses": False,
            },
        ),
        worked(_sum_thoughts, slip_number),
    ),
    Skill(
        "products",
        "products of two digits",
        from_reasoning_gym("products", {"min_digits": 1, "max_digits": 1}),
        worked(_product_thoughts, slip_number),
    ),
    Skill(
        "gcd",
        "greatest common divisor by Euclid's algorithm",
        from_reasoning_gym("gcd", {"max_value": 20}, {"max_value": 50}),
        worked(_gcd_thoughts, slip_number),
    ),
    Skill("modular", "remainders", _remainder_question, worked(_remainder_thoughts, slip_number)),
    Skill(
        "count_bits",
        "ones in the binary representation, by halving",
        from_reasoning_gym("count_bits", {"max_n": 31}, {"max_n": 127}),
        worked(_bits_thoughts, slip_number),
    ),
    Skill(
        "prime_factorization",
        "prime factors by trial division",
        from_reasoning_gym("prime_factorization", {"max_value": 60}),
        worked(_factor_thoughts, _slip_factors),
    ),
]
