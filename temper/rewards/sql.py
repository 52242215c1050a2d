"""SQL answers, judged by running them: on a copy that nobody can change, with a time limit from the reference's own.

A reward's `answer` is the reference query, `db` a database file (or a script that makes one). A reference that fails is
an error of the data: an outcome, no score. Whatever a policy's query does is a score.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from temper.errors import unknown
from temper.rewards.tables import Row, database, is_ordered, overlap, same

_THOUGHT = r"\s*<{0}>\s*([\s\S]*?)\s*</{0}>\s*<answer>\s*([\s\S]*?)\s*</answer>\s*"
_FENCE = re.compile(r"```(?:sql)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def sql_of(completion: str) -> str:
    """The query: the last <answer>, else the whole text behind the thinking; of it the last ```sql block if any."""
    tagged = _ANSWER.findall(completion)
    text = tagged[-1] if tagged else completion.rpartition("</think>")[2].rpartition("</reasoning>")[2]
    fenced = _FENCE.findall(text)
    return (fenced[-1] if fenced else text).strip()


def formatted(completion: str, tag: str = "think") -> float:
    """1.0 when the completion is <tag>…</tag><answer>…</answer> and nothing else."""
    return float(re.fullmatch(_THOUGHT.format(tag), completion.strip(), re.IGNORECASE) is not None)


@dataclass(frozen=True)
class SqlReward:
    """A reward function: runs the completion's query and the reference `answer` on `db`, and scores what comes back.

    score  one of SCORES
    tag    of the reasoning, where the score looks at the format
    slack  seconds that a query may take beside 1.2 × the reference's own (or the row's sql_execution_time)
    most   seconds that any query may take

    ValueError (an outcome, no score) where the reference fails.
    """

    score: str = "ex"
    tag: str = "think"
    slack: float = 10.0
    most: float = 500.0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise unknown("SQL reward", self.score, SCORES)

    def __call__(self, completion: str, answer: str, db: str, sql_execution_time: float | None = None) -> float:
        source = database(db)
        wanted = source.table(answer, self.most)
        if wanted.rows is None:
            raise ValueError(f"the reference query fails ({wanted.why}): {answer[:200]}")
        query = sql_of(completion)
        seconds = wanted.seconds if sql_execution_time is None else sql_execution_time
        found = source.table(query, self.limit(seconds))
        ordered = is_ordered(answer)
        return float(SCORES[self.score](Answer(completion, query, self.tag, found.rows, wanted.rows, ordered)))

    def limit(self, seconds: float) -> float:
        """Time of a query whose reference takes so many seconds."""
        return min(1.2 * seconds + self.slack, self.most)


class Answer(NamedTuple):
    """A completion, its query and both results (found: None where the query fails)."""

    completion: str
    query: str
    tag: str
    found: tuple[Row, ...] | None
    wanted: tuple[Row, ...]
    ordered: bool

    @property
    def right(self) -> bool:
        return self.found is not None and same(self.found, self.wanted, self.ordered)

    @property
    def near(self) -> float:
        return 0.0 if self.found is None else overlap(self.found, self.wanted)


def ex(a: Answer) -> float:
    """1 for the reference's rows, each as often as there, in its order where it asks for one; else 0."""
    return float(a.right)


def bird(a: Answer) -> float:
    """BIRD's: 1 for the same set of rows, in whatever order and number."""
    return float(a.found is not None and same(a.found, a.wanted, duplicates=False))


def qatch(a: Answer) -> float:
    """`overlap` with the reference's rows; 0 where the query fails."""
    return a.near


def small_update(a: Answer) -> float:
    """0 where the query fails, else the overlap, but at least 0.1."""
    return 0.0 if a.found is None else max(a.near, 0.1)


def small_update_formatted(a: Answer) -> float:
    """`small_update`, but 0 below 1 where the format is wrong."""
    return small_update(a) if a.near == 1.0 or formatted(a.completion, a.tag) else 0.0


def small_update_buckets(a: Answer) -> float:
    """`small_update_formatted` in steps: 0.1, 0.5, 0.8, 0.9 for overlaps below 0.1, 0.5, 0.8, 1."""
    score = small_update_formatted(a)
    if score in (0.0, 1.0):
        return score
    return next((step for bound, step in ((0.1, 0.1), (0.5, 0.5), (0.8, 0.8)) if a.near < bound), 0.9)


def sql_r1(a: Answer) -> float:
    """Format ±1; where it is right, ±2 for running; where it runs, ±3 for the result; where that is right, a bonus.

    The bonus is 0.5·min(1, characters/2048), and the query's share of the answer (SQL-R1).
    """
    if not well_tagged(a.completion, a.tag):
        return -1.0
    if a.found is None:
        return 1.0 - 2.0
    if not a.right:
        return 1.0 + 2.0 - 3.0
    thought, said = (between(a.completion, t) or a.completion for t in (a.tag, "answer"))
    return 6.0 + 0.5 * min(1.0, (len(thought) + len(said)) / 2048) + len(a.query) / len(said)


def arctic(a: Answer) -> float:
    """1 for the reference's rows, 0.1 for another query that runs, in an answer with both tags, else 0."""
    tagged = between(a.completion, a.tag) is not None and between(a.completion, "answer") is not None
    return 1.0 if a.right else 0.1 * (a.found is not None and tagged)


SCORES: dict[str, Callable[[Answer], float]] = {
    f.__name__: f for f in (ex, bird, qatch, small_update, small_update_formatted, small_update_buckets, sql_r1, arctic)
}


def think_answer(completion: str) -> float:
    """1.0 when the completion is <think>…</think><answer>…</answer> and nothing else."""
    return formatted(completion, "think")


def reasoning_answer(completion: str) -> float:
    """1.0 when the completion is <reasoning>…</reasoning><answer>…</answer> and nothing else."""
    return formatted(completion, "reasoning")


def well_tagged(completion: str, tag: str) -> bool:
    """Both pairs of tags once each, in order."""
    marks = [f"<{tag}>", f"</{tag}>", "<answer>", "</answer>"]
    places = [completion.find(m) for m in marks]
    return all(completion.count(m) == 1 for m in marks) and places == sorted(places)


def between(text: str, tag: str) -> str | None:
    """What stands between the first pair of tags."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[1].strip() if found else None


def schema(db: str) -> str:
    """The statements that make the tables of a database, for a prompt."""
    rows = database(db).table("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid", 10.0).rows
    return "\n".join(str(sql) for (sql,) in rows or ())
