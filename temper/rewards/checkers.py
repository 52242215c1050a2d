"""Bundled reward functions. Pass one to `Rewards`, or name it on the command line (`--reward math_verify`)."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Any

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOXED = "\\boxed{"
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?(?<=\d)")
_THINK = re.compile(r"\s*<think>(?:(?!</?think>).)*</think>(?:(?!</?think>).)+", re.DOTALL)


def final_part(completion: str) -> str:
    """What is judged: the text after the last </think>; of it, the last <answer>…</answer> or \\boxed{…} if any."""
    rest = completion.rpartition("</think>")[2]
    tagged = _ANSWER.findall(rest)
    if tagged:
        return str(tagged[-1]).strip()
    boxed = _boxed(rest)
    return (rest if boxed is None else boxed).strip()


def _boxed(text: str) -> str | None:
    """The inside of the last \\boxed{…} with balanced braces."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i]
    return None


def reference_answer(answer: Any) -> str:
    """The answer as text; of GSM8K's worked solutions what follows "####"."""
    return str(answer).rpartition("####")[2].strip()


def normal(text: str) -> str:
    """Case, spaces, full stops at the end, quotes around it and Unicode variants do not count."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).rstrip(".").strip("\"'`* ")


def exact_match(completion: str, answer: Any) -> float | None:
    """1.0 when the final part equals the answer after normalisation. None without an answer. A list is any of them."""
    if answer is None:
        return None
    given = normal(final_part(completion))
    wanted = answer if isinstance(answer, list | tuple) else [answer]
    return float(any(given == normal(reference_answer(a)) for a in wanted))


def number_match(completion: str, answer: Any) -> float | None:
    """1.0 when the last number of the final part equals the answer's number ("1,200", "3/4", "0.50" are understood)."""
    if answer is None:
        return None
    wanted, given = last_number(reference_answer(answer)), last_number(final_part(completion))
    return None if wanted is None else float(given is not None and given == wanted)


def last_number(text: str) -> Decimal | None:
    """The last number that a text mentions."""
    found = [m for m in _NUMBER.findall(text) if m]
    if not found:
        return None
    above, _, below = found[-1].replace(",", "").partition("/")
    try:
        return Decimal(above) / Decimal(below or 1)
    except (InvalidOperation, ZeroDivisionError):
        return None


def math_verify(completion: str, answer: Any) -> float | None:
    """1.0 when Hugging Face's math-verify finds the final part equal to the answer as mathematics (LaTeX or plain).

    None without an answer, or where the answer holds no mathematics. Its own time-outs need the main thread, which is
    where the worker calls it.
    """
    from math_verify import parse, verify

    if answer is None:
        return None
    gold = parse(_as_latex(reference_answer(answer)))
    if not gold:
        return None
    rest = completion.rpartition("</think>")[2]
    tagged = _ANSWER.findall(rest)
    readings = [tagged[-1], f"${tagged[-1].strip()}$"] if tagged else [rest]  # what is in tags may be a bare formula
    return float(any(verify(gold, parse(reading)) for reading in readings))


def import_math_verify() -> None:
    """Import the package and build its grammar (seconds, for sympy)."""
    from math_verify import parse, verify

    verify(parse("1"), parse("1"))


def _as_latex(text: str) -> str:
    """A bare LaTeX formula gets the dollars without which it would be read as plain text."""
    return f"${text}$" if "\\" in text and "$" not in text and "\\boxed" not in text else text


def think_format(completion: str) -> float:
    """1.0 when the completion is one <think>…</think> followed by an answer."""
    return float(_THINK.fullmatch(completion) is not None)
