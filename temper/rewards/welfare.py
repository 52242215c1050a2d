"""What of an answer is worth something to the user, or to the assistant who gives it (GTAlign, arXiv 2510.08872)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from temper.rewards.checkers import final_part
from temper.rewards.payoffs import payoffs, section, told_apart, well_sectioned


def window(words: float, shortest: float, longest: float, slope: float = 0.005) -> float:
    """σ(slope·(words − shortest))·σ(slope·(longest − words))."""
    below, above = (math.exp(min(slope * x, 500.0)) for x in (shortest - words, words - longest))
    return 1 / ((1 + below) * (1 + above))


@dataclass(frozen=True)
class Measured:
    """What is measured of one answer, each in [0, 1], but for the answer's being right.

    read  whether it can be read at all: an answer that cannot has no reward
    """

    read: bool
    form: float
    apart: float
    response: float
    reasoning: float
    whole: float


def measured(completion: str, sections: bool = True, lengths: float = 1.0) -> Measured:
    """Of the four sections; without them, of what is thought before </think> and said after it, and no payoffs.

    lengths  times every length here: the windows of 20 to 500 words for the response and 500 to 1000 for the whole, and
             the 500 characters over which the worth of brief reasoning falls to 1/e
    """
    thought, tag, _ = completion.rpartition("</think>")
    table = payoffs(completion) if sections else None
    said = section(completion, "response") if sections else final_part(completion)
    form = well_sectioned(completion) if sections else bool(tag and said and completion.startswith("<think>"))
    reasoning = completion.partition("<response>")[0] if sections else thought
    return Measured(
        read=bool(said is not None and table is not None) if sections else bool(said),
        form=float(form),
        apart=told_apart(table) if table else 0.0,
        response=window(len((said or "").split()) / lengths, 20, 500),
        reasoning=math.exp(-len(reasoning) / lengths / 500),
        whole=window(len(completion.split()) / lengths, 500, 1000),
    )
