"""Short answers against references, by their words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation, " "))


def best(score: Callable[[str, str], float], given: str, wanted: Any) -> float:
    """The highest score against any of the references (a text or a list of them); 0 without one."""
    references: Sequence[Any] = wanted if isinstance(wanted, (list, tuple)) else [] if wanted is None else [wanted]
    return max((score(given, str(r)) for r in references), default=0.0)


def bag_f1(given: str, wanted: str) -> float:
    """F1 over words, each as often as it stands there; case, punctuation and articles do not count (SQuAD's)."""
    a, b = _bag(given), _bag(wanted)
    return _f1(sum((a & b).values()), sum(a.values()), sum(b.values()))


def set_f1(given: str, wanted: str) -> float:
    """F1 over different words; case does not count, punctuation separates words, True and False are yes and no."""
    a, b = _set(given), _set(wanted)
    return _f1(len(a & b), len(a), len(b))


def _f1(common: int, given: int, wanted: int) -> float:
    return 2 * common / (given + wanted) if common else 0.0


def _bag(text: str) -> Counter[str]:
    return Counter(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _set(text: str) -> set[str]:
    text = {"True": "yes", "False": "no"}.get(text, text)
    return set(text.translate(_SPACED).lower().split())


@dataclass(frozen=True)
class AnswerReward:
    """The score of what the environment noted as `said`, the policy's answer; 0 where a call was malformed.

    score     "bag" (`bag_f1`) or "set" (`set_f1`), against the best of the references
    rejected  for saying that a question has no answer where the task's `valid` says that it has one, well-formed or not
    """

    score: Literal["bag", "set"] = "bag"
    rejected: float | None = None

    def __call__(
        self, said: str, answer: Any, well_formed: float = 1.0, rejects: bool = False, valid: bool = False
    ) -> float:
        if self.rejected is not None and valid and rejects:
            return self.rejected
        return best(bag_f1 if self.score == "bag" else set_f1, said, answer) * (well_formed == 1.0)
