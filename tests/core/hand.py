"""Batches small enough to work out by hand, in every shape that the carrier knows."""

from __future__ import annotations

from temper.carrier import Batch
from temper.episode import ENV, Episode, Recorder, Trajectory, Turn
from temper.tasks.task import Task

TASK_A, TASK_B = Task("a", "say a", "a"), Task("b", "say b", "b")


def turn(n: int, parent: int, author: str = "solver", first: int = 10, logp: float | None = -1.0) -> Turn:
    """A turn of n ids; sampled turns have behaviour log-probs."""
    known = author != ENV and logp is not None
    return Turn(
        tuple(range(first, first + n)), parent, author, f"turn of {n}", (logp,) * n if known else None,
        "stop" if known else None, 0 if known else -1,
    )  # fmt: skip


def chain(task: Task, request: str, n: int, reward: float | None = None, role: str = "solver") -> Episode:
    """Prompt of 3 ids, answer of n."""
    turns = (turn(3, -1, ENV, 1), turn(n, 0, role))
    return Episode(task, turns, (Trajectory((0, 1), role, reward),), request)


def ragged() -> Batch:
    """Two groups: answers of 2 and 1 tokens; answers of 3, 1 and 1. Rewards 1, 0 | 1, none, 0."""
    rows = [(TASK_A, "1", 2, 1.0), (TASK_A, "1", 1, 0.0), (TASK_B, "2", 3, 1.0), (TASK_B, "2", 1, None),
            (TASK_B, "2", 1, 0.0)]  # fmt: skip
    return Batch.of([chain(*row) for row in rows])


def tree() -> Batch:
    """A stem of 2 tokens shared by three branches of 1, 2 and 3 tokens, rewarded 1, 0 and 0."""
    turns = (turn(3, -1, ENV, 1), turn(2, 0), turn(1, 1, first=20), turn(2, 1, first=30), turn(3, 1, first=40))
    trajectories = tuple(Trajectory((0, 1, leaf), "solver", r) for leaf, r in ((2, 1.0), (3, 0.0), (4, 0.0)))
    return Batch.of([Episode(TASK_A, turns, trajectories, "1")])


def reset() -> Batch:
    """One trajectory over two contexts, of 2 and 3 sampled tokens; and a plain one of 4."""
    record = Recorder(TASK_A)
    record.turns += [turn(3, -1, ENV, 1), turn(2, 0), turn(2, -1, ENV, 5), turn(3, 2)]
    record.judge([0, 1, 2, 3], reward=1.0)
    return Batch.of([record.episode(), chain(TASK_A, "0", 4, 0.0)])


def dialogue() -> Batch:
    """A solver's answer of 2 tokens is in the context of a verifier's verdict of 1; each role is judged by its own."""
    turns = (turn(3, -1, ENV, 1), turn(2, 0), turn(1, 1, ENV, 7), turn(1, 2, "verifier", 50))
    pairs = (Trajectory((0, 1), "solver", 1.0), Trajectory((2, 3), "verifier", 0.0))
    return Batch.of([Episode(TASK_A, turns, pairs, "1")])
