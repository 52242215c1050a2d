"""Short answers against references, by their words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

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
